//! Parses option values that may hold secrets.

use std::ffi::OsStr;
use std::marker::PhantomData;
use std::str::FromStr;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;

/// Parses a value for clap, whose own words for a bad one would repeat it.
pub(super) struct Quiet<T>(PhantomData<fn() -> T>);

impl<T> Quiet<T> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Clone for Quiet<T> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<T> TypedValueParser for Quiet<T>
where
    T: FromStr<Err: std::fmt::Display> + Clone + Send + Sync + 'static,
{
    type Value = T;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        let fault = match value.to_str().map(T::from_str) {
            Some(Ok(parsed)) => return Ok(parsed),
            Some(Err(error)) => error.to_string(),
            None => "not UTF-8".to_owned(),
        };
        let option = argument.map_or_else(String::new, |argument| format!(" for '--{}'", argument.get_id()));
        let option = option.replace('_', "-");
        Err(clap::Error::raw(ErrorKind::ValueValidation, format!("invalid value{option}: {fault}\n")).with_cmd(command))
    }
}
