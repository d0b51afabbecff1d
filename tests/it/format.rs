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
        let titles = "file header, frame, records, types, algorithms; of a backup header, block, payloads";
        assert_eq!(tables.len(), 8, "{titles}");
        Page { text, tables }
    }

    pub fn header(&self) -> Layout {
        Layout::new(&self.tables[0])
    }

    pub fn frame(&self) -> Layout {
        Layout::new(&self.tables[1])
    }

    /// The files of a backup, by what the page says of its blocks: kind, number and bytes.
    pub fn unpack(&self, backup: &[u8]) -> Vec<(u8, u64, Vec<u8>)> {
        let (header, block) = (Layout::new(&self.tables[5]), Layout::new(&self.tables[6]));
        let payloads: Vec<&str> = self.tables[7].iter().map(|row| row[0].as_str()).collect();
        assert_eq!(payloads, ["FLfi", "FLda", "FLen", "FLno"]);
        assert_eq!(header.bytes(backup, "magic"), b"FLINTBAK");
        assert_eq!((header.get(backup, "version"), header.get(backup, "reserved")), (1, 0));
        assert_eq!(header.get(backup, "crc"), crc32(&[&backup[..header.size() - 4]]));
        let salt = header.bytes(backup, "salt");
        let (mut files, mut at) = (Vec::<(u8, u64, Vec<u8>)>::new(), header.size());
        loop {
            let rest = &backup[at..];
            let length = block.get(rest, "length") as usize;
            let payload = &rest[block.size()..block.size() + length];
            let offset = (at as u64).to_le_bytes();
            let crc = crc32(&[salt, &offset, block.bytes(rest, "magic"), block.bytes(rest, "length"), payload]);
            assert_eq!(block.get(rest, "crc"), crc, "block at {at}");
            let number =
                |range: std::ops::Range<usize>| payload[range].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
            match block.bytes(rest, "magic") {
                b"FLfi" => files.push((payload[0], number(1..9), Vec::with_capacity(number(9..17) as usize))),
                b"FLda" => files.last_mut().unwrap().2.extend_from_slice(payload),
                b"FLen" => {
                    let bytes: usize = files.iter().map(|file| file.2.len()).sum();
                    let totals = (number(0..4), number(4..12), number(12..16));
                    assert_eq!(totals, (files.len() as u64, bytes as u64, crc32(&[&backup[..at]])));
                    assert_eq!((header.get(backup, "files"), header.get(backup, "total")), (totals.0, totals.1));
                    assert_eq!(at + block.size() + length, backup.len());
                    return files;
                }
                other => panic!("{other:?}"),
            }
            at += block.size() + length;
        }
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

    /// How a type is encoded.
    fn kind(&self, name: &str) -> &str {
        let row = self.tables[3].iter().find(|row| row[0] == name);
        &row.unwrap_or_else(|| panic!("the page knows no type {name}"))[1]
    }

    /// The fields of a period of the calendar, which follow a length of 0.
    fn calendar(&self) -> &str {
        self.kind("period").split_once("if it is 0: ").unwrap().1
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

    /// An element of a list: of one type, or of several fields.
    fn element(&mut self, of: &str) -> Value {
        if of.contains(' ') { self.object(of) } else { self.value(of, &Map::new()) }
    }

    fn value(&mut self, kind: &str, before: &Map<String, Value>) -> Value {
        if let Some(of) = within(kind, "list(") {
            return (0..self.n()).map(|_| self.element(of)).collect();
        }
        if let Some(of) = within(kind, "maybe(") {
            return match self.byte() {
                0 => Value::Null,
                one => {
                    assert_eq!(one, 1);
                    self.element(of)
                }
            };
        }
        match kind {
            "byte" => self.byte().into(),
            "n" | "source" => self.n().into(),
            "z" => {
                let number = self.n();
                let half = (number / 2) as i64;
                if number.is_multiple_of(2) { half.into() } else { (-1 - half).into() }
            }
            "uuid" => (0..16).map(|_| self.byte()).collect(),
            "period" => match self.n() {
                0 => self.object(self.page.calendar()),
                millis => millis.into(),
            },
            "instant" => (self.base + self.n()).into(),
            "time" => self.n().checked_sub(1).into(),
            "text" => {
                let length = self.n() as usize;
                let (text, rest) = self.rest.split_at(length);
                self.rest = rest;
                std::str::from_utf8(text).unwrap().into()
            }
            "states" => {
                let windows = windows(before);
                windows.iter().map(|window| self.object(self.page.state(algorithm(window)).1)).collect()
            }
            "state" => self.object(self.page.state(algorithm(&before["window"])).1),
            "record" => {
                let (name, fields) = self.record();
                Value::from_iter([Value::from(name), fields])
            }
            made => self.object(self.page.kind(made)),
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

/// What a type of this prefix is of.
fn within<'t>(kind: &'t str, prefix: &str) -> Option<&'t str> {
    kind.strip_prefix(prefix)?.strip_suffix(')')
}

fn algorithm(window: &Value) -> u64 {
    window["algorithm"].as_u64().unwrap()
}

/// The windows by which the states of an entry were counted.
fn windows(entry: &Map<String, Value>) -> &[Value] {
    let limit = if entry["overlay"].is_null() { &entry["limit"] } else { &entry["overlay"]["limit"] };
    limit["windows"].as_array().unwrap()
}

/// Encodes the fields of `values` by the text of a table.
fn encode(page: &Page, out: &mut Vec<u8>, text: &str, values: &Value, base: u64) {
    for (name, kind) in fields(text) {
        match kind {
            "states" => {
                let states = values[name].as_array().unwrap();
                for (window, state) in windows(values.as_object().unwrap()).iter().zip(states) {
                    encode(page, out, page.state(algorithm(window)).1, state, base);
                }
            }
            "state" => encode(page, out, page.state(algorithm(&values["window"])).1, &values[name], base),
            _ => encode_value(page, out, kind, &values[name], base),
        }
    }
}

fn encode_record(page: &Page, out: &mut Vec<u8>, name: &str, fields: &Value, base: u64) {
    let tag = page.tag(name);
    out.push(tag);
    encode(page, out, page.record(tag).1, fields, base);
}

fn encode_value(page: &Page, out: &mut Vec<u8>, kind: &str, value: &Value, base: u64) {
    let element = |out: &mut Vec<u8>, of: &str, value: &Value| match of.contains(' ') {
        true => encode(page, out, of, value, base),
        false => encode_value(page, out, of, value, base),
    };
    if let Some(of) = within(kind, "list(") {
        let elements = value.as_array().unwrap_or_else(|| panic!("{kind}: {value}"));
        n(out, elements.len() as u64);
        return elements.iter().for_each(|value| element(out, of, value));
    }
    if let Some(of) = within(kind, "maybe(") {
        out.push(u8::from(!value.is_null()));
        if !value.is_null() {
            element(out, of, value);
        }
        return;
    }
    let number = || value.as_u64().unwrap_or_else(|| panic!("{kind}: {value}"));
    match kind {
        "byte" => out.push(u8::try_from(number()).unwrap()),
        "n" | "source" => n(out, number()),
        "z" => {
            let number = value.as_i64().unwrap();
            n(out, if number < 0 { (-1 - number) as u64 * 2 + 1 } else { number as u64 * 2 });
        }
        "instant" => n(out, number() - base),
        "time" => n(out, value.as_u64().map_or(0, |time| time + 1)),
        "text" => {
            let text = value.as_str().unwrap();
            n(out, text.len() as u64);
            out.extend_from_slice(text.as_bytes());
        }
        "uuid" => out.extend(value.as_array().unwrap().iter().map(|byte| byte.as_u64().unwrap() as u8)),
        "period" if value.is_object() => {
            n(out, 0);
            encode(page, out, page.calendar(), value, base);
        }
        "period" => n(out, number()),
        "record" => encode_record(page, out, value[0].as_str().unwrap(), &value[1], base),
        made => encode(page, out, page.kind(made), value, base),
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
    assert_eq!((layout.get(&header, "version"), layout.get(&header, "reserved")), (2, 0));
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
    let base = if magic == b"FLINTAOF" { 1_700_000_000_000_000 } else { 0 };
    let (layout, frame) = (page.header(), page.frame());
    let mut bytes = vec![0; layout.size()];
    bytes[..8].copy_from_slice(magic);
    for (name, value) in [("version", 2), ("flags", flags), ("number", number), ("salt", SALT), ("first", first)] {
        layout.put(&mut bytes, name, value);
    }
    let crc = crc32(&[&bytes[..60]]);
    layout.put(&mut bytes, "crc", crc);
    let mut next = if magic == b"FLINTAOF" { first } else { 0 };
    for records in frames {
        let mut payload = Vec::new();
        for (name, value) in records {
            encode_record(page, &mut payload, name, value, base);
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
