//! The endpoints for operators of the server: health, doctor, metrics, and the log's flush and compaction.

use serde_json::{Value, json};

use super::super::guard::{CutReason, GuardHandle};
use super::super::http::reply::Reply;
use super::super::vitals::Vitals;
use super::body;
use super::call::{Answer, Call};
use super::limits::done;
use super::metrics::CONTENT_TYPE;
use crate::engine::{EngineReport, StoreReport};
use crate::error::{Error, Kind};
use crate::limiter::{Report, millis_up};
use crate::store::Health;

/// Needs neither a worker nor the disk.
pub fn health(call: &Call<'_>) -> Answer {
    let version = env!("CARGO_PKG_VERSION");
    let health = match call.sources.vitals.and_then(Vitals::complaint) {
        Some(complaint) => (Health::Failed, Some(complaint)),
        None => call.sources.engine.health(),
    };
    Ok(match health {
        (Health::Healthy, _) => Reply::ok(true, &json!({"version": version})),
        (_, reason) => Reply { status: 503, ..Reply::ok(false, &json!({"version": version, "error": reason})) },
    })
}

pub fn flush(call: &Call<'_>) -> Answer {
    body::parse_empty(call.body)?;
    done(call.sources.engine.flush())
}

pub fn compact(call: &Call<'_>) -> Answer {
    body::parse_empty(call.body)?;
    let mut out = Vec::new();
    call.sources.engine.compact()?.write_json(&mut out);
    Ok(Reply::json(out))
}

pub fn metrics(call: &Call<'_>) -> Answer {
    let (Some(metrics), Some(guard)) = (call.sources.metrics, call.sources.guard) else {
        return Err(Error::new(Kind::NotFound, "only a server has metrics"));
    };
    Ok(Reply::new(200, CONTENT_TYPE, metrics.page(&call.sources.engine.report(), guard)))
}

pub fn doctor(call: &Call<'_>) -> Answer {
    let report = call.sources.engine.report();
    let mut problems = report.problems();
    problems.extend(call.sources.vitals.and_then(Vitals::complaint));
    let mut rest = match &report {
        EngineReport::Directory(report) => of_directory(report),
        EngineReport::Store(report) => of_store(report),
    };
    rest["problems"] = json!(problems);
    rest["version"] = json!(env!("CARGO_PKG_VERSION"));
    if let Some(guard) = call.sources.guard {
        rest["connections"] = connections(guard);
    }
    Ok(Reply::ok(problems.is_empty(), &rest))
}

fn of_directory(report: &Report) -> Value {
    json!({
        "data_dir": report.dir.display().to_string(),
        "sync": report.sync.name(),
        "limits": report.limits,
        "patterns": report.patterns,
        "live": report.live,
        "overflows": report.overflows.len(),
        "clock_ahead_ms": report.ahead.map(millis_up),
        "log_bytes": report.log_bytes,
        "events_written": report.events,
        "queued_bytes": report.queued_bytes,
        "fsyncs": report.syncs(),
        "fsync_mean_us": report.mean_sync().map(|mean| mean.as_micros() as u64),
        "free_bytes": report.free_bytes,
        "compactions": report.compactions,
        "allowed": report.allowed,
        "denied": report.denied,
        "holds": report.holds,
        "holds_expired": report.holds_expired,
        "holds_late": report.holds_late,
    })
}

fn of_store(report: &StoreReport) -> Value {
    let facts: serde_json::Map<_, _> =
        report.facts.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into())).collect();
    json!({
        "store": report.url,
        "replicas": report.replicas,
        "store_facts": facts,
        "limits": report.limits,
        "patterns": report.patterns,
        "live": report.live,
        "overflows": report.overflows,
        "holds": report.holds,
        "rounds": report.rounds,
        "lost": report.lost,
        "allowed": report.allowed,
        "denied": report.denied,
    })
}

/// What doctor reports of connections: how many are open, how many tiny_http holds that were ended long ago, how often
/// it had to be woken for a connection that it had forgotten, and how many the guard has ended, by reason.
fn connections(guard: GuardHandle) -> Value {
    let reasons = CutReason::ALL.iter().zip(guard.cut_total());
    let ended: serde_json::Map<_, _> =
        reasons.map(|(reason, count)| (reason.name().to_owned(), count.into())).collect();
    json!({"open": guard.open_connections(), "leaked": guard.leaked(), "woken": guard.woken(), "ended": ended})
}
