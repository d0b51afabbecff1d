//! The script that compares and sets, as text and as a command.
//!
//! One script runs over the keys of one attempt. It depends on no number beyond whole seconds and the counts of its
//! arguments, and names all of its keys.
//!
//! | argument | what |
//! |---|---|
//! | 1 | the attempt's version, 16 bytes |
//! | 2 | the last second, since 1970 by the store's clock, in which it may be done |
//! | 3 | number *n* of parts; `KEYS[1]` to `KEYS[n]` are theirs |
//! | 3 for each part | the version that is known, or nothing for absent; `` keeps, `d` removes, `p` puts, `p123` puts until millisecond 123; the record |
//! | 1 for each mark | `+member` or `-member`; `KEYS[n + j]` is the list of mark *j* |
//!
//! The reply is the store's time, `seconds.microseconds`, if the attempt is done; else an array of that time and, for
//! each part, 1 where it is as known, nothing where it is absent, else its value.

use std::ops::Range;

use redis::Value as Reply;

use super::attempt::{Attempt, Found, Known, Mark, Version, Write};
use super::value::Value;
use super::{pack, reply};
use crate::bounds::STORE_KEEPS_MS;
use crate::clock::Micros;

/// Compares and sets. What changes the index comes first: where that fails, because a foreign key has the list's name,
/// nothing is written yet.
///
/// An attempt that was done before, and whose reply was lost, writes a key of its own once more as it is: else `WAIT` on
/// this connection would wait for nothing. Where memory is full, what is removed leaves nothing in its place.
const EXCHANGE: &str = r"
local new, last, n = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local link, now = string.sub(new, 1, 8), redis.call('TIME')
local at = now[1] .. '.' .. now[2]
local heads, same, fits = {}, {}, tonumber(now[1]) <= last
for i = 1, n do
  local head = redis.call('GETRANGE', KEYS[i], 0, 257)
  local writers = string.byte(head, 2) or 0
  head = string.sub(head, 1, 2 + 16 * writers)
  if ARGV[3 * i + 2] ~= '' and string.find(head, new, 3, true) then
    redis.pcall('SET', KEYS[i], redis.call('GET', KEYS[i]), 'KEEPTTL')
    return at
  end
  local known = ARGV[3 * i + 1]
  if head == '' or string.sub(head, 1, 1) == '0' then
    same[i] = known == ''
  else
    same[i] = known ~= '' and known == string.sub(head, 3, 18)
  end
  fits = fits and same[i]
  heads[i] = head
end
if not fits then
  local found = {at}
  for i = 1, n do
    found[i + 1] = same[i] and 1 or (heads[i] ~= '' and redis.call('GET', KEYS[i]))
  end
  return found
end
for j = 1, #KEYS - n do
  local mark = ARGV[3 * n + 3 + j]
  if string.sub(mark, 1, 1) == '+' then
    redis.call('ZADD', KEYS[n + j], 0, string.sub(mark, 2))
  else
    redis.call('ZREM', KEYS[n + j], string.sub(mark, 2))
  end
end
for i = 1, n do
  local what, head = ARGV[3 * i + 2], heads[i]
  if what ~= '' then
    local writers, kept = new, 1
    for w = 3, #head - 15, 16 do
      if kept < 16 and string.sub(head, w, w + 7) ~= link then
        writers, kept = writers .. string.sub(head, w, w + 15), kept + 1
      end
    end
    writers = string.char(kept) .. writers
    if what == 'd' then
      local done = redis.pcall('SET', KEYS[i], '0' .. writers, 'PX', KEEPS)
      if type(done) == 'table' and done.err then redis.call('DEL', KEYS[i]) end
    elseif what == 'p' then
      redis.call('SET', KEYS[i], '1' .. writers .. ARGV[3 * i + 3])
    else
      redis.call('SET', KEYS[i], '1' .. writers .. ARGV[3 * i + 3], 'PXAT', string.sub(what, 2))
    end
  end
end
return at
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
pub fn texts() -> [String; 2] {
    [EXCHANGE.replace("KEEPS", &STORE_KEEPS_MS.to_string()), PRUNE.to_owned()]
}

/// What a server calls the scripts: the hexadecimal SHA-1 of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scripts {
    pub exchange: Vec<u8>,
    pub prune: Vec<u8>,
}

/// The list's key: in a Cluster its part of one slot.
pub fn list_key(list: u8, tag: Option<&str>) -> Vec<u8> {
    match tag {
        Some(tag) => format!("flint\x01index:{list}{{{tag}}}").into_bytes(),
        None => format!("flint\x01index:{list}").into_bytes(),
    }
}

/// Packs an attempt. `tag` is that of its slot, in a Cluster; `last` the last second in which it may be done; `now_ms`
/// the store's time.
pub struct Packing<'a> {
    pub scripts: &'a Scripts,
    pub version: Version,
    pub last: u64,
    pub now_ms: u64,
    pub tag: Option<&'a str>,
}

impl Packing<'_> {
    /// Appends the command and returns where it stands. Without the marks if these are made by themselves.
    pub fn pack(&self, into: &mut Vec<u8>, attempt: &Attempt, marks: &[Mark]) -> Range<usize> {
        let begin = into.len();
        let (parts, marks_count) = (attempt.parts.len(), marks.len());
        pack::command(into, 3 + parts + marks_count + 3 + 3 * parts + marks_count);
        pack::argument(into, b"EVALSHA");
        pack::argument(into, &self.scripts.exchange);
        pack::number(into, parts + marks_count);
        attempt.parts.iter().for_each(|part| pack::argument(into, part.key));
        marks.iter().for_each(|mark| pack::argument(into, &list_key(mark.list, self.tag)));
        pack::argument(into, &self.version.0);
        pack::number(into, self.last);
        pack::number(into, parts);
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
        begin..into.len()
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
