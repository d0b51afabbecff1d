//! Decoders under mutated inputs, on the stable toolchain.
//!
//! Each target is a plain function of bytes that panics where something does not hold, so that any fuzzer can drive it. A
//! new target is such a function, its valid inputs, and a row of [`TARGETS`].
//!
//! A short run is a test like any other. The long run is `scripts/soak fuzz`, or by hand
//! `FLINT_FUZZ_SECONDS=600 cargo test --test fuzz -- --ignored --nocapture`; with `FLINT_FUZZ_SEED` it takes the same steps
//! again, with `FLINT_FUZZ_TARGET` only one target. What a target does not survive is printed in hexadecimal digits, and
//! `FLINT_FUZZ_INPUT` gives such digits to the target again.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flint::clock::Reading;
use flint::limit::{CeilingParts, Parts, StateParts};
use flint::server::fuzz::{self, Class, Head};
use flint::store::decode::Decoder;
use flint::store::encode;
use flint::store::frame::{self, FILE_HEADER, FRAME_HEADER, FileHeader, FileKind, FrameHeader};
use flint::store::record::{
    self, Answer, Back, Born, Entry, Event, HeldItem, HoldEntry, Intent, Move, Overlay, PatternTotals, Record, Source,
    Spend,
};
use flint::{Algorithm, Item, Kind, Limit, Setting, Window};
use serde_json::Value;
use tiny_http::{HTTPVersion, Header};

struct Target {
    name: &'static str,
    run: fn(&[u8]),
    /// Valid inputs, from which all others are made.
    inputs: fn() -> Vec<Vec<u8>>,
}

const TARGETS: [Target; 4] = [
    Target { name: "frame", run: fuzz_frame, inputs: frame_inputs },
    Target { name: "record", run: fuzz_record, inputs: record_inputs },
    Target { name: "head", run: fuzz_head, inputs: head_inputs },
    Target { name: "body", run: fuzz_body, inputs: body_inputs },
];

/// A salt, and then what may be a file's header, a frame, or what follows a damaged place.
fn fuzz_frame(data: &[u8]) {
    let Some((salt, bytes)) = data.split_first_chunk() else { return };
    let salt = u64::from_le_bytes(*salt);
    for kind in [FileKind::Segment, FileKind::Snapshot] {
        file_header(bytes, kind);
        frame_at_begin(bytes, salt, kind);
        for (offset, header, payload) in frame::scan(bytes, salt, kind) {
            assert_eq!(frame::open(&bytes[offset..], salt, kind), Some((header, payload)));
        }
        // The same with checksums that are right: what is checked after them is reached, too.
        if let Some(header) = bytes.first_chunk::<FILE_HEADER>() {
            let mut header = *header;
            let crc = crc32fast::hash(&header[..60]);
            header[60..].copy_from_slice(&crc.to_le_bytes());
            file_header(&header, kind);
        }
        if bytes.len() >= FRAME_HEADER {
            let mut sealed = bytes.to_vec();
            sealed[..4].copy_from_slice(b"FLfr");
            sealed[8..12].copy_from_slice(&((bytes.len() - FRAME_HEADER) as u32).to_le_bytes());
            let crc = crc32fast::hash(&[&salt.to_le_bytes(), &sealed[8..]].concat());
            sealed[4..8].copy_from_slice(&crc.to_le_bytes());
            let fits = bytes.len() - FRAME_HEADER <= kind.max_payload();
            assert_eq!(frame_at_begin(&sealed, salt, kind), fits);
        }
    }
    let durable = frame::scan(bytes, salt, FileKind::Segment).map(|(_, header, _)| header.durable).max();
    assert_eq!(frame::highest_durable(bytes, salt), durable);
    if let Some((end, mark)) = frame::lone_mark(bytes, salt) {
        assert_eq!((mark.records, frame::without_zeros(&bytes[end..])), (0, 0));
    }
    let length = frame::without_zeros(bytes);
    assert!(bytes[length..].iter().all(|byte| *byte == 0) && bytes[..length].last() != Some(&0));
}

/// A header that is read is written as it was read, except for what is reserved.
fn file_header(bytes: &[u8], kind: FileKind) {
    if let Ok(header) = FileHeader::decode(bytes, kind) {
        assert_eq!(FileHeader::decode(&header.encode(), kind), Ok(header));
    }
}

/// A frame that is read is written byte for byte as it was read. Returns whether there is one.
fn frame_at_begin(bytes: &[u8], salt: u64, kind: FileKind) -> bool {
    let Some((header, payload)) = frame::open(bytes, salt, kind) else { return false };
    let mut sealed = [&[0; FRAME_HEADER], payload].concat();
    frame::seal(&mut sealed, &header, salt);
    assert_eq!(sealed, bytes[..sealed.len()]);
    true
}

/// The base of the instants, and then the payload of a frame. A record that is read can be written, in no more bytes, and
/// is then the same.
fn fuzz_record(data: &[u8]) {
    let Some((base, payload)) = data.split_first_chunk() else { return };
    let base = u64::from_le_bytes(*base);
    let mut decoder = Decoder::new(payload, base);
    while !decoder.is_empty() {
        let before = decoder.remaining();
        let Ok(record) = decoder.read() else { return };
        let bytes = encoded(&record, base);
        assert!(bytes.len() <= before - decoder.remaining(), "{record:?}");
        let mut again = Decoder::new(&bytes, base);
        assert_eq!(again.read(), Ok(record));
        assert!(again.is_empty());
    }
}

fn encoded(record: &Record<'_>, base: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    match record {
        Record::Event(event) => encode::encode_event(&mut bytes, event, base),
        Record::Entry(entry) => encode::encode_entry(&mut bytes, entry),
        Record::PatternTotals(totals) => encode::encode_pattern_totals(&mut bytes, totals),
        Record::End { limits, now } => encode::encode_end(&mut bytes, *limits, *now),
        Record::Hold(hold) => encode::encode_hold(&mut bytes, hold),
        Record::Answer(answer) => encode::encode_answer(&mut bytes, answer),
    }
    bytes
}

/// The head of a request, as tiny_http hands it out (`read` in its client.rs).
struct Request {
    method: String,
    url: String,
    version: HTTPVersion,
    headers: Vec<Header>,
}

impl Request {
    fn read(bytes: &[u8]) -> Option<Request> {
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii())?;
        let mut lines = text.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, url, version) = (words.next()?.to_owned(), words.next()?.to_owned(), words.next()?);
        let version = match version {
            "HTTP/0.9" => HTTPVersion(0, 9),
            "HTTP/1.0" => HTTPVersion(1, 0),
            "HTTP/1.1" => HTTPVersion(1, 1),
            _ => return None,
        };
        let headers = lines.take_while(|line| !line.is_empty()).map(|line| line.parse::<Header>().ok());
        Some(Request { method, url, version, headers: headers.collect::<Option<_>>()? })
    }

    /// The values of this header.
    fn all(&self, name: &'static str) -> Vec<&str> {
        self.headers.iter().filter(|header| header.field.equiv(name)).map(|header| header.value.as_str()).collect()
    }
}

/// The head of a request. What could be read in two ways, by Flint and by a proxy before it, is refused, as is
/// what HTTP/1.1 demands or HTTP/1.0 does not know, and nothing else.
fn fuzz_head(data: &[u8]) {
    let Some(request) = Request::read(data) else { return };
    let Request { method, url, version, headers } = &request;
    let head = Head::scan(fuzz::find, method, url, version, headers);
    let [hosts, tokens, lengths, codings] =
        ["Host", "Authorization", "Content-Length", "Transfer-Encoding"].map(|name| request.all(name));
    let connection: Vec<String> = request.all("Connection").iter().map(|value| value.to_ascii_lowercase()).collect();
    let upgrade = connection.iter().any(|value| value.contains("upgrade"));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u64>().is_ok();
    let is_plain = |text: &str, blanks: &[char]| text.chars().all(|char| !char.is_control() || blanks.contains(&char));
    let lines_are_plain = headers.iter().all(|header| {
        let name = header.field.as_str().as_str();
        !name.is_empty() && is_plain(name, &['\t']) && is_plain(header.value.as_str(), &['\t'])
    });
    let recent = *version >= HTTPVersion(1, 1);
    let number = |values: &[&str]| values.first().and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
    let clear = [&hosts, &tokens, &lengths, &codings].iter().all(|values| values.len() <= 1)
        && lengths.iter().all(|length| is_number(length))
        && codings.iter().all(|coding| coding.eq_ignore_ascii_case("chunked"))
        && (codings.is_empty() || (lengths.is_empty() && !upgrade && recent))
        && (!recent || hosts.len() == 1)
        && (recent || request.all("Expect").is_empty() || number(&lengths) == 0)
        && lines_are_plain
        && is_plain(url, &[]);
    assert_eq!(head.fault.is_none(), clear, "{:?}", head.fault);
    let length = number(&lengths);
    if clear {
        assert_eq!((head.chunked, head.length.unwrap_or(0)), (!codings.is_empty(), length));
        let asks = upgrade || !request.all("Expect").is_empty();
        // tiny_http reads the others by itself.
        assert_eq!(head.unread, head.chunked || length > 1024 || (length > 0 && asks));
        assert_eq!(head.authorization(headers), tokens.first().copied());
    } else {
        assert!(head.unread);
    }
    let said = |word: &str| connection.iter().any(|value| value.contains(word));
    assert_eq!(head.close, said("close") || upgrade || (*version < HTTPVersion(1, 1) && !said("keep-alive")));
    assert_eq!((head.head_only, head.chunks_known), (method == "HEAD", *version >= HTTPVersion(1, 1)));
    let of_page = |site: &&str| ["cross-site", "same-site"].iter().any(|other| site.eq_ignore_ascii_case(other));
    assert_eq!(head.origin, !request.all("Origin").is_empty() || request.all("Sec-Fetch-Site").iter().any(of_page));
    assert_eq!(head.tell_kept, !recent && !head.close);
    // tiny_http looks at the first of these headers (`next` in its client.rs).
    let ends = connection.first().map_or(!recent, |value| {
        value.contains("close") || value.contains("upgrade") || (!recent && !value.contains("keep-alive"))
    });
    assert_eq!(head.must_end, head.close && !ends);
    assert_eq!(head.class == Class::Bloated, headers.len() > flint::bounds::MAX_HEADERS);
    let bytes: usize = headers.iter().map(|header| header.field.as_str().len() + header.value.len()).sum();
    assert!(head.weight >= bytes + url.len());
    // If it is called by a name, that is before its path.
    let target = head.target(url);
    match url.strip_prefix("http://") {
        Some(rest) => {
            let host = head.host(url, headers).unwrap();
            assert!(
                !host.contains(['/', '?']) && rest.strip_prefix(host).is_some_and(|rest| [rest, "/"].contains(&target))
            );
        }
        None => {
            assert_eq!(head.host(url, headers), hosts.first().copied());
            assert_eq!(target, if url.is_empty() { "/" } else { url });
        }
    }
}

/// Which endpoint's, and then the body. What is taken is what another reader of JSON finds, and nothing else.
fn fuzz_body(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    let value = serde_json::from_slice::<Value>(bytes);
    let field = |name: &str| value.as_ref().ok().map_or(&Value::Null, |value| &value[name]);
    let empty = bytes.iter().all(u8::is_ascii_whitespace);
    let done = match which % 6 {
        0 => fuzz::parse::<fuzz::Check<'_>>(bytes).and_then(|check| {
            check.item().map(|found| {
                let value = value.as_ref().unwrap_or(&Value::Null);
                assert_item(&found, value);
                &["key", "cost", "limit"][..]
            })
        }),
        1 => fuzz::parse::<fuzz::Reset<'_>>(bytes).and_then(|body| {
            body.what().map(|what| {
                let (name, text) = match what {
                    fuzz::ToReset::Key(key) => ("key", key),
                    fuzz::ToReset::Prefix(prefix) => ("prefix", prefix),
                };
                assert_eq!(*field(name), text);
                match name {
                    "key" => &["key"][..],
                    _ => &["prefix"][..],
                }
            })
        }),
        2 => fuzz::parse::<fuzz::Items<'_>>(bytes).and_then(|items| {
            items.items().map(|items| {
                let expected = field("items").as_array().unwrap();
                assert_eq!(items.len(), expected.len());
                items.iter().zip(expected).for_each(|(item, value)| assert_item(item, value));
                &["items"][..]
            })
        }),
        3 => match fuzz::parse_settings(bytes).map(|mut settings| assert_settings(&settings.take(), &value)) {
            Ok(()) => return,
            Err(error) => Err(error),
        },
        4 => match fuzz::parse_listed(bytes).map(|mut settings| settings.take().len()) {
            // Keys that are not configured are left out.
            Ok(taken) => return assert!(taken <= value.unwrap().as_array().unwrap().len()),
            Err(error) => Err(error),
        },
        _ => fuzz::parse_empty(bytes).map(|()| &[][..]),
    };
    match done {
        Ok(_) if empty => {}
        Ok(known) => {
            let object = value.as_ref().unwrap().as_object().unwrap();
            assert!(object.keys().all(|name| known.contains(&name.as_str())), "{object:?}");
        }
        Err(error) if error.kind() == Kind::InvalidJson => assert!(value.is_err() && !empty, "{error}"),
        Err(error) => {
            assert_eq!(error.kind(), Kind::InvalidArgument);
            let message = error.message();
            assert!(!message.is_empty() && message.len() < 600 && !message.contains(char::is_control), "{message:?}");
        }
    }
}

/// What is asked for is what is in the item, in one of its three forms.
fn assert_item(item: &Item<'_>, value: &Value) {
    let cost = |value: &Value| if value.is_null() { 1 } else { value.as_u64().unwrap() };
    let (key, cost, limit) = match value {
        Value::String(key) => (key.as_str(), 1, &Value::Null),
        Value::Array(both) => (both[0].as_str().unwrap(), cost(&both[1]), &Value::Null),
        item => (item["key"].as_str().unwrap(), cost(&item["cost"]), &item["limit"]),
    };
    assert_eq!((item.key, item.cost, item.limit.is_none()), (key, cost, limit.is_null()));
    if let Some(found) = item.limit {
        assert_limit(found, limit);
    }
}

/// What is configured is what is there: one limit or an array of them.
fn assert_settings(settings: &[Setting<'_>], value: &Result<Value, serde_json::Error>) {
    let value = value.as_ref().unwrap();
    let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    assert_eq!(settings.len(), values.len());
    const KNOWN: [&str; 13] = [
        "key",
        "rate",
        "per",
        "algorithm",
        "burst",
        "tz",
        "anchor",
        "windows",
        "limit",
        "unlimited",
        "mode",
        "for",
        "max_keys",
    ];
    for (setting, value) in settings.iter().zip(values) {
        let object = value.as_object().unwrap();
        assert!(object.keys().all(|name| KNOWN.contains(&name.as_str())), "{object:?}");
        assert_eq!((&Value::from(setting.key), setting.max_keys), (&value["key"], value["max_keys"].as_u64()));
        assert_eq!(setting.lasts.is_some(), !value["for"].is_null());
        match &value["limit"] {
            Value::Null => assert_limit(&setting.limit, value),
            limit => assert_windows(&setting.limit, limit),
        }
    }
}

/// The windows of a limit and its mode are those of the value.
fn assert_limit(limit: &Limit, value: &Value) {
    assert_windows(limit, value);
    if let Some(mode) = value["mode"].as_str() {
        assert_eq!(limit.mode().name(), mode);
    }
}

fn assert_windows(limit: &Limit, value: &Value) {
    let windows = match value {
        Value::String(text) => return assert_eq!(text.parse::<Limit>().unwrap().windows(), limit.windows()),
        Value::Array(windows) => windows,
        object if object["unlimited"] == true => return assert!(limit.is_unlimited()),
        object => match &object["windows"] {
            Value::Array(windows) => windows,
            _ => return assert_eq!(object["rate"].as_u64(), limit.windows().first().map(Window::rate)),
        },
    };
    let rate = |window: &Value| match window {
        Value::String(text) => text.parse::<Window>().unwrap().rate(),
        object => object["rate"].as_u64().unwrap(),
    };
    let (mut expected, mut found): (Vec<u64>, Vec<u64>) =
        (windows.iter().map(rate).collect(), limit.windows().iter().map(Window::rate).collect());
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
}

fn head_inputs() -> Vec<Vec<u8>> {
    let heads = [
        "GET /v1/health HTTP/1.1\r\nHost: 127.0.0.1:7878\r\nAuthorization: Bearer secret\r\n\r\n",
        "POST /v1/check HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n",
        "POST /v1/check?status=429 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        "POST http://[::1]:1/v1/take/k?cost=1 HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 1025\r\n\r\n",
        "HEAD http://evil.example?/ HTTP/1.1\r\nHost: a\r\nSec-Fetch-Site: cross-site\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        "DELETE /v1/limits/%6b HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ];
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a:b\r\n".repeat(flint::bounds::MAX_HEADERS));
    heads.into_iter().map(str::to_owned).chain([many]).map(String::into_bytes).collect()
}

fn body_inputs() -> Vec<Vec<u8>> {
    let bodies = [
        (0, r#"{"key":"route:/v1/\u043a\"\\","cost":1000000000000}"#),
        (0, r#"{"key":"k","limit":"10/1s, 5000/day tz=Europe/Berlin"}"#),
        (0, r#"{"key":"k","limit":["1/1s",{"rate":5,"per":"month","anchor":31}],"cost":2}"#),
        (0, r#"{"key":"k","limit":{"rate":9,"per":"1m","algorithm":"sliding_window_counter","mode":"shadow"}}"#),
        (1, r#"{"key":"k"}"#),
        (1, r#"{"prefix":"user:"}"#),
        (2, r#"{"items":["a",["b",2],{"key":"c","cost":3},{"key":"d","limit":"3/1h"}]}"#),
        (3, r#"{"key":"k","rate":100,"per":"10s","algorithm":"sliding_window_log"}"#),
        (3, r#"{"key":"k","rate":1,"per":3600,"burst":7}"#),
        (3, r#"{"key":"u:*","windows":["9/1s",{"rate":9,"per":"1s","algorithm":"sliding_window_log"}],"max_keys":5}"#),
        (3, r#"[{"key":"a","unlimited":true,"for":"1h"},{"key":"b","limit":"1/day shadow"}]"#),
        (4, " {} "),
    ];
    bodies.into_iter().map(|(which, body)| [&[which], body.as_bytes()].concat()).collect()
}

const BASE: u64 = 1_800_000_000_000_000;

/// Records of each kind and algorithm.
fn records() -> Vec<Record<'static>> {
    let values = |text: &str| -> Arc<Limit> { Arc::new(text.parse().unwrap()) };
    let (id, at, key) = (300, BASE + 200, "route:/v1/ключ");
    let (several, unlimited) =
        (values("10/1s burst=20, 5000/month tz=Europe/Berlin anchor=31 shadow"), values("unlimited"));
    let limits = Algorithm::ALL.iter().map(|algorithm| Limit::of_millis(100, 60_000, *algorithm, None).unwrap());
    let mut records: Vec<_> = limits
        .flat_map(|limit| {
            let state = match limit.windows()[0].algorithm() {
                Algorithm::TokenBucket => {
                    StateParts::Bucket { whole: -7, part: 59_999, at, full_at: at, fast: Some((9, 1000)) }
                }
                Algorithm::SlidingWindowLog => StateParts::Events(vec![(at - 1, 3), (at, 200)]),
                Algorithm::FixedWindowCounter => StateParts::Window { start: at, end: at + 5, used: 100 },
                Algorithm::SlidingWindowCounter => StateParts::Pair { start: at, previous: 1, current: 2 },
                other => panic!("{other} has no records here"),
            };
            let resting = vec![(limit.windows()[0], state.clone())];
            let entry = Entry {
                id,
                shard: 0,
                source: Source::Pattern(7),
                limit: Arc::new(limit.clone()),
                max_keys: None,
                overlay: None,
                parts: Parts { windows: vec![state], ..Parts::default() },
                configured: Some(at),
                totals: [1, 200, 30_000, u64::MAX],
                times: [Some(at), None, Some(0)],
                barrier: Some(at),
                key,
            };
            let ceiling = Some(CeilingParts { most: 20, edge: 9, speed: (20, 1000), whole: 3, part: 999, at });
            let overlay = Some(Overlay { limit: values("unlimited"), until: at + 9 });
            let under = Entry { overlay, parts: Parts { resting, ceiling, ..Parts::default() }, ..entry.clone() };
            let max_keys = Some(1_000_000);
            [
                Record::Event(Event::Created { id, shard: 255, at, limit: Arc::new(limit), max_keys, key }),
                Record::Entry(Box::new(entry)),
                Record::Entry(Box::new(under)),
            ]
        })
        .collect();
    let limit = || Arc::clone(&several);
    let born = || Some(Born { shard: 3, source: Source::Request, limit: limit(), key });
    let moves = vec![Move { at, source: Source::Pattern(1), lifts: true, limit: Arc::clone(&unlimited) }];
    let ends = || vec![at + 1, at + 1_000_000_000];
    let events = [
        Event::Reconfigured { id, at, limit: limit(), max_keys: None, ends: ends() },
        Event::Overlaid { id, at, limit: Arc::clone(&unlimited), until: at + 1, born: born(), ends: Vec::new() },
        Event::Removed { id, at },
        Event::Became { id, at, source: Source::Exact, limit: limit(), ends: ends() },
        Event::Spent { id: record::MAX_ID, cost: 1, at },
        Event::SpentAll { at, items: vec![(1, 1), (id, 1_000_000)] },
        Event::SpentMore {
            at,
            items: vec![
                Spend { id, cost: 1, born: born(), moves: Vec::new(), ends: ends() },
                Spend { id, cost: 2, born: None, moves, ends: Vec::new() },
            ],
        },
        Event::Denied { id, total: 5, cost: 500, last: Some(at) },
        Event::Reset { id, at },
        Event::Marker { snapshot: 2, shard: 17 },
        Event::Intended {
            group: id,
            last: true,
            at,
            items: vec![
                Intent { limit: Some(limit()), max_keys: Some(7), until: None, key },
                Intent { limit: None, max_keys: None, until: Some(at + 1), key },
            ],
        },
        Event::Done { group: id },
        Event::Clock(Reading { at, wall: at - 7, boot: [9; 16], boot_clock: 1_000_000 }),
    ];
    records.extend(events.map(Record::Event));
    let spend = |born, moves| Spend { id, cost: 3, born, moves, ends: ends() };
    let held = Event::Held {
        hold: 9,
        at,
        until: at + 60_000_000,
        items: vec![
            HeldItem { spend: spend(born(), Vec::new()), slots: false, key },
            HeldItem { spend: spend(None, Vec::new()), slots: true, key: "b" },
        ],
    };
    let back = vec![Back { id, units: 2, held_at: at - 1 }];
    let answer = Answer { key: [7; 16], request: [8; 16], at, answer: r#"{"allowed":true}"# };
    let of_holds = [
        held.clone(),
        Event::Settled { hold: 9, at, costs: vec![1, 0], back, more: vec![spend(born(), Vec::new())] },
        Event::Renewed { hold: record::MAX_COUNTER, until: at + 1 },
        Event::Refunded { id, at, units: 5 },
        Event::Kept { answer, event: Box::new(held) },
        Event::Kept { answer, event: Box::new(Event::Spent { id, cost: 1, at }) },
        Event::TablesMarker { snapshot: 2 },
    ];
    records.extend(of_holds.map(Record::Event));
    let hold = |ended: Option<u64>, costs| {
        let items = vec![(id, 3, false, key), (1, 1, true, "b")];
        Record::Hold(HoldEntry { hold: 9, at, until: at + 1, ttl: 1, ended, costs, items })
    };
    records.extend([hold(None, Vec::new()), hold(Some(at), vec![1, 2]), Record::Answer(answer)]);
    records.push(Record::PatternTotals(PatternTotals { id, totals: [1, 2, 3, 4] }));
    records.push(Record::End { limits: 12, now: at });
    records
}

fn record_inputs() -> Vec<Vec<u8>> {
    let records: Vec<Vec<u8>> = records().iter().map(|record| encoded(record, BASE)).collect();
    let all = records.concat();
    records.into_iter().chain([all]).map(|payload| [&BASE.to_le_bytes()[..], &payload].concat()).collect()
}

fn frame_inputs() -> Vec<Vec<u8>> {
    const SALT: u64 = 99;
    let sealed = |payload: &[u8], records, clean| {
        let mut bytes = [&[0; FRAME_HEADER], payload].concat();
        frame::seal(&mut bytes, &FrameHeader { records, clean, first: 7, durable: 6, base: BASE }, SALT);
        bytes
    };
    let header = |kind, complete| {
        FileHeader { kind, complete, number: 3, directory: [5; 16], salt: SALT, first: 1_000_000 }.encode().to_vec()
    };
    let (batch, mark) = (sealed(b"some records", 3, false), sealed(b"", 0, true));
    let inputs = [
        header(FileKind::Segment, false),
        header(FileKind::Snapshot, true),
        [&batch[..], &mark, &[0; 100]].concat(),
        [&[0; 50][..], &mark, &[0; 50]].concat(),
        [b"FLfr damaged FLfr", &batch[..], &batch, &[0; 9]].concat(),
        batch,
    ];
    inputs.map(|bytes| [&SALT.to_le_bytes()[..], &bytes].concat()).into()
}

/// Numbers that look random and are the same for the same seed (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// A part of this length.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let begin = self.below(length + 1);
        begin..begin + self.below((length - begin).min(24) + 1)
    }
}

/// Changes one input, with a part of another one where it takes one.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], chance: &mut Chance) {
    const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0x81, 0xfe, 0xff, b'F'];
    match chance.below(8) {
        0 | 1 if !bytes.is_empty() => {
            let bit = chance.below(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        2 if !bytes.is_empty() => {
            let at = chance.below(bytes.len());
            bytes[at] = EDGES[chance.below(EDGES.len())];
        }
        3 => bytes.truncate(chance.below(bytes.len() + 1)),
        4 => drop(bytes.drain(chance.range(bytes.len()))),
        // Up to ten bytes of an integer.
        5 => {
            let number = (1_u64 << chance.below(64)).wrapping_sub(chance.below(3) as u64);
            let mut rest = number;
            let mut digits = Vec::new();
            while rest >= 0x80 {
                digits.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            digits.push(rest as u8);
            drop(bytes.splice(chance.range(bytes.len()), digits));
        }
        // A part of the other, in place of a part of this.
        6 => drop(bytes.splice(chance.range(bytes.len()), other[chance.range(other.len())].iter().copied())),
        // The begin of this and the end of the other.
        _ => {
            bytes.truncate(chance.below(bytes.len() + 1));
            bytes.extend_from_slice(&other[chance.below(other.len() + 1)..]);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Gives the target an input, and prints what it does not survive.
fn survive(target: &Target, input: &[u8], which: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
        eprintln!("{} does not survive {which}: {}", target.name, hex(input));
        resume_unwind(panic);
    }
}

/// Runs the target as long as `goes_on` says after this many inputs. Returns how many there were.
fn drive(target: &Target, seed: u64, mut goes_on: impl FnMut(u64) -> bool) -> u64 {
    let valid = (target.inputs)();
    valid.iter().for_each(|input| survive(target, input, "a valid input"));
    let mut chance = Chance(seed);
    let mut count = 0;
    while goes_on(count) {
        let mut input = valid[chance.below(valid.len())].clone();
        for _ in 0..=chance.below(6) {
            mutate(&mut input, &valid[chance.below(valid.len())], &mut chance);
        }
        survive(target, &input, &format!("input {count} of seed {seed}"));
        count += 1;
    }
    count
}

#[test]
fn inputs_are_survived_for_a_moment() {
    for target in &TARGETS {
        drive(target, 1, |count| count < 30_000);
    }
}

/// Valid inputs do what they are for: they are read to their end, and mutations reach records and frames, not only errors.
#[test]
fn mutations_leave_some_inputs_valid() {
    let records = record_inputs();
    for input in &records {
        let mut decoder = Decoder::new(&input[8..], BASE);
        while !decoder.is_empty() {
            decoder.read().unwrap();
        }
    }
    let mut chance = Chance(2);
    let mut read = 0;
    for _ in 0..1000 {
        let mut input = records[chance.below(records.len())].clone();
        mutate(&mut input, &records[chance.below(records.len())], &mut chance);
        read += u32::from(input.len() > 8 && Decoder::new(&input[8..], BASE).read().is_ok());
    }
    assert!((100..1000).contains(&read), "{read} of 1000");
    let heads = head_inputs();
    assert!(heads.iter().all(|head| Request::read(head).is_some()));
    let (mut read, mut clear) = (0, 0);
    for _ in 0..1000 {
        let mut input = heads[chance.below(heads.len())].clone();
        mutate(&mut input, &heads[chance.below(heads.len())], &mut chance);
        if let Some(Request { method, url, version, headers }) = Request::read(&input) {
            read += 1;
            clear += usize::from(Head::scan(fuzz::find, &method, &url, &version, &headers).fault.is_none());
        }
    }
    assert!((100..1000).contains(&read) && (50..read).contains(&clear), "{clear} of {read} of 1000");
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(name: &str) -> Option<u64> {
    variable(name).map(|value| value.parse().unwrap_or_else(|error| panic!("{name}={value}: {error}")))
}

#[test]
#[ignore = "runs for FLINT_FUZZ_SECONDS, 600 by default"]
fn inputs_are_survived_for_long() {
    let wanted = variable("FLINT_FUZZ_TARGET");
    let targets: Vec<&Target> =
        TARGETS.iter().filter(|target| wanted.as_ref().is_none_or(|wanted| wanted == target.name)).collect();
    assert!(!targets.is_empty(), "FLINT_FUZZ_TARGET names none of {:?}", TARGETS.map(|target| target.name));
    if let Some(digits) = variable("FLINT_FUZZ_INPUT") {
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        let input: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
        return targets.iter().for_each(|target| survive(target, &input, "FLINT_FUZZ_INPUT"));
    }
    let seconds = number("FLINT_FUZZ_SECONDS").unwrap_or(600);
    let seed = number("FLINT_FUZZ_SEED")
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64);
    for target in &targets {
        let end = Instant::now() + Duration::from_secs(seconds) / targets.len() as u32;
        let count = drive(target, seed, |count| !count.is_multiple_of(256) || Instant::now() < end);
        println!("{}: {count} inputs of seed {seed} survived", target.name);
    }
}
