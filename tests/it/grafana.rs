//! The dashboard and the alert rules of `scripts/grafana` ask for what a server really reports.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::util::{Server, run};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/grafana").join(name)
}

fn dashboard() -> Value {
    serde_json::from_str(&std::fs::read_to_string(file("dashboard.json")).unwrap()).unwrap()
}

/// The expressions of all panels, and those that the variables are made of.
fn queries() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let asked = targets.map(|target| target["expr"].as_str().unwrap().to_owned());
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    asked.chain(variables.iter().filter_map(|variable| variable["definition"].as_str().map(str::to_owned))).collect()
}

/// The expressions of the rules.
fn alerts() -> Vec<String> {
    let text = std::fs::read_to_string(file("alerts.yml")).unwrap();
    text.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).map(str::to_owned).collect()
}

/// The values of each label of each sample of a metric.
type Metrics = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// The metrics of a server that has done a little of everything.
fn metrics() -> Metrics {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let mut client = server.client();
    client.post("/v1/limits", r#"{"key":"k","limit":"1/1h"}"#).ok();
    for _ in 0..2 {
        client.post("/v1/check", r#"{"key":"k"}"#).ok();
    }
    let text = client.get("/v1/metrics").body;
    server.terminate();
    let mut metrics = Metrics::new();
    for sample in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = sample.split_at(sample.find(['{', ' ']).unwrap());
        let labels = metrics.entry(name.to_owned()).or_default();
        for label in rest.strip_prefix('{').map_or("", |rest| rest.split_once("} ").unwrap().0).split("\",") {
            if let Some((label, value)) = label.split_once("=\"") {
                labels.entry(label.to_owned()).or_default().insert(value.trim_end_matches('"').to_owned());
            }
        }
    }
    metrics
}

/// What no server reports of an expression: metrics, labels by which it selects or groups, and values of these.
fn unknown(query: &str, metrics: &Metrics) -> Vec<String> {
    // Those that Prometheus adds.
    let added = |label: &str| ["job", "instance"].contains(&label);
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let (mut wrong, mut labels) = (Vec::new(), BTreeSet::new());
    for (at, _) in query.match_indices("flint_").chain(query.match_indices("process_")) {
        if query[..at].ends_with(is_word) {
            continue;
        }
        let name: String = query[at..].chars().take_while(|c| is_word(*c)).collect();
        let Some(known) = metrics.get(&name) else {
            wrong.push(format!("no metric {name}"));
            continue;
        };
        labels.extend(known.keys().map(String::as_str));
        let Some(selector) = query[at + name.len()..].strip_prefix('{') else { continue };
        for matcher in selector.split_once('}').unwrap().0.split(',') {
            let (label, value) = matcher.split_once('=').unwrap();
            let value = value.trim_start_matches('~').trim_matches('"');
            if !added(label) && !known.get(label).is_some_and(|values| values.contains(value)) {
                wrong.push(format!("{name} has no {label}=\"{value}\""));
            }
        }
    }
    for group in query.split("by (").skip(1) {
        for label in group.split_once(')').unwrap().0.split(", ") {
            if !added(label) && !labels.contains(label) {
                wrong.push(format!("nothing has a label {label}"));
            }
        }
    }
    wrong
}

#[test]
fn every_query_asks_for_what_a_server_tells() {
    let mut metrics = metrics();
    // It is reported once there was one.
    for labels in metrics.values_mut() {
        labels.entry("status".to_owned()).and_modify(|statuses| {
            statuses.insert("5xx".to_owned());
        });
    }
    let (queries, alerts) = (queries(), alerts());
    assert!(queries.len() > 20 && alerts.len() == 6, "{queries:?} {alerts:?}");
    for query in queries.iter().chain(&alerts) {
        assert_eq!(unknown(query, &metrics), [""; 0], "{query}");
    }
    // Each metric is on the dashboard, some part of a histogram for all of it.
    let all = queries.concat();
    for name in metrics.keys() {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
        assert!(all.contains(family), "{name} is not on the dashboard");
    }
    // The test sees what is wrong.
    for (query, what) in [
        ("rate(flint_checked_total[5m])", "no metric flint_checked_total"),
        ("flint_checks_total{result=\"refused\"}", "flint_checks_total has no result=\"refused\""),
        ("sum by (key) (flint_checks_total)", "nothing has a label key"),
    ] {
        assert_eq!(unknown(query, &metrics), [what]);
    }
}

#[test]
fn panels_do_not_lie_over_each_other() {
    let dashboard = dashboard();
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|name| panel["gridPos"][name].as_u64().unwrap());
        assert!(x + w <= 24, "{panel}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{} lies over another", panel["title"]);
        }
    }
}

#[test]
fn promtool_finds_nothing_in_the_rules() {
    if Command::new("promtool").arg("--version").output().is_err() {
        eprintln!("SKIPPED: promtool is not installed");
        return;
    }
    let checked = run(Command::new("promtool").args(["check", "rules"]).arg(file("alerts.yml")));
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.out.contains("6 rules found"), "{checked:?}");
}
