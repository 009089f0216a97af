//! Where requests are sent instead of to AWS.

/// Whether requests can be sent there, and errors may name it.
pub(crate) fn is_endpoint(url: &str) -> bool {
    let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let is_plain = |character: char| character.is_ascii_graphic() && !"@'\"\\".contains(character);
    host.is_some_and(|host| !host.is_empty() && !host.starts_with(['/', ':']) && host.chars().all(is_plain))
}
