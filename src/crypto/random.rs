//! Random bytes for keys and nonces.

use std::sync::Arc;

use crate::error::RandomError;
use crate::memory::{RandomFill, draw};

/// Returns the process's generator: the DRBG of AWS-LC (NIST SP 800-90A), seeded by the kernel, drawn from in pages.
///
/// Both the generator and the pages notice a fork, so parent and child never draw the same bytes.
pub(crate) fn system_random() -> RandomFill {
    Arc::new(|bytes: &mut [u8]| draw(bytes, |page| aws_lc_rs::rand::fill(page).map_err(|_| RandomError)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_differ_and_fill_everything() {
        let random = system_random();
        let (mut first, mut second) = ([0; 64], [0; 64]);
        random(&mut first).unwrap();
        random(&mut second).unwrap();
        assert_ne!(first, second);
        assert!(first.chunks(8).all(|chunk| chunk != [0; 8]), "every part is filled");
    }
}
