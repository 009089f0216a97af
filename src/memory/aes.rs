//! AES-256 as key wraps need it: expand a key in place, encrypt three blocks at once
//! ([FIPS 197](https://doi.org/10.6028/NIST.FIPS.197-upd1)).
//!
//! On x86-64 processors with AES instructions, by those: round keys are read from the slot as they are used, so that none is
//! copied to the stack, where the first two would show the key. Elsewhere by the crate `aes`, whose traces on the stack
//! are wiped.

use aes_gcm::aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes_gcm::aes::{Aes256Enc, Block};
use zeroize::zeroize_stack;

/// Blocks that are encrypted in one call.
pub(super) type Blocks = [Block; 3];

/// Stack that the crate `aes` may have left round keys on.
const TRACES: usize = 8 * 1024;

/// The round keys of one key.
#[repr(u8)]
pub(super) enum RoundKeys {
    /// For the crate `aes`. Its number is 0, so that a slot that is zeroed under a reader holds round keys, if useless ones,
    /// that every processor can use.
    Portable(Aes256Enc) = 0,
    /// For the processor's instructions.
    #[cfg(target_arch = "x86_64")]
    Native(native::RoundKeys) = 1,
}

impl RoundKeys {
    /// Expands `key`.
    pub(super) fn new(key: &[u8; 32]) -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(keys) = native::RoundKeys::new(key) {
            return Self::Native(keys);
        }
        let keys = Self::portable(key);
        zeroize_stack::<TRACES>();
        keys
    }

    #[inline(never)]
    fn portable(key: &[u8; 32]) -> Self {
        Self::Portable(Aes256Enc::new(key.into()))
    }

    /// Encrypts each block.
    #[inline]
    pub(super) fn encrypt(&self, blocks: &mut Blocks) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Native(keys) => keys.encrypt(blocks),
            Self::Portable(keys) => {
                encrypt_leaving_traces(keys, blocks);
                zeroize_stack::<TRACES>();
            }
        }
    }
}

#[inline(never)]
fn encrypt_leaving_traces(keys: &Aes256Enc, blocks: &mut Blocks) {
    keys.encrypt_blocks(blocks);
}

#[cfg(target_arch = "x86_64")]
mod native {
    use std::arch::x86_64::{
        __m128i, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_aeskeygenassist_si128, _mm_loadu_si128, _mm_setzero_si128,
        _mm_shuffle_epi32, _mm_slli_si128, _mm_storeu_si128, _mm_xor_si128,
    };

    use super::Blocks;

    /// Whitening before the first round, and one key for each of the 14 rounds.
    pub(in super::super) struct RoundKeys([__m128i; 15]);

    impl RoundKeys {
        /// Expands `key`; `None` where the processor has no AES instructions.
        #[expect(unsafe_code, reason = "instructions that not every processor has")]
        #[inline]
        pub(super) fn new(key: &[u8; 32]) -> Option<Self> {
            // SAFETY: the instructions are there.
            std::arch::is_x86_feature_detected!("aes").then(|| Self(unsafe { expand(key) }))
        }

        #[expect(unsafe_code, reason = "instructions that not every processor has")]
        #[inline]
        pub(super) fn encrypt(&self, blocks: &mut Blocks) {
            // SAFETY: `new` makes a value only where the instructions are there, and a slot that is zeroed is none of these.
            unsafe { encrypt(&self.0, blocks) };
        }
    }

    /// The key expansion of section 5.2.
    #[target_feature(enable = "aes")]
    fn expand(key: &[u8; 32]) -> [__m128i; 15] {
        let mut keys = [_mm_setzero_si128(); 15];
        let (first, second) = key.split_at(16);
        keys[0] = load(first.first_chunk().expect("16 bytes"));
        keys[1] = load(second.first_chunk().expect("16 bytes"));
        two_more::<0x01>(&mut keys, 2);
        two_more::<0x02>(&mut keys, 4);
        two_more::<0x04>(&mut keys, 6);
        two_more::<0x08>(&mut keys, 8);
        two_more::<0x10>(&mut keys, 10);
        two_more::<0x20>(&mut keys, 12);
        keys[14] = even::<0x40>(keys[12], keys[13]);
        keys
    }

    #[target_feature(enable = "aes")]
    #[inline]
    fn two_more<const ROUND: i32>(keys: &mut [__m128i; 15], at: usize) {
        keys[at] = even::<ROUND>(keys[at - 2], keys[at - 1]);
        // Of the words of an odd key, the first is only substituted.
        let word = _mm_shuffle_epi32::<0xaa>(_mm_aeskeygenassist_si128::<0>(keys[at]));
        keys[at + 1] = _mm_xor_si128(cascade(keys[at - 1]), word);
    }

    #[target_feature(enable = "aes")]
    #[inline]
    fn even<const ROUND: i32>(before_last: __m128i, last: __m128i) -> __m128i {
        // Of the words of an even key, the first is rotated, substituted, and has the round constant added.
        let word = _mm_shuffle_epi32::<0xff>(_mm_aeskeygenassist_si128::<ROUND>(last));
        _mm_xor_si128(cascade(before_last), word)
    }

    /// Adds to each word all those before it.
    #[target_feature(enable = "aes")]
    #[inline]
    fn cascade(mut key: __m128i) -> __m128i {
        key = _mm_xor_si128(key, _mm_slli_si128::<4>(key));
        _mm_xor_si128(key, _mm_slli_si128::<8>(key))
    }

    /// The cipher of section 5.1, on three blocks side by side.
    #[target_feature(enable = "aes")]
    fn encrypt(keys: &[__m128i; 15], blocks: &mut Blocks) {
        let mut states =
            [load(&blocks[0].0), load(&blocks[1].0), load(&blocks[2].0)].map(|state| _mm_xor_si128(state, keys[0]));
        for &key in &keys[1..14] {
            states = states.map(|state| _mm_aesenc_si128(state, key));
        }
        for (block, state) in blocks.iter_mut().zip(states) {
            store(&mut block.0, _mm_aesenclast_si128(state, keys[14]));
        }
    }

    #[expect(unsafe_code, reason = "loading a register")]
    #[target_feature(enable = "aes")]
    #[inline]
    fn load(bytes: &[u8; 16]) -> __m128i {
        // SAFETY: reads 16 bytes that are borrowed; no alignment is asked for.
        unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
    }

    #[expect(unsafe_code, reason = "storing a register")]
    #[target_feature(enable = "aes")]
    #[inline]
    fn store(bytes: &mut [u8; 16], value: __m128i) {
        // SAFETY: writes 16 bytes that are borrowed; no alignment is asked for.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), value) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use proptest::prop_assert_eq;

    use super::*;

    /// The example of appendix C.3 of FIPS 197, as first published.
    #[test]
    fn the_standards_example_is_met_either_way() {
        let key = std::array::from_fn(|at| u8::try_from(at).unwrap());
        let plain = Block::from(std::array::from_fn(|at| u8::try_from(at * 0x11).unwrap()));
        let cipher = [0x8e, 0xa2, 0xb7, 0xca, 0x51, 0x67, 0x45, 0xbf, 0xea, 0xfc, 0x49, 0x90, 0x4b, 0x49, 0x60, 0x89];
        for keys in [RoundKeys::new(&key), RoundKeys::portable(&key)] {
            let mut blocks = [plain; 3];
            keys.encrypt(&mut blocks);
            assert_eq!(blocks, [Block::from(cipher); 3]);
        }
    }

    proptest! {
        #[test]
        fn both_ways_agree(key in any::<[u8; 32]>(), blocks in any::<[[u8; 16]; 3]>()) {
            let mut encrypted = [blocks.map(Block::from), blocks.map(Block::from)];
            RoundKeys::new(&key).encrypt(&mut encrypted[0]);
            RoundKeys::portable(&key).encrypt(&mut encrypted[1]);
            prop_assert_eq!(encrypted[0], encrypted[1]);
        }
    }
}
