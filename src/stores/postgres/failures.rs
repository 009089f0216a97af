//! What errors mean, and what helps.

use std::error::Error as _;
use std::io;

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::error::StoreError;
use crate::stores::place::{permanent, transient};

pub(super) const CONNECTING: &str = "connecting to Postgres";
pub(super) const LOADING: &str = "loading a key from Postgres";
pub(super) const STORING: &str = "storing a key in Postgres";
pub(super) const LISTING: &str = "listing keys in Postgres";
pub(super) const REVOKING: &str = "revoking a key in Postgres";
pub(super) const SHREDDING: &str = "shredding a key in Postgres";
pub(super) const REPLACING: &str = "replacing a wrapped key in Postgres";
pub(super) const INSPECTING: &str = "looking at the key table in Postgres";
pub(super) const MIGRATING: &str = "changing the key table in Postgres";

pub(super) const NO_TABLE: &str = "make the table: keyward migrate --store … --apply";
const NO_NAMES: &str = "a pooler between gives each transaction another connection: add prepared_statements=false to the \
    address";

/// Sorts an error into transient and permanent, and says what helps.
pub(super) fn failure(operation: &'static str, place: &str, error: Error) -> StoreError {
    let Some(state) = error.code() else {
        return match advice_without_state(&error) {
            (true, advice) => transient(operation, place, advice, error),
            (false, advice) => permanent(operation, place, advice, error),
        };
    };
    let (is_transient, advice) = advice(state);
    let sort = if is_transient { transient } else { permanent };
    // The server's own words; the driver's error around them says nothing more.
    let words = error.as_db_error().map(|error| format!("{} (SQLSTATE {})", error.message(), error.code().code()));
    sort(operation, place, advice, words.unwrap_or_default())
}

/// Whether the connection is the worse for the error: the next call should have another.
pub(super) fn is_the_connections(error: &Error) -> bool {
    match error.code() {
        // A statement that was prepared before the table changed, or by another client; a server that became a replica.
        Some(state) => {
            [
                &SqlState::READ_ONLY_SQL_TRANSACTION,
                &SqlState::FEATURE_NOT_SUPPORTED,
                &SqlState::INVALID_SQL_STATEMENT_NAME,
            ]
            .contains(&state)
                || state.code().starts_with("57P")
        }
        None => true,
    }
}

/// Tells whether a [state](https://www.postgresql.org/docs/current/errcodes-appendix.html) may pass, and what helps.
fn advice(state: &SqlState) -> (bool, Option<&'static str>) {
    match state.code() {
        "28000" | "28P01" => (false, Some("check user and password, and what pg_hba.conf lets in")),
        "3D000" => (false, Some("create the database, or name another one in the address of the store")),
        "42P01" | "3F000" => (false, Some(NO_TABLE)),
        "42703" => (false, Some("the table lacks a column: keyward migrate --store … shows how it should be")),
        "42P10" => (false, Some("the table needs PRIMARY KEY (id, created): keyward migrate --store … says more")),
        "42501" => {
            (false, Some("GRANT SELECT, INSERT ON encryption_key TO the user; operators need UPDATE, DELETE too"))
        }
        "42804" | "42883" => (false, Some("a column has another type: keyward migrate --store … says more")),
        "22001" => (false, Some("the key id is longer than the column id: shorten partition, service or product")),
        "22021" | "22P05" => {
            (false, Some("the database cannot hold a character of the key id: use one of encoding UTF8"))
        }
        "22P02" | "22P03" => (false, Some("the column key_record does not take JSON text")),
        "26000" | "42P05" => (false, Some(NO_NAMES)),
        "42704" | "22023" => {
            (false, Some("the server does not know a setting: check the options of the store's address"))
        }
        "53100" => (false, Some("free disk space on the server")),
        "53300" => (true, Some("the server has no connection left: lower pool_size, or raise max_connections")),
        "25006" => {
            (true, Some("the server only reads: name the primary, or all hosts and target_session_attrs=read-write"))
        }
        "0A000" => (true, Some("the table was changed; the connection is made anew")),
        "40001" | "40P01" | "55P03" | "57014" => (true, None),
        state => (["08", "53", "57", "58"].iter().any(|class| state.starts_with(class)), None),
    }
}

/// The same for what the server did not say.
fn advice_without_state(error: &Error) -> (bool, Option<&'static str>) {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return (false, Some(tls_advice(error)));
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                return (false, Some(tls_advice(error)));
            }
            let advice = match error.kind() {
                io::ErrorKind::ConnectionRefused => "is the server running, and is this its port?",
                io::ErrorKind::NotFound => "is the server running, and is this the folder of its socket?",
                _ => "look at the network between",
            };
            return (true, Some(advice));
        }
        cause = error.source();
    }
    let text = error.to_string();
    if error.is_closed() || text.contains("timeout") {
        return (true, None);
    }
    if text.contains("TLS") {
        return (
            false,
            Some("the server offers no TLS: turn it on there, or say sslmode=disable where nobody listens"),
        );
    }
    if text.contains("authentication") || text.contains("configuration") {
        return (false, Some("give user, password and database in the address, or the password apart from it"));
    }
    // What is left is about reaching a host.
    (true, Some("look at the name of the host and the network between"))
}

fn tls_advice(error: &rustls::Error) -> &'static str {
    use rustls::CertificateError;
    match error {
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "name the host as its certificate does, or say sslmode=verify-ca",
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "name the file of the authority that signed the server's certificate: sslrootcert=FILE"
        }
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "renew the server's certificate, or set the clock"
        }
        rustls::Error::AlertReceived(_) => "the server refused the TLS connection: does it want a client certificate?",
        _ => "check the server's certificate and the TLS options of the store",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_transient() {
        for state in ["08006", "57P01", "57P03", "53300", "40001", "40P01", "25006", "57014"] {
            assert!(advice(&SqlState::from_code(state)).0, "{state}");
        }
        for state in ["28P01", "42P01", "42501", "22001", "53100", "XX000", "42703"] {
            assert!(!advice(&SqlState::from_code(state)).0, "{state}");
        }
    }
}
