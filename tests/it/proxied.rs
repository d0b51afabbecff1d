//! Gates with the reverse proxies of `man/flint-server.8`, with the configurations in that page.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::net::{AddressFamily, SocketType};

use crate::proxies::{Proxy, configuration, missing, run_nginx};
use crate::util::{Client, PATIENCE, Reply, Server};

const TOKEN: &str = "gate-secret";

/// What is behind the proxy: it answers every request, and counts them.
struct Application {
    address: String,
    served: Arc<AtomicUsize>,
}

impl Application {
    fn start() -> Application {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let served = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&served);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counted = Arc::clone(&counted);
                std::thread::spawn(move || serve(&stream, &counted));
            }
        });
        Application { address, served }
    }
}

/// Each request here is a head without a body. `/forbidden` is refused by the application itself.
fn serve(stream: &TcpStream, counted: &AtomicUsize) {
    let mut lines = BufReader::new(stream).lines();
    let mut target = String::new();
    while let Some(Ok(line)) = lines.next() {
        if target.is_empty() {
            target.clone_from(&line);
        }
        if !line.is_empty() {
            continue;
        }
        counted.fetch_add(1, Ordering::SeqCst);
        let status = if target.contains("/forbidden") { "403 Forbidden" } else { "200 OK" };
        target.clear();
        let mut stream = stream;
        if stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nhello").as_bytes()).is_err() {
            return;
        }
    }
}

/// A client of the proxy with this address of its own.
fn client_from(local: &str, port: u16) -> Option<Client> {
    let local: SocketAddr = local.parse().unwrap();
    let (family, to) = match local.is_ipv4() {
        true => (AddressFamily::INET, "127.0.0.1"),
        false => (AddressFamily::INET6, "::1"),
    };
    let socket = rustix::net::socket(family, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &local).ok()?;
    rustix::net::connect(&socket, &SocketAddr::new(to.parse().unwrap(), port)).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Some(Client::on(stream))
}

/// A request of a browser's page, which lies about where it comes from.
fn ask(client: &mut Client, path: &str) -> Reply {
    let lies =
        "X-Forwarded-For: 6.6.6.6\r\nX-Original-URI: /lie\r\nX-Forwarded-Uri: /lie\r\nAuthorization: Basic bGll\r\n";
    let page = "Origin: https://shop.example\r\nSec-Fetch-Site: cross-site\r\n";
    client.raw(&format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n{page}{lies}\r\n"), false).unwrap()
}

/// Three of `count` requests on one connection pass.
fn three_pass(mut client: Client, count: usize, tells: bool) {
    for number in 0..count {
        let reply = ask(&mut client, "/cart?id=1");
        if number < 3 {
            assert_eq!((reply.status, reply.body.as_str()), (200, "hello"), "{number}: {reply:?}");
            assert_eq!(reply.header("RateLimit").is_some(), tells, "{reply:?}");
            continue;
        }
        assert_eq!(reply.status, 429, "{number}: {reply:?}");
        let wait: u64 = reply.header("Retry-After").unwrap_or_else(|| panic!("{reply:?}")).parse().unwrap();
        assert!((1..=60).contains(&wait), "{reply:?}");
        assert!(reply.header("RateLimit").is_some_and(|quota| quota.contains(";r=0;")), "{reply:?}");
        assert!(reply.header("RateLimit-Policy").is_some_and(|policy| policy.contains("q=3")), "{reply:?}");
        assert!(reply.body.contains("too many requests"), "{reply:?}");
    }
}

struct Setting {
    server: Server,
    application: Application,
    proxy: Proxy,
    _dir: tempfile::TempDir,
}

fn start(gate: &str, proxy: impl Fn(&Path, u16, &str, &str) -> Command) -> Setting {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--token", TOKEN, "--gate", gate, "--trusted-proxies", "127.0.0.1"];
    let server = Server::start(&dir.path().join("data"), &args);
    let application = Application::start();
    let flint = server.url.trim_start_matches("http://").to_owned();
    let proxy = Proxy::start(|dir, port| proxy(dir, port, &flint, &application.address));
    Setting { server, application, proxy, _dir: dir }
}

/// What must hold behind any proxy. `tells` is what is left if a request passes; `away` is the status without Flint.
fn check(setting: Setting, tells: bool, away: u16) {
    let Setting { server, application, proxy, _dir } = setting;
    let mut clients = 0;
    for (local, count) in [("127.0.0.1:0", 10), ("127.0.0.2:0", 5), ("[::1]:0", 5)] {
        if let Some(client) = client_from(local, proxy.port) {
            three_pass(client, count, tells);
            clients += 1;
        }
    }
    assert!(clients >= 2);
    assert_eq!(application.served.load(Ordering::SeqCst), 3 * clients);
    let mut admin = Client::new(&server.url, Some(TOKEN));
    let listing = admin.get("/v1/limits?live=true").ok();
    let keys: Vec<&str> = listing.as_array().unwrap().iter().map(|status| status["key"].as_str().unwrap()).collect();
    let expected = ["web:127.0.0.1:/cart", "web:127.0.0.2:/cart", "web:::/64:/cart"];
    assert!(keys.iter().all(|key| expected.contains(key)) && keys.len() == clients, "{keys:?}");
    // What the application forbids stays forbidden.
    let mut other = client_from("127.0.0.3:0", proxy.port).unwrap();
    let reply = ask(&mut other, "/forbidden");
    assert_eq!((reply.status, reply.body.as_str()), (403, "hello"), "{reply:?}");
    // The proxy keeps its connections to Flint.
    let open = admin.get("/v1/doctor").ok()["connections"]["open"].as_u64().unwrap();
    assert!(open < 20, "{open}");
    server.kill();
    for _ in 0..5 {
        let reply = ask(&mut client_from("127.0.0.4:0", proxy.port).unwrap(), "/cart");
        assert_eq!(reply.status, away, "{reply:?}");
    }
    drop(proxy);
}

fn nginx_gate(dir: &Path, port: u16, flint: &str, application: &str) -> Command {
    let here = dir.display().to_string();
    let text = configuration(
        "A gate in nginx",
        &[
            ("127.0.0.1:7878", flint.to_owned()),
            ("127.0.0.1:8000", application.to_owned()),
            ("listen 8080", format!("listen 127.0.0.1:{port}; listen [::1]:{port}")),
            ("Bearer TOKEN", format!("Bearer {TOKEN}")),
            ("/var/log/nginx", here.clone()),
            ("/run/nginx.pid", format!("{here}/nginx.pid")),
        ],
    );
    run_nginx(dir, &text)
}

#[test]
fn a_gate_in_nginx() {
    if missing(&["nginx", "openssl"]) {
        return;
    }
    check(start("web=by=ip,path&limit=3/1m&deny=403", nginx_gate), true, 200);
}

#[test]
fn many_requests_through_a_gate_in_nginx() {
    if missing(&["nginx", "openssl"]) {
        return;
    }
    const CONNECTIONS: usize = 32;
    const REQUESTS: usize = 10_000;
    let Setting { server, application, proxy, _dir } =
        start("web=by=ip&limit=5000/1d fixed_window_counter&deny=403", nginx_gate);
    let port = proxy.port;
    let threads: Vec<_> = (0..CONNECTIONS)
        .map(|index| {
            let requests = REQUESTS / CONNECTIONS + usize::from(index < REQUESTS % CONNECTIONS);
            std::thread::spawn(move || {
                let mut client = Client::new(&format!("http://127.0.0.1:{port}"), None);
                let statuses: Vec<u16> = (0..requests).map(|_| ask(&mut client, "/cart").status).collect();
                statuses
            })
        })
        .collect();
    let statuses: Vec<u16> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    let count = |status| statuses.iter().filter(|other| **other == status).count();
    assert_eq!((statuses.len(), count(200), count(429)), (REQUESTS, 5000, 5000));
    assert_eq!(application.served.load(Ordering::SeqCst), 5000);
    let log = std::fs::read_to_string(proxy.dir.path().join("error.log")).unwrap();
    // That 403 is the gate's answer is reported as an error of the client.
    let odd: Vec<&str> = log.lines().filter(|line| !line.contains("access forbidden by rule")).collect();
    assert!(odd.is_empty(), "{odd:?}");
    drop(proxy);
    server.terminate();
}

#[test]
fn a_gate_in_haproxy() {
    if missing(&["haproxy", "openssl"]) {
        return;
    }
    let script: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/proxies/haproxy.lua");
    let haproxy = |dir: &Path, port: u16, flint: &str, application: &str| {
        let text = configuration(
            "A gate in HAProxy",
            &[
                ("127.0.0.1:7878", flint.to_owned()),
                ("127.0.0.1:8000", application.to_owned()),
                ("bind :8080", format!("bind 127.0.0.1:{port},[::1]:{port}")),
                ("/usr/share/doc/flint/proxies/haproxy.lua", script.display().to_string()),
                ("/etc/haproxy/flint-token", dir.join("token").display().to_string()),
            ],
        );
        std::fs::write(dir.join("token"), format!("# of the gate\n{TOKEN}\n")).unwrap();
        std::fs::write(dir.join("haproxy.cfg"), text).unwrap();
        let mut haproxy = Command::new("haproxy");
        haproxy.arg("-db").arg("-f").arg(dir.join("haproxy.cfg"));
        haproxy
    };
    check(start("web=by=ip,path&limit=3/1m", haproxy), true, 200);
}

#[test]
fn a_gate_in_caddy() {
    if missing(&["caddy", "openssl"]) {
        return;
    }
    let caddy = |dir: &Path, port: u16, flint: &str, application: &str| {
        let text = configuration(
            "A gate in Caddy",
            &[
                ("127.0.0.1:7878", flint.to_owned()),
                ("127.0.0.1:8000", application.to_owned()),
                (":8080", format!(":{port}")),
                ("Bearer TOKEN", format!("Bearer {TOKEN}")),
            ],
        );
        let file = dir.join("Caddyfile");
        std::fs::write(&file, text).unwrap();
        let mut caddy = Command::new("caddy");
        // What it keeps elsewhere stays in the directory.
        caddy.env("HOME", dir).env("XDG_DATA_HOME", dir).env("XDG_CONFIG_HOME", dir);
        caddy.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
        caddy
    };
    check(start("web=by=ip,path&limit=3/1m", caddy), false, 502);
}
