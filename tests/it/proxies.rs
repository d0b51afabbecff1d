//! The reverse proxies of `man/flint-server.8`, started with the configurations in that page. Only addresses, ports
//! and paths are replaced.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::mdoc::{Page, displays};
use crate::util::{Client, PATIENCE, Run, Server, run};

const TOKEN: &str = "proxied-secret";
const HOST: &str = "quota.example.org";

pub fn missing(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| {
        let found = Command::new("sh").args(["-c", &format!("command -v {program} >/dev/null")]).status();
        !found.is_ok_and(|status| status.success())
    });
    if let Some(program) = missing {
        eprintln!("SKIPPED: {program} is not installed, its configuration in flint-server.8 was not tried");
    }
    missing.is_some()
}

/// A certificate for [`HOST`], its key, and both in one file.
fn certificate(dir: &Path) {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    openssl.args(["-subj", &format!("/CN={HOST}"), "-addext", &format!("subjectAltName=DNS:{HOST}")]);
    openssl.arg("-keyout").arg(dir.join("key.pem")).arg("-out").arg(dir.join("cert.pem"));
    let made = run(&mut openssl);
    assert_eq!(made.code, Some(0), "{made:?}");
    let both = ["cert.pem", "key.pem"].map(|name| std::fs::read_to_string(dir.join(name)).unwrap()).concat();
    std::fs::write(dir.join("both.pem"), both).unwrap();
}

/// The configuration in this subsection of the page, with these texts replaced, each of which must be in it.
pub fn configuration(title: &str, replacements: &[(&str, String)]) -> String {
    let page = Page::read("flint-server.8");
    let mut blocks = displays(page.section(title));
    assert_eq!(blocks.len(), 1, "{title}");
    let mut text = blocks.remove(0);
    for (from, to) in replacements {
        assert!(text.contains(from), "{title} lacks {from}");
        text = text.replace(from, to);
    }
    text
}

/// A proxy that ends with its guard.
pub struct Proxy {
    child: Child,
    pub port: u16,
    pub dir: tempfile::TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // nginx's workers end with their master on SIGTERM; they would outlive a SIGKILL.
        let kill = format!("kill -TERM {}", self.child.id());
        let _ = Command::new("sh").args(["-c", &kill]).status();
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// Starts one by `start`, which gets a directory and a port. The port may be taken meanwhile: then it is tried again.
    pub fn start(start: impl Fn(&Path, u16) -> Command) -> Proxy {
        for _ in 0..5 {
            let dir = tempfile::tempdir().unwrap();
            certificate(dir.path());
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut child = start(dir.path(), port).stdin(Stdio::null()).spawn().unwrap();
            let deadline = Instant::now() + PATIENCE;
            while Instant::now() < deadline && child.try_wait().unwrap().is_none() {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Proxy { child, port, dir };
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("the proxy did not start");
    }

    /// Asks by curl. The last line of what is printed is the status.
    fn curl(&self, path: &str, args: &[&str]) -> Run {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "60", "-w", "\n%{http_code}", "--cacert"])
            .arg(self.dir.path().join("cert.pem"));
        curl.args(["--resolve", &format!("{HOST}:{}:127.0.0.1", self.port)]).args(args);
        run(curl.arg(format!("https://{HOST}:{}{path}", self.port)))
    }

    fn ask(&self, path: &str, args: &[&str]) -> (u16, String) {
        let bearer = format!("Authorization: Bearer {TOKEN}");
        let done = self.curl(path, &[&["-H", bearer.as_str()], args].concat());
        assert_eq!(done.code, Some(0), "{done:?}");
        let (body, status) = done.out.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }
}

/// What must hold through any proxy.
fn check(server: &Server, proxy: &Proxy) {
    let without = proxy.curl("/v1/health", &[]);
    assert!(without.out.ends_with("\n401") && without.out.contains("unauthorized"), "{without:?}");
    assert_eq!(proxy.ask("/v1/health", &[]).0, 200);
    assert_eq!(proxy.ask("/v1/limits", &["-d", r#"{"key":"route:/v1/chat","rate":40,"per":"366d"}"#]).0, 200);
    // The percent-encoded key comes through as it was sent, a denial's status and headers too.
    let (status, body) = proxy.ask("/v1/limits/route%3A%2Fv1%2Fchat", &[]);
    assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()["remaining"].clone()), (200, Value::from(40)));
    let check = ["-d", r#"{"key":"route:/v1/chat"}"#];
    for http in ["--http1.1", "--http2"] {
        let urls = "/v1/check?n=[1-20]".replace("?n=", "#");
        // Twenty on one connection, which curl keeps; so does the proxy.
        let (_, replies) = proxy.ask(&urls, &[&check[..], &[http, "-D", "-"]].concat());
        assert_eq!(replies.matches("\"allowed\":true").count(), 20, "{replies}");
        assert_eq!(
            replies.to_ascii_lowercase().matches("\nratelimit-policy: \"40/366d\";q=40").count(),
            20,
            "{replies}"
        );
    }
    let (status, body) = proxy.ask("/v1/take/route%3A%2Fv1%2Fchat", &["-X", "POST"]);
    assert!(status == 429 && body.starts_with("denied "), "{status} {body}");
    let (status, body) = proxy.ask("/v1/check", &[&check[..], &["-H", "Origin: https://evil.example"]].concat());
    assert!(status == 403 && body.contains("forbidden_origin"), "{status} {body}");
    // A body at the bound comes through, one past it does not.
    for (length, expected) in [(1024 * 1024, 429), (1024 * 1024 + 1, 413)] {
        let file = proxy.dir.path().join("body");
        let body = r#"{"key":"route:/v1/chat"}"#;
        std::fs::write(&file, format!("{body}{}", " ".repeat(length - body.len()))).unwrap();
        let data = format!("@{}", file.display());
        // If a body is refused the proxy may end the connection before curl has sent it all.
        let args = ["-H", &format!("Authorization: Bearer {TOKEN}"), "--http1.1", "--data-binary", &data];
        let done = proxy.curl("/v1/check?status=429", &args);
        assert!(done.out.ends_with(&format!("\n{expected}")), "{length}: {done:?}");
    }
    let status = Client::new(&server.url, Some(TOKEN)).get("/v1/limits/route%3A%2Fv1%2Fchat").ok();
    assert_eq!((&status["total_allowed"], &status["total_denied"]), (&Value::from(40), &Value::from(2)), "{status}");
}

fn flint() -> (tempfile::TempDir, Server, String) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &["--token", TOKEN]);
    let address = server.url.trim_start_matches("http://").to_owned();
    (dir, server, address)
}

/// nginx with this configuration.
pub fn run_nginx(dir: &Path, text: &str) -> Command {
    let here = dir.display().to_string();
    // Where nginx was built to put bodies that do not fit its buffers belongs to another user here.
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let paths: String = kinds.iter().map(|kind| format!("{kind}_temp_path {here}/{kind};\n")).collect();
    let file = dir.join("nginx.conf");
    std::fs::write(&file, text.replacen("http {\n", &format!("http {{\n{paths}"), 1)).unwrap();
    let mut nginx = Command::new("nginx");
    let globals = if rustix::process::getuid().is_root() { "daemon off; user root;" } else { "daemon off;" };
    nginx.args(["-p", &here, "-e", "stderr", "-g", globals, "-c"]).arg(file);
    nginx
}

#[test]
fn nginx() {
    if missing(&["nginx", "openssl", "curl"]) {
        return;
    }
    let (_dir, server, address) = flint();
    let proxy = Proxy::start(|dir, port| {
        let here = dir.display().to_string();
        let text = configuration(
            "nginx",
            &[
                ("127.0.0.1:7878", address.clone()),
                ("listen 8443", format!("listen 127.0.0.1:{port}")),
                ("/etc/ssl/flint", here.clone()),
                ("/var/log/nginx", here.clone()),
                ("/run/nginx.pid", format!("{here}/nginx.pid")),
            ],
        );
        run_nginx(dir, &text)
    });
    check(&server, &proxy);
    // The connections behind the proxy are kept: far fewer than requests.
    let doctor = Client::new(&server.url, Some(TOKEN)).get("/v1/doctor").ok();
    assert!(doctor["connections"]["open"].as_u64().unwrap() < 20, "{doctor}");
    drop(proxy);
    server.terminate();
}

#[test]
fn haproxy() {
    if missing(&["haproxy", "openssl", "curl"]) {
        return;
    }
    let (_dir, server, address) = flint();
    let proxy = Proxy::start(|dir, port| {
        let text = configuration(
            "HAProxy",
            &[
                ("127.0.0.1:7878", address.clone()),
                ("bind :8443", format!("bind 127.0.0.1:{port}")),
                ("/etc/ssl/flint", dir.display().to_string()),
            ],
        );
        let file = dir.join("haproxy.cfg");
        std::fs::write(&file, text).unwrap();
        let mut haproxy = Command::new("haproxy");
        haproxy.arg("-db").arg("-f").arg(file);
        haproxy
    });
    check(&server, &proxy);
    let doctor = Client::new(&server.url, Some(TOKEN)).get("/v1/doctor").ok();
    assert!(doctor["connections"]["open"].as_u64().unwrap() < 20, "{doctor}");
    drop(proxy);
    server.terminate();
}

/// What the balancer hashes is found in the path, in the body or in a header, and is the same each time.
#[test]
fn keys_over_several_servers() {
    if missing(&["haproxy", "openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let start = |number: usize, bind: &str| {
        Server::start_on(&dir.path().join(format!("data-{number}")), bind, &["--token", TOKEN])
    };
    let mut servers: Vec<Option<Server>> = (0..3).map(|number| Some(start(number, "127.0.0.1:0"))).collect();
    let addresses: Vec<String> =
        servers.iter().flatten().map(|server| server.url.trim_start_matches("http://").to_owned()).collect();
    let proxy = Proxy::start(|dir, port| {
        let text = configuration(
            "Keys over several servers",
            &[
                ("bind 127.0.0.1:7878", format!("bind 127.0.0.1:{port}")),
                ("10.0.0.1:7878", addresses[0].clone()),
                ("10.0.0.2:7878", addresses[1].clone()),
                ("10.0.0.3:7878", addresses[2].clone()),
            ],
        );
        let file = dir.join("haproxy.cfg");
        std::fs::write(&file, text).unwrap();
        let mut haproxy = Command::new("haproxy");
        haproxy.arg("-db").arg("-f").arg(file);
        haproxy
    });
    let url = format!("http://127.0.0.1:{}", proxy.port);
    let mut client = Client::new(&url, Some(TOKEN));
    let live = |server: &Option<Server>| -> Vec<Value> {
        let server = server.as_ref().unwrap();
        let listing = Client::new(&server.url, Some(TOKEN)).get("/v1/limits?live=true").ok();
        listing.as_array().unwrap().clone()
    };

    // Three requests for each key: whatever bears it, they meet.
    let keys: Vec<String> = (0..60).map(|number| format!("user:{number}/ключ")).collect();
    for key in &keys {
        let encoded = key.replace(':', "%3A").replace('/', "%2F").replace("ключ", "%D0%BA%D0%BB%D1%8E%D1%87");
        let (plain, spaced) = (
            format!(r#"{{"key":"{key}","limit":"3/1d"}}"#),
            format!(r#"{{ "limit" : {{"rate":3,"per":"1d"}}, "cost" : 1, "key" : "{key}" }}"#),
        );
        assert_eq!(client.post("/v1/check", &plain).ok()["remaining"], 2);
        assert_eq!(client.post("/v1/check", &spaced).ok()["remaining"], 1);
        assert_eq!(client.post(&format!("/v1/take/{encoded}?limit=3/1d"), "").body, "ok 0\n");
        assert_eq!(client.get(&format!("/v1/limits/{encoded}")).ok()["remaining"], 0);
    }
    let counts: Vec<usize> = servers.iter().map(|server| live(server).len()).collect();
    assert!(counts.iter().sum::<usize>() == keys.len() && counts.iter().all(|count| *count > 5), "{counts:?}");

    // A hold is settled where it was made, by the header.
    for number in 0..10 {
        let key = format!("gpu:{number}");
        let held = client.post("/v1/hold", &format!(r#"{{"key":"{key}","limit":"9/1d","cost":5}}"#)).ok();
        let settle = format!(r#"{{"hold":{},"cost":2}}"#, held["hold"]);
        let raw = |header: &str| {
            format!(
                "POST /v1/settle HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n{header}\
                 Content-Length: {}\r\n\r\n{settle}",
                settle.len()
            )
        };
        assert_eq!(client.raw(&raw(""), false).unwrap().status, 400);
        let settled = client.raw(&raw(&format!("X-Flint-Key: {key}\r\n")), false).unwrap();
        assert_eq!((settled.status, &settled.ok()["results"][0]["remaining"]), (200, &Value::from(7)));
    }

    // If no key is found, no server is asked: a wrong server would answer from nothing.
    for (path, body) in [
        ("/v1/check-all", r#"{"items":["user:1/ключ"]}"#),
        ("/v1/check", r#"{"key":"a\u0062","limit":"3/1d"}"#),
        ("/v1/check", r#"{"limit":"3/1d"}"#),
        ("/v1/limits", r#"[{"key":"a","rate":1,"per":"1d"}]"#),
    ] {
        let reply = client.post(path, body);
        assert!(reply.status == 400 && reply.body.contains("X-Flint-Key"), "{path} {body}: {reply:?}");
    }
    assert_eq!(client.get("/v1/limits").status, 400);

    // The keys of a server that is away are not answered by others, and are right when it is back.
    let owned: Vec<String> =
        live(&servers[1]).iter().map(|status| status["key"].as_str().unwrap().to_owned()).collect();
    servers[1].take().unwrap().kill();
    let statuses = |client: &mut Client| -> Vec<(String, u16, Value)> {
        keys.iter()
            .map(|key| {
                let reply = client.post("/v1/check", &format!(r#"{{"key":"{key}","limit":"3/1d"}}"#));
                let allowed = if reply.status == 200 { reply.ok()["allowed"].clone() } else { Value::Null };
                (key.clone(), reply.status, allowed)
            })
            .collect()
    };
    for (key, status, allowed) in statuses(&mut client) {
        let expected = if owned.contains(&key) { (503, Value::Null) } else { (200, Value::from(false)) };
        assert_eq!((status, allowed), expected, "{key}");
    }
    servers[1] = Some(start(1, &addresses[1]));
    for (key, status, allowed) in statuses(&mut client) {
        assert_eq!((status, allowed), (200, Value::from(false)), "{key}");
    }
    drop(proxy);
    servers.into_iter().flatten().for_each(|server| drop(server.terminate()));
}
