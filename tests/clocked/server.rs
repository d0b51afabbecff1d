//! A server with a clock that is set by the process that started it, for the tests of clients (`scripts/python/tests`). The
//! released program has no such switch.
//!
//!     clocked DATA_DIR MICROS
//!
//! Serves the directory on its own port, with a clock that stands still at MICROS since the epoch, and prints the URL.
//! Each line of the input is a number of microseconds that pass; a line is printed for each. Ends with the input.

use std::error::Error;
use std::io::BufRead;
use std::sync::Arc;
use std::time::Duration;

use flint::server::{self, Bind, Config, DEFAULT_TRUSTED, Gates, LegacyHeaders, Server, Tokens};
use flint::{Clock, Limiter, Options};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(now)) = (arguments.next(), arguments.next()) else {
        return Err("usage: clocked DATA_DIR MICROS".into());
    };
    let clock = Clock::manual(now.parse()?);
    let limiter = Arc::new(Limiter::open(dir, Options::default().with_clock(clock.clone()))?);
    let config = Config {
        tokens: Tokens::new(Vec::new()),
        workers: 4,
        hosts: Vec::new(),
        gates: Gates::parse(&[], DEFAULT_TRUSTED, 64)?,
        open_health: false,
        legacy: LegacyHeaders::None,
        idle_timeout: Duration::from_secs(60),
        max_connections: 64,
        on_exhausted: Box::new(|| {}),
    };
    let server = Server::start(server::bind(&Bind::parse("127.0.0.1:0")?, 0o600)?, config, limiter.clone())?;
    println!("{}", server.url());
    for line in std::io::stdin().lock().lines() {
        clock.advance(Duration::from_micros(line?.trim().parse()?));
        println!("ok");
    }
    server.stop();
    Ok(())
}
