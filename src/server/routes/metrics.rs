//! `GET /v1/metrics`: what the server counts, in the text format of Prometheus (0.0.4).
//!
//! Owns: the counts and durations of requests, by endpoint and class of status. The rest is read where it is kept when
//! metrics are asked for. Called by the thread that answers a request ([`Metrics::measure`]: a look at the clock and
//! two atomic additions) and by the route. Must never happen here: a lock or an allocation on the path of a request, or
//! a label with a key, a token or anything else that a client chooses.

use std::fmt::{Display, Write};
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

use super::super::guard::{CutReason, GuardHandle};
use crate::engine::{EngineReport, StoreReport};
use crate::limiter::Report;
use crate::store::{Health, TIMING_BOUNDS_US, Timings};

/// The type of the reply.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Classes of status: no reply has 1xx or 3xx.
const CLASSES: [(u16, &str); 3] = [(2, "2xx"), (4, "4xx"), (5, "5xx")];

/// Durations by class of status.
type Row = [Timings; CLASSES.len()];

/// Durations of requests: a row for each endpoint, and the last for the paths that are none.
pub struct Metrics {
    requests: Vec<(&'static str, Row)>,
}

impl Metrics {
    /// For endpoints with these paths.
    pub fn new(paths: impl Iterator<Item = &'static str>) -> Metrics {
        Metrics { requests: paths.chain(["other"]).map(|path| (path, Row::default())).collect() }
    }

    /// Begins to measure a request that arrived then, for the endpoint with this place among the paths, if it has one.
    pub fn measure(&self, endpoint: Option<usize>, arrived: Instant) -> Measure<'_> {
        let row = endpoint.unwrap_or(self.requests.len() - 1);
        self.go_on(Suspended { row, arrived })
    }

    /// Goes on measuring.
    pub fn go_on(&self, suspended: Suspended) -> Measure<'_> {
        Measure { metrics: self, request: Some(suspended), status: 500 }
    }

    /// The page.
    pub fn page(&self, report: &EngineReport, guard: GuardHandle) -> Vec<u8> {
        let mut page = Page(String::with_capacity(8 * 1024));
        page.one("flint_build_info", "gauge", "The running version; always 1.", &version(), 1);
        match report {
            EngineReport::Directory(report) => {
                limits(&mut page, report);
                holds(&mut page, report);
                log(&mut page, report);
            }
            EngineReport::Store(report) => store(&mut page, report),
        }
        self.requests(&mut page);
        connections(&mut page, guard);
        process(&mut page);
        page.0.into_bytes()
    }

    fn requests(&self, page: &mut Page) {
        let name = "flint_request_duration_seconds";
        page.family(name, "histogram", "Time from a request's arrival to its reply, by endpoint and class of status.");
        for (route, row) in &self.requests {
            for ((_, class), timings) in CLASSES.iter().zip(row) {
                let read = timings.read();
                // What has never happened is left out: the page stays short.
                if read.0.iter().any(|count| *count > 0) {
                    page.histogram(name, &format!("route=\"{route}\",status=\"{class}\""), &read);
                }
            }
        }
    }
}

fn version() -> String {
    format!("version=\"{}\"", env!("CARGO_PKG_VERSION"))
}

const OVERFLOWS: &str =
    "Limits that further keys share, because no more may live under their pattern or under requests.";

fn limits(page: &mut Page, report: &Report) {
    page.one("flint_limits", "gauge", "Limits that are configured for one key.", "", report.limits);
    page.one("flint_patterns", "gauge", "Patterns that are configured.", "", report.patterns);
    page.one("flint_live_keys", "gauge", "Keys that live under a pattern or request.", "", report.live);
    page.one("flint_overflows", "gauge", OVERFLOWS, "", report.overflows.len());
    page.one("flint_overflow_decisions_total", "counter", "Decisions by these shared limits.", "", report.overflowed);
    let what = "Keys removed from memory because nothing counted for them any more.";
    page.one("flint_swept_keys_total", "counter", what, "", report.swept);
    let name = "flint_checks_total";
    page.family(name, "counter", "Checks since the start, by what was decided.");
    page.sample(name, "result=\"allowed\"", report.allowed);
    page.sample(name, "result=\"denied\"", report.denied);
}

/// For a store: counts of the store are left out while it can't be asked.
fn store(page: &mut Page, report: &StoreReport) {
    let reachable = u8::from(report.health.0 == Health::Healthy);
    page.one("flint_store_reachable", "gauge", "Whether the store can be reached: 1, or 0.", "", reachable);
    let counts = [
        ("flint_limits", "Limits that are configured for one key.", report.limits),
        ("flint_patterns", "Patterns that are configured.", report.patterns),
        ("flint_live_keys", "Keys that live under a pattern or request.", report.live),
        ("flint_overflows", OVERFLOWS, report.overflows),
        ("flint_holds", "Holds that are open.", report.holds),
    ];
    for (name, what, count) in counts {
        if let Some(count) = count {
            page.one(name, "gauge", what, "", count);
        }
    }
    let name = "flint_checks_total";
    page.family(name, "counter", "Checks since the start, by what was decided.");
    page.sample(name, "result=\"allowed\"", report.allowed);
    page.sample(name, "result=\"denied\"", report.denied);
    page.one("flint_store_rounds_total", "counter", "Rounds that were sent to the store.", "", report.rounds);
    let what = "Groups of operations that were decided again because another server had been faster.";
    page.one("flint_store_lost_total", "counter", what, "", report.lost);
}

fn holds(page: &mut Page, report: &Report) {
    page.one("flint_holds", "gauge", "Holds that are open.", "", report.holds);
    let what = "Holds that have expired since the start.";
    page.one("flint_holds_expired_total", "counter", what, "", report.holds_expired);
    let what = "Holds that were settled after they had expired.";
    page.one("flint_holds_late_total", "counter", what, "", report.holds_late);
}

fn log(page: &mut Page, report: &Report) {
    let healthy = u8::from(report.health.0 == Health::Healthy);
    page.one("flint_log_healthy", "gauge", "Whether the log can be written: 1, or 0.", "", healthy);
    page.one("flint_log_bytes", "gauge", "Size of the log.", "", report.log_bytes);
    page.one("flint_log_events_total", "counter", "Events written to the log since the start.", "", report.events);
    let what = "Bytes reserved for records that are not written yet.";
    page.one("flint_log_queued_bytes", "gauge", what, "", report.queued_bytes);
    page.one("flint_compactions_total", "counter", "Compactions that succeeded.", "", report.compactions);
    let failed = u8::from(report.compaction_error.is_some());
    page.one("flint_compaction_failed", "gauge", "Whether the last compaction failed: 1, or 0.", "", failed);
    if let Some(free) = report.free_bytes {
        page.one("flint_free_bytes", "gauge", "Bytes that the file system has free.", "", free);
    }
    let name = "flint_fsync_duration_seconds";
    page.family(name, "histogram", "Duration of fdatasync of the log.");
    page.histogram(name, "", &report.sync_times);
}

fn connections(page: &mut Page, guard: GuardHandle) {
    page.one("flint_open_connections", "gauge", "Open connections.", "", guard.open_connections());
    let what = "Connections ended long ago that the HTTP library has not released.";
    page.one("flint_leaked_connections", "gauge", what, "", guard.leaked());
    let what = "Times that the HTTP library was woken for a connection that it had forgotten.";
    page.one("flint_woken_connections_total", "counter", what, "", guard.woken());
    let name = "flint_connections_ended_total";
    page.family(name, "counter", "Connections that the server ended, by reason.");
    for (reason, count) in CutReason::ALL.iter().zip(guard.cut_total()) {
        page.sample(name, &format!("reason=\"{reason}\""), count);
    }
}

/// What every process is asked by Prometheus. Left out where the system does not tell.
fn process(page: &mut Page) {
    let Some(process) = Process::read() else { return };
    let what = "Resident memory.";
    page.one("process_resident_memory_bytes", "gauge", what, "", process.resident_bytes);
    page.one("process_cpu_seconds_total", "counter", "Processor time used.", "", process.cpu_seconds);
    let what = "Start of the process, in seconds since the epoch.";
    page.one("process_start_time_seconds", "gauge", what, "", process.start_seconds);
    page.one("process_threads", "gauge", "Threads.", "", process.threads);
}

struct Process {
    resident_bytes: u64,
    cpu_seconds: f64,
    start_seconds: f64,
    threads: u64,
}

impl Process {
    fn read() -> Option<Process> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let seconds = |clock| {
            let time = clock_gettime(clock);
            time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
        };
        let booted = seconds(ClockId::Realtime) - seconds(ClockId::Boottime);
        Process::parse(&stat, rustix::param::page_size() as u64, ticks, booted)
    }

    /// Reads `/proc/PID/stat` (proc(5)): the name in brackets may hold anything, so fields are counted from its end.
    fn parse(stat: &str, page_bytes: u64, ticks: f64, booted: f64) -> Option<Process> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // Field 3 of the manual is the first one here.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Process {
            cpu_seconds: (field(14)? + field(15)?) as f64 / ticks,
            threads: field(20)?,
            // To the hundredth: the two clocks are not read in the same instant.
            start_seconds: ((booted + field(22)? as f64 / ticks) * 100.0).round() / 100.0,
            resident_bytes: field(24)? * page_bytes,
        })
    }
}

/// One request. It is counted when this is dropped: after its reply, or as 500 when its handler panics.
pub struct Measure<'a> {
    metrics: &'a Metrics,
    /// Taken when it is counted elsewhere.
    request: Option<Suspended>,
    /// Status of its reply.
    pub status: u16,
}

/// A request that will be answered by another thread.
#[derive(Debug, Clone, Copy)]
pub struct Suspended {
    row: usize,
    arrived: Instant,
}

impl Measure<'_> {
    /// Counts nothing yet: that is for [`Metrics::go_on`].
    pub fn suspend(mut self) -> Option<Suspended> {
        self.request.take()
    }
}

impl Drop for Measure<'_> {
    fn drop(&mut self) {
        if let Some(Suspended { row, arrived }) = self.request {
            self.metrics.requests[row].1[column(self.status)].record(arrived.elapsed());
        }
    }
}

fn column(status: u16) -> usize {
    CLASSES.iter().position(|(class, _)| *class == status / 100).unwrap_or(CLASSES.len() - 1)
}

/// The text that is built. No label here needs an escape.
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // A String takes every write.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            labels => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, labels: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, labels, value);
    }

    fn histogram(&mut self, name: &str, labels: &str, read: &([u64; TIMING_BOUNDS_US.len() + 1], u64)) {
        let (counts, sum_us) = read;
        let bounds = TIMING_BOUNDS_US.iter().map(|us| (*us as f64 / 1e6).to_string()).chain(["+Inf".to_owned()]);
        let comma = if labels.is_empty() { "" } else { "," };
        let mut total = 0;
        for (bound, count) in bounds.zip(counts) {
            total += count;
            self.sample(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"{bound}\""), total);
        }
        self.sample(&format!("{name}_sum"), labels, *sum_us as f64 / 1e6);
        self.sample(&format!("{name}_count"), labels, total);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn requests_are_counted_where_they_belong() {
        let metrics = Metrics::new(["/v1/check", "/v1/limits/{key}", "/v1/top"].into_iter());
        for (endpoint, status, took) in
            [(Some(0), 429, 3), (Some(1), 200, 50), (Some(1), 200, 51), (None, 404, 20_000_000)]
        {
            let row = metrics.measure(endpoint, Instant::now()).suspend().unwrap().row;
            metrics.requests[row].1[column(status)].record(Duration::from_micros(took));
        }
        let mut page = Page(String::new());
        metrics.requests(&mut page);
        let has = |line: &str| assert!(page.0.lines().any(|other| other == line), "{line}: {}", page.0);
        has("flint_request_duration_seconds_bucket{route=\"/v1/check\",status=\"4xx\",le=\"0.00005\"} 1");
        has("flint_request_duration_seconds_bucket{route=\"/v1/limits/{key}\",status=\"2xx\",le=\"0.00005\"} 1");
        has("flint_request_duration_seconds_bucket{route=\"/v1/limits/{key}\",status=\"2xx\",le=\"0.0001\"} 2");
        has("flint_request_duration_seconds_sum{route=\"/v1/limits/{key}\",status=\"2xx\"} 0.000101");
        has("flint_request_duration_seconds_bucket{route=\"other\",status=\"4xx\",le=\"10\"} 0");
        has("flint_request_duration_seconds_bucket{route=\"other\",status=\"4xx\",le=\"+Inf\"} 1");
        has("flint_request_duration_seconds_count{route=\"other\",status=\"4xx\"} 1");
        assert!(!page.0.contains("5xx"), "{}", page.0);
        // A handler that panics sets no status.
        drop(metrics.measure(Some(2), Instant::now()));
        let count = |column: usize| metrics.requests[2].1[column].read().0.iter().sum::<u64>();
        assert_eq!([count(0), count(1), count(2)], [0, 0, 1]);
    }

    #[test]
    fn the_process_is_read_from_behind_its_name() {
        let stat =
            "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 9 0 1234 1000000 512 18446744073709551615";
        let process = Process::parse(stat, 4096, 100.0, 1_000_000.0).unwrap();
        assert_eq!((process.threads, process.resident_bytes), (9, 512 * 4096));
        assert_eq!((process.cpu_seconds, process.start_seconds), (2.0, 1_000_012.34));
        assert!(Process::parse("7 (a) S 1", 1, 1.0, 0.0).is_none());
    }
}
