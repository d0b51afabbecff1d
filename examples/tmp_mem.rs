use flint::clock::Clock;
use flint::limiter::{Limiter, Options, SyncMode};
use std::time::{Duration, Instant};
fn rss() -> String {
    let s = std::fs::read_to_string("/proc/self/status").unwrap();
    let get = |n: &str| {
        s.lines()
            .find(|l| l.starts_with(n))
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    format!(
        "{} MiB (peak {})",
        get("VmRSS:") / 1024,
        get("VmHWM") / 1024
    )
}
fn main() {
    let n: usize = std::env::args().nth(1).unwrap().parse().unwrap();
    let threads: usize = std::env::args().nth(2).unwrap().parse().unwrap();
    let dir = std::env::args().nth(3).unwrap();
    let mode = std::env::args().nth(4).unwrap();
    let clock = Clock::manual(1_800_000_000_000_000);
    let t = Instant::now();
    let l = Limiter::open(
        dir,
        Options::default()
            .with_sync(SyncMode::Relaxed)
            .with_clock(clock.clone()),
    )
    .unwrap();
    println!("open {:?} rss {}", t.elapsed(), rss());
    if mode == "fill" {
        let exact = std::env::args().any(|a| a == "exact");
        if !exact {
            l.configure("user:*", "100/1m".parse().unwrap()).unwrap();
        }
        let t = Instant::now();
        std::thread::scope(|s| {
            for w in 0..threads {
                let l = &l;
                s.spawn(move || {
                    for i in (w..n).step_by(threads) {
                        let k = format!("user:{i}");
                        if exact {
                            l.configure(&k, "100/1m".parse().unwrap()).unwrap();
                        }
                        l.check(&k, 1).unwrap();
                    }
                });
            }
        });
        println!("{n} first checks {:?} rss {}", t.elapsed(), rss());
        l.flush().unwrap();
    }
    if mode == "events" {
        l.configure("k*", "1000000000/1m".parse().unwrap()).unwrap();
        l.configure("exact", "1000000000/1m".parse().unwrap())
            .unwrap();
        for i in 0..n {
            if i % 2 == 0 {
                l.check("k1", 1).unwrap();
            } else {
                l.check("exact", 1).unwrap();
            }
        }
    }
    if std::env::args().last().unwrap() == "sweep" {
        println!("live {} limits {}", l.report().live, l.report().limits);
        clock.advance(Duration::from_secs(60));
        let t = Instant::now();
        loop {
            let r = l.report();
            if r.live == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        println!("swept after {:?} rss {}", t.elapsed(), rss());
        std::thread::sleep(Duration::from_secs(6));
        println!("later rss {}", rss());
        smaps();
    }
}
#[allow(dead_code)]
fn smaps() {
    let s = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut name = String::new();
    for l in s.lines() {
        if l.contains('-')
            && l.split_whitespace().next().unwrap().contains('-')
            && !l.starts_with("VmFlags")
        {
            name = l.to_string();
        }
        if l.starts_with("Rss:") {
            let kb: u64 = l.split_whitespace().nth(1).unwrap().parse().unwrap();
            if kb > 200 {
                println!("{kb} {name}");
            }
        }
    }
}
