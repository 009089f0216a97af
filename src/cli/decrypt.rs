//! `keyward decrypt`

use zeroize::Zeroizing;

use super::config::Config;
use super::ending::Ending;
use super::error::Failure;
use super::format::{Format, Incoming};
use super::input::{Input, Limit, is_standard, stdout_is_terminal};
use super::open::{require_store, with_session};
use super::options::Decrypt;
use super::output::{Access, Output};

/// Reads a record, decrypts it, writes the payload.
///
/// # Errors
/// [`Failure`]; nothing was written then.
pub(super) fn run(config: &Config, options: &Decrypt, ending: &Ending) -> Result<(), Failure> {
    let place = &options.place;
    require_store(&config.store)?;
    let limit = Limit { bytes: Format::largest_record(config.max_payload), max_payload: config.max_payload };
    let mut bytes = Input::open(&place.input)?.read(limit)?;
    let format = options.format.map_or_else(|| Format::detect(&bytes), Ok)?;
    let incoming = format.read(std::mem::take(&mut *bytes))?;
    let output = Output::create(&place.output, Access::Private, ending)?;
    let payload = with_session(config, ending, &place.partition, Failure::Decrypt, |session| async move {
        let payload = match &incoming {
            Incoming::Json(json) => session.decrypt_json(json).await,
            Incoming::Record(record) => session.decrypt(record).await,
        };
        payload.map(Zeroizing::new).map_err(Failure::Decrypt)
    })?;
    if is_standard(&place.output) && stdout_is_terminal() && !is_text(&payload) {
        let hint = "write to a file with --out, or into a pipe";
        return Err(Failure::BinaryToTerminal { what: "a payload that is not text", hint });
    }
    output.write(&payload)
}

/// Whether a terminal shows it as it is.
fn is_text(bytes: &[u8]) -> bool {
    let harmless = |character: char| !character.is_control() || matches!(character, '\n' | '\r' | '\t');
    str::from_utf8(bytes).is_ok_and(|text| text.chars().all(harmless))
}
