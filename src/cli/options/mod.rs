//! Commands and options: which there are, their help, their completions, and how arguments are read.
//!
//! Owns: the one table of them. pico-args is used nowhere else.

mod address;
mod args;
mod completions;
mod global;
mod help;
mod table;

pub use address::Address;
pub use args::{Args, Line, Target, as_option, text};
pub use completions::script;
pub use global::Global;
pub use help::help;
#[cfg(test)]
pub use table::COMMANDS;
