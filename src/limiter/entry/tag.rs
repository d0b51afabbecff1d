//! The word of an entry that says most: its id and where it has its values from, with flags.

const ID_BITS: u32 = 48;
const ID: u64 = (1 << ID_BITS) - 1;
const SHARD: u64 = 0xff << ID_BITS;
#[cfg(feature = "store")]
const GENERATION_SHIFT: u32 = 56;
#[cfg(feature = "store")]
const GENERATION: u64 = (GENERATIONS - 1) << GENERATION_SHIFT;
const KIND_SHIFT: u32 = 60;
const KIND: u64 = 3 << KIND_SHIFT;
const OVERLAID: u64 = 1 << 62;
const PENDING_DENIALS: u64 = 1 << 63;

/// Generations are counted modulo this.
#[cfg(feature = "store")]
pub const GENERATIONS: u64 = 16;

/// The word: id in the log (48 bits), the shard that the log knows the key by (8 bits), generation (4 bits), kind of
/// source (2 bits), whether values lie over its own, whether denials are missing in the log.
#[derive(Debug, Clone, Copy)]
pub struct Tag(u64);

impl Tag {
    /// Of the kind 0, without flags.
    pub fn new(id: u64, shard: u8) -> Tag {
        Tag(id & ID | u64::from(shard) << ID_BITS)
    }

    #[inline]
    pub fn id(self) -> u64 {
        self.0 & ID
    }

    #[inline]
    pub fn shard(self) -> u8 {
        (self.0 >> ID_BITS) as u8
    }

    /// Gives it another id and shard.
    pub fn renumber(&mut self, id: u64, shard: u8) {
        self.0 = self.0 & !(ID | SHARD) | Tag::new(id, shard).0;
    }

    /// Less than 4.
    #[inline]
    pub fn kind(self) -> u64 {
        (self.0 & KIND) >> KIND_SHIFT
    }

    pub fn set_kind(&mut self, kind: u64) {
        self.0 = self.0 & !KIND | kind << KIND_SHIFT;
    }

    #[inline]
    pub fn is_overlaid(self) -> bool {
        self.0 & OVERLAID != 0
    }

    pub fn set_overlaid(&mut self, overlaid: bool) {
        self.set(OVERLAID, overlaid);
    }

    /// Whether it is of the kind 0, and nothing lies over that.
    #[inline]
    pub fn is_plain(self) -> bool {
        self.0 & (KIND | OVERLAID) == 0
    }

    #[inline]
    pub fn has_pending_denials(self) -> bool {
        self.0 & PENDING_DENIALS != 0
    }

    pub fn set_pending_denials(&mut self, pending: bool) {
        self.set(PENDING_DENIALS, pending);
    }

    #[cfg(feature = "store")]
    pub fn generation(self) -> u64 {
        (self.0 & GENERATION) >> GENERATION_SHIFT
    }

    #[cfg(feature = "store")]
    pub fn begin_generation(&mut self) {
        self.set_generation((self.generation() + 1) % GENERATIONS);
    }

    /// Sets the generation, which is less than [`GENERATIONS`].
    #[cfg(feature = "store")]
    pub fn set_generation(&mut self, generation: u64) {
        self.0 = self.0 & !GENERATION | generation << GENERATION_SHIFT;
    }

    #[inline]
    fn set(&mut self, flag: u64, is_set: bool) {
        self.0 = self.0 & !flag | if is_set { flag } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_touch_each_other() {
        let mut tag = Tag::new(ID, 0xff);
        assert!(tag.is_plain() && tag.kind() == 0);
        tag.set_kind(3);
        tag.set_pending_denials(true);
        tag.renumber(7, 9);
        assert_eq!((tag.id(), tag.shard(), tag.kind()), (7, 9, 3));
        assert!(tag.has_pending_denials() && !tag.is_overlaid() && !tag.is_plain());
        tag.set_kind(0);
        tag.set_overlaid(true);
        assert!(!tag.is_plain());
        tag.set_overlaid(false);
        tag.set_pending_denials(false);
        assert!(tag.is_plain() && !tag.has_pending_denials());
        #[cfg(feature = "store")]
        {
            tag.set_generation(GENERATIONS - 1);
            assert!(tag.is_plain() && !tag.has_pending_denials());
            assert_eq!((tag.id(), tag.shard(), tag.generation()), (7, 9, GENERATIONS - 1));
            tag.begin_generation();
            assert_eq!((tag.generation(), tag.kind(), tag.shard()), (0, 0, 9));
        }
    }
}
