use flint::clock::Clock;
use flint::limiter::{Limiter, Options, SyncMode};
use std::time::{Duration, Instant};
unsafe extern "C" {
    fn malloc_trim(pad: usize) -> i32;
    fn mallopt(p: i32, v: i32) -> i32;
}
fn rss() -> u64 {
    let s = std::fs::read_to_string("/proc/self/status").unwrap();
    s.lines()
        .find(|l| l.starts_with("VmRSS:"))
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
}
fn main() {
    let mode = std::env::args().nth(1).unwrap();
    let threads = 3;
    if mode.contains("opt") {
        unsafe {
            mallopt(-3, 128 * 1024);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_800_000_000_000_000);
    let l = Limiter::open(
        dir.path(),
        Options::default()
            .with_sync(SyncMode::Relaxed)
            .with_clock(clock.clone()),
    )
    .unwrap();
    l.configure("user:*", "100/1m".parse().unwrap()).unwrap();
    for i in 0..1000 {
        l.check(&format!("user:{i}"), 1).unwrap();
    }
    println!("{mode}: start {} KiB", rss());
    for round in 0..3 {
        std::thread::scope(|s| {
            for w in 0..threads {
                let l = &l;
                s.spawn(move || {
                    for i in (w..1_000_000).step_by(threads) {
                        l.check(&format!("user:{round}-{i}"), 1).unwrap();
                    }
                });
            }
        });
        let full = rss();
        clock.advance(Duration::from_secs(60));
        while l.report().live > 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
        let swept = rss();
        let t = Instant::now();
        if mode.contains("trim") {
            unsafe {
                malloc_trim(0);
            }
        }
        println!(
            "  full {full} swept {swept} trimmed {} in {:?}",
            rss(),
            t.elapsed()
        );
    }
}
