//! Room in the log, which a decision has before it changes anything.

use super::wait::Wait;
use crate::error::{Error, Result};
use crate::limiter::core::Core;
use crate::store::Reservation;
use crate::store::record::Event;

/// Room in the log: for records of fixed length, and for a longer record.
pub struct Room<'a> {
    fixed: Reservation<'a>,
    /// Bytes that a record may have to be queued under `fixed`.
    most: usize,
    longer: Option<(Reservation<'a>, usize)>,
}

impl<'a> Room<'a> {
    /// Room for records of up to `most` bytes each.
    pub fn new(fixed: Reservation<'a>, most: usize) -> Room<'a> {
        Room { fixed, most, longer: None }
    }

    /// Adds room for one record of this many bytes.
    pub fn set_longer(&mut self, longer: Reservation<'a>, bytes: usize) {
        self.longer = Some((longer, bytes));
    }

    /// Makes sure of room for a record of this many bytes, without waiting. Whether there is some.
    pub fn grow(&mut self, core: &'a Core, bytes: usize) -> Result<bool> {
        if bytes <= self.most || self.longer.as_ref().is_some_and(|(_, most)| bytes <= *most) {
            return Ok(true);
        }
        self.longer = core.log()?.reserve_now(1, bytes)?.map(|reservation| (reservation, bytes));
        Ok(self.longer.is_some())
    }

    /// Makes sure of room for a record that comes before the record that there is room for, without waiting. Whether
    /// there is some.
    pub fn grow_before(&mut self, core: &'a Core, bytes: usize) -> Result<bool> {
        if self.longer.as_ref().is_none_or(|(_, most)| bytes > *most) {
            self.longer = core.log()?.reserve_now(1, bytes)?.map(|reservation| (reservation, bytes));
        }
        Ok(self.longer.is_some())
    }

    /// Queues a record for which [`Room::grow_before`] made room.
    pub fn append_before(&mut self, core: &Core, event: &Event<'_>) -> Result<()> {
        if let Some((mut longer, _)) = self.longer.take() {
            core.log()?.append(&mut longer, event, None);
        }
        Ok(())
    }

    /// Queues a record for which there is room.
    pub fn append(&mut self, core: &Core, event: &Event<'_>, bytes: usize, wait: &Wait<'_>) -> Result<()> {
        let log = core.log()?;
        match self.longer.as_mut().filter(|_| bytes > self.most) {
            Some((longer, _)) => {
                log.append(longer, event, wait.pending());
                self.longer = None;
            }
            None => log.append(&mut self.fixed, event, wait.pending()),
        }
        Ok(())
    }
}

/// The error where the answer to a request that may be sent again is longer than a record may be.
pub fn too_long_to_keep() -> Error {
    Error::invalid(
        "items must be fewer or shorter, or the answer can't be kept for the idempotency key; split them over several \
         requests",
    )
}
