//! A proxy in front of a server, that loses replies.
//!
//! This file stands by itself: the tests of `tests/it/` include it too.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Forwards connections to a server. Each connection is cut after so many bytes of replies as it is told, while cuts
/// are left.
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    target: AtomicU64,
    /// Cuts that are left.
    cuts: AtomicU64,
    made: AtomicU64,
    /// A connection is cut after less than so many bytes.
    most: AtomicU64,
    /// Requests reach the server, and replies nobody.
    mute: AtomicBool,
    stopped: AtomicBool,
    random: AtomicU64,
}

impl Proxy {
    pub fn start(target: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            target: AtomicU64::new(u64::from(target)),
            cuts: AtomicU64::new(0),
            made: AtomicU64::new(0),
            most: AtomicU64::new(1),
            mute: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            random: AtomicU64::new(u64::from(port)),
        });
        let own = Arc::clone(&shared);
        let accepting = thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if own.stopped.load(Ordering::SeqCst) {
                    return;
                }
                own.serve(client);
            }
        });
        Proxy { port, shared, accepting: Some(accepting) }
    }

    pub fn address(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Cuts so many connections, each after a random number of bytes of replies, less than `most`.
    pub fn cut(&self, connections: u64, most: u64) {
        self.shared.most.store(most, Ordering::SeqCst);
        self.shared.cuts.store(connections, Ordering::SeqCst);
    }

    /// Connections that were cut.
    pub fn cuts(&self) -> u64 {
        self.shared.made.load(Ordering::SeqCst)
    }

    /// Keeps replies back, or lets them through.
    pub fn mute(&self, mute: bool) {
        self.shared.mute.store(mute, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.accepting.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn serve(self: &Arc<Shared>, client: TcpStream) {
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.target.load(Ordering::SeqCst) as u16)) else { return };
        [&client, &server].into_iter().for_each(|stream| stream.set_nodelay(true).unwrap());
        let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(read @ 1..) = from_client.read(&mut buffer) {
                if to_server.write_all(&buffer[..read]).is_err() {
                    break;
                }
            }
            let _ = to_server.shutdown(Shutdown::Both);
        });
        let own = Arc::clone(self);
        thread::spawn(move || own.send_replies(server, client));
    }

    fn send_replies(&self, mut server: TcpStream, mut client: TcpStream) {
        // xorshift: a sequence of its own for each proxy.
        let step = |seed: u64| {
            let seed = seed ^ (seed << 13);
            let seed = seed ^ (seed >> 7);
            seed ^ (seed << 17)
        };
        let drawn = self.random.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |seed| Some(step(seed))).unwrap();
        let mut left = drawn % self.most.load(Ordering::SeqCst).max(1);
        let mut buffer = [0; 16 * 1024];
        while let Ok(read @ 1..) = server.read(&mut buffer) {
            if self.mute.load(Ordering::SeqCst) {
                while self.mute.load(Ordering::SeqCst) && !self.stopped.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(1));
                }
                break;
            }
            if left < read as u64 && self.takes_a_cut() {
                let _ = client.write_all(&buffer[..left as usize]);
                break;
            }
            left = left.saturating_sub(read as u64);
            if client.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    }

    fn takes_a_cut(&self) -> bool {
        let taken = self.cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |cuts| cuts.checked_sub(1)).is_ok();
        if taken {
            self.made.fetch_add(1, Ordering::SeqCst);
        }
        taken
    }
}
