//! Measures the embedded limiter: nanoseconds per check, recovery time and memory. Prints medians; asserts nothing.
//! Run with `cargo bench --bench embedded`; ROUNDS (default 3) may be set.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use flint::{Algorithm, Limit, Limiter, Options, SyncMode};

const LIMITS: usize = 1_000_000;

fn main() {
    // `cargo test --benches` passes this and wants no measurement.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let rounds = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let mut one = Vec::new();
    let mut two = Vec::new();
    for _ in 0..rounds {
        one.push(checks(1));
        two.push(checks(2));
    }
    println!("embedded check, batch, 1 thread:   {:>8.0} ns", median(&mut one));
    println!("embedded check, batch, 2 threads:  {:>8.0} ns per check overall", median(&mut two));
    scale();
}

fn options() -> Options {
    Options { sync: SyncMode::Batch, ..Options::default() }
}

/// Nanoseconds of wall time per check.
fn checks(threads: usize) -> f64 {
    const CHECKS: u32 = 1_000_000;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let limiter = Limiter::open(dir.path(), options()).expect("a limiter");
    let limit = Limit::new(1_000_000_000_000, 86_400_000, Algorithm::TokenBucket, None).expect("a limit");
    let keys: Vec<String> = (0..1000).map(|index| format!("user:{index}")).collect();
    for key in &keys {
        limiter.configure(key, limit).expect("configured");
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
    let limit = Limit::new(100, 60_000, Algorithm::TokenBucket, None).expect("a limit");
    // Configuring waits for the disk, so many threads share each fsync.
    thread::scope(|scope| {
        for worker in 0..64 {
            let limiter = &limiter;
            scope.spawn(move || {
                for index in (worker..LIMITS).step_by(64) {
                    limiter.configure(&format!("user:{index:011}"), limit).expect("configured");
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
    println!("recovery after a clean stop:       {:>8.0} ms", reopen(&dir).as_secs_f64() * 1000.0);
    let crashed = parent.path().join("crashed");
    let limiter = Limiter::open(&dir, options()).expect("a limiter");
    limiter.check("user:00000000001", 1).expect("allowed");
    limiter.flush().expect("flushed");
    std::fs::create_dir(&crashed).expect("a directory");
    for item in std::fs::read_dir(&dir).expect("the directory").flatten() {
        std::fs::copy(item.path(), crashed.join(item.file_name())).expect("a copy");
    }
    drop(limiter);
    println!("recovery after a crash:            {:>8.0} ms", reopen(&crashed).as_secs_f64() * 1000.0);
}

fn reopen(dir: &Path) -> Duration {
    let begun = Instant::now();
    let limiter = Limiter::open(dir, options()).expect("a limiter");
    let took = begun.elapsed();
    drop(limiter);
    took
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
