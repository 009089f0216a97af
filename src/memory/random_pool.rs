//! Random bytes drawn ahead, in a locked page per thread: the generator's fixed cost is paid once per page.
//!
//! A forked child finds its page zeroed and draws anew, bytes are wiped as they are handed out, and what is left is
//! wiped when the thread ends.

use std::cell::RefCell;

use zeroize::Zeroize;

use super::pages::Pages;
use crate::error::RandomError;

/// Draws of up to this many bytes come out of the pool: a data row key and two nonces, and then some.
const LARGEST: usize = 64;

/// Bytes that a refill draws.
const SIZE: usize = 4096;

/// Stands first in a page that was filled; zero in a fork.
const FILLED: u8 = 1;

thread_local! {
    static POOL: RefCell<Option<RandomPool>> = RefCell::new(RandomPool::new());
}

/// Fills `bytes` from the thread's pool, which `generate` refills; straight from `generate` where there is no pool.
pub(crate) fn draw(
    bytes: &mut [u8],
    generate: impl Fn(&mut [u8]) -> Result<(), RandomError>,
) -> Result<(), RandomError> {
    if bytes.len() > LARGEST {
        return generate(bytes);
    }
    // A thread that is ending has no pool any more.
    let drawn = POOL.try_with(|pool| match &mut *pool.borrow_mut() {
        Some(pool) => pool.draw(bytes, &generate),
        None => generate(bytes),
    });
    drawn.unwrap_or_else(|_| generate(bytes))
}

struct RandomPool {
    page: Pages,
    /// Where the unused bytes begin.
    position: usize,
}

impl RandomPool {
    /// Returns `None` where no page can be locked or a fork would inherit it.
    fn new() -> Option<Self> {
        if !cfg!(target_os = "linux") {
            return None;
        }
        let page = Pages::locked(SIZE).ok()?;
        Some(Self { page, position: SIZE })
    }

    fn draw(
        &mut self,
        bytes: &mut [u8],
        generate: impl Fn(&mut [u8]) -> Result<(), RandomError>,
    ) -> Result<(), RandomError> {
        let mut position = self.position;
        let page = &mut self.page.bytes_mut()[..SIZE];
        if page[0] != FILLED || position + bytes.len() > SIZE {
            page[0] = 0;
            generate(&mut page[1..])?;
            page[0] = FILLED;
            position = 1;
        }
        let unused = &mut page[position..position + bytes.len()];
        bytes.copy_from_slice(unused);
        unused.zeroize();
        self.position = position + bytes.len();
        Ok(())
    }
}

impl Drop for RandomPool {
    fn drop(&mut self) {
        self.page.bytes_mut().zeroize();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Counts its calls and fills with their number.
    fn counting(calls: &Cell<u8>) -> impl Fn(&mut [u8]) -> Result<(), RandomError> + '_ {
        |bytes| {
            calls.set(calls.get() + 1);
            bytes.fill(calls.get());
            Ok(())
        }
    }

    #[test]
    fn bytes_are_handed_out_once_and_wiped() {
        let (mut pool, calls) = (RandomPool::new().unwrap(), Cell::new(0));
        let mut bytes = [0; 56];
        for _ in 0..73 {
            pool.draw(&mut bytes, counting(&calls)).unwrap();
            assert_eq!((bytes, calls.get()), ([1; 56], 1));
        }
        let used = pool.position;
        assert!(pool.page.bytes_mut()[1..used].iter().all(|&byte| byte == 0));
        pool.draw(&mut bytes, counting(&calls)).unwrap();
        assert_eq!((bytes, calls.get()), ([2; 56], 2), "a new page, not the rest and a bit more");
    }

    #[test]
    fn a_page_found_zeroed_is_drawn_anew() {
        let (mut pool, calls) = (RandomPool::new().unwrap(), Cell::new(0));
        let mut bytes = [0; 12];
        pool.draw(&mut bytes, counting(&calls)).unwrap();
        pool.page.bytes_mut().fill(0);
        pool.draw(&mut bytes, counting(&calls)).unwrap();
        assert_eq!((bytes, calls.get()), ([2; 12], 2), "as a fork would");
    }

    #[test]
    fn a_generator_that_fails_leaves_nothing_to_hand_out() {
        let (mut pool, calls) = (RandomPool::new().unwrap(), Cell::new(0));
        let mut bytes = [0; 12];
        let fails = |page: &mut [u8]| {
            page.fill(9);
            Err(RandomError)
        };
        assert!(pool.draw(&mut bytes, fails).is_err());
        assert!(pool.draw(&mut bytes, fails).is_err(), "the half-filled page is not used");
        pool.draw(&mut bytes, counting(&calls)).unwrap();
        assert_eq!(bytes, [1; 12]);
    }
}
