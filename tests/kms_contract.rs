//! What every key management service must do, and what a master key in a file must do beside it.

#[cfg(all(unix, feature = "aws-kms"))]
mod kms_support;
#[cfg(all(unix, any(feature = "aws-kms", feature = "vault")))]
mod servers;

use std::any::Any;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use keyward::kms::{KeyManagementService, KmsError, LocalKms, StaticKms};
use keyward::stores::{InMemoryMetastore, Metastore};
use keyward::{Error, KeyId, SessionFactory};
use secrecy::ExposeSecret;

type TestResult<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const MASTER_KEY: &[u8; 32] = b"thisIsAStaticMasterKeyForTesting";

/// A service, and another one with another master key.
struct Services<K> {
    service: Arc<K>,
    stranger: Arc<K>,
    /// What they need.
    _keep: Box<dyn Any + Send>,
}

fn services<K>(service: K, stranger: K, keep: impl Any + Send) -> TestResult<Option<Services<K>>> {
    Ok(Some(Services { service: service.into(), stranger: stranger.into(), _keep: Box::new(keep) }))
}

async fn static_services() -> TestResult<Option<Services<StaticKms>>> {
    services(StaticKms::new(MASTER_KEY)?, StaticKms::new(&[7; 32])?, ())
}

async fn local_services() -> TestResult<Option<Services<LocalKms>>> {
    let folder = tempfile::tempdir()?;
    let service = LocalKms::open_or_create(folder.path().join("a.key"))?;
    let stranger = LocalKms::open_or_create(folder.path().join("b.key"))?;
    services(service, stranger, folder)
}

/// Two keys of one server; none where there is no server.
#[cfg(all(unix, feature = "vault"))]
async fn vault_services() -> TestResult<Option<Services<keyward::kms::VaultKms>>> {
    use keyward::kms::{VaultKms, VaultOptions, VaultSecret};

    let Some(server) = servers::OpenBao::shared()? else { return Ok(None) };
    let service = || {
        let mut options = VaultOptions::new(&server.url(), &server.new_key()?);
        assert!(options.give_secret(VaultSecret::Given(servers::ROOT.into())));
        TestResult::Ok(VaultKms::new(options)?)
    };
    services(service()?, service()?, ())
}

/// AWS KMS in the first so many regions, and other keys in the same ones.
#[cfg(all(unix, feature = "aws-kms"))]
async fn aws_services(regions: usize) -> TestResult<Option<Services<keyward::kms::AwsKms>>> {
    use kms_support::{ORDER, Stage};

    let stages = (Stage::new(&ORDER[..regions]).await?, Stage::new(&ORDER[..regions]).await?);
    let (Some(own), Some(other)) = stages else { return Ok(None) };
    services(own.kms(|_| {})?, other.kms(|_| {})?, (own, other))
}

async fn factory<K: KeyManagementService>(kms: &Arc<K>, store: &Arc<InMemoryMetastore>) -> TestResult<SessionFactory> {
    Ok(SessionFactory::builder("svc", "prod").metastore(Arc::clone(store)).kms(Arc::clone(kms)).build().await?)
}

/// Has a factory make a system key and returns it as the service wrapped it.
async fn wrapped_key<K: KeyManagementService>(kms: &Arc<K>) -> TestResult<Vec<u8>> {
    let store = Arc::new(InMemoryMetastore::new());
    let factory = factory(kms, &store).await?;
    factory.session("alice").await?.encrypt(b"tea").await?;
    factory.close().await?;
    let row = store.load_latest(&KeyId::new("_SK_svc_prod")).await?.ok_or("a system key was stored")?;
    assert_eq!((row.parent_key, row.revoked), (None, false));
    Ok(row.encrypted_key)
}

async fn what_was_wrapped_is_unwrapped_and_differs_each_time<K: KeyManagementService>(
    services: Services<K>,
) -> TestResult {
    let (first, second) = (wrapped_key(&services.service).await?, wrapped_key(&services.service).await?);
    let (a, b) = (services.service.decrypt_key(&first).await?, services.service.decrypt_key(&second).await?);
    assert_eq!((a.expose_secret().len(), b.expose_secret().len()), (32, 32));
    assert_ne!(a.expose_secret(), b.expose_secret());
    assert_eq!(services.service.decrypt_key(&first).await?.expose_secret(), a.expose_secret());
    Ok(())
}

async fn what_was_changed_or_is_foreign_does_not_unwrap<K: KeyManagementService>(services: Services<K>) -> TestResult {
    let wrapped = wrapped_key(&services.service).await?;
    assert!(matches!(services.stranger.decrypt_key(&wrapped).await, Err(KmsError::Undecryptable { .. })));
    for bit in 0..wrapped.len() * 8 {
        let mut changed = wrapped.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(
            matches!(services.service.decrypt_key(&changed).await, Err(KmsError::Undecryptable { .. })),
            "bit {bit}"
        );
    }
    for size in 0..wrapped.len() {
        assert!(matches!(services.service.decrypt_key(&wrapped[..size]).await, Err(KmsError::Undecryptable { .. })));
    }
    let longer = [wrapped.as_slice(), &[0]].concat();
    assert!(matches!(services.service.decrypt_key(&longer).await, Err(KmsError::Undecryptable { .. })));
    assert!(services.service.decrypt_key(&wrapped).await.is_ok(), "and none of that did any harm");
    Ok(())
}

#[cfg(all(unix, feature = "aws-kms"))]
async fn what_was_changed_is_the_same_key_or_none<K: KeyManagementService>(services: Services<K>) -> TestResult {
    use keyward::kms::KmsFailureKind::{NotWrapped, Tampered};

    let wrapped = wrapped_key(&services.service).await?;
    let key = services.service.decrypt_key(&wrapped).await?;
    assert!(matches!(services.stranger.decrypt_key(&wrapped).await, Err(KmsError::Undecryptable { .. })));
    let (mut same, mut none) = (0, 0);
    for at in 0..wrapped.len() {
        let mut changed = wrapped.clone();
        changed[at] ^= 1 << (at % 8);
        match services.service.decrypt_key(&changed).await {
            Ok(opened) => {
                assert_eq!(opened.expose_secret(), key.expose_secret(), "{}", String::from_utf8_lossy(&changed));
                same += 1;
            }
            Err(KmsError::Undecryptable { .. }) => none += 1,
            Err(KmsError::Failed { failures, .. })
                if failures.iter().all(|failure| matches!(failure.kind, NotWrapped | Tampered)) =>
            {
                none += 1;
            }
            Err(other) => return Err(format!("{other:?}: {}", String::from_utf8_lossy(&changed)).into()),
        }
    }
    assert!(same > 0 && none > 0, "{same} {none}");
    for size in 0..wrapped.len() {
        assert!(matches!(services.service.decrypt_key(&wrapped[..size]).await, Err(KmsError::Undecryptable { .. })));
    }
    Ok(())
}

async fn a_factory_with_another_master_key_says_so_and_makes_no_key<K: KeyManagementService>(
    services: Services<K>,
) -> TestResult {
    let store = Arc::new(InMemoryMetastore::new());
    let own = factory(&services.service, &store).await?;
    let record = own.session("alice").await?.encrypt(b"tea").await?;
    own.close().await?;
    let foreign = factory(&services.stranger, &store).await?;
    let session = foreign.session("alice").await?;
    for failed in [session.decrypt(&record).await.map(drop), session.encrypt(b"tea").await.map(drop)] {
        assert!(
            matches!(&failed, Err(Error::Kms(kms)) if matches!(**kms, KmsError::Undecryptable { .. })),
            "{failed:?}"
        );
    }
    let latest = store.load_latest(&KeyId::new("_SK_svc_prod")).await?.ok_or("the first key")?;
    assert_eq!(services.service.decrypt_key(&latest.encrypted_key).await?.expose_secret().len(), 32);
    Ok(())
}

async fn many_callers_are_served_at_once<K: KeyManagementService>(services: Services<K>) -> TestResult {
    let wrapped: Arc<[u8]> = wrapped_key(&services.service).await?.into();
    let expected = services.service.decrypt_key(&wrapped).await?;
    let callers: Vec<_> = (0..32)
        .map(|_| {
            let (kms, wrapped) = (Arc::clone(&services.service), Arc::clone(&wrapped));
            tokio::spawn(async move { kms.decrypt_key(&wrapped).await })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await??.expose_secret(), expected.expose_secret());
    }
    Ok(())
}

/// One test of each story for a service.
macro_rules! contract {
    ($name:ident, $services:expr, $($story:ident),+ $(,)?) => {
        mod $name {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $story() -> TestResult {
                    let Some(services) = $services.await? else { return Ok(()) };
                    super::$story(services).await
                }
            )+
        }
    };
    ($name:ident, $services:expr) => {
        contract!(
            $name,
            $services,
            what_was_wrapped_is_unwrapped_and_differs_each_time,
            what_was_changed_or_is_foreign_does_not_unwrap,
            a_factory_with_another_master_key_says_so_and_makes_no_key,
            many_callers_are_served_at_once,
        );
    };
}

contract!(static_kms, static_services());
contract!(local_kms, local_services());
#[cfg(feature = "passphrase")]
contract!(sealed_kms, sealed::services());
#[cfg(all(unix, feature = "vault"))]
contract!(vault_kms, vault_services());

/// The stories, and another one about changes: what names regions and keys is authenticated by nobody.
#[cfg(all(unix, feature = "aws-kms"))]
macro_rules! aws_contract {
    ($name:ident, $regions:literal) => {
        contract!(
            $name,
            aws_services($regions),
            what_was_wrapped_is_unwrapped_and_differs_each_time,
            what_was_changed_is_the_same_key_or_none,
            a_factory_with_another_master_key_says_so_and_makes_no_key,
            many_callers_are_served_at_once,
        );
    };
}

#[cfg(all(unix, feature = "aws-kms"))]
aws_contract!(aws_kms_in_one_region, 1);
#[cfg(all(unix, feature = "aws-kms"))]
aws_contract!(aws_kms_in_three_regions, 3);

#[tokio::test]
async fn a_key_file_holds_what_a_static_master_key_would_be() -> TestResult {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("master.key");
    let local = Arc::new(LocalKms::open_or_create(&path)?);
    let wrapped = wrapped_key(&local).await?;
    let same = StaticKms::new(&fs::read(&path)?)?;
    assert_eq!(same.decrypt_key(&wrapped).await?.expose_secret().len(), 32);
    Ok(())
}

#[tokio::test]
async fn processes_that_create_a_key_file_at_once_all_use_the_same_key() -> TestResult {
    all_use_the_same_key(|path| LocalKms::open_or_create(path)).await
}

/// Has many open a file that is not there, each by `open`.
async fn all_use_the_same_key(open: impl Fn(&Path) -> Result<LocalKms, KmsError> + Sync) -> TestResult {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("master.key");
    let barrier = std::sync::Barrier::new(16);
    let services: Vec<LocalKms> = std::thread::scope(|scope| {
        let openers: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    open(&path)
                })
            })
            .collect();
        openers.into_iter().map(|opener| opener.join().expect("no panic")).collect::<Result<_, _>>()
    })?;
    let mut services = services.into_iter();
    let wrapped = wrapped_key(&Arc::new(services.next().ok_or("sixteen services")?)).await?;
    for service in services {
        assert!(service.decrypt_key(&wrapped).await.is_ok());
    }
    let names: Vec<_> =
        fs::read_dir(folder.path())?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<_>>()?;
    assert_eq!(names, ["master.key"], "no temporary file is left");
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_new_key_file_is_its_owners_alone_and_one_that_others_may_read_is_refused() -> TestResult {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir()?;
    let path = folder.path().join("master.key");
    LocalKms::open_or_create(&path)?;
    assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
    for mode in [0o640, 0o604, 0o620, 0o602] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        let error = LocalKms::open(&path).expect_err("others may read or change it").to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400))?;
    LocalKms::open(&path)?;
    Ok(())
}

#[test]
fn a_key_file_that_is_none_is_refused_and_never_replaced() -> TestResult {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("master.key");
    let missing = LocalKms::open(&path);
    assert!(matches!(missing, Err(KmsError::KeyFile { source: Some(_), .. })));
    for size in [0, 31, 33, 64] {
        write_private(&path, &vec![1; size])?;
        let refused = LocalKms::open_or_create(&path);
        assert!(matches!(refused, Err(KmsError::KeyFile { reason, .. }) if reason.contains("32 bytes")), "{size}");
        assert_eq!(fs::read(&path)?, vec![1; size], "left as it is");
    }
    assert!(matches!(LocalKms::open(folder.path()), Err(KmsError::KeyFile { .. })), "a folder is no key file");
    assert!(matches!(LocalKms::open_or_create(path.join("below")), Err(KmsError::KeyFile { .. })));
    Ok(())
}

#[test]
fn services_print_nothing_of_their_keys() -> TestResult {
    let printed = format!("{:?}", StaticKms::new(MASTER_KEY)?);
    assert_eq!(printed, "StaticKms");
    assert!(matches!(StaticKms::new(b"short"), Err(KmsError::KeySize(5))));
    Ok(())
}

/// Master keys in files that are sealed under a passphrase.
#[cfg(feature = "passphrase")]
mod sealed {
    use keyward::kms::SealSettings;
    use secrecy::SecretString;

    use super::*;

    /// As little as Argon2 takes: what these tests are about costs nobody anything.
    const CHEAP: SealSettings = SealSettings { memory_kib: 8, passes: 1, lanes: 1 };

    pub(super) async fn services() -> TestResult<Option<Services<LocalKms>>> {
        let folder = tempfile::tempdir()?;
        let service = LocalKms::open_or_create_sealed(folder.path().join("a.key"), &sesame(), CHEAP)?;
        let stranger = LocalKms::open_or_create_sealed(folder.path().join("b.key"), &sesame(), CHEAP)?;
        super::services(service, stranger, folder)
    }

    fn sesame() -> SecretString {
        SecretString::from("open sesame")
    }

    /// Why a file was refused, in words that hold no passphrase.
    fn reason<T>(refused: Result<T, KmsError>) -> TestResult<&'static str> {
        let Err(error) = refused else { return Err("it was taken".into()) };
        assert!(!format!("{error} {error:?}").contains("sesame"), "{error:?}");
        match error {
            KmsError::KeyFile { reason, .. } => Ok(reason),
            other => Err(other.into()),
        }
    }

    #[tokio::test]
    async fn a_sealed_file_opens_under_its_passphrase_alone() -> TestResult {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("master.key");
        assert!(reason(LocalKms::open_sealed(&path, &sesame()))?.contains("not found"));
        let made = Arc::new(LocalKms::open_or_create_sealed(&path, &sesame(), CHEAP)?);
        let wrapped = wrapped_key(&made).await?;
        let file = fs::read(&path)?;
        assert_eq!((file.len(), file.starts_with(b"keyward sealed key 1\n")), (109, true));
        for again in [
            LocalKms::open_sealed(&path, &sesame())?,
            LocalKms::open_or_create_sealed(&path, &sesame(), SealSettings::default())?,
        ] {
            assert!(again.decrypt_key(&wrapped).await.is_ok());
            assert!(!format!("{again:?}").contains("sesame"));
        }
        for wrong in ["Open sesame", "open sesame ", "open"] {
            let refused = LocalKms::open_sealed(&path, &SecretString::from(wrong));
            assert!(reason(refused)?.contains("passphrase is wrong, or the file was changed"), "{wrong:?}");
        }
        let empty = SecretString::from("");
        assert!(reason(LocalKms::open_sealed(&path, &empty))?.contains("empty"));
        let other = folder.path().join("other.key");
        assert!(reason(LocalKms::open_or_create_sealed(&other, &empty, CHEAP))?.contains("empty"));
        let greedy = SealSettings { memory_kib: 2 << 20, ..CHEAP };
        assert!(reason(LocalKms::open_or_create_sealed(&other, &sesame(), greedy))?.contains("1 GiB"));
        assert!(!other.exists());
        assert_eq!(fs::read(&path)?, file, "reading changes nothing");
        Ok(())
    }

    #[tokio::test]
    async fn processes_that_create_a_sealed_file_at_once_all_use_the_same_key() -> TestResult {
        all_use_the_same_key(|path| LocalKms::open_or_create_sealed(path, &sesame(), CHEAP)).await
    }

    #[test]
    fn plain_and_sealed_files_are_told_apart() -> TestResult {
        let folder = tempfile::tempdir()?;
        let (plain, sealed) = (folder.path().join("plain.key"), folder.path().join("sealed.key"));
        LocalKms::open_or_create(&plain)?;
        LocalKms::open_or_create_sealed(&sealed, &sesame(), CHEAP)?;
        let before = [fs::read(&plain)?, fs::read(&sealed)?];
        for refused in [LocalKms::open(&sealed), LocalKms::open_or_create(&sealed)] {
            assert!(reason(refused)?.contains("name it as `sealed:PATH`"));
        }
        for refused in
            [LocalKms::open_sealed(&plain, &sesame()), LocalKms::open_or_create_sealed(&plain, &sesame(), CHEAP)]
        {
            assert!(reason(refused)?.contains("name it as `local:PATH`"));
        }
        let changed = LocalKms::change_passphrase(&plain, &sesame(), &sesame(), CHEAP);
        assert!(reason(changed)?.contains("is not sealed"));
        for size in [0, 50, 108, 110, 1000] {
            let mut bytes = before[1].clone();
            bytes.resize(size, 0);
            write_private(&sealed, &bytes)?;
            assert!(LocalKms::open_or_create_sealed(&sealed, &sesame(), CHEAP).is_err(), "{size}");
            assert_eq!(fs::read(&sealed)?, bytes, "left as it is");
        }
        assert_eq!(fs::read(&plain)?, before[0]);
        Ok(())
    }

    #[tokio::test]
    async fn a_changed_passphrase_opens_the_same_master_key() -> TestResult {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("master.key");
        let wrapped = wrapped_key(&Arc::new(LocalKms::open_or_create_sealed(&path, &sesame(), CHEAP)?)).await?;
        let before = fs::read(&path)?;
        let (new, empty) = (SecretString::from("Mellon"), SecretString::from(""));
        let greedy = SealSettings { passes: 1000, ..CHEAP };
        let changes = [(&new, &new, CHEAP), (&sesame(), &empty, CHEAP), (&sesame(), &new, greedy)];
        for (old, new, settings) in changes {
            reason(LocalKms::change_passphrase(&path, old, new, settings))?;
            assert_eq!(fs::read(&path)?, before, "it stays as it was");
        }
        // A link to the file stays one.
        #[cfg(unix)]
        let path = {
            let link = folder.path().join("link.key");
            std::os::unix::fs::symlink(&path, &link)?;
            // Only root may; whose it is, it stays.
            let _ = std::os::unix::fs::chown(&path, Some(65_534), Some(65_534));
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o400))?;
            link
        };
        #[cfg(unix)]
        let owner = owner_of(&path)?;
        LocalKms::change_passphrase(&path, &sesame(), &new, SealSettings { lanes: 2, memory_kib: 16, passes: 2 })?;
        assert!(LocalKms::open_sealed(&path, &new)?.decrypt_key(&wrapped).await.is_ok());
        assert!(reason(LocalKms::open_sealed(&path, &sesame()))?.contains("wrong"));
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path)?.permissions());
            assert_eq!((mode & 0o777, fs::symlink_metadata(&path)?.is_symlink()), (0o400, true));
            assert_eq!(owner_of(&path)?, owner);
        }
        assert_eq!(fs::read_dir(folder.path())?.count(), if cfg!(unix) { 2 } else { 1 }, "no temporary file is left");
        Ok(())
    }

    #[cfg(unix)]
    fn owner_of(path: &Path) -> std::io::Result<(u32, u32)> {
        use std::os::unix::fs::MetadataExt;

        fs::metadata(path).map(|metadata| (metadata.uid(), metadata.gid()))
    }

    #[cfg(unix)]
    #[test]
    fn a_sealed_file_is_its_owners_alone() -> TestResult {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir()?;
        let path = folder.path().join("master.key");
        LocalKms::open_or_create_sealed(&path, &sesame(), CHEAP)?;
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640))?;
        assert!(reason(LocalKms::open_sealed(&path, &sesame()))?.contains("chmod 600"));
        Ok(())
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    fs::write(path, bytes)?;
    #[cfg(unix)]
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(())
}
