//! The commands for the storage itself.

mod files;
mod moving;

pub use files::{check_log, compact, doctor, flush, print_log, repair_log, show_history};
pub use moving::{export, import};
