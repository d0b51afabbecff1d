//! Measures the embedded limiter: nanoseconds per check, recovery time and memory. Prints medians; asserts nothing.
//! Run with `cargo bench --bench embedded`; ROUNDS (default 3) may be set.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use flint::{Algorithm, Limit, Limiter, Options, SyncMode};

const LIMITS: usize = 1_000_000;

fn main() {
    // `cargo test --benches` passes this and expects no measurement.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let mut one = Vec::new();
    let mut two = Vec::new();
    for _ in 0..rounds() {
        one.push(checks(1));
        two.push(checks(2));
    }
    println!("embedded check, relaxed, 1 thread: {:>8.0} ns", median(&mut one));
    println!("embedded check, relaxed, 2 threads:{:>8.0} ns per check overall", median(&mut two));
    scale();
    events();
}

fn rounds() -> usize {
    std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

fn options() -> Options {
    Options::default().with_sync(SyncMode::Relaxed)
}

/// Nanoseconds of wall time per check.
fn checks(threads: usize) -> f64 {
    const CHECKS: u32 = 1_000_000;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let limiter = Limiter::open(dir.path(), options()).expect("a limiter");
    let limit =
        Limit::new(1_000_000_000_000, Duration::from_secs(86_400), Algorithm::TokenBucket, None).expect("a limit");
    let keys: Vec<String> = (0..1000).map(|index| format!("user:{index}")).collect();
    for key in &keys {
        limiter.configure(key, limit.clone()).expect("configured");
    }
    let begun = Instant::now();
    thread::scope(|scope| {
        for worker in 0..threads {
            let (limiter, keys) = (&limiter, &keys);
            scope.spawn(move || {
                for round in 0..CHECKS as usize {
                    limiter.check(&keys[(round * 7 + worker * 13) % keys.len()], 1).expect("allowed");
                }
            });
        }
    });
    begun.elapsed().as_nanos() as f64 / f64::from(CHECKS) / threads as f64
}

fn scale() {
    let parent = tempfile::tempdir().expect("a temporary directory");
    let dir = parent.path().join("data");
    let before = resident();
    let limiter = Limiter::open(&dir, options()).expect("a limiter");
    let limit = Limit::new(100, Duration::from_secs(60), Algorithm::TokenBucket, None).expect("a limit");
    // Configuring waits for the write, so many threads share each.
    thread::scope(|scope| {
        for worker in 0..64 {
            let (limiter, limit) = (&limiter, &limit);
            scope.spawn(move || {
                for index in (worker..LIMITS).step_by(64) {
                    limiter.configure(&format!("user:{index:011}"), limit.clone()).expect("configured");
                }
            });
        }
    });
    let memory = resident() - before;
    println!("memory for {LIMITS} limits:       {:>8.1} MiB", memory as f64 / 1024.0);
    let report = limiter.compact().expect("compacted");
    println!("snapshot of {LIMITS} limits:      {:>8.1} MiB", report.snapshot_bytes as f64 / 1_048_576.0);
    limiter.close().expect("closed");
    drop(limiter);
    report_recovery("limits, after a clean stop:", &dir);
    let limiter = Limiter::open(&dir, options()).expect("a limiter");
    limiter.check("user:00000000001", 1).expect("allowed");
    limiter.flush().expect("flushed");
    let crashed = parent.path().join("crashed");
    copy(&dir, &crashed);
    drop(limiter);
    report_recovery("limits, after a crash:", &crashed);
}

/// Recovery of 10 million events, in segments of the usual size, as a crash leaves them.
fn events() {
    const EVENTS: usize = 10_000_000;
    const KEYS: usize = 10_000;
    let parent = tempfile::tempdir().expect("a temporary directory");
    let (dir, crashed) = (parent.path().join("data"), parent.path().join("crashed"));
    // No snapshot may come in between.
    let options = options().with_compact_after(flint::bounds::MAX_COMPACT_AFTER_BYTES).with_flush_every_events(100_000);
    let limiter = Limiter::open(&dir, options).expect("a limiter");
    let limit =
        Limit::new(1_000_000_000_000, Duration::from_secs(86_400), Algorithm::TokenBucket, None).expect("a limit");
    let keys: Vec<String> = (0..KEYS).map(|index| format!("user:{index:011}")).collect();
    thread::scope(|scope| {
        for part in keys.chunks(KEYS / 50) {
            let (limiter, limit) = (&limiter, &limit);
            scope.spawn(move || {
                for key in part {
                    limiter.configure(key, limit.clone()).expect("configured");
                }
            });
        }
    });
    for round in 0..EVENTS {
        limiter.check(&keys[round.wrapping_mul(7919) % KEYS], 1).expect("allowed");
    }
    limiter.flush().expect("flushed");
    println!("log of {EVENTS} events:           {:>8.1} MiB", limiter.report().log_bytes as f64 / 1_048_576.0);
    copy(&dir, &crashed);
    drop(limiter);
    report_recovery("events, after a crash:", &crashed);
}

/// Opens copies of the directory, as a fresh start would find them but for the page cache.
fn report_recovery(what: &str, dir: &Path) {
    let rounds = rounds().max(3);
    let mut took: Vec<f64> = (0..rounds)
        .map(|round| {
            let found = dir.with_file_name(format!("found-{round}"));
            copy(dir, &found);
            let begun = Instant::now();
            let limiter = Limiter::open(&found, options()).expect("a limiter");
            let took = begun.elapsed().as_secs_f64() * 1000.0;
            drop(limiter);
            std::fs::remove_dir_all(found).expect("removed");
            took
        })
        .collect();
    println!("recovery of {what:<30} {:>8.0} ms", median(&mut took));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a directory");
    for item in std::fs::read_dir(from).expect("the directory").flatten() {
        std::fs::copy(item.path(), to.join(item.file_name())).expect("a copy");
    }
}

/// Resident memory in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
