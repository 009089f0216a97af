//! What errors of a MySQL or MariaDB server mean: whether they pass, what helps, and whether the connection stays of use.
//! Pure.
//!
//! Codes are those of the [MySQL error reference](https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html)
//! and of [MariaDB's](https://mariadb.com/docs/server/reference/error-codes).

use std::error::Error as StdError;
use std::io;

use mysql_async::{DriverError, Error, IoError};
use rustls::{CertificateError, Error as TlsError};

use crate::stores::StoreError;
use crate::stores::place::{permanent, transient};

/// What an error means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Whether the same call may succeed later without any change.
    pub(super) passes: bool,
    /// What helps.
    pub(super) advice: Option<&'static str>,
    /// Whether the connection can serve other calls.
    pub(super) stays: bool,
}

/// A row exists that the keys of the table cannot tell from the new one.
pub(super) const DUPLICATE_ENTRY: u16 = 1062;
/// There is no such table.
pub(super) const NO_TABLE: u16 = 1146;
/// The table exists.
pub(super) const TABLE_EXISTS: u16 = 1050;
/// An index of this name exists.
pub(super) const INDEX_EXISTS: u16 = 1061;
/// The server ended the statement, undone, because each of several waited for the other.
pub(super) const DEADLOCK: u16 = 1213;
/// A text has characters that the column cannot hold, so no row has it.
pub(super) const FOREIGN_TEXT: u16 = 1267;
/// A text is no time that the column can hold.
const BAD_TIME: [u16; 3] = [1292, 1299, 1525];

pub(super) const MIGRATE: &str = "make the table with `keyward migrate --store mysql://… --apply`";
const GRANT: &str = "as an administrator: GRANT SELECT, INSERT ON encryption_key TO the user; revoking keys takes UPDATE, \
    shredding UPDATE and DELETE, migrating CREATE and INDEX";
const LOGIN: &str = "check the user, the password, the hosts that the user may connect from, and whether the server demands \
    TLS or a client certificate of the user";
const COLUMNS: &str =
    "the table must have the columns id, created and key_record; see `keyward migrate --store mysql://…`";
const READ_ONLY: &str = "name the address that always leads to the writer; a failover may be under way";
const UNREACHABLE: &str = "check that the server is up and that its address and port are reachable from here";
const BUSY: &str = "the server is overloaded or has no connection left; lower pool_size or raise max_connections";
const NEW_SERVER: &str = "the server is starting, stopping or replacing itself";
const CLIENT_CERTIFICATE: &str = "the server refused TLS; does it want another client certificate (sslcert, sslkey)?";

/// Judges the code of a server's error.
pub(super) fn verdict(code: u16) -> Verdict {
    let (passes, advice, stays) = match code {
        // Too many connections (of a user, of a host), out of memory, of threads, of prepared statements.
        1040 | 1203 | 1226 | 1037 | 1038 | 1041 | 1135 | 1461 | 4031 => (true, BUSY, false),
        // Being shut down; the connection or the statement was killed; an unknown statement after a failover behind a proxy.
        1053 | 1077 | 1927 | 1243 | 1615 | 3169 => (true, NEW_SERVER, false),
        1047 | 1158..=1161 | 1184 | 2006 | 2013 => (true, UNREACHABLE, false),
        // The server, or the session, only reads: a writer that was demoted. A new connection may find the new one.
        1290 | 1792 | 1836 | 3707 => (true, READ_ONLY, false),
        1205 | DEADLOCK => (true, "other transactions hold locks on the table; end long ones", true),
        1317 | 1969 | 3024 => (true, "the server ended the statement before it was done; look at its load", true),
        1021 | 1114 | 1030 | 3 | 28 => (false, "free space on the server's disk, and look at its error log", true),
        1044 | 1142 | 1143 | 1227 | 1370 => (false, GRANT, true),
        1045 | 1130 | 1129 | 1698 | 3118 | 3878 | 4151 => (false, LOGIN, false),
        3159 | 4152 => (false, "the server takes encrypted connections alone: use sslmode=require or stronger", false),
        1820 | 1862 => (false, "the user's password has expired: set another", false),
        1049 => (false, "create the database, or name another in the address", false),
        1046 => (false, "name the database in the address: mysql://…/DATABASE", true),
        NO_TABLE => (false, MIGRATE, true),
        1054 | 1136 | 1364 => (false, COLUMNS, true),
        1406 => (false, "the id or the record is longer than its column; ids have at most 255 characters", true),
        1366 | 3988 => {
            (false, "its column cannot hold these characters: ALTER TABLE … CONVERT TO CHARACTER SET utf8mb4", true)
        }
        1193 => (
            false,
            "the server knows no aurora_replica_read_consistency: leave the option replica_read_consistency out",
            false,
        ),
        1231 => (false, "the server refuses what replica_read_consistency asks for; see its documentation", false),
        1356 => (false, "the view encryption_key refers to what is not there, or lacks rights", true),
        1419 | 1785 | 1665 => (false, "the server's binary log does not allow this statement", true),
        // What callers look for.
        DUPLICATE_ENTRY | TABLE_EXISTS | INDEX_EXISTS | FOREIGN_TEXT | 1292 | 1299 | 1525 => {
            return Verdict { passes: false, advice: None, stays: true };
        }
        _ => return Verdict { passes: false, advice: None, stays: false },
    };
    Verdict { passes, advice: Some(advice), stays }
}

/// Judges any error of the driver.
pub(super) fn judge(error: &Error) -> Verdict {
    let gone = |passes, advice| Verdict { passes, advice: Some(advice), stays: false };
    match error {
        Error::Server(error) => verdict(error.code),
        Error::Io(IoError::Io(error)) => match tls_error(error) {
            Some(error) => tls_verdict(error),
            None => gone(true, UNREACHABLE),
        },
        Error::Io(IoError::Tls(_)) => gone(false, "check the files that sslrootcert, sslcert and sslkey name"),
        Error::Driver(DriverError::ConnectionClosed) => gone(true, UNREACHABLE),
        Error::Driver(DriverError::NoClientSslFlagFromServer) => {
            gone(false, "the server offers no TLS: give it a certificate, or use sslmode=disable where nobody listens")
        }
        Error::Driver(DriverError::UnknownAuthPlugin { .. } | DriverError::CleartextPluginDisabled) => {
            gone(false, "give the user another authentication: caching_sha2_password, ed25519 or mysql_native_password")
        }
        Error::Driver(DriverError::MysqlOldPasswordDisabled) => gone(false, "set the user's password anew"),
        Error::Driver(DriverError::PacketTooLarge) => gone(false, "raise max_allowed_packet of the server"),
        Error::Driver(_) => gone(false, "does the port belong to a MySQL or MariaDB server?"),
        Error::Url(_) | Error::Other(_) => Verdict { passes: false, advice: None, stays: false },
    }
}

fn tls_verdict(error: &TlsError) -> Verdict {
    let (passes, advice) = match error {
        TlsError::InvalidCertificate(error) => (
            false,
            match error {
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    "connect by a name that is in the server's certificate, or use sslmode=verify-ca"
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => "renew the server's certificate",
                CertificateError::UnknownIssuer => "name the authority of the server's certificate: sslrootcert=FILE",
                _ => "the server's certificate is not fit for TLS: let its authority make another",
            },
        ),
        TlsError::AlertReceived(_) => (false, CLIENT_CERTIFICATE),
        _ => (false, "the server and this program have no TLS in common; TLS 1.2 is the least"),
    };
    Verdict { passes, advice: Some(advice), stays: false }
}

/// Finds the fault of TLS in an error of a stream.
fn tls_error(error: &io::Error) -> Option<&TlsError> {
    let mut cause: Option<&(dyn StdError + 'static)> = error.get_ref().map(|inner| inner as _);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<TlsError>() {
            return Some(error);
        }
        // The source of an `io::Error` is that of the error inside it.
        cause = match error.downcast_ref::<io::Error>() {
            Some(error) => error.get_ref().map(|inner| inner as _),
            None => error.source(),
        };
    }
    None
}

/// Makes the error of a store.
pub(super) fn failure(operation: &'static str, place: &str, error: Error) -> StoreError {
    let Verdict { passes, advice, .. } = judge(&error);
    if passes { transient(operation, place, advice, error) } else { permanent(operation, place, advice, error) }
}

/// Whether the server refused a text as no time that the column holds.
pub(super) fn is_bad_time(error: &Error) -> bool {
    code(error).is_some_and(|code| BAD_TIME.contains(&code))
}

/// Returns the code of a server's error.
pub(super) fn code(error: &Error) -> Option<u16> {
    match error {
        Error::Server(error) => Some(error.code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: u16) -> Error {
        Error::Server(mysql_async::ServerError { code, message: "m".into(), state: "HY000".into() })
    }

    #[test]
    fn errors_that_pass_are_told_from_those_that_stay() {
        for code in [1040, 1053, 1205, 1213, 1290, 1836, 1927, 2006, 2013, 3024] {
            assert!(failure("op", "place", server(code)).is_transient(), "{code}");
        }
        for code in [1044, 1045, 1046, 1049, 1054, 1062, 1114, 1142, 1146, 1193, 1292, 1366, 1406, 9999] {
            assert!(!failure("op", "place", server(code)).is_transient(), "{code}");
        }
    }

    #[test]
    fn a_connection_to_a_server_that_went_away_or_only_reads_is_not_used_again() {
        for code in [1040, 1053, 1290, 1836, 1927, 9999] {
            assert!(!verdict(code).stays, "{code}");
        }
        for code in [1142, 1146, 1205, 1213, 1406] {
            assert!(verdict(code).stays, "{code}");
        }
        assert!(!judge(&Error::Driver(DriverError::ConnectionClosed)).stays);
    }

    #[test]
    fn every_known_error_says_what_helps() {
        let words = [
            (1045, "password"),
            (1146, "keyward migrate"),
            (1142, "GRANT SELECT, INSERT"),
            (1054, "key_record"),
            (1049, "database"),
            (1290, "writer"),
            (1406, "255"),
            (1193, "replica_read_consistency"),
        ];
        for (code, word) in words {
            let advice = verdict(code).advice.unwrap();
            assert!(advice.contains(word), "{code}: {advice}");
        }
    }

    #[test]
    fn faults_of_tls_are_found_wherever_they_are_wrapped() {
        let wrapped = |error| io::Error::new(io::ErrorKind::InvalidData, io::Error::other(error));
        let unknown = Error::from(wrapped(TlsError::InvalidCertificate(CertificateError::UnknownIssuer)));
        assert!(judge(&unknown).advice.unwrap().contains("sslrootcert"));
        assert!(!judge(&unknown).passes, "another attempt meets the same certificate");
        assert!(judge(&Error::from(io::Error::from(io::ErrorKind::ConnectionRefused))).passes);
    }
}
