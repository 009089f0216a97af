//! The bytes of a key file that is sealed under a passphrase: pure.
//!
//! In this order: `keyward sealed key 1` and a line break; memory in KiB, passes and lanes of Argon2id, as big-endian numbers
//! of 4 bytes; a salt of 16 bytes; a nonce of 12; the master key, 32 bytes, encrypted with AES-256-GCM; its tag of 16. The key
//! that encrypts it is derived from the passphrase by Argon2id, version 0x13
//! ([RFC 9106](https://www.rfc-editor.org/rfc/rfc9106)); what stands before is associated data.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::key_file::SEALED;

/// The version of the format, with the end of its line.
const VERSION: &[u8] = b"1\n";
const SALT: usize = 16;
const NONCE: usize = 12;
const KEY: usize = 32;
const TAG: usize = 16;
/// Bytes before the encrypted key.
const HEADER: usize = SEALED.len() + VERSION.len() + 3 * 4 + SALT + NONCE;
/// Bytes of the file.
pub(super) const SIZE: usize = HEADER + KEY + TAG;

const NOT_SEALED: &str = "is not sealed under a passphrase; name it as `local:PATH`, or open it with LocalKms::open";
const OTHER_VERSION: &str = "is sealed in a way that this version of Keyward does not know";
const WRONG_SIZE: &str = "does not have the size of a sealed key file; was it cut short?";
const OUT_OF_BOUNDS: &str =
    "asks for too much or too little: 8 KiB for each lane to 1 GiB of memory, 1 to 16 passes, 1 to 16 lanes";
const NO_MEMORY: &str = "asks for more memory than there is";
const EMPTY: &str = "needs a passphrase, and the one that is given is empty";
const NOT_AUTHENTIC: &str = "does not open: the passphrase is wrong, or the file was changed";
const NO_CIPHER: &str = "cannot be encrypted: AES-256-GCM failed";

/// What it takes to try a passphrase: the same for who knows it as for each guess of who does not.
///
/// # Defaults
/// * `memory_kib` 65536 (64 MiB), `passes` 3, `lanes` 4: the second recommended option of
///   [RFC 9106, section 4](https://www.rfc-editor.org/rfc/rfc9106#section-4), for where memory is constrained. It takes some
///   tenths of a second; lanes are computed one after the other.
///
/// A file may ask for 8 KiB for each lane to 1 GiB, 1 to 16 passes and 1 to 16 lanes: more is refused before it is
/// tried, so that a forged file does not exhaust the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealSettings {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// How often the memory is gone through.
    pub passes: u32,
    /// Into how many parts the memory is divided, which an attacker may compute side by side.
    pub lanes: u32,
}

impl Default for SealSettings {
    fn default() -> Self {
        Self { memory_kib: 64 << 10, passes: 3, lanes: 4 }
    }
}

impl SealSettings {
    fn params(self) -> Result<Params, &'static str> {
        let Self { memory_kib, passes, lanes } = self;
        if memory_kib > 1 << 20 || passes > 16 || lanes > 16 {
            return Err(OUT_OF_BOUNDS);
        }
        Params::new(memory_kib, passes, lanes, Some(KEY)).map_err(|_| OUT_OF_BOUNDS)
    }
}

/// Encrypts a master key; `salt` and `nonce` are random and new.
///
/// # Errors
/// What is wrong with passphrase or settings.
pub(super) fn seal(
    key: &[u8; KEY],
    passphrase: &SecretString,
    settings: SealSettings,
    salt: &[u8; SALT],
    nonce: &[u8; NONCE],
) -> Result<[u8; SIZE], &'static str> {
    let numbers = [settings.memory_kib, settings.passes, settings.lanes].map(u32::to_be_bytes);
    let header = [SEALED, VERSION, numbers.as_flattened(), salt, nonce].concat();
    let mut file = [0; SIZE];
    file[..HEADER].copy_from_slice(&header);
    let (ciphertext, tag) = file[HEADER..].split_at_mut(KEY);
    let nonce = Nonce::assume_unique_for_key(*nonce);
    cipher(passphrase, settings, salt)?
        .seal_out_of_place_scatter(nonce, Aad::from(&header), key, ciphertext, &[], tag)
        .map_err(|_| NO_CIPHER)?;
    Ok(file)
}

/// Decrypts the master key of a sealed file into `key`; returned by value, it would leave copies.
///
/// # Errors
/// What is wrong with the file or the passphrase.
pub(super) fn open(file: &[u8], passphrase: &SecretString, key: &mut [u8; KEY]) -> Result<(), &'static str> {
    let Sealed { header, settings, salt, nonce, ciphertext, tag } = Sealed::parse(file)?;
    let nonce = Nonce::assume_unique_for_key(*nonce);
    cipher(passphrase, settings, salt)?
        .open_separate_gather(nonce, Aad::from(header), ciphertext, tag, key)
        .map_err(|_| NOT_AUTHENTIC)
}

/// The parts of a sealed file.
struct Sealed<'a> {
    header: &'a [u8],
    settings: SealSettings,
    salt: &'a [u8; SALT],
    nonce: &'a [u8; NONCE],
    ciphertext: &'a [u8; KEY],
    tag: &'a [u8; TAG],
}

impl<'a> Sealed<'a> {
    fn parse(file: &'a [u8]) -> Result<Self, &'static str> {
        let rest = file.strip_prefix(SEALED).ok_or(NOT_SEALED)?;
        if file.len() < SEALED.len() + VERSION.len() {
            return Err(WRONG_SIZE);
        }
        let mut rest = rest.strip_prefix(VERSION).ok_or(OTHER_VERSION)?;
        let (memory_kib, passes, lanes) = (number(&mut rest)?, number(&mut rest)?, number(&mut rest)?);
        let settings = SealSettings { memory_kib, passes, lanes };
        let (salt, nonce) = (take(&mut rest)?, take(&mut rest)?);
        let (ciphertext, tag) = (take(&mut rest)?, take(&mut rest)?);
        if !rest.is_empty() {
            return Err(WRONG_SIZE);
        }
        Ok(Self { header: &file[..HEADER], settings, salt, nonce, ciphertext, tag })
    }
}

fn number(rest: &mut &[u8]) -> Result<u32, &'static str> {
    take(rest).copied().map(u32::from_be_bytes)
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], &'static str> {
    let (part, after) = rest.split_first_chunk().ok_or(WRONG_SIZE)?;
    *rest = after;
    Ok(part)
}

/// Makes what encrypts the master key, from the passphrase.
fn cipher(passphrase: &SecretString, settings: SealSettings, salt: &[u8; SALT]) -> Result<LessSafeKey, &'static str> {
    let passphrase = passphrase.expose_secret().as_bytes();
    if passphrase.is_empty() {
        return Err(EMPTY);
    }
    let mut key = Zeroizing::new([0; KEY]);
    derive(passphrase, settings.params()?, salt, &mut key)?;
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*key).map_err(|_| NO_CIPHER)?))
}

/// Derives a key, and wipes the memory that this takes.
fn derive(passphrase: &[u8], params: Params, salt: &[u8; SALT], key: &mut [u8; KEY]) -> Result<(), &'static str> {
    let mut blocks = Zeroizing::new(Vec::new());
    blocks.try_reserve_exact(params.block_count()).map_err(|_| NO_MEMORY)?;
    blocks.resize(params.block_count(), Block::new());
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(passphrase, salt, key, blocks.as_mut_slice())
        .map_err(|_| OUT_OF_BOUNDS)
}

/// Bytes of any kind are the parts of a file, and those make it up again, or there is a reason.
#[cfg(any(fuzzing, test))]
pub(super) fn check_parts(file: &[u8]) {
    if let Ok(Sealed { header, settings, salt, nonce, ciphertext, tag }) = Sealed::parse(file) {
        let numbers = [settings.memory_kib, settings.passes, settings.lanes].map(u32::to_be_bytes);
        assert_eq!([SEALED, VERSION, numbers.as_flattened(), salt, nonce].concat(), header);
        assert_eq!([header, ciphertext, tag].concat(), file);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHEAP: SealSettings = SealSettings { memory_kib: 8, passes: 1, lanes: 1 };

    fn passphrase(text: &str) -> SecretString {
        SecretString::from(text)
    }

    fn sealed() -> [u8; SIZE] {
        seal(&[7; KEY], &passphrase("open sesame"), CHEAP, &[1; SALT], &[2; NONCE]).unwrap()
    }

    /// Computed with Argon2id and AES-GCM of OpenSSL.
    #[test]
    fn the_format_is_what_it_says() {
        let file = sealed();
        assert_eq!(file.len(), 109);
        assert_eq!(file[..21], *b"keyward sealed key 1\n");
        assert_eq!(file[21..33], [0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 1]);
        assert_eq!(file[33..49], [1; 16]);
        assert_eq!(file[49..61], [2; 12]);
        let text: String = file[61..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            text,
            "33ebdad246d818d9cbe51a8c55b681101ec70fe3e809b3b9ed492887abd5fe14f504a0675897d803cdca2c8685434f43"
        );
    }

    #[test]
    fn a_changed_file_does_not_open_and_says_why() {
        let file = sealed();
        let opened = |file: &[u8], text: &str| {
            let mut key = [0; KEY];
            open(file, &passphrase(text), &mut key).map(|()| key)
        };
        assert_eq!(opened(&file, "open sesame"), Ok([7; KEY]));
        assert_eq!(opened(&file, "open sesam"), Err(NOT_AUTHENTIC));
        assert_eq!(opened(&file, ""), Err(EMPTY));
        for size in 0..SIZE {
            let reason = if size < SEALED.len() { NOT_SEALED } else { WRONG_SIZE };
            assert_eq!(opened(&file[..size], "open sesame"), Err(reason), "{size}");
        }
        assert_eq!(opened(&[&file[..], &[0]].concat(), "open sesame"), Err(WRONG_SIZE));
        // But for what would ask for more than 64 MiB.
        for bit in (0..SIZE * 8).filter(|bit| !(21 * 8..23 * 8).contains(bit)) {
            let mut changed = file;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(opened(&changed, "open sesame").is_err(), "bit {bit}");
        }
        let mut newer = file;
        newer[SEALED.len()] = b'2';
        assert_eq!(opened(&newer, "open sesame"), Err(OTHER_VERSION));
    }

    #[test]
    fn what_would_exhaust_the_machine_is_refused_before_it_is_tried() {
        let most = SealSettings { memory_kib: 1 << 20, passes: 16, lanes: 16 };
        assert!(most.params().is_ok() && SealSettings::default().params().is_ok());
        let cases = [
            SealSettings { memory_kib: (1 << 20) + 1, ..most },
            SealSettings { passes: 17, ..most },
            SealSettings { lanes: 17, ..most },
            SealSettings { memory_kib: u32::MAX, passes: u32::MAX, lanes: u32::MAX },
            SealSettings { memory_kib: 7, ..CHEAP },
            SealSettings { memory_kib: 31, passes: 1, lanes: 4 },
            SealSettings { passes: 0, ..CHEAP },
            SealSettings { lanes: 0, ..CHEAP },
        ];
        for settings in cases {
            let refused = seal(&[7; KEY], &passphrase("x"), settings, &[1; SALT], &[2; NONCE]);
            assert_eq!(refused, Err(OUT_OF_BOUNDS), "{settings:?}");
            let mut forged = sealed();
            let numbers = [settings.memory_kib, settings.passes, settings.lanes].map(u32::to_be_bytes);
            forged[21..33].copy_from_slice(numbers.as_flattened());
            let refused = open(&forged, &passphrase("open sesame"), &mut [0; KEY]);
            assert_eq!(refused, Err(OUT_OF_BOUNDS), "{settings:?}");
        }
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_are_parts_or_a_reason(
            start in 0..=SEALED.len() + VERSION.len(),
            rest in proptest::collection::vec(any::<u8>(), 0..2 * SIZE),
        ) {
            check_parts(&[&[SEALED, VERSION].concat()[..start], &rest].concat());
        }
    }
}
