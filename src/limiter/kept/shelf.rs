//! The kept answers themselves.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::once::Once;
use crate::bounds::{MAX_KEPT_ANSWERS, MAX_KEPT_BYTES, REMEMBER_MS};
use crate::clock::Micros;
use crate::store::record::{Answer, Event};

type Key = [u8; 16];

/// What is known of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing: it is under way from now on.
    Nothing,
    Answer(Arc<str>),
    /// Its key belongs to another request.
    Other,
    UnderWay,
}

/// An answer that is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    pub once: Once,
    pub at: Micros,
    pub answer: Arc<str>,
}

impl Kept {
    /// What a snapshot says of it.
    pub fn to_record(&self) -> Answer<'_> {
        Answer { key: self.once.key, request: self.once.request, at: self.at, answer: &self.answer }
    }

    /// The record of what it reports, with the answer inside.
    pub fn with<'k>(&'k self, event: Event<'k>) -> Event<'k> {
        Event::Kept { answer: self.to_record(), event: Box::new(event) }
    }
}

/// Answers, for a time and up to a number and a length.
#[derive(Debug, Default)]
pub struct Shelf {
    answers: HashMap<Key, Kept>,
    oldest: BTreeSet<(Micros, Key)>,
    bytes: usize,
    under_way: HashMap<Key, Key>,
    /// Set where answers are records that are kept elsewhere: those that were looked for.
    #[cfg(feature = "store")]
    pub looks: Option<Vec<Key>>,
}

impl Shelf {
    /// Drops what is kept no longer.
    pub fn tidy(&mut self, now: Micros) {
        while let Some((at, key)) = self.oldest.first().copied()
            && (at.saturating_add(REMEMBER_MS * 1000) <= now
                || !self.is_outside() && (self.answers.len() > MAX_KEPT_ANSWERS || self.bytes > MAX_KEPT_BYTES))
        {
            self.remove(&key);
        }
    }

    /// Whether they are kept elsewhere, where there is room for all: what is loaded must not be forgotten.
    fn is_outside(&self) -> bool {
        #[cfg(feature = "store")]
        return self.looks.is_some();
        #[cfg(not(feature = "store"))]
        false
    }

    /// Drops an answer.
    pub fn remove(&mut self, key: &Key) {
        if let Some(kept) = self.answers.remove(key) {
            self.oldest.remove(&(kept.at, *key));
            self.bytes -= kept.answer.len();
        }
    }

    /// What is known of a request, which is under way from now on where that is nothing.
    pub fn begin(&mut self, once: &Once) -> Found {
        #[cfg(feature = "store")]
        if let Some(looks) = &mut self.looks {
            looks.push(once.key);
        }
        let of_other = |request: &Key| *request != once.request;
        if let Some(kept) = self.answers.get(&once.key) {
            return if of_other(&kept.once.request) { Found::Other } else { Found::Answer(Arc::clone(&kept.answer)) };
        }
        match self.under_way.get(&once.key) {
            Some(request) if of_other(request) => Found::Other,
            Some(_) => Found::UnderWay,
            None => {
                self.under_way.insert(once.key, once.request);
                Found::Nothing
            }
        }
    }

    /// The answer that is kept for a request.
    pub fn get(&self, once: &Once) -> Option<Arc<str>> {
        self.answers.get(&once.key).filter(|kept| kept.once == *once).map(|kept| Arc::clone(&kept.answer))
    }

    /// Whether an answer is kept under this key.
    #[cfg(feature = "store")]
    pub fn has(&self, key: &Key) -> bool {
        self.answers.contains_key(key)
    }

    /// A request is under way no more.
    pub fn end(&mut self, once: &Once) {
        self.under_way.remove(&once.key);
    }

    /// The answer that is kept under a key.
    #[cfg(feature = "store")]
    pub fn of(&self, key: &Key) -> Option<&Kept> {
        self.answers.get(key)
    }

    /// Keeps an answer.
    pub fn keep(&mut self, kept: Kept) {
        let key = kept.once.key;
        self.remove(&key);
        self.bytes += kept.answer.len();
        self.oldest.insert((kept.at, key));
        self.answers.insert(key, kept);
    }

    /// Keeps what a record says.
    pub fn keep_record(&mut self, record: &Answer<'_>) {
        let once = Once { key: record.key, request: record.request };
        self.keep(Kept { once, at: record.at, answer: record.answer.into() });
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Kept> {
        self.answers.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn once(key: u32, request: u8) -> Once {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&key.to_le_bytes());
        Once { key: bytes, request: [request; 16] }
    }

    fn kept(key: u32, at: Micros, answer: &str) -> Kept {
        Kept { once: once(key, 1), at, answer: answer.into() }
    }

    #[test]
    fn a_request_is_found_by_its_key() {
        let mut shelf = Shelf::default();
        assert_eq!(shelf.begin(&once(1, 1)), Found::Nothing);
        assert_eq!([shelf.begin(&once(1, 1)), shelf.begin(&once(1, 2))], [Found::UnderWay, Found::Other]);
        shelf.keep(kept(1, 5, "{}"));
        shelf.end(&once(1, 1));
        assert_eq!([shelf.begin(&once(1, 1)), shelf.begin(&once(1, 2))], [Found::Answer("{}".into()), Found::Other]);
        shelf.tidy(5 + REMEMBER_MS * 1000 - 1);
        assert_eq!(shelf.iter().count(), 1);
        shelf.tidy(5 + REMEMBER_MS * 1000);
        assert_eq!((shelf.begin(&once(1, 2)), shelf.bytes, shelf.oldest.len()), (Found::Nothing, 0, 0));
    }

    #[test]
    fn the_oldest_of_too_many_go_first() {
        let mut shelf = Shelf::default();
        for key in 0..MAX_KEPT_ANSWERS as u32 + 10 {
            shelf.keep(kept(key, u64::from(key), "{}"));
        }
        shelf.tidy(0);
        assert_eq!(shelf.iter().count(), MAX_KEPT_ANSWERS);
        assert_eq!(shelf.begin(&once(9, 1)), Found::Nothing);
        assert_eq!(shelf.begin(&once(10, 1)), Found::Answer("{}".into()));
        let long = "x".repeat(MAX_KEPT_BYTES - 10);
        shelf.keep(kept(7_000_000, 1_000_000, &long));
        shelf.tidy(0);
        assert_eq!((shelf.iter().count(), shelf.bytes), (6, MAX_KEPT_BYTES));
    }
}
