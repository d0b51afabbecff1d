//! Tests of the scratch limiter.

mod lane;
mod model;
