//! Whom connections trust, and what they show.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::options::{VaultAuth, VaultOptions};

/// What TLS is made of.
pub(super) struct TlsFiles {
    is_used: bool,
    authorities: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
}

impl TlsFiles {
    pub(super) fn of(options: &VaultOptions) -> Self {
        let identity = match &options.auth {
            Some(VaultAuth::Certificate { certificate, key, .. }) => Some((certificate.clone(), key.clone())),
            _ => None,
        };
        Self { is_used: options.url.starts_with("https://"), authorities: options.authorities.clone(), identity }
    }

    /// Reads the files and makes the configuration of connections: blocking.
    ///
    /// # Errors
    /// What file cannot be read or used, and why.
    pub(super) fn read(&self) -> Result<ClientConfig, String> {
        let mut roots = RootCertStore::empty();
        match &self.authorities {
            _ if !self.is_used => {}
            Some(file) => {
                for certificate in certificates(file)? {
                    roots.add(certificate).map_err(|error| unusable(file, error))?;
                }
            }
            // Some of what a system has may be unusable; none at all shows when the server's is verified.
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let Some((certificate, key_file)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| unusable(key_file, error))?;
        builder.with_client_auth_cert(certificates(certificate)?, key).map_err(|error| unusable(key_file, error))
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = || CertificateDer::pem_file_iter(file)?.collect::<Result<Vec<_>, _>>();
    let found = read().map_err(|error| unusable(file, error))?;
    if found.is_empty() {
        return Err(format!("{} holds no certificate", file.display()));
    }
    Ok(found)
}

fn unusable(file: &Path, error: impl std::fmt::Display) -> String {
    format!("{}: {error}", file.display())
}
