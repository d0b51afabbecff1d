//! Lanes over a store that is made of a map.

mod fake;
mod rounds;
