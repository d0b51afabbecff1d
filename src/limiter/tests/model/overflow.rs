//! A small bound on live keys.
