//! What a key management service takes as a login, given apart from its address.

use std::path::PathBuf;

use secrecy::SecretString;

use super::kms_address::KmsAddress;
use super::settings::Settings;

/// A secret, or the file that it stands in.
#[derive(Default)]
pub(super) struct Source {
    pub(super) secret: Option<SecretString>,
    pub(super) file: Option<PathBuf>,
}

/// The secrets of all ways to log in.
pub(super) struct KmsSecrets {
    pub(super) token: Source,
    pub(super) secret_id: Source,
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
        }
    }

    /// Gives the service the one that its way to log in takes; what is set for all commands does the others no harm.
    #[cfg(feature = "vault")]
    pub(super) fn give_to(self, kms: &mut KmsAddress) {
        use keyward::kms::{VaultAuth, VaultSecret};

        let KmsAddress::Vault(options) = kms else { return };
        let source = match &options.auth {
            None | Some(VaultAuth::Token(_)) => self.token,
            Some(VaultAuth::AppRole { .. }) => self.secret_id,
            Some(_) => return,
        };
        let secret = source.file.map(VaultSecret::File).or(source.secret.map(VaultSecret::Given));
        if secret.is_some_and(|secret| !options.give_secret(secret)) {
            tracing::debug!("the key management service takes no secret: the one that is given is not used");
        }
    }

    /// Gives nobody anything: no service of this build logs in.
    #[cfg(not(feature = "vault"))]
    pub(super) fn give_to(self, _: &mut KmsAddress) {
        let Self { token, secret_id } = self;
        drop([token.secret, secret_id.secret]);
        drop([token.file, secret_id.file]);
    }
}
