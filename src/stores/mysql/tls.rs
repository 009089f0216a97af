//! From TLS settings to what the driver takes. Reads files: blocking.

use std::path::Path;

use mysql_async::{ClientIdentity, SslOpts};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::stores::sql_server::{SqlServer, TlsMode};

/// Why TLS settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsSetupError {
    #[error("the {what} {path} cannot be read")]
    File {
        what: &'static str,
        path: String,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("the {what} {path} holds no PEM certificate")]
    Empty { what: &'static str, path: String },
    #[error("a client certificate needs its key, and a key its certificate")]
    Halves,
    #[error("this system has no list of trusted authorities")]
    NoAuthorities,
}

/// What the driver looks for in the text of an error to tell a certificate of another name from any other fault; as the
/// name that is asked for, it is part of that text.
///
/// The driver (0.37.1) compares with the words of older versions of rustls, and would refuse every certificate that names
/// another host, although it was told not to mind. The chain to an authority is checked before the name. Should the driver
/// change, certificates are refused, never taken: a test shows it.
const ANY_NAME: &str = "NotValidForName";

/// Returns what the driver is to be told; `None` for connections without TLS.
///
/// Files are read anew for each connection, so that renewed certificates are taken without a restart.
pub(super) fn ssl_opts(server: &SqlServer) -> Result<Option<SslOpts>, TlsSetupError> {
    let tls = &server.tls;
    let options = match server.tls_mode() {
        TlsMode::Disable => return Ok(None),
        // Nothing is checked, so nothing has to be trusted.
        TlsMode::Prefer | TlsMode::Require => SslOpts::default().with_danger_accept_invalid_certs(true),
        TlsMode::VerifyCa => trusting(tls.authorities.as_deref())?
            .with_danger_skip_domain_validation(true)
            .with_danger_tls_hostname_override(Some(ANY_NAME)),
        TlsMode::VerifyFull => trusting(tls.authorities.as_deref())?,
    };
    let identity = match (&tls.certificate, &tls.key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => {
            certificates("client certificate", certificate)?;
            PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable("key of the client", key, error))?;
            Some(ClientIdentity::new(certificate.clone().into(), key.clone().into()))
        }
        _ => return Err(TlsSetupError::Halves),
    };
    Ok(Some(options.with_client_identity(identity)))
}

/// Makes sure that the driver finds a cryptographic library.
///
/// rustls does the same by itself, unless the program has another one in it too: then the driver would panic.
pub(super) fn choose_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Losing against another thread is as good: there is one then.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
}

/// Trusts the authorities in a file, or else those of the system, never those that the driver brings along.
fn trusting(file: Option<&Path>) -> Result<SslOpts, TlsSetupError> {
    let authorities = match file {
        Some(path) => certificates("list of authorities", path)?,
        None => {
            let mut found = rustls_native_certs::load_native_certs().certs;
            // The driver takes all or none; systems carry some that are older than its rules.
            found.retain(|authority| RootCertStore::empty().add(authority.clone()).is_ok());
            found
        }
    };
    if authorities.is_empty() {
        return Err(TlsSetupError::NoAuthorities);
    }
    let authorities = authorities.into_iter().map(|authority| authority.as_ref().to_vec().into()).collect();
    Ok(SslOpts::default().with_disable_built_in_roots(true).with_root_certs(authorities))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| unreadable(what, path, error))?;
    if found.is_empty() {
        return Err(TlsSetupError::Empty { what, path: path.display().to_string() });
    }
    Ok(found)
}

fn unreadable(what: &'static str, path: &Path, source: rustls::pki_types::pem::Error) -> TlsSetupError {
    TlsSetupError::File { what, path: path.display().to_string(), source }
}
