//! The ids of holds: a number, and a few characters that only this data directory gives it.
//!
//! So an id that was never given is refused without a search, and one of another directory too. An upgrade must not
//! change them, so the hash is written out here.

/// Digits of a number to base 32: no letter that is taken for a digit, and no `u`.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Characters of the hash.
const MARK: usize = 8;

/// Most characters of a number of 64 bits.
const MAX_NUMBER: usize = 13;

/// Makes ids, and reads them.
#[derive(Debug, Clone, Copy)]
pub struct Ids([u64; 2]);

impl Ids {
    /// Those of the data directory with this id.
    pub fn of(directory: &[u8; 16]) -> Ids {
        let word = |bytes: &[u8]| bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let (first, second) = directory.split_at(8);
        // The directory's id stands in its files, so another key is made of it than it is itself.
        let own = [word(first), word(second)];
        Ids([hash(own, u64::from_le_bytes(*b"flint hi")), hash(own, u64::from_le_bytes(*b"flint lo"))])
    }

    /// The id of a hold.
    pub fn write(&self, number: u64) -> String {
        let mut id = String::with_capacity(MAX_NUMBER + MARK);
        let digits = (64 - number.leading_zeros()).div_ceil(5).max(1);
        (0..digits).rev().for_each(|place| id.push(digit(number >> (5 * place))));
        let mark = hash(self.0, number);
        (0..MARK).for_each(|place| id.push(digit(mark >> (5 * place))));
        id
    }

    /// The number of a hold, if its id was written here.
    pub fn read(&self, id: &str) -> Option<u64> {
        let number = id.len().checked_sub(MARK).filter(|digits| (1..=MAX_NUMBER).contains(digits))?;
        let value = |digit: u8| DIGITS.iter().position(|known| *known == digit);
        let read = |number: u64, digit: &u8| {
            let value = value(*digit)? as u64;
            number.checked_mul(32).map(|number| number + value)
        };
        let number = id.as_bytes()[..number].iter().try_fold(0, read)?;
        (self.write(number) == id).then_some(number)
    }
}

fn digit(number: u64) -> char {
    char::from(DIGITS[(number & 31) as usize])
}

/// SipHash-1-3 of one word.
fn hash(key: [u64; 2], word: u64) -> u64 {
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    for word in [word, 8 << 56] {
        v[3] ^= word;
        round(&mut v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    (0..3).for_each(|_| round(&mut v));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher;

    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let (ids, others) = (Ids::of(&[7; 16]), Ids::of(&[8; 16]));
        for number in [0, 1, 31, 32, 1_800_000_000_000_000, u64::MAX] {
            let id = ids.write(number);
            assert!(
                id.len() <= 40 && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()),
                "{id}"
            );
            assert_eq!((ids.read(&id), others.read(&id)), (Some(number), None), "{id}");
            for wrong in [id.to_uppercase() + "-", format!("0{id}"), id[1..].to_owned(), format!("{id}0")] {
                assert_eq!(ids.read(&wrong), None, "{wrong}");
            }
        }
        for wrong in ["", "0", "hold", "ÄÖÜäöüßéé", &"z".repeat(21), &"0".repeat(4096)] {
            assert_eq!(ids.read(wrong), None, "{wrong}");
        }
    }

    /// As the standard library's, whose own may change.
    #[test]
    fn the_hash_is_siphash() {
        for word in [0_u64, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
            let mut known = std::hash::DefaultHasher::new();
            known.write(&word.to_le_bytes());
            assert_eq!(hash([0, 0], word), known.finish());
        }
    }
}
