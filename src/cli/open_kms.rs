//! From an address to a key management service.

use std::sync::Arc;

use keyward::kms::{KeyManagementService, KmsAdmin, LocalKms, StaticKms};

use super::error::Failure;
use super::kms_address::KmsAddress;

/// A key management service, as encrypting and as operators see it.
#[derive(Clone)]
pub(super) struct Kms {
    pub(super) keys: Arc<dyn KeyManagementService>,
    pub(super) admin: Arc<dyn KmsAdmin>,
}

impl Kms {
    fn of<K: KeyManagementService + KmsAdmin>(kms: K) -> Self {
        let kms = Arc::new(kms);
        Self { keys: Arc::clone(&kms) as Arc<dyn KeyManagementService>, admin: kms }
    }

    /// Sets a service up. Of those that are elsewhere nothing is asked yet; of a file the key is read, or made where the store
    /// is new: blocking, while the command has nothing else to do.
    ///
    /// # Errors
    /// [`Failure::MasterKey`], and [`Failure::Usage`] when a passphrase is missing.
    pub(super) async fn open(address: &KmsAddress, store_is_new: bool) -> Result<Self, Failure> {
        let opened = match address {
            KmsAddress::Local(path) if store_is_new => LocalKms::open_or_create(path).map(Self::of),
            KmsAddress::Local(path) => LocalKms::open(path).map(Self::of),
            #[cfg(feature = "aws-kms")]
            KmsAddress::Aws(options) => keyward::kms::AwsKms::connect((**options).clone()).await.map(Self::of),
            #[cfg(feature = "vault")]
            KmsAddress::Vault(options) => keyward::kms::VaultKms::new((**options).clone()).map(Self::of),
            #[cfg(feature = "passphrase")]
            KmsAddress::Sealed(path, passphrase) => {
                let passphrase = passphrase.as_ref().ok_or(NO_PASSPHRASE)?;
                if store_is_new {
                    LocalKms::open_or_create_sealed(path, passphrase, keyward::kms::SealSettings::default())
                        .map(Self::of)
                } else {
                    LocalKms::open_sealed(path, passphrase).map(Self::of)
                }
            }
            KmsAddress::Static(key) => StaticKms::new(&**key).map(Self::of),
        };
        opened.map_err(Failure::MasterKey)
    }
}

#[cfg(feature = "passphrase")]
const NO_PASSPHRASE: Failure = Failure::Usage {
    fault: "the master key is sealed under a passphrase, and none is given",
    hint: "set KEYWARD_KMS_PASSPHRASE, or name a file that holds it: --kms-passphrase-file FILE",
};
