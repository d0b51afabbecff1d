//! Options and commands: which there are, their help, their completions, and how arguments are read.

pub mod args;
pub mod completions;
pub mod global;
pub mod help;
