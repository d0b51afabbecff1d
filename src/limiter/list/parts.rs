//! An array of status objects, written in parts.

use crate::limiter::answers::Status;

/// What is left to write of an array.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    /// What comes before the next status; nothing after the array's end.
    before_next: Option<u8>,
}

impl Default for Parts {
    /// An array of which nothing is written yet.
    fn default() -> Parts {
        Parts { before_next: Some(b'[') }
    }
}

impl Parts {
    /// Appends the next part, until `about` bytes of it or a little more are there (not more than one status object
    /// and the end), or `next` has no more. Returns whether more is to come.
    ///
    /// # Errors
    /// That of `next`; the array is cut short then.
    pub fn write<E>(
        &mut self,
        out: &mut Vec<u8>,
        about: usize,
        mut next: impl FnMut() -> Result<Option<Status>, E>,
    ) -> Result<bool, E> {
        let enough = out.len().saturating_add(about);
        while let Some(before) = self.before_next {
            let Some(status) = next()? else {
                out.extend_from_slice(if before == b'[' { b"[]" } else { b"]" });
                self.before_next = None;
                break;
            };
            out.push(before);
            status.write_json(out);
            self.before_next = Some(b',');
            if out.len() >= enough {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
