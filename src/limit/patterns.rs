//! Which pattern serves a key.
//!
//! Owns: what `*` matches, the order of preference, and [`PatternSet`], which finds the pattern of a key among many.
//! Called by `limiter`. Pure: no lock, no clock, no I/O.
//!
//! Each `*` stands for one or more characters. Of the patterns that match a key, the one with the longest text (in
//! bytes) before its first `*` serves it; then the one with the most characters that are not `*`; then the one whose
//! bytes come first.
//!
//! # How a pattern is found
//!
//! The stars cut a pattern into texts: `user:*:cart:*:end` is the prefix `user:`, the middle `:cart:` and the suffix
//! `:end`. The set is a tree with a text on each edge, in the order prefix, suffix, middles: what a key must have at a
//! known place comes first. Patterns with the same beginning of that list share nodes.
//!
//! One hash table holds all edges, by parent and text. Each node knows of its edges only how long the texts are, how
//! many have each length, and a filter of their first and last bytes. So a search cuts a text of each such length from
//! the key and probes the table. A probe costs the same in a set of one pattern and of 10 000.
//!
//! - Prefixes are tried from the longest. The first below which a pattern matches has the answer, since the length of
//!   the prefix is what counts first.
//! - Below a prefix all suffixes of the key are tried, for a pattern with a shorter suffix may have longer middles.
//! - Middles are searched from left to right, and the leftmost place at which a middle fits is the only one that is
//!   looked at: what can follow it at a later place can also follow it there. So each node is searched at most once
//!   for a suffix. Where a node has a single edge of some length, the search for that length ends at the first hit, as
//!   in a search for a single pattern.
//!
//! # The bound
//!
//! Let `p`, `s` and `m` be how many lengths prefixes, suffixes of one prefix, and middles of one node have. A search
//! makes at most `p` probes for prefixes; for each prefix of the key that is in the set `s` probes; and for each suffix
//! of the key that is there, `m` times the length of the key for each node with middles that the key reaches. With
//! patterns of one star (whatever their number) that is at most `p (1 + s)`; with at most two stars each pair of
//! prefix and suffix that the key has costs at most 512 `m` probes more. Only where patterns have three stars and more
//! can a key reach several nodes with middles: those whose middles it holds, in their order. Nothing is tried twice,
//! so no key makes a search exponential. All of these numbers are the operator's choice; what the client chooses is at
//! most 512 bytes, and a probe costs it a hash of the text and, where the filter and 64 bits of hash are met, a
//! comparison.
//!
//! Memory: at most a node for each text of each pattern, of about 100 bytes and the text. `user:*:p17` next to others
//! of its kind takes 150 bytes, `tenant17:*` 280. What removed patterns took is given back once it is over a half.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// The node that all patterns begin at.
const ROOT: u32 = 0;

/// Nodes without use that are kept in any case.
const MIN_FREE: usize = 64;

/// An odd number without a pattern in its bits: the fractional part of the golden ratio.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// Whether a configured key is a pattern.
pub fn is_pattern(key: &str) -> bool {
    key.contains('*')
}

/// Whether `one` serves a key that `other` matches too.
pub fn is_preferred(one: &str, other: &str) -> bool {
    let rank = |pattern: &'_ str| {
        let prefix = pattern.find('*').unwrap_or(pattern.len());
        (prefix, pattern.chars().filter(|char| *char != '*').count())
    };
    rank(one).cmp(&rank(other)).then_with(|| other.cmp(one)).is_gt()
}

/// Whether `pattern` matches the literal `key`. A `pattern` without `*` matches itself. Takes time in proportion to the
/// length of both.
pub fn matches(pattern: &str, key: &str) -> bool {
    let Some((prefix, tail)) = pattern.split_once('*') else { return pattern == key };
    let Some(rest) = key.strip_prefix(prefix) else { return false };
    let Some((middles, suffix)) = tail.rsplit_once('*') else {
        return rest.len() > tail.len() && rest.ends_with(tail);
    };
    let Some(mut rest) = rest.strip_suffix(suffix) else { return false };
    for middle in middles.split('*') {
        // The star before it takes one character at least. The leftmost place leaves the most to what follows.
        let mut after = rest.chars();
        if after.next().is_none() {
            return false;
        }
        let Some((_, right)) = after.as_str().split_once(middle) else { return false };
        rest = right;
    }
    !rest.is_empty()
}

/// Patterns with a value each. Finds the one that serves a key in a time that hardly depends on how many there are.
///
/// An edit changes the set in place and takes well under a microsecond on average; at times memory grows or is given
/// back, which takes as long as to fill the set. There is no cheap copy: threads that share a set keep it in a
/// `RwLock`.
///
/// ```
/// use flint::limit::PatternSet;
///
/// let mut set = PatternSet::new();
/// set.insert("user:*", 10);
/// set.insert("user:*:upload", 2);
/// assert_eq!(set.find("user:7"), Some(("user:*", &10)));
/// assert_eq!(set.find("user:7:upload"), Some(("user:*:upload", &2)));
/// assert_eq!(set.find("user:"), None);
/// ```
#[derive(Debug)]
pub struct PatternSet<V> {
    /// The root, and a node for each text below each other node; some without use.
    nodes: Vec<Node<V>>,
    /// Nodes without use.
    free: Vec<u32>,
    /// Every node but the root, by its parent and text.
    edges: HashTable<u32>,
    /// Patterns in the set.
    len: usize,
}

#[derive(Debug)]
struct Node<V> {
    text: Box<[u8]>,
    parent: u32,
    /// The lengths of the children's texts, ascending.
    lengths: Vec<Length>,
    /// The pattern that ends here.
    leaf: Option<Leaf<V>>,
}

#[derive(Debug)]
struct Leaf<V> {
    pattern: Box<str>,
    /// Characters that are not `*`.
    literals: u32,
    value: V,
}

/// What a node knows of those children whose texts have the same length.
#[derive(Debug, Clone, Copy)]
struct Length {
    /// In bytes.
    bytes: u32,
    children: u32,
    /// A set of [`mark`]s that holds those of all these children.
    marks: u64,
}

impl<V> Node<V> {
    fn new(parent: u32, text: &[u8]) -> Node<V> {
        Node { text: text.into(), parent, lengths: Vec::new(), leaf: None }
    }
}

impl<V> Leaf<V> {
    /// Whether this one comes before `other`, where both match and have the same prefix.
    fn is_preferred(&self, other: &Leaf<V>) -> bool {
        self.literals > other.literals || (self.literals == other.literals && self.pattern < other.pattern)
    }
}

impl<V> Default for PatternSet<V> {
    fn default() -> PatternSet<V> {
        PatternSet::new()
    }
}

impl<V> PatternSet<V> {
    /// A set without patterns.
    pub fn new() -> PatternSet<V> {
        PatternSet { nodes: vec![Node::new(ROOT, b"")], free: Vec::new(), edges: HashTable::new(), len: 0 }
    }

    /// How many patterns there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a pattern, or gives it another value; returns the value that it had. A text without `*` is kept like a
    /// pattern, but serves no key.
    pub fn insert(&mut self, pattern: &str, value: V) -> Option<V> {
        let mut at = ROOT;
        for text in texts(pattern) {
            at = match self.child(at, text.as_bytes()) {
                Some(child) => child,
                None => self.add_child(at, text.as_bytes()),
            };
        }
        let leaf = &mut self.nodes[at as usize].leaf;
        match leaf {
            Some(leaf) => Some(std::mem::replace(&mut leaf.value, value)),
            None => {
                let literals = pattern.chars().filter(|c| *c != '*').count() as u32;
                *leaf = Some(Leaf { pattern: pattern.into(), literals, value });
                self.len += 1;
                None
            }
        }
    }

    /// Removes a pattern, by its own text; returns the value that it had.
    pub fn remove(&mut self, pattern: &str) -> Option<V> {
        let mut at = self.node(pattern)?;
        let leaf = self.nodes[at as usize].leaf.take()?;
        self.len -= 1;
        while at != ROOT && self.nodes[at as usize].leaf.is_none() && self.nodes[at as usize].lengths.is_empty() {
            at = self.remove_node(at);
        }
        if self.free.len() > MIN_FREE + self.nodes.len() / 2 {
            self.rebuild();
        }
        Some(leaf.value)
    }

    /// The value of a pattern, by its own text.
    pub fn get(&self, pattern: &str) -> Option<&V> {
        self.nodes[self.node(pattern)? as usize].leaf.as_ref().map(|leaf| &leaf.value)
    }

    /// The pattern that serves a literal key, and its value.
    pub fn find(&self, key: &str) -> Option<(&str, &V)> {
        let key = key.as_bytes();
        for prefix in self.nodes[ROOT as usize].lengths.iter().rev() {
            // The star takes one byte at least.
            let Some((text, rest)) = key.split_at_checked(prefix.bytes as usize) else { continue };
            if !rest.is_empty()
                && let Some(node) = self.child_of_length(ROOT, prefix, text)
                && let Some(leaf) = self.best_below_prefix(node, rest)
            {
                return Some((&leaf.pattern, &leaf.value));
            }
        }
        None
    }

    /// All patterns with their values, in the order of their bytes. Sorts them first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &V)> + DoubleEndedIterator {
        let leaves = self.nodes.iter().filter_map(|node| node.leaf.as_ref());
        let mut all: Vec<(&str, &V)> = leaves.map(|leaf| (&*leaf.pattern, &leaf.value)).collect();
        all.sort_unstable_by_key(|(pattern, _)| *pattern);
        all.into_iter()
    }

    /// The preferred pattern among those below the node of a prefix, where `rest` is the key without it.
    fn best_below_prefix(&self, prefix: u32, rest: &[u8]) -> Option<&Leaf<V>> {
        let mut best = None;
        for suffix in self.nodes[prefix as usize].lengths.iter().rev() {
            let Some(between) = rest.len().checked_sub(suffix.bytes as usize).filter(|between| *between > 0) else {
                continue;
            };
            let (between, text) = rest.split_at(between);
            let Some(child) = self.child_of_length(prefix, suffix, text) else { continue };
            let node = &self.nodes[child as usize];
            prefer(&mut best, node.leaf.as_ref());
            if !node.lengths.is_empty() {
                self.search_middles(child, between, &mut best);
            }
        }
        best
    }

    /// Looks for preferred patterns below the node of a suffix, where `text` is the key without prefix and suffix. All
    /// places are at the beginning of a character: texts are whole characters, and none begins with what continues one.
    fn search_middles<'a>(&'a self, suffix: u32, text: &[u8], best: &mut Option<&'a Leaf<V>>) {
        // Nodes with children that the key reaches, and the leftmost place after their text.
        let mut reached = vec![(suffix, 0)];
        let mut seen = HashTable::new();
        while let Some((parent, place)) = reached.pop() {
            let start = after_character(text, place);
            for length in &self.nodes[parent as usize].lengths {
                let bytes = length.bytes as usize;
                // The star after it takes one byte at least.
                for place in start..text.len().saturating_sub(bytes) {
                    let end = place + bytes;
                    let Some(child) = self.child_of_length(parent, length, &text[place..end]) else { continue };
                    let node = &self.nodes[child as usize];
                    prefer(best, node.leaf.as_ref());
                    if length.children == 1 {
                        if !node.lengths.is_empty() {
                            reached.push((child, end));
                        }
                        break;
                    }
                    if !node.lengths.is_empty() && is_new(&mut seen, child) {
                        reached.push((child, end));
                    }
                }
            }
        }
    }

    /// The node of a pattern, by its own text.
    fn node(&self, pattern: &str) -> Option<u32> {
        texts(pattern).try_fold(ROOT, |at, text| self.child(at, text.as_bytes()))
    }

    fn child(&self, parent: u32, text: &[u8]) -> Option<u32> {
        self.edges.find(hash(parent, text), |child| self.is_edge(*child, parent, text)).copied()
    }

    /// The same, with a look at the filter first. `text` is as long as `length` says.
    fn child_of_length(&self, parent: u32, length: &Length, text: &[u8]) -> Option<u32> {
        if length.marks & mark(text) == 0 { None } else { self.child(parent, text) }
    }

    fn is_edge(&self, child: u32, parent: u32, text: &[u8]) -> bool {
        let node = &self.nodes[child as usize];
        // Empty texts are not compared: an empty box points to no memory, and glibc's memcmp for AVX-512 takes 90 ns
        // there.
        node.parent == parent && node.text.len() == text.len() && (text.is_empty() || *node.text == *text)
    }

    fn add_child(&mut self, parent: u32, text: &[u8]) -> u32 {
        let node = Node::new(parent, text);
        let child = match self.free.pop() {
            Some(child) => {
                self.nodes[child as usize] = node;
                child
            }
            None => {
                // 32 bits: more nodes would need hundreds of gigabytes.
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        let nodes = &self.nodes;
        self.edges.insert_unique(hash(parent, text), child, |other| {
            let node = &nodes[*other as usize];
            hash(node.parent, &node.text)
        });
        let bytes = text.len() as u32;
        let lengths = &mut self.nodes[parent as usize].lengths;
        match lengths.binary_search_by_key(&bytes, |length| length.bytes) {
            Ok(found) => {
                lengths[found].children += 1;
                lengths[found].marks |= mark(text);
            }
            Err(place) => {
                // Most nodes have one.
                lengths.reserve_exact(1);
                lengths.insert(place, Length { bytes, children: 1, marks: mark(text) });
            }
        }
        child
    }

    /// Removes a node without children from its parent, which is returned.
    fn remove_node(&mut self, child: u32) -> u32 {
        let Node { parent, text, .. } = std::mem::replace(&mut self.nodes[child as usize], Node::new(ROOT, b""));
        if let Ok(edge) = self.edges.find_entry(hash(parent, &text), |other| *other == child) {
            edge.remove();
        }
        let lengths = &mut self.nodes[parent as usize].lengths;
        if let Ok(found) = lengths.binary_search_by_key(&(text.len() as u32), |length| length.bytes) {
            lengths[found].children -= 1;
            // The marks of those that are left may be too many. That costs probes, no answers.
            if lengths[found].children == 0 {
                lengths.remove(found);
            }
        }
        self.free.push(child);
        parent
    }

    /// Builds the set anew, without nodes that have no use.
    fn rebuild(&mut self) {
        let old = std::mem::take(self);
        for leaf in old.nodes.into_iter().filter_map(|node| node.leaf) {
            self.insert(&leaf.pattern, leaf.value);
        }
    }
}

fn prefer<'a, V>(best: &mut Option<&'a Leaf<V>>, leaf: Option<&'a Leaf<V>>) {
    if let Some(leaf) = leaf
        && best.is_none_or(|best| leaf.is_preferred(best))
    {
        *best = Some(leaf);
    }
}

/// Adds a node to those that were seen; returns whether it was not among them.
fn is_new(seen: &mut HashTable<u32>, node: u32) -> bool {
    match seen.entry(hash(node, b""), |other| *other == node, |other| hash(*other, b"")) {
        Entry::Occupied(_) => false,
        Entry::Vacant(place) => {
            place.insert(node);
            true
        }
    }
}

/// The texts between the stars of a pattern: prefix, suffix, middles from left to right.
fn texts(pattern: &str) -> impl Iterator<Item = &str> {
    let (prefix, tail) = pattern.split_once('*').map_or((pattern, None), |(prefix, tail)| (prefix, Some(tail)));
    let (middles, suffix) = match tail.and_then(|tail| tail.rsplit_once('*')) {
        Some((middles, suffix)) => (Some(middles), Some(suffix)),
        None => (None, tail),
    };
    std::iter::once(prefix).chain(suffix).chain(middles.into_iter().flat_map(|middles| middles.split('*')))
}

/// The place after the character at `place`, or the end.
fn after_character(text: &[u8], place: usize) -> usize {
    let next = text.len().min(place + 1);
    next + text[next..].iter().take_while(|byte| **byte & 0xc0 == 0x80).count()
}

/// One of 64 bits for the first and the last byte of a text.
fn mark(text: &[u8]) -> u64 {
    let (first, last) = (text.first().copied().unwrap_or(0), text.last().copied().unwrap_or(0));
    1 << (first.wrapping_mul(5).wrapping_add(last) & 63)
}

/// The hash of an edge. Fast, and made for no attacker: only operators choose what is in the table, and how a probe of
/// it goes depends on what is there.
fn hash(parent: u32, text: &[u8]) -> u64 {
    let mix = |state: u64, word: u64| {
        let wide = u128::from(state ^ word) * u128::from(MIX);
        wide as u64 ^ (wide >> 64) as u64
    };
    let mut state = mix(MIX, u64::from(parent) << 32 | text.len() as u64);
    let Some(last) = text.last_chunk::<8>() else {
        return mix(state, text.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
    };
    for word in text.as_chunks::<8>().0 {
        state = mix(state, u64::from_le_bytes(*word));
    }
    mix(state, u64::from_le_bytes(*last))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::hint::black_box;
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;

    fn set(patterns: &[&str]) -> PatternSet<usize> {
        let mut set = PatternSet::new();
        for (index, pattern) in patterns.iter().enumerate() {
            assert_eq!(set.insert(pattern, index), None);
        }
        set
    }

    fn found<'a>(set: &'a PatternSet<usize>, key: &str) -> Option<&'a str> {
        set.find(key).map(|(pattern, value)| {
            assert_eq!(set.get(pattern), Some(value));
            pattern
        })
    }

    #[test]
    fn a_star_takes_one_character_at_least() {
        for (pattern, yes, no) in [
            ("*", &["a", "ab", "*", "ф", "\u{2028}"][..], &[""][..]),
            ("a*", &["ab", "a*", "aa", "aф"], &["a", "b", "ba", ""]),
            ("*a", &["ba", "aa", "фa"], &["a", "ab", ""]),
            ("a*a", &["aba", "aaa", "aфa"], &["a", "aa", "aab"]),
            ("ab*ba", &["abcba", "abbba"], &["aba", "abba"]),
            ("**", &["ab", "фф", "abc"], &["a", "ф", ""]),
            ("a**b", &["axxb", "aффb", "axxxb"], &["axb", "aфb", "ab"]),
            ("*a*", &["bab", "aaa", "фaф"], &["a", "aa", "ab", "ba"]),
            ("*a*b", &["xaxb", "aaab", "xabb"], &["ab", "xab", "aab", "axb"]),
            ("*ф*", &["aфa", "ффф"], &["ф", "фф", "ххх"]),
            ("a*b*c*d", &["a1b2c3d", "abbbcccd"], &["abcd", "a1b2cd", "a1b2c3d4"]),
        ] {
            let set = set(&[pattern]);
            for key in yes {
                assert!(matches(pattern, key), "{pattern} {key}");
                assert_eq!(found(&set, key), Some(pattern), "{pattern} {key}");
            }
            for key in no {
                assert!(!matches(pattern, key), "{pattern} {key}");
                assert_eq!(found(&set, key), None, "{pattern} {key}");
            }
        }
    }

    #[test]
    fn the_longest_prefix_then_the_most_literals_then_the_order_of_bytes() {
        for (key, order) in [
            ("user:7:cart", &["user:7:*", "user:*:cart", "user:*rt", "user:*", "*:7:cart", "*"][..]),
            // Bytes before the star: two of them in `ф`, after which one character more counts less.
            ("фabc", &["ф*", "*abc", "*c"]),
            // Characters that are literal: those of the longer middle, of the longer suffix.
            ("a-middle-z", &["a*middle*z", "a*middl*z", "a*iddle*", "a*-z", "a*z", "a*"]),
            // A character of two bytes counts as one does.
            ("xxфabz", &["x*b*", "x*ф*"]),
            ("xффabz", &["x*abz", "x*ф*bz", "x*ab*"]),
            // `*` comes before letters, and is in the text that is compared.
            ("axbcd", &["a**d", "a*b*", "a*c*", "a*d", "a*", "a**"]),
            ("axbcdef", &["a*b*e*", "a*c*e*", "a*c*"]),
        ] {
            let mut set = set(&order.iter().rev().copied().collect::<Vec<_>>());
            for pattern in order {
                assert_eq!(found(&set, key), Some(*pattern), "{key}");
                assert!(set.remove(pattern).is_some());
            }
            assert_eq!(found(&set, key), None);
        }
    }

    #[test]
    fn values_are_replaced_and_removed_by_the_text_of_their_pattern() {
        let mut set = PatternSet::default();
        assert!(set.is_empty() && set.find("a").is_none() && set.remove("*").is_none());
        assert_eq!(set.insert("b*", "1"), None);
        assert_eq!(set.insert("b*", "2"), Some("1"));
        assert_eq!(set.insert("a*b*c", "3"), None);
        // The nodes of these texts are there, without a pattern.
        assert_eq!((set.get("a*c"), set.get("a"), set.get("")), (None, None, None));
        assert_eq!((set.remove("a*c"), set.remove("a"), set.remove("")), (None, None, None));
        assert_eq!(set.iter().collect::<Vec<_>>(), [("a*b*c", &"3"), ("b*", &"2")]);
        assert_eq!((set.remove("a*b*c"), set.remove("a*b*c"), set.len()), (Some("3"), None, 1));
        assert_eq!((set.find("a1b2c"), set.find("bc")), (None, Some(("b*", &"2"))));
        assert_eq!(set.insert("bc", "literal"), None);
        assert_eq!((set.find("bc"), set.get("bc"), set.len()), (Some(("b*", &"2")), Some(&"literal"), 2));
        assert_eq!((set.remove("bc"), set.find("bcd")), (Some("literal"), Some(("b*", &"2"))));
        assert!(is_pattern("b*") && is_pattern("*") && !is_pattern("bc") && !is_pattern(""));
    }

    #[test]
    fn what_removed_patterns_took_is_used_again_or_given_back() {
        let mut set = PatternSet::new();
        let pattern = |index: usize| format!("p{index}*m{index}*s{index}");
        for index in 0..1000 {
            set.insert(&pattern(index), index);
        }
        assert_eq!(set.nodes.len(), 3001);
        for index in 0..1000 {
            assert_eq!(set.remove(&pattern(index)), Some(index));
            set.insert(&pattern(index + 1000), index + 1000);
        }
        assert_eq!(set.nodes.len(), 3001);
        for index in 1000..1990 {
            assert_eq!(set.remove(&pattern(index)), Some(index));
        }
        assert!(set.nodes.len() < 300, "{}", set.nodes.len());
        assert!(
            set.iter().eq((1990..2000)
                .map(|index| (pattern(index), index))
                .collect::<Vec<_>>()
                .iter()
                .map(|(pattern, index)| (pattern.as_str(), index)))
        );
        for index in 1990..2000 {
            assert_eq!(found(&set, &format!("p{index}.m{index}.s{index}")), Some(pattern(index).as_str()));
            assert_eq!(set.remove(&pattern(index)), Some(index));
        }
        assert!(set.is_empty() && set.edges.is_empty() && set.nodes[ROOT as usize].lengths.is_empty());
    }

    #[test]
    fn patterns_and_keys_of_the_greatest_length() {
        let stars = "*".repeat(512);
        let set = set(&[&stars, &"a*".repeat(256), &"*a".repeat(256)]);
        assert_eq!(found(&set, &"b".repeat(512)), Some(stars.as_str()));
        assert_eq!(found(&set, &"b".repeat(511)), None);
        assert_eq!(found(&set, &"a".repeat(512)), Some("a*".repeat(256).as_str()));
        assert_eq!(found(&set, &format!("b{}", "a".repeat(511))), Some("*a".repeat(256).as_str()));
        // A pattern is not a key, but an invalid key does no harm either.
        assert_eq!(found(&set, &"ф".repeat(2000)), Some(stars.as_str()));
    }

    /// What `*` means, said once more.
    fn matches_by_trying(pattern: &[char], key: &[char]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some(('*', after)), Some((_, rest))) => matches_by_trying(after, rest) || matches_by_trying(pattern, rest),
            (Some((wanted, after)), Some((character, rest))) => wanted == character && matches_by_trying(after, rest),
            _ => false,
        }
    }

    fn by_trying<'a>(patterns: &'a BTreeMap<String, usize>, key: &str) -> Option<(&'a str, &'a usize)> {
        let characters = |text: &str| text.chars().collect::<Vec<_>>();
        let all = patterns.iter().filter(|(pattern, _)| is_pattern(pattern));
        let mut matching: Vec<(&str, &usize)> = all
            .map(|(pattern, value)| (pattern.as_str(), value))
            .filter(|(pattern, _)| matches_by_trying(&characters(pattern), &characters(key)))
            .collect();
        matching.sort_by_key(|(pattern, _)| {
            let literals = pattern.chars().filter(|character| *character != '*').count();
            (usize::MAX - pattern.find('*').unwrap(), usize::MAX - literals, pattern.as_bytes())
        });
        matching.first().copied()
    }

    fn patterns() -> impl Strategy<Value = String> {
        // Of the three characters with two bytes, two share the first byte and two the last.
        prop_oneof![
            4 => "[ab*]{1,7}",
            2 => "[a*\u{444}\u{484}\u{445}]{1,7}",
            1 => "[abф]{0,2}\\*[abф]{0,2}",
            1 => "[ab*]{1,14}",
        ]
    }

    fn keys() -> impl Strategy<Value = String> {
        prop_oneof!["[ab]{1,10}", "[a*\u{444}\u{484}\u{445}]{1,8}", "[abф]{1,6}", "[ab]{1,16}"]
    }

    proptest! {
        #[test]
        fn a_pattern_matches_as_it_does_by_trying(pattern in patterns(), key in keys()) {
            let characters = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(matches(&pattern, &key), matches_by_trying(&characters(&pattern), &characters(&key)));
        }

        #[test]
        fn a_set_finds_what_is_found_by_trying_all(
            edits in proptest::collection::vec((any::<u8>(), patterns()), 1..40),
            keys in proptest::collection::vec(keys(), 1..20),
        ) {
            let (mut set, mut all) = (PatternSet::new(), BTreeMap::new());
            for (value, (kind, pattern)) in edits.into_iter().enumerate() {
                match kind {
                    // Mostly a key that is there.
                    0..80 => {
                        let nth = all.keys().nth(usize::from(kind) % all.len().max(1));
                        let pattern = nth.cloned().unwrap_or(pattern);
                        prop_assert_eq!(set.remove(&pattern), all.remove(&pattern));
                        prop_assert_eq!(set.get(&pattern), None);
                    }
                    80..90 => prop_assert_eq!(set.remove(&pattern), all.remove(&pattern)),
                    _ => prop_assert_eq!(set.insert(&pattern, value), all.insert(pattern, value)),
                }
                prop_assert_eq!(set.find(&keys[value % keys.len()]), by_trying(&all, &keys[value % keys.len()]));
            }
            prop_assert_eq!(set.len(), all.len());
            prop_assert!(set.iter().eq(all.iter().map(|(pattern, value)| (pattern.as_str(), value))));
            for (pattern, value) in &all {
                prop_assert_eq!(set.get(pattern), Some(value));
            }
            for key in &keys {
                prop_assert_eq!(set.find(key), by_trying(&all, key));
            }
        }
    }

    /// Nanoseconds of a lookup, the keys in turn: the best of some rounds.
    fn time(set: &PatternSet<u64>, keys: &[String]) -> f64 {
        let rounds = (0..15).map(|_| {
            let (begin, times) = (Instant::now(), 20_000);
            for key in keys.iter().cycle().take(times) {
                black_box(set.find(black_box(key)));
            }
            begin.elapsed().as_nanos() as f64 / times as f64
        });
        rounds.fold(f64::MAX, f64::min)
    }

    /// Run it with `cargo test --release --lib limit::patterns -- --ignored --nocapture`.
    #[test]
    #[ignore = "tells times, asserts nothing"]
    fn times_of_a_lookup() {
        type Make = fn(usize) -> String;
        let shapes: [(&str, Make, Make); 6] = [
            ("other prefixes", |n| format!("tenant{n:05}:*"), |n| format!("tenant{n:05}:alice")),
            (
                "prefixes of other lengths",
                |n| format!("t{}{n}:*", "x".repeat(n % 30)),
                |n| format!("t{}{n}:alice", "x".repeat(n % 30)),
            ),
            ("same prefix, other suffixes", |n| format!("user:*:p{n:05}"), |n| format!("user:alice:p{n:05}")),
            ("no prefix, other suffixes", |n| format!("*suffix{n:05}"), |n| format!("alicesuffix{n:05}")),
            ("other middles", |n| format!("user:*:p{n:05}:*:end"), |n| format!("user:alice:p{n:05}:x:end")),
            (
                "two other middles",
                |n| format!("user:*:p{n:05}:*:q{n:05}:*:end"),
                |n| format!("user:alice:p{n:05}:x:q{n:05}:y:end"),
            ),
        ];
        for (name, pattern, key) in shapes {
            let filled = |count: usize| {
                let mut set = PatternSet::new();
                // The pattern that is asked for is in the small set too.
                for n in 0..count {
                    set.insert(&pattern((n + 5000) % 10_000), n as u64);
                }
                set
            };
            let (one, many) = (filled(1), filled(10_000));
            let same = [key(5000)];
            let all: Vec<String> = (0..10_000).map(|n| key(n * 7919 % 10_000)).collect();
            assert!(one.find(&same[0]).is_some() && all.iter().all(|key| many.find(key).is_some()));
            let none = [key(5000) + "#", "#".to_owned() + &key(5000)];
            println!(
                "{name}: one {:.1} ns, many {:.1} ns, many with all keys in turn {:.1} ns (one: {:.1} ns); none fits: {:.1} \
                 and {:.1} ns",
                time(&one, &same),
                time(&many, &same),
                time(&many, &all),
                time(&one, &all),
                time(&one, &none),
                time(&many, &none),
            );
        }
        let numbered = |pattern: Make, count: usize| {
            let mut set = PatternSet::new();
            for n in 0..count {
                set.insert(&pattern(n), n as u64);
            }
            set
        };
        let long = |text: &str, end: &str| text.repeat(512 / text.len() - end.len()) + end;
        let worst: Vec<(&str, PatternSet<u64>, String)> = vec![
            ("aaaa… against *a*a*a*b", numbered(|_| "*a*a*a*b".into(), 1), long("a", "")),
            ("aaaab against *a*a*a*a*b*b", numbered(|_| "*a*a*a*a*b*b".into(), 1), long("a", "b")),
            ("aaaa… against (a*)x256", numbered(|_| "a*".repeat(256), 1), long("a", "")),
            ("aaaa… against prefixes a, aa, … with *b", numbered(|n| "a".repeat(n + 1) + "*b", 250), long("a", "")),
            ("aaaa… against suffixes a, aa, …", numbered(|n| format!("b*{}", "a".repeat(n + 1)), 250), long("a", "")),
            ("aaaa… against *aaa(250)b*", numbered(|_| format!("*{}b*", "a".repeat(250)), 1), long("a", "")),
            ("aaaa… against middles a…b of 1 to 40", numbered(|n| format!("*{}b*", "a".repeat(n)), 40), long("a", "b")),
            ("middles of 10 000 patterns in one key", numbered(|n| format!("*:p{n:05}:*"), 10_000), {
                (0..73).map(|n| format!(":p{n:05}")).collect()
            }),
            (
                "the same, and a third star",
                numbered(|n| format!("*:p{n:05}:*:x:*"), 10_000),
                (0..73).map(|n| format!(":p{n:05}")).collect(),
            ),
            (
                "aaaa… against */v1/*/items/*, a*aab*aab*",
                numbered(|n| ["*/v1/*/items/*", "a*aab*aab*", "*aaab*aab*c", "*aa*aa*aab*"][n].into(), 4),
                long("a", ""),
            ),
        ];
        let mixed = |n: usize| match n % 4 {
            0 => format!("tenant{n}:*"),
            1 => format!("tenant{}:*:upload", n - 1),
            2 => format!("*:role{}", n % 50),
            _ => ["*", "*/v1/*/items/*", "*:upload:*", "tenant*:upload:*:large"][n / 4 % 4].into(),
        };
        for key in
            ["tenant4:alice", "tenant8:alice:upload", "somebody else", &long("tenant1:upload:/v1/:role:", ":larg")]
        {
            println!("mixed, {}: {:.1} ns", &key[..13], time(&numbered(mixed, 10_000), &[key.to_owned()]));
        }
        for (name, set, key) in worst {
            assert!(key.len() <= 512);
            println!("{name}: {:.2} us", time(&set, &[key]) / 1000.0);
        }
        let begin = Instant::now();
        let mut set = numbered(|n| format!("tenant{n:05}:*:x"), 10_000);
        println!("10 000 inserts: {:?}", begin.elapsed());
        let begin = Instant::now();
        println!("iter: {} in {:?}", set.iter().count(), begin.elapsed());
        let begin = Instant::now();
        (0..10_000).for_each(|n| assert!(set.remove(&format!("tenant{n:05}:*:x")).is_some()));
        println!("10 000 removals: {:?}", begin.elapsed());
        println!("size of a node: {} bytes", size_of::<Node<u64>>());
    }
}
