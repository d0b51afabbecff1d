//! Atomics of std, or with `--cfg loom` those of loom, under which the tests of `model.rs` run the code of `wake.rs`
//! in every order of its steps.

#[cfg(all(loom, test))]
pub use loom::sync::atomic::{AtomicBool, Ordering, fence};
#[cfg(not(all(loom, test)))]
pub use std::sync::atomic::{AtomicBool, Ordering, fence};
