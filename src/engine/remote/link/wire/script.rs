//! The script that compares and sets, as text and as a command.
//!
//! A script runs over the keys of one attempt, or of several that share none. It depends on no number beyond whole
//! seconds and the counts of its arguments, and names all of its keys.
//!
//! | argument, of one attempt | what |
//! |---|---|
//! | 1 | the attempt's version, 16 bytes |
//! | 2 | the last second, since 1970 by the store's clock, in which it may be done |
//! | 3 | number *n* of parts; `KEYS[1]` to `KEYS[n]` are theirs |
//! | 3 for each part | the version that is known, nothing for absent; the verb; the record |
//! | 1 for each mark | `+member` or `-member`; `KEYS[n + j]` is the list of mark *j* |
//!
//! | argument, of several | what |
//! |---|---|
//! | 1 | the last second |
//! | for each attempt: 1, 1, 1 | number of its parts, and of its marks; its version |
//! | 3 for each part, 1 for each mark | as above; the attempt's keys are after those of the one before |
//!
//! The verb is nothing to keep the part as it is, `d` to remove it, `p` to put it, `p123` to put it until millisecond
//! 123.
//!
//! The reply is the store's time, `seconds.microseconds`, if the attempt is done; else an array of that time and, for
//! each part, 1 where it is as known, nothing where it is absent, else its value. For several it is an array of the
//! replies to each, or of an error where one could not be done: what that says, it says again when it is sent by
//! itself.

use std::ops::Range;

use redis::Value as Reply;

use super::attempt::{Attempt, Found, Known, Mark, Write};
use super::value::{Value, Version};
use super::{pack, reply};
use crate::bounds::STORE_KEEPS_MS;
use crate::clock::Micros;

/// Compares and sets. What changes the index comes first: where that fails, because a foreign key has the list's name,
/// nothing is written yet.
///
/// An attempt that was done before, and whose reply was lost, writes a key of its own once more as it is: else `WAIT`
/// on this connection would wait for nothing. Where memory is full, what is removed leaves nothing in its place.
///
/// Numbers are given to the store as text: to print a number of Lua costs it as much as a look at a key. Tables and
/// functions are made once for all attempts.
const ATTEMPT: &str = r"
local now = redis.call('TIME')
local at, second = now[1] .. '.' .. now[2], tonumber(now[1])
local call, sub, byte, char, find = redis.call, string.sub, string.byte, string.char, string.find
local keys, args, heads, same = KEYS, ARGV, {}, {}
local function attempt(k, a, n, m, new, last)
  local link, fits = sub(new, 1, 8), second <= last
  for i = 1, n do
    local head = call('GETRANGE', keys[k + i], '0', '257')
    local format, writers = byte(head, 1, 2)
    head = sub(head, 1, 2 + 16 * (writers or 0))
    if args[a + 3 * i - 1] ~= '' and find(head, new, 3, true) then
      redis.pcall('SET', keys[k + i], call('GET', keys[k + i]), 'KEEPTTL')
      return at
    end
    local known = args[a + 3 * i - 2]
    if not format or format == 48 then
      same[i] = known == ''
    else
      same[i] = known ~= '' and find(head, known, 3, true) == 3
    end
    fits = fits and same[i]
    heads[i] = head
  end
  if not fits then
    local found = {at}
    for i = 1, n do
      found[i + 1] = same[i] and 1 or (heads[i] ~= '' and call('GET', keys[k + i]))
    end
    return found
  end
  for j = 1, m do
    local list, mark = keys[k + n + j], args[a + 3 * n + j]
    if sub(mark, 1, 1) == '+' then
      call('ZADD', list, '0', sub(mark, 2))
    else
      call('ZREM', list, sub(mark, 2))
    end
  end
  for i = 1, n do
    local key, what, head = keys[k + i], args[a + 3 * i - 1], heads[i]
    if what ~= '' then
      local writers, kept = new, 1
      for w = 3, #head - 15, 16 do
        if kept < 16 and sub(head, w, w + 7) ~= link then
          writers, kept = writers .. sub(head, w, w + 15), kept + 1
        end
      end
      writers = char(kept) .. writers
      if what == 'd' then
        local done = redis.pcall('SET', key, '0' .. writers, 'PX', KEEPS)
        if type(done) == 'table' and done.err then call('DEL', key) end
      elseif what == 'p' then
        call('SET', key, '1' .. writers .. args[a + 3 * i])
      else
        call('SET', key, '1' .. writers .. args[a + 3 * i], 'PXAT', sub(what, 2))
      end
    end
  end
  return at
end
";

/// One attempt.
const EXCHANGE: &str = r"
local n = tonumber(ARGV[3])
return attempt(0, 3, n, #KEYS - n, ARGV[1], tonumber(ARGV[2]))
";

/// Several attempts, each done or not: a fifth less work for the store than a script for each.
const BATCH: &str = r"
local last, k, a, said = tonumber(ARGV[1]), 0, 1, {}
while a < #ARGV do
  local n, m = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  local ran, one = pcall(attempt, k, a + 3, n, m, ARGV[a + 3], last)
  said[#said + 1] = ran and one or {err = 'ERR to be sent by itself'}
  k, a = k + n + m, a + 3 + 3 * n + m
end
return said
";

/// Takes members off a list whose keys are gone: `KEYS[1]` is the list, `ARGV[i]` the member of `KEYS[i + 1]`.
const PRUNE: &str = r"
for i = 1, #ARGV do
  local first = redis.call('GETRANGE', KEYS[i + 1], 0, 0)
  if first == '' or first == '0' then redis.call('ZREM', KEYS[1], ARGV[i]) end
end
return 1
";

/// The scripts' text, in the order of [`Scripts`].
pub fn texts() -> [String; 3] {
    let attempt = ATTEMPT.replace("KEEPS", &STORE_KEEPS_MS.to_string());
    [[&attempt, EXCHANGE].concat(), [&attempt, BATCH].concat(), PRUNE.to_owned()]
}

/// What a server calls the scripts: the hexadecimal SHA-1 of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scripts {
    pub exchange: Vec<u8>,
    pub batch: Vec<u8>,
    pub prune: Vec<u8>,
}

/// The list's key: in a Cluster its part of one slot.
pub fn list_key(list: u8, tag: Option<&str>) -> Vec<u8> {
    match tag {
        Some(tag) => format!("flint\x01index:{list}{{{tag}}}").into_bytes(),
        None => format!("flint\x01index:{list}").into_bytes(),
    }
}

/// Packs attempts. `tag` is that of their slot, in a Cluster; `last` the last second in which they may be done;
/// `now_ms` the store's time.
pub struct Packing<'a> {
    pub scripts: &'a Scripts,
    pub last: u64,
    pub now_ms: u64,
    pub tag: Option<&'a str>,
}

impl Packing<'_> {
    /// Appends the command for one attempt and returns where it stands. Without the marks if these are made by
    /// themselves.
    pub fn pack(&self, into: &mut Vec<u8>, attempt: &Attempt, version: Version, marks: &[Mark]) -> Range<usize> {
        let begin = into.len();
        let (parts, marks_count) = (attempt.parts.len(), marks.len());
        pack::command(into, 3 + parts + marks_count + 3 + 3 * parts + marks_count);
        pack::argument(into, b"EVALSHA");
        pack::argument(into, &self.scripts.exchange);
        pack::number(into, parts + marks_count);
        self.keys(into, attempt, marks);
        pack::argument(into, &version.0);
        pack::number(into, self.last);
        pack::number(into, parts);
        self.arguments(into, attempt, marks);
        begin..into.len()
    }

    /// Appends the command for several attempts and returns where it stands.
    pub fn pack_batch(&self, into: &mut Vec<u8>, attempts: &[Attempt], versions: &[Version]) -> Range<usize> {
        let begin = into.len();
        let keys: usize = attempts.iter().map(|attempt| attempt.parts.len() + attempt.marks.len()).sum();
        let arguments: usize = attempts.iter().map(|attempt| 3 + 3 * attempt.parts.len() + attempt.marks.len()).sum();
        pack::command(into, 3 + keys + 1 + arguments);
        pack::argument(into, b"EVALSHA");
        pack::argument(into, &self.scripts.batch);
        pack::number(into, keys);
        attempts.iter().for_each(|attempt| self.keys(into, attempt, &attempt.marks));
        pack::number(into, self.last);
        for (attempt, version) in attempts.iter().zip(versions) {
            pack::number(into, attempt.parts.len());
            pack::number(into, attempt.marks.len());
            pack::argument(into, &version.0);
            self.arguments(into, attempt, &attempt.marks);
        }
        begin..into.len()
    }

    fn keys(&self, into: &mut Vec<u8>, attempt: &Attempt, marks: &[Mark]) {
        attempt.parts.iter().for_each(|part| pack::argument(into, part.key));
        marks.iter().for_each(|mark| pack::argument(into, &list_key(mark.list, self.tag)));
    }

    fn arguments(&self, into: &mut Vec<u8>, attempt: &Attempt, marks: &[Mark]) {
        for part in &attempt.parts {
            match part.known {
                Known::Version(version) => pack::argument(into, &version.0),
                Known::Absent => pack::argument(into, b""),
            }
            self.write(into, part.write);
        }
        for mark in marks {
            let sign: &[u8] = if mark.present { b"+" } else { b"-" };
            pack::argument(into, &[sign, mark.member].concat());
        }
    }

    fn write(&self, into: &mut Vec<u8>, write: Write) {
        match write {
            Write::Keep => pack::two(into, b"", b""),
            Write::Delete => pack::two(into, b"d", b""),
            Write::Put { record, expire_at_ms: None } => pack::two(into, b"p", record),
            Write::Put { record, expire_at_ms: Some(at) } => {
                let at = at.max(self.now_ms.saturating_add(STORE_KEEPS_MS));
                pack::two(into, format!("p{at}").as_bytes(), record);
            }
        }
    }
}

/// What a reply says of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    Done,
    Found(Vec<Seen>),
}

/// What a reply says of a part. A removed one is told from one that never was.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    Same,
    Nothing,
    Value(Value),
    /// Something that no Flint has written, or a later one.
    Foreign,
}

impl Seen {
    /// What the lanes are told; None where it is foreign.
    pub fn found(self) -> Option<Found> {
        Some(match self {
            Seen::Same => Found::Same,
            Seen::Nothing => Found::Absent,
            Seen::Value(value) if value.is_removed() => Found::Absent,
            Seen::Value(value) => Found::Present(value),
            Seen::Foreign => return None,
        })
    }

    /// What GET said.
    pub fn of_get(reply: Reply) -> Option<Seen> {
        Some(match reply {
            Reply::Int(1) => Seen::Same,
            Reply::Nil => Seen::Nothing,
            Reply::BulkString(bytes) => Value::read(bytes).map_or(Seen::Foreign, Seen::Value),
            _ => return None,
        })
    }
}

/// Reads the reply to an attempt, and the store's time; None where it is none.
pub fn read(reply: Reply, parts: usize) -> Option<(Micros, Said)> {
    let mut items = match reply {
        Reply::BulkString(time) => return Some((reply::dotted(&time)?, Said::Done)),
        Reply::Array(items) if items.len() == parts + 1 => items.into_iter(),
        _ => return None,
    };
    let Some(Reply::BulkString(time)) = items.next() else { return None };
    let found = items.map(Seen::of_get).collect::<Option<Vec<Seen>>>()?;
    Some((reply::dotted(&time)?, Said::Found(found)))
}
