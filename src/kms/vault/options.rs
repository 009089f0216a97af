//! What can be set.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::clients::is_this_machine;

/// Where Kubernetes puts the token of a pod's service account.
pub(super) const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// How a [`VaultKms`](super::VaultKms) reaches its master key.
///
/// An address says the same, but for secrets: `vault:https://vault.example:8200/KEY?auth=approle&role_id=ID`. Options are
/// `mount`, `namespace`, `auth` (`token`, `approle`, `kubernetes`, `cert`), `auth_mount`, `token_file`, `role_id`,
/// `secret_id_file`, `role`, `jwt_file`, `cert`, `key`, `ca`, `plaintext` (`allow` or `refuse`), `connect_timeout` and
/// `request_timeout` (in seconds). `%26` stands for `&`.
///
/// `Debug` and `Display` show no secrets.
///
/// # Defaults
/// * `mount` `transit`: where `vault secrets enable transit` puts it.
/// * `namespace` none: the root, which is all that some editions have.
/// * `auth` none: what gives it without a method is a token, by [`give_secret`](Self::give_secret).
/// * `authorities`: those that the system trusts.
/// * `allow_plaintext` false: over `http://` others on the way read tokens and keys. On this machine (loopback addresses,
///   `localhost`) it is not asked for, as nobody is in between.
/// * `connect_timeout` 1 s, `request_timeout` 2 s: within the 4 s that a factory gives an attempt, so that its error says
///   what was waited for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VaultOptions {
    /// Where the server is: `https://vault.example:8200`, without a slash at the end.
    pub url: String,
    /// The name of the key in the engine.
    pub key: String,
    /// Where the Transit engine is mounted.
    pub mount: String,
    /// The namespace that engine and login are in.
    pub namespace: Option<String>,
    /// How the service logs in.
    pub auth: Option<VaultAuth>,
    /// A PEM file of the certificate authorities to trust instead of the system's.
    pub authorities: Option<PathBuf>,
    /// Whether tokens and keys may be sent over `http://` to another machine.
    pub allow_plaintext: bool,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long the answer to a request may take, once there is a connection.
    pub request_timeout: Duration,
}

/// How a [`VaultKms`](super::VaultKms) logs in. Files are read anew at each login.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum VaultAuth {
    /// By a token that exists.
    Token(VaultSecret),
    /// By the [AppRole](https://developer.hashicorp.com/vault/docs/auth/approle) method.
    AppRole {
        /// The id of the role.
        role_id: String,
        /// Its secret id; none for a role that has none.
        secret_id: Option<VaultSecret>,
        /// Where the method is mounted: `approle`.
        mount: String,
    },
    /// By the [Kubernetes](https://developer.hashicorp.com/vault/docs/auth/kubernetes) method.
    Kubernetes {
        /// The role.
        role: String,
        /// The file that holds the token of the service account.
        jwt: PathBuf,
        /// Where the method is mounted: `kubernetes`.
        mount: String,
    },
    /// By the [TLS certificates](https://developer.hashicorp.com/vault/docs/auth/cert) method.
    Certificate {
        /// A PEM file with the certificate, and those between it and an authority.
        certificate: PathBuf,
        /// A PEM file with its private key.
        key: PathBuf,
        /// The role; without one the server looks for one that the certificate fits.
        role: Option<String>,
        /// Where the method is mounted: `cert`.
        mount: String,
    },
}

/// A secret, or where it stands.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum VaultSecret {
    /// The secret itself.
    Given(SecretString),
    /// A file that holds it; white space at its ends does not count.
    File(PathBuf),
}

impl VaultOptions {
    /// Names a key of the server at `url`, with the defaults for everything else.
    #[must_use]
    pub fn new(url: &str, key: &str) -> Self {
        Self {
            url: url.trim_end_matches('/').to_owned(),
            key: key.to_owned(),
            mount: "transit".to_owned(),
            namespace: None,
            auth: None,
            authorities: None,
            allow_plaintext: false,
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(2),
        }
    }

    /// Puts in the secret of the login: the token, or the secret id of an AppRole; `false` for methods that have none.
    #[must_use]
    pub fn give_secret(&mut self, secret: VaultSecret) -> bool {
        match &mut self.auth {
            None => self.auth = Some(VaultAuth::Token(secret)),
            Some(VaultAuth::Token(token)) => *token = secret,
            Some(VaultAuth::AppRole { secret_id, .. }) => *secret_id = Some(secret),
            Some(VaultAuth::Kubernetes { .. } | VaultAuth::Certificate { .. }) => return false,
        }
        true
    }

    /// Tells what is wrong with the options.
    pub(super) fn fault(&self) -> Option<Fault> {
        let Some(host) = host(&self.url) else { return Some(Fault::Url) };
        if self.url.starts_with("http://") && !self.allow_plaintext && !is_this_machine(host) {
            Some(Fault::Plaintext)
        } else if !is_name(&self.key) {
            Some(Fault::Key)
        } else if !is_path(&self.mount) {
            Some(Fault::Mount)
        } else if self.namespace.as_deref().is_some_and(|namespace| !is_path(namespace)) {
            Some(Fault::Namespace)
        } else {
            self.auth_fault()
        }
    }

    fn auth_fault(&self) -> Option<Fault> {
        let (mount, is_filled) = match self.auth.as_ref()? {
            VaultAuth::Token(_) => return None,
            VaultAuth::Certificate { .. } if !self.url.starts_with("https://") => return Some(Fault::PlainCertificate),
            VaultAuth::Certificate { mount, .. } => (mount, true),
            VaultAuth::AppRole { role_id, mount, .. } => (mount, !role_id.is_empty()),
            VaultAuth::Kubernetes { role, mount, .. } => (mount, !role.is_empty()),
        };
        if !is_path(mount) {
            return Some(Fault::AuthMount);
        }
        (!is_filled).then_some(Fault::Role)
    }
}

/// What is wrong with options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Url,
    Plaintext,
    Key,
    Mount,
    Namespace,
    AuthMount,
    Role,
    PlainCertificate,
}

impl Fault {
    /// Returns what it is, and what to do about it.
    pub(super) fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Url => ("the URL of Vault is none", "write it as https://vault.example:8200"),
            Self::Plaintext => {
                ("tokens and keys would cross the network unencrypted", "use https://, or `plaintext=allow`")
            }
            Self::Key => ("the Transit key has no name", "a key is named by letters, digits, `_`, `-` and `.`"),
            Self::Mount => ("the Transit engine has no mount", "write it as `vault secrets list` does"),
            Self::Namespace => ("the namespace has no name", "write it as `vault namespace list` does"),
            Self::AuthMount => ("the auth method has no mount", "write it as `vault auth list` does"),
            Self::Role => ("the auth method has no role", "name the role, or for approle its id"),
            Self::PlainCertificate => ("a certificate is shown over TLS alone", "use https://"),
        }
    }
}

/// Returns the host of a URL that requests can be sent to and errors can name.
fn host(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let is_plain = |character: char| character.is_ascii_graphic() && !"@'\"\\?#%".contains(character);
    let authority = rest.split('/').next()?;
    let (host, port) = match authority.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let is_port = |port: &str| port.strip_prefix(':').is_some_and(|port| port.parse().is_ok_and(|port: u16| port > 0));
    let is_url = rest.chars().all(is_plain) && url.parse::<hyper::Uri>().is_ok();
    (!host.is_empty() && (port.is_empty() || is_port(port)) && is_url).then_some(host)
}

/// Whether it is a name that Vault takes and that stands for itself in a URL.
fn is_name(name: &str) -> bool {
    let is_usual = |character: char| character.is_ascii_alphanumeric() || "_-.".contains(character);
    name.chars().any(|character| character != '.') && name.chars().all(is_usual)
}

fn is_path(path: &str) -> bool {
    path.strip_suffix('/').unwrap_or(path).split('/').all(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(url: &str, change: impl FnOnce(&mut VaultOptions)) -> Option<Fault> {
        let mut options = VaultOptions::new(url, "keys");
        assert!(options.give_secret(VaultSecret::Given("s.5ec4e7".into())));
        change(&mut options);
        assert!(!format!("{options:?}").contains("5ec4e7"));
        options.fault()
    }

    #[test]
    fn what_crosses_the_network_is_encrypted_unless_said_otherwise() {
        for url in ["https://vault:8200", "http://127.0.0.1:8200", "http://localhost", "http://[::1]:8200/"] {
            assert_eq!(fault(url, |_| ()), None, "{url}");
        }
        for url in ["http://vault:8200", "http://127.0.0.1.example", "http://10.0.0.1"] {
            assert_eq!(fault(url, |_| ()), Some(Fault::Plaintext), "{url}");
            assert_eq!(fault(url, |options| options.allow_plaintext = true), None, "{url}");
        }
        for url in
            ["", "vault:8200", "https://", "https://:8200", "https://a@b", "https://a?b", "ftp://a", "https://a:b"]
        {
            assert_eq!(fault(url, |_| ()), Some(Fault::Url), "{url}");
        }
    }

    #[test]
    fn names_stand_for_themselves_in_urls() {
        for key in ["", "..", "a/b", "a b", "a?b", "ä", "a%2fb"] {
            assert_eq!(fault("https://vault", |options| options.key = key.into()), Some(Fault::Key), "{key}");
        }
        for path in ["", "/", "a//b", "../sys", "a/../b", "a?b"] {
            assert_eq!(fault("https://vault", |options| options.mount = path.into()), Some(Fault::Mount), "{path}");
            let in_namespace = fault("https://vault", |options| options.namespace = Some(path.into()));
            assert_eq!(in_namespace, Some(Fault::Namespace), "{path}");
        }
        assert_eq!(fault("https://vault", |options| options.namespace = Some("a/b/".into())), None);
    }
}
