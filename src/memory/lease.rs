//! A key on loan, for one computation.

use std::marker::PhantomData;

use super::state::{KeyState, NotAuthentic, SealedKey};

/// A key while it is lent to a closure: it stays in its slot until the closure ends, unless it is wiped by force.
///
/// Lends no bytes: it wraps and unwraps other keys. It cannot leave its thread, nor the closure, so it cannot be held
/// across an await:
///
/// ```compile_fail,E0277
/// fn sends<T: Send>() {}
/// sends::<keyward::memory::Lease<'static>>();
/// ```
///
/// ```compile_fail,E0521
/// # fn f(key: &keyward::memory::LockedKey) {
/// let mut kept = None;
/// let _ = key.using(|lease| kept = Some(lease));
/// # }
/// ```
pub struct Lease<'a> {
    state: &'a KeyState,
    not_send: PhantomData<*const ()>,
}

impl<'a> Lease<'a> {
    #[inline]
    pub(super) fn new(state: &'a KeyState) -> Self {
        Self { state, not_send: PhantomData }
    }

    /// Wraps `key` under this one by AES-256-GCM with a `nonce` that was never used with it, authenticating `context`, which
    /// is empty in the format's own wraps.
    ///
    /// Returns ciphertext, 16-byte tag and nonce. Costs some 40 ns.
    #[must_use]
    #[inline]
    pub fn wrap(&self, key: &[u8; 32], nonce: &[u8; 12], context: &[u8]) -> SealedKey {
        self.state.wrap(key, nonce, context)
    }

    /// Unwraps `sealed` into `key`.
    ///
    /// # Errors
    /// [`NotAuthentic`]; `key` is then untouched.
    #[inline]
    pub fn unwrap(&self, sealed: &SealedKey, context: &[u8], key: &mut [u8; 32]) -> Result<(), NotAuthentic> {
        self.state.unwrap(sealed, context, key)
    }
}

impl std::fmt::Debug for Lease<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lease")
    }
}
