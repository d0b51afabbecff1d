//! Tests of the rules of limits: which one a key has, what its values do, how many keys may live, and edits.

mod bound;
mod edits;
mod twins;
mod values;
mod which;
