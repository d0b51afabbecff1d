//! Commands and options: their list, their help, their completions, and how arguments are read.
//!
//! Owns: the only table of commands and options. pico-args is used nowhere else.
//!
//! To add an option, add a row to `OPTIONS` in `table.rs`, and read it in its command: `text` or `number` if it is
//! required or has a default, `given_text` or `given_number` if it may be missing, `texts` if it may be repeated,
//! `os_text(..).is_some()` for a flag. Commands are in `cli/commands/`, `server start` in `cli/serve/start.rs`, options
//! of every command in `global.rs`. Help, completions and parsing follow from the row. Document it in `man/flint.1`,
//! and an option of the server in `man/flint-server.8` too; tests compare (`tests/it/pages_cli.rs` also counts the
//! ranges and defaults).

mod address;
mod args;
mod completions;
mod global;
mod help;
mod store;
mod table;

pub use address::Address;
pub use args::{Args, Line, Target, as_option, text};
pub use completions::script;
pub use global::Global;
pub use help::help;
pub use store::store_url;
#[cfg(not(feature = "store"))]
pub use store::without_stores;
#[cfg(test)]
pub use table::COMMANDS;
