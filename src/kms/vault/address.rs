//! The address that says what can be set.

use std::fmt;

use super::options::{Fault, SERVICE_ACCOUNT, VaultAuth, VaultOptions, VaultSecret};
use crate::stores::AddressError;
use crate::stores::address::{options, seconds};

const KNOWN: &str = "mount, namespace, auth, auth_mount, token_file, role_id, secret_id_file, role, jwt_file, cert, key, ca, \
                     plaintext, connect_timeout, request_timeout";

/// The address, as far as it tells master keys apart.
impl fmt::Display for VaultOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vault:{}/{}", self.url, self.key)?;
        let mount = (self.mount != "transit").then_some(self.mount.as_str());
        let parts = [("mount", mount), ("namespace", self.namespace.as_deref())];
        for (at, (name, value)) in parts.iter().filter_map(|(name, value)| Some((name, (*value)?))).enumerate() {
            write!(f, "{}{name}={value}", if at == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl std::str::FromStr for VaultOptions {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let rest = text.strip_prefix("vault:").ok_or(AddressError::Vault)?;
        let (place, settings) = rest.split_once('?').unwrap_or((rest, ""));
        let (url, key) = place.rsplit_once('/').ok_or(AddressError::Vault)?;
        let mut read = Self::new(url, key);
        let mut login = Login::default();
        for (name, value) in options(settings)? {
            match name.as_str() {
                "mount" => read.mount = value,
                "namespace" => read.namespace = Some(value),
                "ca" => read.authorities = Some(value.into()),
                "plaintext" => {
                    read.allow_plaintext = match value.as_str() {
                        "allow" => true,
                        "refuse" => false,
                        _ => return Err(AddressError::Value { name: "plaintext", expected: "allow or refuse" }),
                    };
                }
                "connect_timeout" => read.connect_timeout = seconds("connect_timeout", &value)?,
                "request_timeout" => read.request_timeout = seconds("request_timeout", &value)?,
                _ => match login.place(&name) {
                    Some(place) => *place = Some(value),
                    None => return Err(AddressError::UnknownOption { name, known: KNOWN }),
                },
            }
        }
        read.auth = login.settle()?;
        let (name, expected) = match read.fault() {
            None => return Ok(read),
            Some(Fault::Url | Fault::Key) => return Err(AddressError::Vault),
            Some(Fault::Plaintext) => {
                ("plaintext", "allow where the URL is http:// and not of this machine; better use https://")
            }
            Some(Fault::Mount) => ("mount", "the path of a Transit engine"),
            Some(Fault::Namespace) => ("namespace", "the path of a namespace"),
            Some(Fault::AuthMount) => ("auth_mount", "the path of an auth method"),
            Some(Fault::Role) => ("role", "the name of a role; approle has a role_id"),
            Some(Fault::PlainCertificate) => ("auth", "another than cert where the URL is http://"),
        };
        Err(AddressError::Value { name, expected })
    }
}

/// The options that say how to log in, as they stand in the address.
#[derive(Default)]
struct Login {
    auth: Option<String>,
    mount: Option<String>,
    token_file: Option<String>,
    role_id: Option<String>,
    secret_id_file: Option<String>,
    role: Option<String>,
    jwt_file: Option<String>,
    cert: Option<String>,
    key: Option<String>,
}

impl Login {
    fn place(&mut self, name: &str) -> Option<&mut Option<String>> {
        Some(match name {
            "auth" => &mut self.auth,
            "auth_mount" => &mut self.mount,
            "token_file" => &mut self.token_file,
            "role_id" => &mut self.role_id,
            "secret_id_file" => &mut self.secret_id_file,
            "role" => &mut self.role,
            "jwt_file" => &mut self.jwt_file,
            "cert" => &mut self.cert,
            "key" => &mut self.key,
            _ => return None,
        })
    }

    /// Returns the method with its options; `None` for a token that is given elsewhere.
    fn settle(mut self) -> Result<Option<VaultAuth>, AddressError> {
        let method = self.auth.take().unwrap_or_else(|| "token".to_owned());
        let mount = |given: Option<String>| given.unwrap_or_else(|| method.clone());
        let auth = match method.as_str() {
            "token" => self.token_file.take().map(|file| VaultAuth::Token(VaultSecret::File(file.into()))),
            "approle" => Some(VaultAuth::AppRole {
                role_id: required("role_id", "the id of a role", self.role_id.take())?,
                secret_id: self.secret_id_file.take().map(|file| VaultSecret::File(file.into())),
                mount: mount(self.mount.take()),
            }),
            "kubernetes" => Some(VaultAuth::Kubernetes {
                role: required("role", "the name of a role", self.role.take())?,
                jwt: self.jwt_file.take().unwrap_or_else(|| SERVICE_ACCOUNT.to_owned()).into(),
                mount: mount(self.mount.take()),
            }),
            "cert" => Some(VaultAuth::Certificate {
                certificate: required("cert", "a PEM file with a certificate", self.cert.take())?.into(),
                key: required("key", "a PEM file with the certificate's private key", self.key.take())?.into(),
                role: self.role.take(),
                mount: mount(self.mount.take()),
            }),
            _ => {
                let expected = "one of token, approle, kubernetes, cert";
                return Err(AddressError::Value { name: "auth", expected });
            }
        };
        match self.leftover() {
            Some(name) => Err(AddressError::Value { name, expected: "left out: it belongs to another auth method" }),
            None => Ok(auth),
        }
    }

    fn leftover(&self) -> Option<&'static str> {
        let all = [
            ("auth_mount", &self.mount),
            ("token_file", &self.token_file),
            ("role_id", &self.role_id),
            ("secret_id_file", &self.secret_id_file),
            ("role", &self.role),
            ("jwt_file", &self.jwt_file),
            ("cert", &self.cert),
            ("key", &self.key),
        ];
        all.into_iter().find_map(|(name, value)| value.is_some().then_some(name))
    }
}

fn required(name: &'static str, expected: &'static str, value: Option<String>) -> Result<String, AddressError> {
    value.filter(|value| !value.is_empty()).ok_or(AddressError::Value { name, expected })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read(text: &str) -> Result<VaultOptions, AddressError> {
        text.parse()
    }

    #[test]
    fn everything_but_secrets_stands_in_the_address() {
        let options = read(
            "vault:https://vault.example:8200/some/where/Keys-1.a?mount=secure/transit&namespace=team/a&ca=/ca%26b.pem\
             &auth=approle&role_id=r-1&secret_id_file=/run/id&auth_mount=machines&connect_timeout=0.5&request_timeout=3",
        )
        .unwrap();
        assert_eq!((options.url.as_str(), options.key.as_str()), ("https://vault.example:8200/some/where", "Keys-1.a"));
        assert_eq!((options.mount.as_str(), options.namespace.as_deref()), ("secure/transit", Some("team/a")));
        assert_eq!(options.authorities, Some("/ca&b.pem".into()));
        assert_eq!(options.connect_timeout, Duration::from_millis(500));
        assert_eq!(options.request_timeout, Duration::from_secs(3));
        let shown = "vault:https://vault.example:8200/some/where/Keys-1.a?mount=secure/transit&namespace=team/a";
        assert_eq!(options.to_string(), shown);
        let Some(VaultAuth::AppRole { role_id, secret_id: Some(VaultSecret::File(file)), mount }) = options.auth else {
            panic!("{options:?}");
        };
        assert_eq!((role_id.as_str(), file, mount.as_str()), ("r-1", "/run/id".into(), "machines"));
    }

    #[test]
    fn each_method_has_its_own_options() {
        let auth = |options: &str| read(&format!("vault:https://v/k?{options}")).map(|options| options.auth);
        assert!(matches!(auth(""), Ok(None)));
        assert!(matches!(auth("auth=token&token_file=t"), Ok(Some(VaultAuth::Token(VaultSecret::File(_))))));
        let kubernetes = auth("auth=kubernetes&role=app").unwrap();
        let Some(VaultAuth::Kubernetes { role, jwt, mount }) = kubernetes else { panic!("{kubernetes:?}") };
        assert_eq!((role.as_str(), jwt, mount.as_str()), ("app", SERVICE_ACCOUNT.into(), "kubernetes"));
        assert!(matches!(auth("auth=cert&cert=c&key=k"), Ok(Some(VaultAuth::Certificate { role: None, .. }))));
        for (options, at_fault) in [
            ("auth=radius", "auth"),
            ("auth=approle", "role_id"),
            ("auth=kubernetes&role=", "role"),
            ("auth=cert&cert=c", "key"),
            ("role=app", "role"),
            ("auth=approle&role_id=r&token_file=t", "token_file"),
            ("auth=kubernetes&role=r&auth_mount=a//b", "auth_mount"),
            ("mount=/", "mount"),
            ("namespace=", "namespace"),
            ("plaintext=yes", "plaintext"),
            ("request_timeout=0", "request_timeout"),
        ] {
            let refused = auth(options);
            assert!(
                matches!(refused, Err(AddressError::Value { name, .. }) if name == at_fault),
                "{options}: {refused:?}"
            );
        }
        assert!(matches!(auth("token=s.5ec4e7"), Err(AddressError::UnknownOption { .. })));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "vault:",
            "vault:k",
            "vault:https://v",
            "vault:https://v/",
            "vault:https://v/a%2fb",
            "vault:https://alice:hunter2@v/k",
            "vault:v:8200/k",
            "https://v/k",
        ] {
            assert_eq!(read(text).map(drop), Err(AddressError::Vault), "{text}");
        }
        let plain = read("vault:http://v/k").map(drop);
        assert!(matches!(plain, Err(AddressError::Value { name: "plaintext", .. })), "{plain:?}");
        for text in ["vault:http://v/k?plaintext=allow", "vault:http://127.0.0.1:8200/k"] {
            assert_eq!(read(text).map(drop), Ok(()), "{text}");
        }
        let shown = read("vault:http://127.0.0.1/k?auth=cert&cert=c&key=k").map(drop);
        assert!(matches!(shown, Err(AddressError::Value { name: "auth", .. })), "{shown:?}");
    }
}
