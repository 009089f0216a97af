//! `keyward encrypt`

use super::config::Config;
use super::ending::Ending;
use super::error::Failure;
use super::format::{Format, to_base64, to_binary};
use super::input::{Input, Limit, is_standard, stdout_is_terminal};
use super::open::with_session;
use super::options::Encrypt;
use super::output::{Access, Output};
use super::run::warn;
use super::store_address::StoreAddress;

/// Reads a payload, encrypts it, writes the record; text ends with a line feed.
///
/// # Errors
/// [`Failure`]; nothing was written then.
pub(super) fn run(config: &Config, options: &Encrypt, ending: &Ending) -> Result<(), Failure> {
    let (place, format) = (&options.place, options.format);
    if format == Format::Binary && is_standard(&place.output) && stdout_is_terminal() {
        let hint = "write to a file with --out, or choose --format json";
        return Err(Failure::BinaryToTerminal { what: "a binary record", hint });
    }
    if matches!(config.store, StoreAddress::Memory) {
        warn("the keys in --store memory end with this command: nothing will decrypt the record");
    }
    let payload = Input::open(&place.input)?.read(Limit::of_payload(config.max_payload))?;
    let output = Output::create(&place.output, Access::Usual, ending)?;
    let record = with_session(config, ending, &place.partition, Failure::Encrypt, |session| async move {
        if format == Format::Binary {
            let record = session.encrypt(&payload).await.map_err(Failure::Encrypt)?;
            return Ok(to_binary(&record));
        }
        let json = session.encrypt_json(&payload).await.map_err(Failure::Encrypt)?;
        let mut text = if format == Format::Base64 { to_base64(&json) } else { json };
        text.push(b'\n');
        Ok(text)
    })?;
    output.write(&record)
}
