//! Tests of data directories that are only read: what a dump prints, and what a rewind leaves.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::clock::rfc3339;

fn dumped(dir: &Path) -> Vec<Value> {
    let mut lines = Vec::new();
    dump(dir, &mut |line| lines.push(line.clone())).unwrap();
    lines
}

fn history_of(dir: &Path, key: &str) -> Vec<String> {
    let mut events = Vec::new();
    history(dir, key, &mut |line| events.push(line["event"].as_str().unwrap().to_owned())).unwrap();
    events
}

/// A line without its instant and id.
fn brief(line: &Value) -> Value {
    let mut line = line.clone();
    for field in ["at", "id"] {
        line.as_object_mut().unwrap().remove(field);
    }
    line
}

fn parse(limit: &str) -> Limit {
    limit.parse().unwrap()
}

#[test]
fn a_dump_tells_of_keys_that_come_and_go() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let open = || Limiter::open(dir.path(), options(&clock)).unwrap();
    let limiter = open();
    let second = Duration::from_secs(1);
    limiter.configure_setting(&Setting::new("user:*", parse("2/1m")).with_max_keys(1)).unwrap();
    limiter.check("user:1", 1).unwrap();
    limiter.check("user:2", 1).unwrap();
    limiter.configure("user:*", parse("3/day, 4/1m fixed_window_counter")).unwrap();
    limiter.check("user:1", 1).unwrap();
    let brought = parse("5/1h").with_mode(crate::limit::Mode::Shadow);
    limiter.check_all(&[Item::new("job").with_limit(&brought), Item::new("user:1")]).unwrap();
    limiter.configure_setting(&Setting::new("job", parse("0/1s")).with_lasts(second)).unwrap();
    limiter.configure("user:1", Limit::unlimited()).unwrap();
    limiter.remove("user:1").unwrap();
    limiter.configure_all(&[Setting::new("a", parse("1/1s")), Setting::new("b*", parse("1/1s"))]).unwrap();
    drop(limiter);
    let lines = dumped(dir.path());
    let day_ends = rfc3339(START - START % 86_400_000_000 + 86_400_000_000).to_string();
    let user = |event: &str| json!({"event": event, "key": "user:1"});
    let with = |mut line: Value, more: Value| {
        line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        line
    };
    let two = json!({"rate": 2, "per": "1m", "capacity": 2, "algorithm": "token_bucket"});
    let four = json!({"rate": 4, "per": "1m", "capacity": 4, "algorithm": "fixed_window_counter"});
    let three = json!({"rate": 3, "per": "day", "capacity": 3, "algorithm": "fixed_window_counter", "tz": "UTC"});
    let both = json!({"windows": [four, three]});
    let one = json!({"rate": 1, "per": "1s", "capacity": 1, "algorithm": "token_bucket"});
    let by_pattern = json!({"source": "pattern", "pattern": "user:*"});
    let zero = json!({"rate": 0, "per": "1s", "capacity": 0, "algorithm": "token_bucket"});
    let five = json!({"rate": 5, "per": "1h", "capacity": 5, "algorithm": "token_bucket", "mode": "shadow"});
    let pattern = json!({"key": "user:*", "kind": "pattern"});
    let expected = [
        with(with(json!({"event": "created", "max_keys": 1}), pattern.clone()), two.clone()),
        with(with(user("born"), by_pattern.clone()), two.clone()),
        with(user("spent"), json!({"cost": 1})),
        with(json!({"event": "born", "key": "user:*", "kind": "overflow", "source": "overflow"}), two),
        json!({"event": "spent", "key": "user:*", "kind": "overflow", "cost": 1}),
        with(with(json!({"event": "reconfigured"}), pattern), both.clone()),
        with(with(user("moved"), by_pattern.clone()), both.clone()),
        with(user("spent"), json!({"cost": 1, "ends": [day_ends]})),
        with(json!({"event": "born", "key": "job", "source": "request"}), five),
        json!({"event": "spent", "key": "job", "cost": 1, "check_all": true}),
        with(user("spent"), json!({"cost": 1, "check_all": true})),
        with(json!({"event": "overlaid", "key": "job", "until": rfc3339(START + 1_000_000).to_string()}), zero),
        with(user("became"), json!({"source": "exact", "unlimited": true})),
        with(with(user("became"), by_pattern), both),
        with(json!({"event": "intended", "group": 5, "last": true, "key": "a"}), one.clone()),
        with(json!({"event": "intended", "group": 5, "last": true, "key": "b*"}), one.clone()),
        with(json!({"event": "created", "key": "a"}), one.clone()),
        with(json!({"event": "created", "key": "b*", "kind": "pattern"}), one),
        json!({"event": "done", "group": 5}),
    ];
    let told: Vec<Value> = lines.iter().filter(|line| line["event"] != "clock").map(brief).collect();
    for (told, expected) in told.iter().zip(&expected) {
        // The ends of conversions are reported where they were requested.
        let mut told = told.clone();
        if expected.get("ends").is_none() {
            told.as_object_mut().unwrap().remove("ends");
        }
        assert_eq!(told, *expected);
    }
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    let events = ["born", "spent", "moved", "spent", "spent", "became", "became"];
    assert_eq!(history_of(dir.path(), "user:1"), events);
    assert_eq!(history_of(dir.path(), "b*"), ["intended", "created"]);

    let limiter = open();
    limiter.compact().unwrap();
    drop(limiter);
    let lines = dumped(dir.path());
    let entry = |key: &str, kind: &Value| {
        let fits = |line: &&Value| line["event"] == "entry" && line["key"] == key && line["kind"] == *kind;
        lines.iter().find(fits).unwrap_or_else(|| panic!("{key} in {lines:#?}"))
    };
    let user = entry("user:1", &Value::Null);
    assert_eq!((&user["pattern"], &user["total_allowed"]), (&json!("user:*"), &json!(3)));
    assert_eq!(entry("user:*", &json!("overflow"))["source"], "overflow");
    assert_eq!(entry("user:*", &json!("pattern"))["max_keys"], Value::Null, "it was configured again without");
    let overlay = &entry("job", &Value::Null)["overlay"];
    assert_eq!((&overlay["rate"], &overlay["until"]), (&json!(0), &json!(rfc3339(START + 1_000_000).to_string())));
    let totals = lines.iter().filter(|line| line["event"] == "pattern_totals" && line["key"] == "user:*");
    assert_eq!(totals.map(|line| line["total_allowed"].as_u64().unwrap()).sum::<u64>(), 4);
}

const HOUR: u64 = 3_600_000_000;

/// A log that was written while the system clock was an hour ahead, and what is found in it then.
fn ahead(dir: &Path) -> Vec<Status> {
    let clock = Clock::manual(START + HOUR);
    let limiter = Limiter::open(dir, options(&clock)).unwrap();
    limiter.configure("user:*", parse("1/2s")).unwrap();
    limiter.configure("month", parse("10/month tz=Europe/Berlin")).unwrap();
    limiter.configure_setting(&Setting::new("job", parse("0/1s")).with_lasts(Duration::from_secs(60))).unwrap();
    limiter.check("user:1", 1).unwrap();
    limiter.check("month", 3).unwrap();
    limiter.close().unwrap();
    everything(&limiter)
}

fn everything(limiter: &Limiter) -> Vec<Status> {
    limiter.list(Page::default().with_live(true)).unwrap()
}

#[test]
fn a_log_that_is_ahead_is_told_of_and_can_be_rewound() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, to) = (parent.path().join("data"), parent.path().join("to"));
    let before = ahead(&dir);
    // The system clock is right again, after a reboot.
    let clock = Clock::manual(START).rebooted(START);
    let limiter = Limiter::open(&dir, options(&clock.restarted())).unwrap();
    let problems = limiter.report().problems();
    assert!(problems.iter().any(|problem| problem.contains("ahead of the system clock by 1h")), "{problems:?}");
    assert_eq!(limiter.report().ahead, Some(Duration::from_secs(3600)));
    // Time goes on from there at its pace.
    assert!(!limiter.check("user:1", 1).unwrap().allowed);
    limiter.close().unwrap();
    drop(limiter);
    let done = rewind_at(&dir, &to, &clock).unwrap();
    let told = done.to_json();
    assert_eq!(told["rewound"], json!({"from": rfc3339(START + HOUR).to_string(), "to": rfc3339(START).to_string()}));
    assert!(done.lines().iter().any(|line| line.starts_with("rewound: from ")), "{:?}", done.lines());

    let clock = clock.restarted();
    let limiter = Limiter::open(&to, options(&clock)).unwrap();
    assert_eq!((clock.now(), limiter.report().problems()), (START, Vec::new()));
    let after = everything(&limiter);
    assert_eq!(after.len(), before.len());
    for (after, before) in after.iter().zip(&before) {
        assert_eq!((&after.key, &after.limit, after.used), (&before.key, &before.limit, before.used));
        let back = |at: Option<u64>| at.map(|at| at - HOUR);
        assert_eq!(after.last_allowed_at, back(before.last_allowed_at), "{}", after.key);
        match after.key.as_str() {
            // Calendar windows end where they do.
            "month" => assert_eq!(after.reset_at, before.reset_at),
            key => assert_eq!(after.reset_at, back(before.reset_at), "{key}"),
        }
        let until = |status: &Status| status.lasting.as_ref().map(|lasting| lasting.until);
        assert_eq!(until(after), back(until(before)));
    }
    clock.advance(Duration::from_secs(2));
    assert!(limiter.check("user:1", 1).unwrap().allowed);
    // A log that is not ahead has nothing to rewind.
    drop(limiter);
    let error = rewind_at(&to, &parent.path().join("again"), &clock).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(error.message().contains("--rewind-clock") && !parent.path().join("again").exists(), "{error}");
}

/// What a repair takes over of patterns and their keys.
#[test]
fn a_repair_keeps_patterns_with_their_keys_and_totals() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, to) = (parent.path().join("data"), parent.path().join("to"));
    let clock = Clock::manual(START);
    let limiter = Limiter::open(&dir, Options { max_keys: 1, ..options(&clock) }).unwrap();
    let brought = parse("5/1h");
    limiter.configure("early", parse("9/1h")).unwrap();
    limiter.configure_setting(&Setting::new("user:*", parse("5/1m")).with_max_keys(2)).unwrap();
    for key in ["user:1", "user:1", "user:2", "user:3", "early"] {
        limiter.check(key, 1).unwrap();
    }
    for key in ["job", "other"] {
        limiter.check_item(Item::new(key).with_limit(&brought)).unwrap();
    }
    let look = |limiter: &Limiter| {
        let shared = [limiter.check("user:4", 5), limiter.check_item(Item::new("more").with_limit(&brought))];
        (everything(limiter), shared.map(|decision| decision.unwrap().remaining))
    };
    limiter.close().unwrap();
    drop(limiter);
    repair_at(&dir, &to, &clock).unwrap();
    let open = |dir: &Path| Limiter::open(dir, Options { max_keys: 1, ..options(&clock.restarted()) }).unwrap();
    assert_eq!(look(&open(&to)), look(&open(&dir)));
}
