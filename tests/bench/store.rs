//! Measures the engine over a store, without HTTP: checks per second of 1, 2 and 4 processes on one Redis, with a hot key
//! and with 100 000 keys, in rounds that alternate with `redis-benchmark` and a token bucket in Lua on the same server.
//! Prints medians, and their ratio to the bucket; asserts nothing. Needs redis-server and redis-benchmark.
//!
//!     cargo bench --features store --bench store
//!
//! ROUNDS (default 3), SECONDS_EACH (default 3), WARM (seconds before these, default 1), THREADS (default `32 128`),
//! NODES (default `1 2 4`), KEYS (default `1 100000`) and FSYNC (default `always`; also `everysec`, `no`) may be set;
//! and LANES, which is how many threads of a process decide.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio, exit};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flint::engine::remote::{Remote, Settings};

const KEYS: usize = 100_000;

/// So that no check is denied.
const LIMIT: &str = "1000000000000/24h";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` passes this and expects no measurement.
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["node", url, store, threads, keys, seconds] => {
            node(url, number(store) as u32, number(threads), number(keys), number(seconds));
        }
        ["configure", url, keys] => configure(url, number(keys)),
        _ => compare(),
    }
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| fail(&format!("`{text}` is no number")))
}

fn fail(what: &str) -> ! {
    eprintln!("bench store: {what}");
    exit(1)
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// Processor time of a process so far, in microseconds; to a hundredth of a second.
fn processor_time(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // What is after the name, which may have blanks: user and system time are the 12th and 13th.
    let times = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    times.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * 10_000.0
}

/// What one measurement says.
#[derive(Clone, Copy, Default)]
struct Measured {
    /// Checks per second.
    rate: f64,
    /// Checks that failed.
    failed: f64,
    /// Processor time of the store for each check, and of all other processes that took part, in microseconds.
    store: f64,
    ours: f64,
}

/// One process: checks with this many threads for this many seconds, after WARM seconds in which nothing is counted.
fn node(url: &str, store: u32, threads: usize, keys: usize, seconds: usize) {
    let mut settings = Settings::new(url);
    settings.lanes = std::env::var("LANES").map_or(settings.lanes, |lanes| number(&lanes));
    let engine = Remote::open(settings).unwrap_or_else(|error| fail(&error.to_string()));
    let (counting, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let (checks, errors) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for thread in 0..threads {
            let (engine, counting, ended, checks, errors) = (&engine, &counting, &ended, &checks, &errors);
            scope.spawn(move || {
                let mut random =
                    0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(thread as u64 + 1 + u64::from(std::process::id()));
                while !ended.load(Ordering::Relaxed) {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let key = format!("bench:{}", random % keys as u64);
                    let allowed = Arc::new(AtomicBool::new(false));
                    let cell = Arc::clone(&allowed);
                    let ran = engine.run(Box::new(move |limiter| {
                        let decision = limiter.check(&key, 1);
                        cell.store(decision.is_ok_and(|decision| decision.allowed), Ordering::Relaxed);
                    }));
                    if counting.load(Ordering::Relaxed) {
                        let good = ran.is_ok() && allowed.load(Ordering::Relaxed);
                        let before = if good { checks } else { errors }.fetch_add(1, Ordering::Relaxed);
                        if !good && before == 0 {
                            eprintln!("the first that failed: {ran:?}");
                        }
                    }
                }
            });
        }
        thread::sleep(Duration::from_secs(number(&setting("WARM", "1")) as u64));
        let before = [store, std::process::id()].map(processor_time);
        counting.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        thread::sleep(Duration::from_secs(seconds as u64));
        counting.store(false, Ordering::Relaxed);
        let (count, passed) = (checks.load(Ordering::Relaxed) as f64, begun.elapsed().as_secs_f64());
        let after = [store, std::process::id()].map(processor_time);
        ended.store(true, Ordering::Relaxed);
        let failed = errors.load(Ordering::Relaxed);
        println!("{} {failed} {} {}", count / passed, after[0] - before[0], after[1] - before[1]);
    });
}

/// A separate redis-server, in its own directory.
struct Redis {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Redis {
    fn start(fsync: &str) -> Redis {
        let dir = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR")))
            .unwrap_or_else(|error| fail(&error.to_string()));
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = port.unwrap_or_else(|error| fail(&error.to_string())).port();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(dir.path());
        match fsync {
            "no" => command.args(["--appendonly", "no"]),
            _ => command.args(["--appendonly", "yes", "--appendfsync", fsync]),
        };
        let child = command.stdout(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| fail(&format!("redis-server can't be started: {error}")));
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if begun.elapsed() > Duration::from_secs(10) {
                fail("redis-server does not answer");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Redis { child, port, _dir: dir }
    }

    fn cli(&self, words: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(words).output();
        let output = output.unwrap_or_else(|error| fail(&format!("redis-cli can't be started: {error}")));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The bucket in Lua, by this many connections.
    fn bucket(&self, connections: usize, keys: usize, seconds: usize) -> Measured {
        let sha = self.cli(&["script", "load", include_str!("token_bucket.lua")]);
        let port = self.port.to_string();
        let connections = connections.to_string();
        let spread = keys.to_string();
        let key = if keys > 1 { "bucket:__rand_int__" } else { "bucket" };
        let round = |requests: usize| {
            let requests = requests.to_string();
            let mut words = vec!["-p", &port, "-c", &connections, "-P", "1", "-n", &requests, "--csv"];
            if keys > 1 {
                words.extend(["-r", &spread]);
            }
            words.extend(["evalsha", &sha, "1", key, "1000000000000", "1000000000000", "86400000", "1"]);
            let output = Command::new("redis-benchmark").args(words).output();
            let output = output.unwrap_or_else(|error| fail(&format!("redis-benchmark can't be started: {error}")));
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let rate = text.lines().last().and_then(|line| line.split("\",\"").nth(1)?.parse::<f64>().ok());
            rate.unwrap_or_else(|| fail(&format!("redis-benchmark says: {text}")))
        };
        let count = (round(20_000) * seconds as f64) as usize;
        let before = processor_time(self.child.id());
        let rate = round(count);
        Measured { rate, store: (processor_time(self.child.id()) - before) / count as f64, ..Measured::default() }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Configures the keys of a round.
fn configure(url: &str, keys: usize) {
    let engine = Remote::open(Settings::new(url)).unwrap_or_else(|error| fail(&error.to_string()));
    for first in (0..keys).step_by(1000) {
        let ran = engine.run(Box::new(move |limiter| {
            for key in first..keys.min(first + 1000) {
                let limit = LIMIT.parse().unwrap_or_else(|_| fail("the limit"));
                let _ = limiter.configure(&format!("bench:{key}"), limit);
            }
        }));
        ran.unwrap_or_else(|error| fail(&error.to_string()));
    }
}

/// This many processes at once.
fn flint(redis: &Redis, url: &str, nodes: usize, threads: usize, keys: usize, seconds: usize) -> Measured {
    let program = std::env::current_exe().unwrap_or_else(|error| fail(&error.to_string()));
    let start = |_| {
        let numbers = [redis.child.id() as usize, threads, keys, seconds].map(|number| number.to_string());
        let child = Command::new(&program).args(["node", url]).args(numbers).stdout(Stdio::piped()).spawn();
        child.unwrap_or_else(|error| fail(&error.to_string()))
    };
    let children: Vec<Child> = (0..nodes).map(start).collect();
    let mut all = Measured::default();
    for child in children {
        let output = child.wait_with_output().unwrap_or_else(|error| fail(&error.to_string()));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let words: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [rate, failed, store, ours] = words[..] else { fail("a process has failed") };
        // Each of them has seen the store's time, at about the same time.
        all.store += store / nodes as f64;
        all.ours += ours;
        all.rate += rate;
        all.failed += failed;
    }
    let checks = (all.rate * seconds as f64).max(1.0);
    Measured { store: all.store / checks, ours: all.ours / checks, ..all }
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn numbers(name: &str, default: &str) -> Vec<usize> {
    setting(name, default).split_whitespace().map(number).collect()
}

fn compare() {
    let (rounds, seconds) = (number(&setting("ROUNDS", "3")).max(1), number(&setting("SECONDS_EACH", "3")).max(1));
    let (threads, nodes) = (numbers("THREADS", "32 128"), numbers("NODES", "1 2 4"));
    let fsync = setting("FSYNC", "always");
    let spreads = numbers("KEYS", &format!("1 {KEYS}"));
    println!(
        "checks per second, appendfsync {fsync}, medians of {rounds} rounds of {seconds} s; ratio to the bucket in Lua; \
         processor time of a check in microseconds: the store's, ours"
    );
    for keys in spreads {
        for threads in &threads {
            let mut bucket = Vec::new();
            let mut ours: Vec<Vec<Measured>> = vec![Vec::new(); nodes.len()];
            for _ in 0..rounds {
                let redis = Redis::start(&fsync);
                let url = format!("redis://127.0.0.1:{}", redis.port);
                bucket.push(redis.bucket(*threads, keys, seconds));
                configure(&url, keys);
                for (index, nodes) in nodes.iter().enumerate() {
                    ours[index].push(flint(&redis, &url, *nodes, *threads, keys, seconds));
                }
            }
            let what = if keys == 1 { "hot key".to_owned() } else { format!("{keys} keys") };
            println!("{what}, {threads} threads a process");
            let of = |measured: &[Measured], what: fn(&Measured) -> f64| median(measured.iter().map(what));
            let (rate, store) = (of(&bucket, |one| one.rate), of(&bucket, |one| one.store));
            println!("    Lua bucket, {threads} connections  {rate:>9.0}        {store:>5.1}");
            for (ours, nodes) in ours.iter().zip(&nodes) {
                let ratio = median(ours.iter().zip(&bucket).map(|(ours, bucket)| ours.rate / bucket.rate));
                let (rate, store) = (of(ours, |one| one.rate), of(ours, |one| one.store));
                let own = of(ours, |one| one.ours);
                println!("    flint, {nodes} process(es)        {rate:>9.0}  {ratio:>5.2} {store:>5.1} {own:>5.1}");
                let failed = ours.iter().map(|one| one.failed).sum::<f64>();
                if failed > 0.0 {
                    println!("    {failed} checks failed");
                }
            }
        }
    }
}
