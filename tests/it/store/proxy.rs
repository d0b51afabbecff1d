//! A proxy that cuts connections: before a request has arrived, or after, so that its reply is lost.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// What all connections share.
#[derive(Default)]
struct Shared {
    open: Mutex<Vec<(TcpStream, TcpStream)>>,
    /// Replies that are to be lost, each with its connection.
    lost: AtomicU64,
    cuts: AtomicU64,
    closed: AtomicBool,
}

/// A proxy before one server.
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    pub fn before(server: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let accepted = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if accepted.closed.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", server))) else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let pair = (client.try_clone().unwrap(), server.try_clone().unwrap());
                accepted.open.lock().unwrap().push(pair);
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || pass(from, to, || false));
                let shared = Arc::clone(&accepted);
                thread::spawn(move || pass(server, client, || shared.loses()));
            }
        });
        Proxy { port, shared }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Cuts all connections now.
    pub fn cut(&self) {
        for (client, server) in self.shared.open.lock().unwrap().drain(..) {
            let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
            self.shared.cuts.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Cuts the next connection on which a reply comes, which is lost with it.
    pub fn lose_a_reply(&self) {
        self.shared.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// How many connections were cut.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        self.cut();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn loses(&self) -> bool {
        let taken = self.lost.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        self.cuts.fetch_add(u64::from(taken), Ordering::Relaxed);
        taken
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, loses: impl Fn() -> bool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 || loses() || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
