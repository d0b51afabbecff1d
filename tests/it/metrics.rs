//! `GET /v1/metrics`: by a strict reader of Prometheus's text format, and by Prometheus's own where that is available.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::mdoc::{Page, items};
use crate::over_store;
use crate::util::{Client, PATIENCE, Server, run};

const TOKEN: &str = "metrics-secret";

/// A family of series: its kind, and its samples by name and labels, in the order they came in.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

/// Reads a page, and panics at whatever the format does not allow.
fn parse(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n'), "the last line must end");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap();
            assert!(!words.is_empty() && !families.contains_key(name), "{line}");
            current = name.to_owned();
            families.insert(current.clone(), Family::default());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            let family = families.get_mut(name).unwrap();
            assert!(name == current && family.kind.is_empty() && family.samples.is_empty(), "{line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            family.kind = kind.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line:?}"));
            assert!(seen.insert(series.to_owned()), "{series} stands twice");
            let (name, labels) = labels(series);
            let family = families.get_mut(&current).unwrap();
            assert!(!family.kind.is_empty(), "{line} before its TYPE");
            let ends: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(ends.iter().any(|end| name == format!("{current}{end}")), "{line} is none of {current}");
            assert_eq!(family.kind == "counter", name.ends_with("_total"), "{line}");
            family.samples.push((name, labels, value.parse().unwrap_or_else(|_| panic!("no number: {line}"))));
        }
    }
    families
}

fn labels(series: &str) -> (String, BTreeMap<String, String>) {
    let Some((name, rest)) = series.split_once('{') else { return (series.to_owned(), BTreeMap::new()) };
    let rest = rest.strip_suffix('}').unwrap_or_else(|| panic!("labels without an end: {series}"));
    let mut labels = BTreeMap::new();
    // No value holds a comma or an escape.
    for pair in rest.split(',') {
        let (label, value) = pair.split_once('=').unwrap_or_else(|| panic!("no label: {series}"));
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        let value = value.filter(|value| !value.contains(['"', '\\'])).unwrap_or_else(|| panic!("no value: {series}"));
        assert!(label.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{series}");
        assert!(labels.insert(label.to_owned(), value.to_owned()).is_none(), "{series}");
    }
    (name.to_owned(), labels)
}

/// Buckets must be in the order of their bounds, never fall, and end with `+Inf`, which is the count.
fn check_histogram(name: &str, family: &Family) {
    let mut open: Option<(BTreeMap<String, String>, f64, f64)> = None;
    let mut ended = 0;
    for (sample, labels, value) in &family.samples {
        let mut labels = labels.clone();
        let bound = labels.remove("le");
        if sample.ends_with("_bucket") {
            let bound: f64 = bound.unwrap().replace("+Inf", "inf").parse().unwrap();
            if let Some((others, last, count)) = &open {
                assert!(*others == labels && bound > *last && value >= count, "{name}: {labels:?} {bound}");
            }
            open = Some((labels, bound, *value));
        } else {
            assert_eq!(bound, None, "{name}");
            let (others, last, count) = open.as_ref().unwrap_or_else(|| panic!("{name}: {sample} before its buckets"));
            assert!(*others == labels && *last == f64::INFINITY, "{name}: {labels:?}");
            if sample.ends_with("_count") {
                assert_eq!(value, count, "{name}: {labels:?}");
                open = None;
                ended += 1;
            }
        }
    }
    assert!(open.is_none(), "{name} has buckets without a count");
    assert!(ended * 15 == family.samples.len(), "13 buckets, a sum and a count each: {family:?}");
}

/// The value of the one series with these labels.
#[track_caller]
fn value(families: &BTreeMap<String, Family>, family: &str, name: &str, wanted: &[(&str, &str)]) -> f64 {
    let wanted: BTreeMap<String, String> = wanted.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let mut found = families[family].samples.iter().filter(|(other, labels, _)| other == name && *labels == wanted);
    found.next().unwrap_or_else(|| panic!("no {name} {wanted:?}")).2
}

fn busy() -> (tempfile::TempDir, Server, Client) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &["--token", TOKEN]);
    let mut client = Client::new(&server.url, Some(TOKEN));
    client.post("/v1/limits", r#"{"key":"tenant-key","rate":5,"per":"366d"}"#).ok();
    for _ in 0..8 {
        client.post("/v1/check", r#"{"key":"tenant-key"}"#).ok();
    }
    client.post("/v1/take/tenant-key", "");
    client.post("/v1/check", "{").error(400, "invalid_json");
    client.get("/v1/health").ok();
    client.get("/nowhere").error(404, "not_found");
    client.compact();
    (dir, server, client)
}

#[test]
fn what_is_counted_is_told() {
    let (_dir, server, mut client) = busy();
    Client::new(&server.url, None).get("/v1/metrics").error(401, "unauthorized");
    // A request is counted after its reply, which the one on the other connection may just have got.
    let deadline = Instant::now() + PATIENCE;
    let refused = "flint_request_duration_seconds_count{route=\"/v1/metrics\",status=\"4xx\"} 1\n";
    let mut reply = client.get("/v1/metrics");
    while !reply.body.contains(refused) && Instant::now() < deadline {
        reply = client.get("/v1/metrics");
    }
    assert_eq!((reply.status, reply.header("Content-Type")), (200, Some("text/plain; version=0.0.4; charset=utf-8")));
    let families = parse(&reply.body);
    for (name, family) in families.iter().filter(|(_, family)| family.kind == "histogram") {
        check_histogram(name, family);
    }
    let one = |name: &str, labels: &[(&str, &str)]| value(&families, name, name, labels);
    assert_eq!(one("flint_checks_total", &[("result", "allowed")]), 5.0);
    assert_eq!(one("flint_checks_total", &[("result", "denied")]), 4.0);
    assert_eq!(one("flint_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    let (exact, some) = match over_store::is_on() {
        true => {
            (&[("flint_store_reachable", 1.0), ("flint_store_lost_total", 0.0)][..], &["flint_store_rounds_total"][..])
        }
        false => (
            &[("flint_log_healthy", 1.0), ("flint_compactions_total", 1.0), ("flint_compaction_failed", 0.0)][..],
            &["flint_log_bytes", "flint_log_events_total"][..],
        ),
    };
    for (name, expected) in [exact, &[("flint_limits", 1.0), ("flint_leaked_connections", 0.0)]].concat() {
        assert_eq!(one(name, &[]), expected, "{name}");
    }
    for name in [some, &["process_resident_memory_bytes", "process_threads"]].concat() {
        assert!(one(name, &[]) > 0.0, "{name}");
    }
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let age = now - one("process_start_time_seconds", &[]);
    assert!((-1.0..600.0).contains(&age), "{age}");
    let requests = |route: &str, status: &str| {
        let name = "flint_request_duration_seconds";
        value(&families, name, &format!("{name}_count"), &[("route", route), ("status", status)])
    };
    assert_eq!((requests("/v1/check", "2xx"), requests("/v1/check", "4xx")), (8.0, 1.0));
    assert_eq!((requests("/v1/take/{key}", "4xx"), requests("/v1/health", "2xx")), (1.0, 1.0));
    assert_eq!((requests("other", "4xx"), requests("/v1/metrics", "4xx")), (1.0, 1.0));
    if !over_store::is_on() {
        let name = "flint_fsync_duration_seconds";
        assert!(value(&families, name, &format!("{name}_count"), &[]) >= 6.0);
        assert!(value(&families, name, &format!("{name}_sum"), &[]) > 0.0);
    }
    // What clients choose appears nowhere.
    assert!(!reply.body.contains("tenant-key") && !reply.body.contains("nowhere"), "{}", reply.body);
    server.terminate();
}

#[test]
fn the_page_lists_all() {
    let (_dir, server, mut client) = busy();
    let families = parse(&client.get("/v1/metrics").body);
    let page = Page::read("flint-http.7");
    let listed: BTreeSet<&str> =
        items(page.section("Metrics"), "Va").iter().map(|item| item.split(' ').next().unwrap()).collect();
    let told: BTreeSet<&str> = families.keys().map(String::as_str).collect();
    let of_store = |name: &&str| name.starts_with("flint_store_");
    match over_store::is_on() {
        // It tells less of itself than a log.
        true => {
            assert!(told.is_subset(&listed), "{told:?}");
            assert!(listed.iter().copied().filter(of_store).eq(told.iter().copied().filter(of_store)));
        }
        false => assert_eq!(told, listed.iter().copied().filter(|name| !of_store(name)).collect()),
    }
    let text = page.section("Metrics").join(" ");
    for (_, labels, _) in families.values().flat_map(|family| &family.samples) {
        for name in labels.keys().filter(|name| *name != "le") {
            assert!(text.contains(name.as_str()), "{name}");
        }
        if let Some(reason) = labels.get("reason") {
            assert!(text.contains(reason.as_str()), "{reason}");
        }
    }
    server.terminate();
}

/// A Python that has prometheus_client. It is fetched, which takes its time, where everything is to be tried.
fn python_with_prometheus(dir: &Path) -> Option<PathBuf> {
    let has = Command::new("python3").args(["-c", "import prometheus_client"]).stderr(Stdio::null()).status();
    if has.is_ok_and(|status| status.success()) {
        return Some("python3".into());
    }
    if std::env::var_os("CI").is_none() && std::env::var_os("FLINT_SOAK").is_none() {
        eprintln!("SKIPPED: Python lacks prometheus_client; CI=true or FLINT_SOAK=1 fetches it into a venv");
        return None;
    }
    let venv = dir.join("venv");
    let install = format!(
        "python3 -m venv {0} && {0}/bin/pip install --quiet --disable-pip-version-check --timeout 10 --retries 0 \
         prometheus-client==0.21.1",
        venv.display()
    );
    let installed = run(Command::new("sh").args(["-c", &install]));
    if installed.code != Some(0) {
        eprintln!("SKIPPED: prometheus_client cannot be installed: {}", installed.err);
        return None;
    }
    Some(venv.join("bin/python"))
}

#[test]
fn prometheus_reads_it() {
    const PARSE: &str = "import sys\n\
        from prometheus_client.parser import text_string_to_metric_families as parse\n\
        found = {family.name: family for family in parse(sys.stdin.read())}\n\
        checks = {s.labels['result']: s.value for s in found['flint_checks'].samples}\n\
        assert checks == {'allowed': 5, 'denied': 4}, checks\n\
        assert found['flint_request_duration_seconds'].type == 'histogram'\n\
        print(len(found))\n";
    let dir = tempfile::tempdir().unwrap();
    let Some(python) = python_with_prometheus(dir.path()) else { return };
    let (_dir, server, mut client) = busy();
    let text = client.get("/v1/metrics").body;
    let file = dir.path().join("metrics");
    std::fs::write(&file, &text).unwrap();
    let parsed = run(Command::new(python).args(["-c", PARSE]).stdin(Stdio::from(std::fs::File::open(&file).unwrap())));
    assert_eq!(parsed.code, Some(0), "{parsed:?}");
    assert_eq!(parsed.out.trim().parse::<usize>().unwrap(), parse(&text).len());
    server.terminate();
}

/// promtool's own reading, and its opinion of the names.
#[test]
fn promtool_has_nothing_to_say() {
    if Command::new("promtool").arg("--version").output().is_err() {
        eprintln!("SKIPPED: promtool is not installed (Debian package prometheus)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (_dir, server, mut client) = busy();
    let file = dir.path().join("metrics");
    std::fs::write(&file, client.get("/v1/metrics").body).unwrap();
    let mut promtool = Command::new("promtool");
    let checked = run(promtool.args(["check", "metrics"]).stdin(Stdio::from(std::fs::File::open(&file).unwrap())));
    assert_eq!((checked.code, checked.out.as_str(), checked.err.as_str()), (Some(0), "", ""), "{checked:?}");
    server.terminate();
}

#[test]
fn the_reader_is_strict() {
    let refuses = |text: &str| assert!(std::panic::catch_unwind(|| parse(text)).is_err(), "{text}");
    let head = "# HELP a_total x\n# TYPE a_total counter\n";
    assert_eq!(parse(&format!("{head}a_total 1\n")).len(), 1);
    refuses(&format!("{head}a_total 1"));
    refuses(&format!("{head}a_total 1\na_total 2\n"));
    refuses(&format!("{head}b 1\n"));
    refuses(&format!("{head}a_total{{x=1}} 1\n"));
    refuses("a_total 1\n");
    let histogram = |lines: &str| {
        let families = parse(&format!("# HELP h x\n# TYPE h histogram\n{lines}"));
        std::panic::catch_unwind(|| check_histogram("h", &families["h"])).is_ok()
    };
    let buckets = |twelfth: u64| {
        let low: String =
            (1..=12).map(|le| format!("h_bucket{{le=\"{le}\"}} {}\n", if le == 12 { twelfth } else { 1 })).collect();
        format!("{low}h_bucket{{le=\"+Inf\"}} 2\nh_sum 3\n")
    };
    assert!(histogram(&format!("{}h_count 2\n", buckets(2))));
    assert!(!histogram(&format!("{}h_count 3\n", buckets(2))));
    assert!(!histogram(&format!("{}h_count 2\n", buckets(0))));
}
