//! The ceiling of the HTTP layer: tiny_http answering each request with a constant of a decision's size, by so many
//! threads, with the same listener options. For `scripts/bench`.

use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

fn main() {
    // `cargo test` runs examples' binaries with arguments of its own when asked for all targets.
    let Some(workers) = std::env::args().nth(1).and_then(|text| text.parse::<usize>().ok()) else {
        eprintln!("usage: constant WORKERS");
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    rustix::net::sockopt::set_tcp_nodelay(&listener, true).expect("an option");
    println!("constant listening on http://{}", listener.local_addr().expect("an address"));
    let body = r#"{"key":"bench","allowed":true,"cost":1,"limit":1000000000000,"remaining":999999999999,"reset_at":"2026-01-31T23:59:59.999Z","retry_after_ms":0,"algorithm":"token_bucket"}"#;
    let headers = "Content-Type: application/json\r\nRateLimit-Policy: \"default\";q=1000000000000;w=86400\r\n\
                   RateLimit: \"default\";r=999999999999;t=1\r\nCache-Control: no-store\r\n";
    let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{headers}\r\n{body}\n", body.len() + 1);
    let server = Arc::new(tiny_http::Server::from_listener(listener, None).expect("a server"));
    let threads: Vec<_> = (0..workers)
        .map(|_| {
            let (server, reply) = (Arc::clone(&server), reply.clone());
            thread::spawn(move || {
                while let Ok(request) = server.recv() {
                    let mut writer = request.into_writer();
                    let _ = writer.write_all(reply.as_bytes()).and_then(|()| writer.flush());
                }
            })
        })
        .collect();
    for thread in threads {
        let _ = thread.join();
    }
}
