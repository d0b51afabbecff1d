//! The slots of a Cluster: which one a key has, and a tag for each.

use std::sync::OnceLock;

/// Slots of a Cluster.
pub const SLOTS: u16 = 16384;

/// The slot of a key in a Cluster, 0 to 16383: CRC-16 of what stands between its first `{` and the next `}`, where
/// that is not empty, else of the whole key.
pub fn slot_of(key: &[u8]) -> u16 {
    crc16(tag_in(key).unwrap_or(key)) % SLOTS
}

fn tag_in(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let rest = &key[open + 1..];
    let close = rest.iter().position(|byte| *byte == b'}')?;
    (close > 0).then(|| &rest[..close])
}

/// CRC-16/XMODEM: polynomial 0x1021, begins at 0.
fn crc16(bytes: &[u8]) -> u16 {
    const TABLE: [u16; 256] = table();
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ *byte)])
}

const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut crc = (at as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
}

/// The shortest tag (of letters and digits, without braces) whose slot is `slot`: a key with `{TAG}` lies there. A
/// number that is no slot counts on from 0.
pub fn tag_of(slot: u16) -> &'static str {
    static TAGS: OnceLock<Box<[String]>> = OnceLock::new();
    &TAGS.get_or_init(tags)[usize::from(slot % SLOTS)]
}

/// Tags are tried in the order of their length, so that all slots have one of three or four characters at most.
fn tags() -> Box<[String]> {
    const LETTERS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut tags = vec![String::new(); usize::from(SLOTS)];
    let mut left = tags.len();
    let mut number = 0_usize;
    while left > 0 {
        let tag = spelled(number, LETTERS);
        let found = &mut tags[usize::from(crc16(tag.as_bytes()) % SLOTS)];
        if found.is_empty() {
            *found = tag;
            left -= 1;
        }
        number += 1;
    }
    tags.into()
}

/// The texts of these letters, in the order of their length: number 0 is the first letter.
fn spelled(number: usize, letters: &[u8]) -> String {
    let mut text = Vec::new();
    let mut rest = number + 1;
    while rest > 0 {
        text.push(char::from(letters[(rest - 1) % letters.len()]));
        rest = (rest - 1) / letters.len();
    }
    text.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        // As `CLUSTER KEYSLOT` of Redis 7.0 says.
        for (key, slot) in [("somekey", 11058), ("foo{hash_tag}", 2515), ("bar{hash_tag}", 2515), ("", 0)] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
        assert_eq!(slot_of(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
        assert_eq!(slot_of(b"foo{bar"), crc16(b"foo{bar") % SLOTS);
        assert_eq!(slot_of(b"}a{b}"), slot_of(b"b"));
    }

    #[test]
    fn every_slot_has_a_tag() {
        for slot in 0..SLOTS {
            let tag = tag_of(slot);
            assert!(tag.len() <= 4 && tag.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{tag}");
            assert_eq!(slot_of(format!("flint:{{{tag}}}rest").as_bytes()), slot);
        }
        assert_eq!(tag_of(SLOTS), tag_of(0));
    }
}
