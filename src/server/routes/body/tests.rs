//! Tests of bodies.

use std::time::Duration;

use super::*;
use crate::error::{Kind, Result};
use crate::limit::Limit;
use crate::limiter::Setting;

fn limit(text: &str) -> Limit {
    text.parse().unwrap()
}

/// The limit that a check brings.
fn brought(json: &str) -> Result<Option<Limit>> {
    let body = format!(r#"{{"key":"k","limit":{json}}}"#);
    parse::<Check<'_>>(body.as_bytes())?.item().map(|item| item.limit.cloned())
}

/// A key and what it is to have: its values, for how long, and of a pattern how many keys may live.
type Set = (String, Limit, Option<Duration>, Option<u64>);

/// The one limit, or several, that a body configures.
fn settings(body: &str) -> Result<Vec<Set>> {
    let mut body = parse_settings(body.as_bytes())?;
    let owned = |setting: Setting<'_>| (setting.key.to_owned(), setting.limit, setting.lasts, setting.max_keys);
    Ok(body.take().into_iter().map(owned).collect())
}

#[test]
fn checks() {
    let check: Check<'_> = parse(br#"{"key":"a\u0062","cost":5}"#).unwrap();
    let item = check.item().unwrap();
    assert_eq!((item.key, item.cost, item.limit), ("ab", 5, None));
    let check: Check<'_> = parse(br#"{"key":"a","limit":null}"#).unwrap();
    assert_eq!((check.item().unwrap().cost, check.item().unwrap().limit), (1, None));
}

#[test]
fn items_in_three_forms() {
    let body = br#"{"items":["a",{"key":"b","cost":2,"limit":"10/1s"},["c",3],{"key":"d"}]}"#;
    let items: Items<'_> = parse(body).unwrap();
    let items = items.items().unwrap();
    assert_eq!(
        items.iter().map(|item| (item.key, item.cost)).collect::<Vec<_>>(),
        [("a", 1), ("b", 2), ("c", 3), ("d", 1)]
    );
    let limits: Vec<_> = items.iter().map(|item| item.limit).collect();
    assert_eq!(limits, [None, Some(&limit("10/1s")), None, None]);
}

#[test]
fn a_limit_in_each_of_its_forms() {
    for (json, text) in [
        (r#""100/1m""#, "100/1m"),
        (r#""10/1s, 5000/day shadow""#, "10/1s, 5000/day shadow"),
        (r#"["10/1s","5000/day"]"#, "10/1s, 5000/day"),
        (r#"["5000/day",{"rate":10,"per":1,"algorithm":"sliding_window_log"}]"#, "10/1s sliding_window_log, 5000/day"),
        (r#"{"rate":100,"per":"1m"}"#, "100/1m"),
        (r#"{"rate":100,"per":60,"burst":200,"mode":"shadow"}"#, "100/1m burst=200 shadow"),
        (r#"{"rate":9,"per":"month","tz":"UTC","anchor":31}"#, "9/month anchor=31"),
        (r#"{"windows":["10/1s",{"rate":5000,"per":"day"}],"mode":"enforce"}"#, "10/1s, 5000/day"),
        (r#"{"unlimited":true}"#, "unlimited"),
        (r#"{"slots":4}"#, "slots=4"),
        (r#"{"slots":1000000,"mode":"shadow"}"#, "slots=1000000 shadow"),
        (r#""slots=4""#, "slots=4"),
        (r#"{"unlimited":false,"rate":0,"per":"1s","burst":null}"#, "0/1s"),
    ] {
        assert_eq!(brought(json).unwrap_or_else(|error| panic!("{json}: {error}")), Some(limit(text)), "{json}");
        // The same values, configured.
        let by_limit = format!(r#"{{"key":"k","limit":{json}}}"#);
        assert_eq!(settings(&by_limit).unwrap()[0].1, limit(text), "{json}");
        if let Some(fields) = json.strip_prefix('{') {
            assert_eq!(settings(&format!(r#"{{"key":"k",{fields}"#)).unwrap()[0].1, limit(text), "{json}");
        }
    }
}

#[test]
fn what_is_configured() {
    let one = settings(r#"{"key":"user:*","limit":["1/1s"],"for":"1h","max_keys":5,"mode":"shadow"}"#).unwrap();
    assert_eq!(one, [("user:*".to_owned(), limit("1/1s shadow"), Some(Duration::from_secs(3600)), Some(5))]);
    let more = settings(r#" [{"key":"a","rate":1,"per":"1s","for":2}, {"key":"\u0062","unlimited":true}] "#).unwrap();
    assert_eq!(more[0], ("a".to_owned(), limit("1/1s"), Some(Duration::from_secs(2)), None));
    assert_eq!(more[1], ("b".to_owned(), limit("unlimited"), None, None));
    assert_eq!(settings("[]").unwrap(), []);
}

#[test]
fn what_is_to_be_reset() {
    let what = |body: &'static str| parse::<Reset<'_>>(body.as_bytes());
    assert_eq!(what(r#"{"key":"a"}"#).unwrap().what().unwrap(), ToReset::Key("a"));
    assert_eq!(what(r#"{"prefix":"a:"}"#).unwrap().what().unwrap(), ToReset::Prefix("a:"));
    for (body, words) in [("{}", ["`key`", "`prefix`"]), (r#"{"key":"a","prefix":"a"}"#, ["`key`", "`prefix`"])] {
        let error = what(body).unwrap().what().unwrap_err();
        assert!(words.iter().all(|word| error.message().contains(word)), "{error}");
    }
}

/// Whole messages: these are what people read.
#[test]
fn errors_are_in_the_words_of_users() {
    let window = "a window, \"RATE/PER\" or an object of its values";
    for (json, message) in [
        (
            "7",
            "field `limit` must be \"RATE/PER\", such as \"100/1m\", an array of windows, or an object of values, not 7",
        ),
        (r#""fast""#, "limit must be RATE/PER, such as 100/1m or 5000/day, not `fast`"),
        ("[]", "field `limit`: windows must be 1 to 8, not 0"),
        ("[7]", &format!("field `limit`: item 1 must be {window}, not 7")),
        (r#"["1/1s",["2/1s"]]"#, &format!("field `limit`: item 2 must be {window}, not an array")),
        (
            r#"[{"rate":"5","per":"1s"}]"#,
            "field `limit`: item 1: field `rate` must be an integer from 0 to 1000000000000, not the string `5`",
        ),
        (r#"{"rate":5}"#, "field `limit`: per must be given with rate, such as 1m or day"),
        (
            r#"{"rate":5,"per":"1s","key":"k"}"#,
            "field `limit`: unknown field `key`; known: `rate`, `per`, `algorithm`, `burst`, `tz`, `anchor`, `windows`, \
             `slots`, `mode` and `unlimited`",
        ),
    ] {
        assert_eq!(brought(json).unwrap_err().message(), message, "{json}");
    }
    let twice = "fields `windows` and `rate` don't go together: each of them says what the limit is, so leave one out";
    for (body, message) in [
        (r#"{"key":"k","rate":5,"windows":["1/1s"]}"#, twice),
        (
            r#"{"key":"k","slots":5,"rate":5}"#,
            "fields `slots` and `rate` don't go together: each of them says what the limit is, so leave one out",
        ),
        (r#"{"key":"k","slots":0}"#, "slots must be an integer of 1 to 1000000, not 0"),
        (r#"{"key":"k","slots":1.5}"#, "field `slots` must be an integer from 1 to 1000000, not 1.5"),
        (r#"{"key":"k"}"#, "rate and per must be given, such as 100 and 1m"),
        (r#"{"rate":5,"per":"1s"}"#, "field `key` is missing"),
        ("", "field `key` is missing"),
        ("7", "the body must be an object or an array of objects, not 7"),
        ("[1]", "item 1 must be an object, not 1"),
        (r#"[{"key":"k","unlimited":true},{"rate":1}]"#, "item 2: field `key` is missing"),
        (r#"[{"key":"k","rate":1}]"#, "item 1: key `k`: per must be given with rate, such as 1m or day"),
        (r#"{"key":"k","rate":1,"per":"1s","mode":"off"}"#, "mode must be enforce or shadow, not `off`"),
        (
            r#"{"key":"k","limit":"1/1s shadow","mode":"enforce"}"#,
            "mode must not be enforce if `limit` says shadow; leave one of them out",
        ),
        (
            "{\"key\":\"k\",\n\"rate\":1,\n\"per\":true}",
            "field `per` must be a string such as \"10s\" or an integer of seconds, not true (line 3)",
        ),
        (
            r#"{"key":"k","rate":1,"per":"1s","for":"0s"}"#,
            "for must be a whole number and a unit (ms, s, m, h, d, w) from 1ms to 366d, such as 10s, not `0s`",
        ),
        (
            r#"{"key":"k","rate":1,"per":"1s","max_keys":-1}"#,
            "field `max_keys` must be an integer from 1 to 1000000000, not -1",
        ),
        (r#"{"key":"k","unlimited":1}"#, "field `unlimited` must be true or false, not 1"),
    ] {
        assert_eq!(settings(body).unwrap_err().message(), message, "{body}");
    }
    // No error repeats more of what was sent than a line shows.
    let long = settings(&format!(r#"{{"key":"k","rate":"{}"}}"#, "x".repeat(5000))).unwrap_err();
    assert!(long.message().len() < 200, "{long}");
}

#[test]
fn what_says_twice_what_a_limit_is_names_both() {
    let fields = [
        ("rate", "1"),
        ("per", "\"1s\""),
        ("algorithm", "\"token_bucket\""),
        ("burst", "1"),
        ("tz", "\"UTC\""),
        ("anchor", "1"),
        ("windows", "[\"1/1s\"]"),
        ("limit", "\"1/1s\""),
        ("unlimited", "true"),
    ];
    for (index, (one, value)) in fields.iter().enumerate() {
        for (other, with) in &fields[index.max(5) + 1..] {
            let body = format!(r#"{{"key":"k","{one}":{value},"{other}":{with}}}"#);
            let message = settings(&body).unwrap_err().to_string();
            assert!([one, other].iter().all(|name| message.contains(&format!("`{name}`"))), "{body}: {message}");
        }
    }
}

#[test]
fn too_many_windows_are_counted() {
    let windows = |count: u32| {
        let all: Vec<String> = (1..=count).map(|rate| format!("\"{rate}/1s\"")).collect();
        brought(&format!("[{}]", all.join(",")))
    };
    assert_eq!(windows(8).unwrap().unwrap().windows().len(), 8);
    for count in [9, 10, 1000] {
        let message = windows(count).unwrap_err().to_string();
        assert_eq!(message, format!("field `limit`: windows must be 1 to 8, not {count}"));
    }
}

#[test]
fn what_is_not_json_is_told_in_the_words_of_users() {
    let value = "a value must be a string in double quotes, a number, true, false, null, an object or an array";
    for (body, message) in [
        ("\u{feff}{\"key\":\"k\"}", "it begins with a byte order mark (BOM); send UTF-8 without it".to_owned()),
        ("{\"key\":", "it ends where a value must follow, near `{\"key\":`".to_owned()),
        ("{\"key\":\"k", "it ends within a string, near `{\"key\":\"k`".to_owned()),
        ("{\"key\":\"k\"", "it ends within an object; a `}` is missing, near `{\"key\":\"k\"`".to_owned()),
        ("{\"key\":}", format!("{value}, near `{{\"key\":}}`")),
        ("key=k", format!("{value}, near `key=k`")),
        ("{'key':'k'}", "the name of a field must be in double quotes, near `{'key':'k'}`".to_owned()),
        ("{\"key\":\"k\" \"cost\":1}", "a `,` or `}` is missing, near `{\"key\":\"k\" \"cost\":1}`".to_owned()),
        ("{\"key\":\"k\"} x", "something follows after its end, near `{\"key\":\"k\"} x`".to_owned()),
        ("{\"cost\":\n01}", "a number must be like 10 or 2.5, without a leading 0 or +, near".to_owned()),
        ("{\"key\":\"\\q\"}", "a \\ in a string must have one of \" \\ / b f n r t u after it, near".to_owned()),
        ("{\"key\":\"ä\nb\"}", "line breaks, tabs and other control characters in a string must be".to_owned()),
    ] {
        let error = parse::<Check<'_>>(body.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidJson, "{body}");
        let said = error.message();
        assert!(said.starts_with(&format!("the body is not JSON: {message}")), "{body}: {said}");
        assert!(!said.contains("line 1") && !said.contains("column"), "{said}");
    }
    for (bytes, kind, message) in [
        (&b"\xff\xfe{\0"[..], Kind::InvalidJson, "the body is not JSON: it is UTF-16; send UTF-8"),
        (b"{\"key\":\"\xff\"", Kind::InvalidJson, "the body is not JSON: it must be UTF-8"),
        (b"{\"key\":\"\xff\"}", Kind::InvalidArgument, "field `key` must be UTF-8"),
        (b"{\"\\ud800\":1}", Kind::InvalidArgument, "the body has a \\u that is not a character"),
        (b"{\"cost\":1e400}", Kind::InvalidArgument, "field `cost` must be a smaller number"),
        (b"[]", Kind::InvalidArgument, "the body must be an object, not an array"),
        (b"{\"key\":\n[]}", Kind::InvalidArgument, "field `key` must be a string, not an array (line 2)"),
    ] {
        let error = parse::<Check<'_>>(bytes).unwrap_err();
        assert_eq!((error.kind(), error.message()), (kind, message));
    }
}

#[test]
fn what_is_wrong_is_named() {
    for (body, kind, word) in [
        ("{", Kind::InvalidJson, "JSON"),
        ("{\"key\":}", Kind::InvalidJson, "JSON"),
        ("{\"key\":\"\\ud800\"}", Kind::InvalidArgument, "field `key` has a \\u that is not a character"),
        ("[1]", Kind::InvalidArgument, "the body must be an object, not an array"),
        ("{\"key\":1}", Kind::InvalidArgument, "`key`"),
        ("{\"key\":\"a\",\"key\":\"b\"}", Kind::InvalidArgument, "twice"),
        ("{\"key\":\"a\",\"limit\":\"1/s\",\"limit\":\"1/s\"}", Kind::InvalidArgument, "twice"),
        ("{\"key\":\"a\",\"cots\":1}", Kind::InvalidArgument, "`cots`"),
        ("{\"cost\":1.5}", Kind::InvalidArgument, "`cost`"),
        ("{\"cost\":1.5}", Kind::InvalidArgument, "an integer from 1 to 1000000000000"),
        ("{\"cost\":\"1\"}", Kind::InvalidArgument, "`cost`"),
        ("{\"cost\":-1}", Kind::InvalidArgument, "`cost`"),
        ("{\"cost\":null}", Kind::InvalidArgument, "`cost`"),
        ("{\"cost\":99999999999999999999999}", Kind::InvalidArgument, "`cost`"),
        ("", Kind::InvalidArgument, "`key`"),
    ] {
        let error = parse::<Check<'_>>(body.as_bytes()).and_then(|check| check.item().map(|_| ())).unwrap_err();
        assert_eq!(error.kind(), kind, "{body}: {error}");
        assert!(error.message().contains(word), "{body}: {error}");
    }
    let deep = "[".repeat(1 << 20);
    assert!(parse::<Items<'_>>(format!("{{\"items\":{deep}").as_bytes()).is_err());
}

#[test]
fn holds_are_of_one_key_or_of_several() {
    let hold: Hold<'_> = parse(br#"{"key":"a","cost":5,"limit":"slots=9","ttl":"2m"}"#).unwrap();
    let Asked::One(item) = hold.asked().unwrap() else { panic!("one key") };
    assert_eq!((item.key, item.cost, item.limit), ("a", 5, Some(&limit("slots=9"))));
    assert_eq!(hold.ttl().unwrap(), Duration::from_secs(120));
    let hold: Hold<'_> = parse(br#"{"items":["a",["b",2]],"ttl":null}"#).unwrap();
    assert_eq!(hold.asked().unwrap(), Asked::All(vec!["a".into(), ("b", 2).into()]));
    assert_eq!(hold.ttl().unwrap(), Duration::from_secs(60));
    let ttl = |ttl: &str| parse::<Hold<'_>>(format!(r#"{{"key":"a","ttl":{ttl}}}"#).as_bytes()).unwrap().ttl();
    assert_eq!((ttl("1").unwrap(), ttl("\"24h\"").unwrap()), (Duration::from_secs(1), Duration::from_secs(86_400)));
    let wrong = |text| {
        format!("ttl must be a whole number and a unit (ms, s, m, h, d, w) from 1s to 1d, such as 10s, not `{text}`")
    };
    for (json, text) in [("0", "0"), ("\"999ms\"", "999ms"), ("86401", "86401"), ("\"soon\"", "soon")] {
        assert_eq!(ttl(json).unwrap_err().message(), wrong(text), "{json}");
    }
}

#[test]
fn what_a_hold_costs_in_the_end() {
    let cost = |body: &str| {
        let settle: Settle<'_> = parse(body.as_bytes())?;
        let costs = settle.costs();
        settle.cost(costs.as_deref()).map(|cost| format!("{} {cost:?}", settle.hold().unwrap()))
    };
    for (body, told) in [
        (r#"{"hold":"1a"}"#, "1a AsHeld"),
        (r#"{"hold":"1a","cost":null,"costs":null}"#, "1a AsHeld"),
        (r#"{"hold":"1a","cost":0}"#, "1a Units(0)"),
        (r#"{"hold":"1a","costs":{"a":0,"\u0062":7}}"#, r#"1a Each([("a", 0), ("b", 7)])"#),
        (r#"{"hold":"1a","costs":{}}"#, "1a Each([])"),
    ] {
        assert_eq!(cost(body).unwrap(), told);
    }
}

/// Whole messages, again.
#[test]
fn errors_of_holds_are_in_the_words_of_users() {
    fn of<'a, B: object::Body<'a>, T>(body: &'a str, read: impl Fn(&B) -> Result<T>) -> String {
        let read = parse::<B>(body.as_bytes()).and_then(|body| read(&body).map(|_| ()));
        let error = read.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        error.message().to_owned()
    }
    let hold = |body| of::<Hold<'_>, _>(body, |hold| hold.asked().map(|_| ()).and_then(|()| hold.ttl()));
    let settle = |body| {
        of::<Settle<'_>, _>(body, |settle| {
            let costs = settle.costs();
            settle.cost(costs.as_deref()).and_then(|_| settle.hold().map(str::to_owned))
        })
    };
    let charge = |body| of::<Charge<'_>, _>(body, |charge| charge.item().map(|item| item.cost));
    let renew = |body| of::<Renew<'_>, _>(body, |renew| renew.hold().map(str::to_owned));
    for (told, message) in [
        (hold("{}"), "field `key` or `items` is missing"),
        (hold(r#"{"cost":1}"#), "field `key` is missing"),
        (hold(r#"{"key":"a","items":[]}"#), "fields `key` and `items` don't go together; each item has its own `key`"),
        (
            hold(r#"{"key":"a","ttl":true}"#),
            "field `ttl` must be a string such as \"10s\" or an integer of seconds, not true",
        ),
        (
            hold(r#"{"key":"a","tll":1}"#),
            "unknown field `tll`; known: `key`, `cost` and `limit`, or `items`; and `ttl`",
        ),
        (settle("{}"), "field `hold` is missing"),
        (settle(r#"{"hold":7}"#), "field `hold` must be a string, not 7"),
        (settle(r#"{"hold":"a","cost":-1}"#), "field `cost` must be an integer from 0 to 1000000000000, not -1"),
        (settle(r#"{"hold":"a","cost":1,"costs":{}}"#), "fields `cost` and `costs` don't go together; leave one out"),
        (
            settle(r#"{"hold":"a","costs":[1]}"#),
            "field `costs` must be an object of keys and their costs, such as {\"user:42\":5}, not an array",
        ),
        (
            settle(r#"{"hold":"a","costs":{"k":"1"}}"#),
            "field `costs`: field `k` must be an integer from 0 to 1000000000000, not the string `1`",
        ),
        (renew(r#"{"ttl":5}"#), "field `hold` is missing"),
        (charge(r#"{"key":"a"}"#), "field `cost` is missing"),
        (charge(r#"{"cost":1}"#), "field `key` is missing"),
        (charge(r#"{"key":"a","cost":0,"ttl":1}"#), "unknown field `ttl`; known: `key`, `cost` and `limit`"),
    ] {
        assert_eq!(told, message);
    }
}

#[test]
fn the_line_of_a_fault_is_told_where_there_are_several() {
    let message = |body: &str| parse_settings(body.as_bytes()).unwrap_err().message().to_owned();
    assert!(message("{\n \"ключ\": x}").ends_with(" (line 2)"));
    assert!(message("{\"key\":\"a\",\n\n\"rate\":-1}").ends_with("not -1 (line 3)"));
    assert!(!message("{\"key\" x}").contains("line"));
    let deep = format!("[{{\"key\":\"a\",\"limit\":{}{}}}]", "[".repeat(200), "]".repeat(200));
    assert!(!message(&deep).contains("recursion") && !message(&deep).contains("column"), "{}", message(&deep));
}
