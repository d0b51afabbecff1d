//! Disks that lose power, fail, are full or damaged.

mod crash;
pub mod crash_disk;
mod damage;
pub mod fault;
