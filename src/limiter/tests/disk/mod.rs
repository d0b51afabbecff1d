//! Disks that lose power, fail, are full or damaged, and files that are gone.

mod crash;
pub mod crash_disk;
mod damage;
pub mod fault;
mod gone;
