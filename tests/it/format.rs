//! An encoder and a decoder of the files of a data directory that know of the format what flint.5 says in its tables.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

/// A table of the page: rows of cells, without the head.
pub type Table = Vec<Vec<String>>;

pub struct Page {
    pub text: String,
    pub tables: Vec<Table>,
}

impl Page {
    pub fn read() -> Page {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/flint.5");
        let text = std::fs::read_to_string(path).unwrap();
        let (mut tables, mut open) = (Vec::new(), false);
        for line in text.lines() {
            if line.starts_with(".Bl -column") {
                (open, _) = (true, tables.push(Table::new()));
            } else if line == ".El" {
                open = false;
            } else if let Some(row) = line.strip_prefix(".It ").filter(|row| open && !row.starts_with("Em ")) {
                let cells = row.split(" Ta ").map(|cell| cell.replace("Li ", "").replace("No ", "")).collect();
                tables.last_mut().unwrap().push(cells);
            }
        }
        assert_eq!(tables.len(), 5, "file header, frame, records, types, algorithms");
        Page { text, tables }
    }

    pub fn header(&self) -> Layout {
        Layout::new(&self.tables[0])
    }

    pub fn frame(&self) -> Layout {
        Layout::new(&self.tables[1])
    }

    /// Name and fields of the record with this tag.
    fn record(&self, tag: u8) -> (&str, &str) {
        let row = self.tables[2].iter().find(|row| row[0] == tag.to_string());
        let row = row.unwrap_or_else(|| panic!("the page knows no tag {tag}"));
        (&row[1], &row[2])
    }

    fn tag(&self, name: &str) -> u8 {
        self.tables[2].iter().find(|row| row[1] == name).unwrap()[0].parse().unwrap()
    }

    /// Fields of a type that is made of others.
    fn limit(&self) -> &str {
        &self.tables[3].iter().find(|row| row[0] == "limit").unwrap()[1]
    }

    /// Name of an algorithm and the fields of its state.
    pub fn state(&self, algorithm: u64) -> (&str, &str) {
        let row = self.tables[4].iter().find(|row| row[0] == algorithm.to_string()).unwrap();
        (&row[1], &row[2])
    }
}

/// Fields at fixed places.
pub struct Layout(BTreeMap<String, (usize, usize)>);

impl Layout {
    fn new(table: &Table) -> Layout {
        let mut next = 0;
        let mut fields = BTreeMap::new();
        for row in table {
            let (offset, bytes) = (row[0].parse::<usize>().unwrap(), row[1].parse::<usize>().unwrap());
            assert_eq!(offset, next, "the fields stand without a gap: {row:?}");
            next = offset + bytes;
            fields.insert(row[2].clone(), (offset, bytes));
        }
        Layout(fields)
    }

    pub fn size(&self) -> usize {
        self.0.values().map(|(offset, bytes)| offset + bytes).max().unwrap()
    }

    pub fn bytes<'a>(&self, at: &'a [u8], name: &str) -> &'a [u8] {
        let (offset, bytes) = self.0[name];
        &at[offset..offset + bytes]
    }

    pub fn get(&self, at: &[u8], name: &str) -> u64 {
        self.bytes(at, name).iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn put(&self, at: &mut [u8], name: &str, value: u64) {
        let (offset, bytes) = self.0[name];
        at[offset..offset + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    }
}

/// CRC-32 bit by bit, so that not even this is the program's.
fn crc32(parts: &[&[u8]]) -> u64 {
    let mut crc = u32::MAX;
    for byte in parts.iter().flat_map(|part| part.iter()) {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    u64::from(!crc)
}

/// Splits `id n, items list(id n, cost n)` into names and types.
fn fields(text: &str) -> Vec<(&str, &str)> {
    let (mut found, mut depth, mut begin) = (Vec::new(), 0, 0);
    for (at, char) in text.char_indices().chain([(text.len(), ',')]) {
        match char {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                found.push(text[begin..at].trim().split_once(' ').unwrap());
                begin = at + 1;
            }
            _ => {}
        }
    }
    found
}

struct Decoder<'a> {
    page: &'a Page,
    rest: &'a [u8],
    base: u64,
}

impl<'a> Decoder<'a> {
    fn byte(&mut self) -> u8 {
        let byte = self.rest[0];
        self.rest = &self.rest[1..];
        byte
    }

    fn n(&mut self) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return value;
            }
            shift += 7;
        }
    }

    fn value(&mut self, kind: &str, before: &Map<String, Value>) -> Value {
        match kind {
            "byte" => self.byte().into(),
            "n" => self.n().into(),
            "instant" => (self.base + self.n()).into(),
            "time" => self.n().checked_sub(1).into(),
            "text" => {
                let length = self.n() as usize;
                let (text, rest) = self.rest.split_at(length);
                self.rest = rest;
                std::str::from_utf8(text).unwrap().into()
            }
            "limit" => {
                let limit = self.page.limit();
                self.object(limit)
            }
            "state" => {
                let (_, state) = self.page.state(before["limit"]["algorithm"].as_u64().unwrap());
                self.object(state)
            }
            list => {
                let of = list.strip_prefix("list(").and_then(|list| list.strip_suffix(')')).unwrap();
                (0..self.n()).map(|_| self.object(of)).collect()
            }
        }
    }

    fn object(&mut self, text: &str) -> Value {
        let mut object = Map::new();
        for (name, kind) in fields(text) {
            let value = self.value(kind, &object);
            object.insert(name.to_owned(), value);
        }
        Value::Object(object)
    }

    fn record(&mut self) -> Record {
        let tag = self.byte();
        let (name, text) = self.page.record(tag);
        (name.to_owned(), self.object(text))
    }
}

/// Encodes the fields of `value` by the text of a table.
fn encode(page: &Page, out: &mut Vec<u8>, text: &str, value: &Value, base: u64) {
    for (name, kind) in fields(text) {
        let value = &value[name];
        let number = || value.as_u64().unwrap_or_else(|| panic!("{name} of {text}"));
        match kind {
            "byte" => out.push(u8::try_from(number()).unwrap()),
            "n" => n(out, number()),
            "instant" => n(out, number() - base),
            "time" => n(out, value.as_u64().map_or(0, |time| time + 1)),
            "text" => {
                let text = value.as_str().unwrap();
                n(out, text.len() as u64);
                out.extend_from_slice(text.as_bytes());
            }
            "limit" => encode(page, out, page.limit(), value, base),
            "state" => {
                let (_, text) = page.state(value["algorithm"].as_u64().unwrap());
                encode(page, out, text, value, base);
            }
            list => {
                let of = list.strip_prefix("list(").and_then(|list| list.strip_suffix(')')).unwrap();
                let elements = value.as_array().unwrap();
                n(out, elements.len() as u64);
                elements.iter().for_each(|element| encode(page, out, of, element, base));
            }
        }
    }
}

fn n(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 & 0x7f | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A record: its name and its fields.
pub type Record = (String, Value);

/// A file as the page describes it.
pub struct File {
    pub header: Vec<u8>,
    /// Each frame's header, and its records.
    pub frames: Vec<(Vec<u8>, Vec<Record>)>,
    /// Where the last frame ends.
    pub end: usize,
}

pub fn read(page: &Page, bytes: &[u8], magic: &[u8]) -> File {
    let (layout, frame) = (page.header(), page.frame());
    let header = bytes[..layout.size()].to_vec();
    assert_eq!(layout.bytes(&header, "magic"), magic);
    assert_eq!((layout.get(&header, "version"), layout.get(&header, "reserved")), (1, 0));
    assert_eq!(layout.get(&header, "crc"), crc32(&[&header[..60]]));
    let (mut at, mut frames) = (layout.size(), Vec::new());
    while bytes.get(at..at + frame.size()).is_some_and(|head| frame.bytes(head, "magic") == b"FLfr") {
        let head = &bytes[at..at + frame.size()];
        let end = at + frame.size() + frame.get(head, "length") as usize;
        assert_eq!(frame.get(head, "crc"), crc32(&[layout.bytes(&header, "salt"), &bytes[at + 8..end]]));
        let mut decoder = Decoder { page, rest: &bytes[at + frame.size()..end], base: frame.get(head, "base") };
        let records = frame.get(head, "records") & 0x7fff_ffff;
        frames.push((head.to_vec(), (0..records).map(|_| decoder.record()).collect()));
        assert!(decoder.rest.is_empty(), "the records fill the payload");
        at = end;
    }
    File { header, frames, end: at }
}

pub fn write(page: &Page, magic: &[u8], number: u64, flags: u64, first: u64, frames: &[Vec<(&str, Value)>]) -> Vec<u8> {
    const SALT: u64 = 0x0123_4567_89ab_cdef;
    let base = 1_700_000_000_000;
    let (layout, frame) = (page.header(), page.frame());
    let mut bytes = vec![0; layout.size()];
    bytes[..8].copy_from_slice(magic);
    for (name, value) in [("version", 1), ("flags", flags), ("number", number), ("salt", SALT), ("first", first)] {
        layout.put(&mut bytes, name, value);
    }
    let crc = crc32(&[&bytes[..60]]);
    layout.put(&mut bytes, "crc", crc);
    let mut next = if magic == b"FLINTAOF" { first } else { 0 };
    for records in frames {
        let mut payload = Vec::new();
        for (name, value) in records {
            let tag = page.tag(name);
            payload.push(tag);
            encode(page, &mut payload, page.record(tag).1, value, base);
        }
        let mut head = vec![0; frame.size()];
        head[..4].copy_from_slice(b"FLfr");
        for (name, value) in
            [("length", payload.len() as u64), ("records", records.len() as u64), ("first", next), ("base", base)]
        {
            frame.put(&mut head, name, value);
        }
        let crc = crc32(&[&SALT.to_le_bytes(), &head[8..], &payload]);
        frame.put(&mut head, "crc", crc);
        next += records.len() as u64;
        bytes.extend_from_slice(&[head, payload].concat());
    }
    bytes
}
