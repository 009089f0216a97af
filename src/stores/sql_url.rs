//! Splits `scheme://user:password@host:port,host:port/database?option=value`.
//!
//! The shape of [RFC 3986](https://www.rfc-editor.org/rfc/rfc3986#section-3), read so that a password may hold any
//! character as it is: credentials end at the last `@` of the text. `%` and two hex digits stand for a byte; any other `%`
//! for itself.

use secrecy::SecretString;

use super::address::{AddressError, decode, options};

/// The parts of a text, decoded.
#[derive(Debug, Default)]
pub(super) struct SqlUrl {
    pub(super) user: Option<String>,
    pub(super) password: Option<SecretString>,
    /// Names or addresses, without brackets, and ports.
    pub(super) hosts: Vec<(String, Option<u16>)>,
    pub(super) database: Option<String>,
    pub(super) options: Vec<(String, String)>,
}

impl SqlUrl {
    /// Splits a text whose scheme is one of `schemes`.
    pub(super) fn parse(text: &str, schemes: &[&str]) -> Result<Self, AddressError> {
        let rest = text
            .split_once("://")
            .filter(|(scheme, _)| schemes.iter().any(|known| scheme.eq_ignore_ascii_case(known)))
            .ok_or(AddressError::Scheme)?
            .1;
        let (credentials, rest) = match rest.rsplit_once('@') {
            Some((credentials, _)) if has_host(credentials) => return Err(AddressError::Ambiguous),
            Some((credentials, rest)) => (Some(credentials), rest),
            None => (None, rest),
        };
        let (user, password) = match credentials.map(|text| text.split_once(':').unwrap_or((text, ""))) {
            Some((user, password)) => (filled(user)?, filled(password)?.map(SecretString::from)),
            None => (None, None),
        };
        let (place, settings) = rest.split_once('?').unwrap_or((rest, ""));
        let (hosts, database) = place.split_once('/').unwrap_or((place, ""));
        let hosts = hosts.split(',').filter(|host| !host.is_empty()).map(host).collect::<Result<_, _>>()?;
        Ok(Self { user, password, hosts, database: filled(database)?, options: options(settings)? })
    }
}

/// Whether what stands before the last `@` looks like credentials, a host and options: then that `@` belongs to an option, and
/// what is behind it is no host.
fn has_host(credentials: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty() && name.chars().all(|letter| letter.is_ascii_lowercase() || "_-".contains(letter))
    };
    let Some((before, options)) = credentials.split_once('?') else { return false };
    let place = before.rsplit_once('@').map_or(before, |(_, place)| place);
    place.contains('/')
        && options.split('&').all(|option| option.split_once('=').is_some_and(|(name, _)| is_name(name)))
}

fn host(text: &str) -> Result<(String, Option<u16>), AddressError> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (name, port) = rest.split_once(']').ok_or(AddressError::Host)?;
            (name, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(AddressError::Host)?) })
        }
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    let port = port.map(|port| port.parse().ok().filter(|port| *port != 0).ok_or(AddressError::Port)).transpose()?;
    Ok((filled(name)?.ok_or(AddressError::Host)?, port))
}

/// Decodes a part; an empty one is none.
fn filled(text: &str) -> Result<Option<String>, AddressError> {
    Ok(Some(decode(text)?).filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn parse(text: &str) -> Result<SqlUrl, AddressError> {
        SqlUrl::parse(text, &["postgres", "postgresql"])
    }

    #[test]
    fn every_part_is_found() {
        let url =
            parse("PostgreSQL://al%40ice:pw@db1:5433,[::1]:5434,db3/my%2Fkeys?sslmode=require&empty&a=b%26c").unwrap();
        assert_eq!(url.user.as_deref(), Some("al@ice"));
        assert_eq!(url.password.unwrap().expose_secret(), "pw");
        let host = |name: &str, port| (name.to_owned(), port);
        assert_eq!(url.hosts, [host("db1", Some(5433)), host("::1", Some(5434)), host("db3", None)]);
        assert_eq!(url.database.as_deref(), Some("my/keys"));
        let option = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(url.options, [option("sslmode", "require"), option("empty", ""), option("a", "b&c")]);
    }

    #[test]
    fn a_password_holds_any_character_as_it_is_or_encoded() {
        let raw = "p@ss%/w?o:r#d%4";
        let encoded: String = raw.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for text in [raw, &encoded] {
            let url = parse(&format!("postgres://alice:{text}@host/keys?sslmode=disable")).unwrap();
            assert_eq!(url.password.unwrap().expose_secret(), raw);
            assert_eq!(url.hosts, [("host".to_owned(), None)]);
            assert_eq!(url.database.as_deref(), Some("keys"));
        }
    }

    #[test]
    fn what_is_left_out_is_none() {
        for text in ["postgres://", "postgres:///", "postgres://@/?", "postgres://:@,/"] {
            let url = parse(text).unwrap();
            assert!(url.user.is_none() && url.password.is_none() && url.hosts.is_empty(), "{text}");
            assert!(url.database.is_none() && url.options.is_empty(), "{text}");
        }
        assert_eq!(parse("postgres://%2Frun%2Fpg/keys").unwrap().hosts, [("/run/pg".to_owned(), None)]);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let cases = [
            ("mysql://host/db", AddressError::Scheme),
            ("postgres:host", AddressError::Scheme),
            ("", AddressError::Scheme),
            ("postgres://host:0/db", AddressError::Port),
            ("postgres://host:65536/db", AddressError::Port),
            ("postgres://host:/db", AddressError::Port),
            ("postgres://[::1/db", AddressError::Host),
            ("postgres://[::1]5432/db", AddressError::Host),
            ("postgres://:5432/db", AddressError::Host),
            ("postgres://host/%ff", AddressError::Encoding),
            ("postgres://alice:pw@host/keys?application_name=x@y", AddressError::Ambiguous),
            ("postgres://host/keys?sslmode=require&sslrootcert=/tmp/a@b.pem", AddressError::Ambiguous),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).map(|_| ()), Err(expected), "{text}");
        }
    }
}
