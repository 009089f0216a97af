//! What a key management service takes as a login or to open its file, given apart from its address.

use std::path::PathBuf;

use secrecy::SecretString;

use super::error::Failure;
use super::kms_address::KmsAddress;
use super::settings::Settings;

/// A secret, or the file that it stands in.
#[derive(Default)]
struct Source {
    secret: Option<SecretString>,
    file: Option<PathBuf>,
}

/// The secrets of all services.
pub(super) struct KmsSecrets {
    token: Source,
    secret_id: Source,
    passphrase: Source,
}

impl KmsSecrets {
    /// Takes the secrets out of what was given here, or else of what the configuration file gives.
    pub(super) fn take(given: &mut Settings, file: &mut Settings) -> Self {
        let mut of = |place: fn(&mut Settings) -> Source| {
            let (here, there) = (place(given), place(file));
            if here.secret.is_some() || here.file.is_some() { here } else { there }
        };
        Self {
            token: of(|settings| Source { secret: settings.kms_token.take(), file: settings.kms_token_file.take() }),
            secret_id: of(|settings| Source {
                secret: settings.kms_secret_id.take(),
                file: settings.kms_secret_id_file.take(),
            }),
            passphrase: of(|settings| Source {
                secret: settings.kms_passphrase.take(),
                file: settings.kms_passphrase_file.take(),
            }),
        }
    }

    /// Gives the service the one that it takes; what is set for all commands does the others no harm.
    ///
    /// # Errors
    /// [`Failure::Open`] of the file that holds a passphrase; those of a login are read when that takes place.
    pub(super) fn give_to(self, kms: &mut KmsAddress) -> Result<(), Failure> {
        let Self { token, secret_id, passphrase } = self;
        // Each is taken by a service that not every build has.
        let _ = (&token, &secret_id, &passphrase);
        match kms {
            #[cfg(feature = "passphrase")]
            KmsAddress::Sealed(_, place) => {
                let read = passphrase.file.as_deref().map(super::config::read_password).transpose()?;
                *place = read.or(passphrase.secret);
            }
            #[cfg(feature = "vault")]
            KmsAddress::Vault(options) => {
                use keyward::kms::{VaultAuth, VaultSecret};

                let source = match &options.auth {
                    None | Some(VaultAuth::Token(_)) => token,
                    Some(VaultAuth::AppRole { .. }) => secret_id,
                    Some(_) => return Ok(()),
                };
                let secret = source.file.map(VaultSecret::File).or(source.secret.map(VaultSecret::Given));
                if secret.is_some_and(|secret| !options.give_secret(secret)) {
                    tracing::debug!("the key management service takes no secret: the one that is given is not used");
                }
            }
            _ => {}
        }
        Ok(())
    }
}
