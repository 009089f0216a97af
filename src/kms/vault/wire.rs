//! Bodies of requests and answers. What holds plain keys or tokens is wiped when dropped.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use secrecy::SecretSlice;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::lease::Terms;

/// Bytes of base64 that 32 bytes become.
const KEY_TEXT: usize = 44;

/// Bytes that are wiped when dropped.
pub(super) type Secret = Zeroizing<Vec<u8>>;

/// Returns the body that asks for a key to be wrapped.
pub(super) fn encrypt_body(key: &[u8; 32]) -> Secret {
    let mut text = Zeroizing::new([0; KEY_TEXT]);
    BASE64.encode_slice(key, &mut *text).expect("32 bytes are 44 of base64");
    // One allocation: none is left behind unwiped.
    let mut body = Zeroizing::new(Vec::with_capacity(KEY_TEXT + 16));
    for part in [&b"{\"plaintext\":\""[..], &*text, b"\"}"] {
        body.extend_from_slice(part);
    }
    body
}

/// What a Transit key wrapped, as the engine writes it: `vault:vVERSION:BASE64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wrapped<'a> {
    pub(super) text: &'a str,
    pub(super) version: u64,
}

impl<'a> Wrapped<'a> {
    /// Reads what is stored; `None` for what no engine has written in this form.
    ///
    /// The version is not authenticated, so only the one way to write each is taken; the engine itself takes 0 for 1.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (version, sealed) = text.strip_prefix("vault:v")?.split_once(':')?;
        let number: u64 = version.parse().ok()?;
        let is_canonical = number > 0 && number.to_string() == version;
        let is_sealed = BASE64.decode(sealed).is_ok_and(|sealed| !sealed.is_empty());
        (is_canonical && is_sealed).then_some(Self { text, version: number })
    }

    /// Returns the body that asks for it to be unwrapped or wrapped anew.
    pub(super) fn body(&self) -> Secret {
        Zeroizing::new(format!("{{\"ciphertext\":\"{}\"}}", self.text).into_bytes())
    }
}

/// Writes a body as JSON.
pub(super) fn json(body: &impl Serialize, size: usize) -> Secret {
    // Characters are escaped by six at most.
    let mut bytes = Zeroizing::new(Vec::with_capacity(size * 6 + 64));
    serde_json::to_writer(&mut *bytes, body).expect("texts are written as JSON");
    bytes
}

#[derive(Deserialize)]
struct Answer<T> {
    data: T,
}

#[derive(Deserialize)]
struct Plaintext<'a> {
    plaintext: &'a str,
}

#[derive(Deserialize)]
struct Ciphertext {
    ciphertext: String,
}

/// A key of the engine.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct KeyFacts {
    pub(super) latest_version: u64,
    #[serde(default)]
    pub(super) derived: bool,
    #[serde(default = "yes")]
    pub(super) supports_encryption: bool,
    #[serde(default)]
    pub(super) soft_deleted: bool,
}

fn yes() -> bool {
    true
}

/// Reads the answer to an unwrapping; what is longer than a key is returned as nothing.
pub(super) fn plaintext(body: &[u8]) -> Option<SecretSlice<u8>> {
    let answer: Answer<Plaintext<'_>> = serde_json::from_slice(body).ok()?;
    let mut key = Zeroizing::new([0; 32 + 3]);
    let size = BASE64.decode_slice(answer.data.plaintext, &mut *key).unwrap_or_default();
    Some(SecretSlice::from(Box::<[u8]>::from(&key[..size])))
}

pub(super) fn ciphertext(body: &[u8]) -> Option<Vec<u8>> {
    let answer: Answer<Ciphertext> = serde_json::from_slice(body).ok()?;
    let bytes = answer.data.ciphertext.into_bytes();
    Wrapped::read(&bytes).is_some().then_some(bytes)
}

pub(super) fn key_facts(body: &[u8]) -> Option<KeyFacts> {
    serde_json::from_slice::<Answer<KeyFacts>>(body).ok().map(|answer| answer.data)
}

/// The answer to a login or a renewal.
#[derive(Deserialize)]
pub(super) struct Granted<'a> {
    #[serde(borrow)]
    pub(super) auth: Auth<'a>,
}

#[derive(Deserialize)]
pub(super) struct Auth<'a> {
    pub(super) client_token: &'a str,
    /// In seconds; 0 for a token that does not end.
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

impl Auth<'_> {
    pub(super) fn terms(&self) -> Terms {
        Terms { ttl: self.lease_duration, renewable: self.renewable }
    }
}

/// What a token says of itself.
#[derive(Deserialize)]
struct OwnFacts {
    /// Absent or null for one that does not end.
    expire_time: Option<serde::de::IgnoredAny>,
    ttl: u64,
    #[serde(default)]
    renewable: bool,
}

/// Reads the answer to a look at the token itself; `Some(None)` for one that does not end.
pub(super) fn own_terms(body: &[u8]) -> Option<Option<Terms>> {
    let facts = serde_json::from_slice::<Answer<OwnFacts>>(body).ok()?.data;
    Some(facts.expire_time.map(|_| Terms { ttl: facts.ttl, renewable: facts.renewable }))
}

/// Engines that know no such path answer with warnings, or with nothing but the number of the request.
#[derive(Deserialize)]
struct Refusal {
    errors: Option<Vec<String>>,
    warnings: Option<Vec<String>>,
    request_id: Option<serde::de::IgnoredAny>,
}

/// Reads why the service refused, in one line; `None` for an answer of something else.
pub(super) fn refusal(body: &[u8]) -> Option<String> {
    let Refusal { errors, warnings, request_id } = serde_json::from_slice(body).ok()?;
    let words = errors.or(warnings).or(request_id.map(|_| Vec::new()))?;
    Some(one_line(&words.join("; ")))
}

/// Returns a text of a server in one line of bounded length.
pub(super) fn one_line(text: &str) -> String {
    const MOST: usize = 200;
    let words: Vec<&str> = text.split(|character: char| character.is_whitespace() || character.is_control()).collect();
    let line = words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// Answers of any kind are read or refused.
#[cfg(fuzzing)]
pub fn fuzz_answers(bytes: &[u8]) {
    if let Some(wrapped) = Wrapped::read(bytes) {
        assert_eq!(wrapped.text.as_bytes(), bytes);
    }
    let _ = ciphertext(bytes).map(|bytes| Wrapped::read(&bytes).expect("what is stored is read").version);
    let _ = plaintext(bytes).map(|key| assert!(secrecy::ExposeSecret::expose_secret(&key).len() <= 35));
    let _ = (key_facts(bytes), own_terms(bytes), serde_json::from_slice::<Granted<'_>>(bytes).is_ok());
    if let Some(line) = refusal(bytes) {
        assert!(line.chars().count() <= 201 && !line.contains(char::is_control), "{line}");
    }
}
