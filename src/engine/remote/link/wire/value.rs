//! Values as the store keeps them.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | format: [`RECORD`], or [`REMOVED`] in the place of a removed one, which vanishes after a minute |
//! | 1 | number *n* of writers, 1 to 16 |
//! | 16 × *n* | the last attempt of each of the last *n* links that wrote it, the latest first: it is the version |
//! | the rest | the record; nothing in the place of a removed one |
//!
//! Valid if and only if the format is known, 1 <= *n* <= 16, and it is at least 2 + 16 *n* bytes long.

use super::attempt::Version;

/// Format of a value with a record.
pub const RECORD: u8 = b'1';

/// Format of what stands in the place of a value that was removed: who did it is known for a while.
pub const REMOVED: u8 = b'0';

/// Most writers that a value names.
pub const WRITERS: usize = 16;

const FIRST_WRITER: usize = 2;
const WRITER_BYTES: usize = 16;

/// A value as the store has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Value {
    bytes: Vec<u8>,
}

impl Value {
    /// Takes the bytes of a key; None where they are no valid value.
    pub fn read(bytes: Vec<u8>) -> Option<Value> {
        let format = bytes.first().is_some_and(|format| [RECORD, REMOVED].contains(format));
        let writers = bytes.get(1).map_or(0, |writers| usize::from(*writers));
        let fits = format && (1..=WRITERS).contains(&writers) && bytes.len() >= FIRST_WRITER + WRITER_BYTES * writers;
        fits.then_some(Value { bytes })
    }

    /// The version by which it is known from now on.
    pub fn version(&self) -> Version {
        let mut version = [0; WRITER_BYTES];
        version.copy_from_slice(&self.bytes[FIRST_WRITER..FIRST_WRITER + WRITER_BYTES]);
        Version(version)
    }

    /// The record that was put.
    pub fn record(&self) -> &[u8] {
        &self.bytes[self.writers_end()..]
    }

    /// Whether it stands in the place of a removed one.
    pub(in super::super) fn is_removed(&self) -> bool {
        self.bytes[0] == REMOVED
    }

    /// Whether an attempt that wrote it may be missing among its writers.
    pub(in super::super) fn is_full(&self) -> bool {
        usize::from(self.bytes[1]) == WRITERS
    }

    /// One that a single link has written.
    #[cfg(test)]
    pub fn of(version: Version, record: &[u8]) -> Value {
        Value { bytes: [&[RECORD, 1], &version.0[..], record].concat() }
    }

    #[cfg(test)]
    pub(in super::super) fn is_by(&self, version: Version) -> bool {
        self.bytes[FIRST_WRITER..self.writers_end()].chunks(WRITER_BYTES).any(|writer| *writer == version.0)
    }

    fn writers_end(&self) -> usize {
        FIRST_WRITER + WRITER_BYTES * usize::from(self.bytes[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(format: u8, writers: u8, length: u16) -> Vec<u8> {
        let mut bytes = vec![format, writers];
        bytes.extend((0..length).map(|at| at as u8));
        bytes
    }

    #[test]
    fn a_value_is_read() {
        let value = Value::read(bytes(RECORD, 2, 34)).unwrap();
        assert_eq!(value.version().0.to_vec(), (0..16).collect::<Vec<u8>>());
        assert_eq!(value.record(), [32, 33]);
        assert!(value.is_by(value.version()) && !value.is_by(Version([7; 16])));
        assert!(!value.is_removed() && !value.is_full());
        let removed = Value::read(bytes(REMOVED, 16, 256)).unwrap();
        assert!(removed.is_removed() && removed.is_full() && removed.record().is_empty());
    }

    #[test]
    fn what_is_no_value_is_refused() {
        let wrong = [vec![], vec![RECORD], bytes(b'2', 1, 16), bytes(RECORD, 0, 16), bytes(RECORD, 17, 300)];
        for bytes in wrong.into_iter().chain([bytes(RECORD, 1, 15), bytes(RECORD, 16, 255)]) {
            assert_eq!(Value::read(bytes.clone()), None, "{bytes:?}");
        }
    }
}
