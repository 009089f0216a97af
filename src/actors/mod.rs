//! Actors own everything that has state; nobody outside this folder sees actix.
//!
//! * [`Guard`] hands out places in locked memory and wipes them.
//! * [`KeyCache`] knows which key versions there are and loads each once.
//! * [`KmsClient`] and [`MetastoreWriter`] are the only roads to the outside.
//! * [`SessionRegistry`] knows who is open.
//! * [`System`] starts them, stops them, and starts another when one dies.
//!
//! Each file begins with the handle, which is what others use.

mod guard;
mod key_cache;
mod kms_calls;
mod kms_client;
mod mailbox;
mod metastore_writer;
mod outside;
mod repairs;
mod session_registry;
mod store_calls;
mod system;

use guard::Guard;
use kms_calls::KmsCalls;
use kms_client::KmsClient;
use mailbox::Mailbox;
use metastore_writer::{MetastoreWriter, Stores};
use outside::Outside;
pub(crate) use repairs::Repairs;
use session_registry::SessionRegistry;
use store_calls::StoreCalls;

pub(crate) use key_cache::{CachedKey, KeyCache, KeyRing, Verdict, Wanted};
pub(crate) use session_registry::SessionCore;
pub use system::Status;
pub(crate) use system::{Parts, System, Timeouts};
