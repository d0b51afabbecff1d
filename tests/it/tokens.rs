//! Bearer tokens: where they come from, how they change, and that nothing of them or of a body is logged.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::over_store;
use crate::util::{Client, PATIENCE, Server, command, run, server_command};

/// A directory with a token file.
struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new(tokens: &str) -> Fixture {
        let fixture = Fixture { dir: tempfile::tempdir().unwrap() };
        fixture.write(tokens, 0o600);
        fixture
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("tokens")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Puts a new file in the place of the old one, in one step.
    fn write(&self, tokens: &str, mode: u32) {
        let new = self.dir.path().join("new");
        std::fs::write(&new, tokens).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        server_command(&self.data(), "127.0.0.1:0", args)
    }

    fn start(&self) -> Server {
        Server::spawn(self.command(&[]).arg("--token-file").arg(self.file()))
    }
}

/// The status of a health request with this token.
fn status(server: &Server, token: Option<&str>) -> u16 {
    Client::new(&server.url, token).get("/v1/health").status
}

fn hang_up(server: &Server) {
    let kill = format!("kill -HUP {}", server.pid());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn several_tokens_and_their_rotation() {
    let fixture = Fixture::new("# the web application\nweb-old\n\n  \t\n   worker   \n#hidden\n");
    let mut server = fixture.start();
    for token in ["web-old", "worker"] {
        assert_eq!(status(&server, Some(token)), 200, "{token}");
    }
    for token in ["hidden", "#hidden", "# the web application", "web-ol", "web-old2", "WEB-OLD", ""] {
        assert_eq!(status(&server, Some(token)), 401, "{token}");
    }
    assert_eq!(status(&server, None), 401);
    // Both in force, then only the new one.
    let mut kept = Client::new(&server.url, Some("web-old"));
    kept.get("/v1/health").ok();
    fixture.write("web-old\nweb-new\n# worker\n", 0o640);
    hang_up(&server);
    until("the new token is taken", || status(&server, Some("web-new")) == 200);
    assert_eq!((status(&server, Some("web-old")), status(&server, Some("worker"))), (200, 401));
    fixture.write("web-new\n", 0o600);
    hang_up(&server);
    until("the old token is refused", || status(&server, Some("web-old")) == 401);
    // A connection that is open already bears its token with every request.
    kept.get("/v1/health").error(401, "unauthorized");
    assert_eq!(status(&server, Some("web-new")), 200);
    assert_eq!(server.stderr(), "");
    server.terminate();
}

#[test]
fn a_bad_new_file_changes_nothing() {
    let fixture = Fixture::new("good\n");
    let mut server = fixture.start();
    let cases: [(&str, &dyn Fn()); 8] = [
        ("has no token", &|| fixture.write("", 0o600)),
        ("has no token", &|| fixture.write("# other\n\n", 0o600)),
        ("can be written by others", &|| fixture.write("other\n", 0o602)),
        ("has a byte order mark", &|| fixture.write("# key\n\u{feff}other\n", 0o600)),
        ("must be TOKEN, ROLE: TOKEN", &|| fixture.write("other\nother other\n", 0o600)),
        ("cannot be read", &|| std::fs::remove_file(fixture.file()).unwrap()),
        ("cannot be read", &|| {
            std::fs::create_dir(fixture.file()).unwrap();
            std::fs::set_permissions(fixture.file(), std::fs::Permissions::from_mode(0o700)).unwrap();
        }),
        ("must be plain text", &|| {
            std::fs::remove_dir(fixture.file()).unwrap();
            std::fs::write(fixture.file(), b"other\n\xff\xfe\n").unwrap();
            std::fs::set_permissions(fixture.file(), std::fs::Permissions::from_mode(0o600)).unwrap();
        }),
    ];
    for (before, (complaint, make)) in cases.into_iter().enumerate() {
        make();
        hang_up(&server);
        until(complaint, || server.stderr().matches("SIGHUP changed no token").count() == before + 1);
        let last = server.stderr().lines().last().unwrap().to_owned();
        let file = fixture.file();
        assert!(last.contains(complaint) && last.contains(file.to_str().unwrap()), "{complaint}: {last}");
        assert_eq!((status(&server, Some("good")), status(&server, Some("other"))), (200, 401), "{complaint}");
        assert_eq!(status(&server, None), 401, "{complaint}");
    }
    fixture.write("other\n", 0o600);
    hang_up(&server);
    until("a good file is taken again", || status(&server, Some("other")) == 200);
    let err = server.terminate();
    assert!(!err.contains("good"), "{err}");
}

#[test]
fn a_bad_file_at_the_start_is_refused() {
    let fixture = Fixture::new("secret-one\n");
    for (mode, tokens, complaint) in [
        (0o602, "secret-one\n", "can be written by others; run chmod o-w on it"),
        (0o600, "\u{feff}secret-one\n", "must not begin with a byte order mark"),
        (0o600, "secret-one secret-one\n", "must be TOKEN, ROLE: TOKEN or ROLE PREFIX: TOKEN"),
        (0o600, "write: secret-one\n", "with a role of check, read or admin"),
        (0o600, "read:secret-one\n", "line 1 of --token-file"),
        (0o600, "ключ-secret-one\n", "must be printable ASCII without blanks"),
        (0o600, "\n# none\n", "has no token"),
    ] {
        fixture.write(tokens, mode);
        let refused = run(fixture.command(&["--token-file"]).arg(fixture.file()));
        assert_eq!((refused.code, refused.out.as_str()), (Some(2), ""), "{refused:?}");
        let file = fixture.file();
        assert!(refused.err.contains(complaint) && refused.err.contains(file.to_str().unwrap()), "{refused:?}");
        assert!(!refused.err.contains("secret-one"), "{refused:?}");
    }
    let refused = run(&mut fixture.command(&["--token-file", "/nowhere/at/all"]));
    assert!(refused.code == Some(2) && refused.err.contains("--token-file /nowhere/at/all"), "{refused:?}");
    assert!(!fixture.data().exists(), "no file is touched");
}

/// What no client may send starts no server, and no file is touched.
#[test]
fn a_token_that_no_client_may_send_is_refused() {
    let fixture = Fixture::new("good\n");
    for (token, what) in [
        ("ключ", "a character that is not ASCII"),
        (" a ", "a blank"),
        ("a b", "a blank"),
        ("a\n", "a line break"),
        ("a\u{1}", "a control character"),
        ("\u{feff}a", "a byte order mark"),
    ] {
        let complaint = |source| format!("flint: {source} must be printable ASCII without blanks, and has {what}\n");
        let by_option = run(&mut fixture.command(&["--token", token]));
        assert_eq!((by_option.code, by_option.err), (Some(2), complaint("--token")), "{token:?}");
        let by_variable = run(fixture.command(&[]).env("FLINT_SERVER_TOKEN", token));
        assert_eq!((by_variable.code, by_variable.err), (Some(2), complaint("FLINT_SERVER_TOKEN")), "{token:?}");
        // A client says the same.
        let mut client = command();
        let asked = run(client.args(["--server", "http://127.0.0.1:1", "--token", token, "doctor"]));
        assert_eq!((asked.code, asked.err), (Some(2), complaint("--token")), "{token:?}");
    }
    assert!(!fixture.data().exists(), "no file is touched");
}

#[test]
fn a_file_that_others_can_read_is_a_warning() {
    let fixture = Fixture::new("good\n");
    fixture.write("good\n", 0o644);
    let mut server = fixture.start();
    let warning = format!("--token-file {} can be read by others", fixture.file().display());
    until("it is warned of", || server.stderr().contains(&warning));
    assert_eq!((status(&server, Some("good")), status(&server, None)), (200, 401));
    fixture.write("other\n", 0o444);
    hang_up(&server);
    until("the new token is taken", || status(&server, Some("other")) == 200);
    assert_eq!(server.stderr().matches(&warning).count(), 2);
    server.terminate();
}

const ROLES: &str = "main\nadmin: all\ncheck: checker\nread: reader\ncheck app1: check-app\nread app1: read-app\n\
                     admin app1: admin-app\n";

/// Every endpoint with every role. A token with a prefix is asked for a key within it.
#[test]
fn roles() {
    let fixture = Fixture::new(ROLES);
    let gate = ["--gate", "app1=by=method&limit=1000/1s", "--gate", "app10=by=method&limit=1000/1s"];
    let server = Server::spawn(fixture.command(&gate).arg("--token-file").arg(fixture.file()));
    let ask = |token: &str, method: &str, path: &str, body: &str| {
        Client::new(&server.url, Some(token)).ask(method, path, body)
    };
    ask(
        "main",
        "POST",
        "/v1/limits",
        r#"[{"key":"app1:u","rate":1000,"per":"1d"},{"key":"app1:*","rate":9,"per":"1d"}]"#,
    )
    .ok();
    let (check, read, admin) = (Some("check"), Some("read"), Some("admin"));
    let calls = [
        ("POST", "/v1/check", r#"{"key":"app1:u"}"#, check, true),
        ("POST", "/v1/check-all", r#"{"items":["app1:u"]}"#, check, true),
        ("POST", "/v1/check-many", r#"{"items":["app1:u"]}"#, check, true),
        ("POST", "/v1/take/app1%3Au", "", check, true),
        ("POST", "/v1/peek", r#"{"key":"app1:u"}"#, check, true),
        ("POST", "/v1/peek", r#"{"items":["app1:u"]}"#, check, true),
        ("POST", "/v1/hold", r#"{"key":"app1:u"}"#, check, true),
        ("POST", "/v1/hold", r#"{"items":["app1:u"]}"#, check, true),
        ("POST", "/v1/renew", r#"{"hold":"HOLD"}"#, check, true),
        ("POST", "/v1/settle", r#"{"hold":"HOLD"}"#, check, true),
        ("POST", "/v1/charge", r#"{"key":"app1:u","cost":1}"#, check, true),
        ("POST", "/v1/refund", r#"{"key":"app1:u","cost":1}"#, check, true),
        ("GET", "/v1/gate/app1%3Au", "", check, true),
        ("POST", "/v1/gates/app1/some/path", "", check, true),
        ("GET", "/v1/health", "", None, true),
        ("GET", "/v1/limits?prefix=app1%3A", "", read, true),
        ("GET", "/v1/limits/app1%3Au", "", read, true),
        ("GET", "/v1/doctor", "", read, false),
        ("GET", "/v1/top", "", read, false),
        ("GET", "/v1/metrics", "", read, false),
        ("POST", "/v1/log/flush", "", admin, false),
        ("POST", "/v1/log/compact", "", admin, false),
        ("POST", "/v1/reset", r#"{"key":"app1:u"}"#, admin, true),
        ("POST", "/v1/reset", r#"{"prefix":"app1:"}"#, admin, true),
        ("POST", "/v1/limits", r#"{"key":"app1:new","rate":1,"per":"1d"}"#, admin, true),
        ("PUT", "/v1/limits", r#"[{"key":"app1:new","rate":2,"per":"1d"}]"#, admin, true),
        ("PUT", "/v1/limits?prune=true&dry_run=true", r#"[{"key":"app1:new","rate":2,"per":"1d"}]"#, admin, false),
        ("DELETE", "/v1/limits/app1%3Anew", "", admin, true),
        ("DELETE", "/v1/limits?prefix=app1%3Anew", "", admin, true),
    ];
    for endpoint in &flint::server::ENDPOINTS {
        for method in endpoint.methods {
            let path = endpoint.path.split('{').next().unwrap();
            let is_it = |call: &str| call == method.name || method.name == "ANY";
            let listed = calls.iter().any(|call| is_it(call.0) && call.1.starts_with(path));
            // New ones are for `admin` or `read`, and for tokens without a prefix, unless they are asked for here.
            let usual = !method.keyed && method.role.is_some_and(|role| role.name() != "check");
            assert!(listed || usual, "{} {}", method.name, endpoint.path);
        }
    }
    for (method, path, body, needs, keyed) in calls {
        for (token, role, prefix) in [
            ("main", "admin", false),
            ("all", "admin", false),
            ("checker", "check", false),
            ("reader", "read", false),
            ("check-app", "check", true),
            ("read-app", "read", true),
            ("admin-app", "admin", true),
        ] {
            let body = match body.contains("HOLD") {
                true => {
                    let hold = ask("main", "POST", "/v1/hold", r#"{"key":"app1:u"}"#).ok();
                    body.replace("HOLD", hold["hold"].as_str().unwrap())
                }
                false => body.to_owned(),
            };
            let reply = ask(token, method, path, &body);
            let what = format!("{token}: {method} {path}");
            if needs.is_some_and(|needs| role != needs && role != "admin") {
                let path = path.split('?').next().unwrap();
                let needs = needs.unwrap();
                let said = format!("this token has the role `{role}`, and {method} {path} needs `{needs}`");
                assert_eq!(reply.error(403, "forbidden"), said, "{what}");
            } else if prefix && !keyed {
                let said = reply.error(403, "forbidden");
                assert!(
                    said.contains("is only for keys with prefix `app1`") && said.contains("a token for all keys"),
                    "{what}: {said}"
                );
            } else {
                // Removed by the token before: there, and not there. A store has no log to compact, and no files.
                let refused = over_store::is_on() && ["/v1/log/compact", "/v1/log/backup"].contains(&path);
                let expected = if refused { &[400][..] } else { &[200, 204, 404] };
                assert!(expected.contains(&reply.status), "{what}: {}", reply.status);
            }
        }
    }
    // A path without an endpoint stays so, and no role lets a stranger in.
    ask("checker", "GET", "/v1/nothing", "").error(404, "not_found");
    ask("reader", "PUT", "/v1/check", "").error(405, "method_not_allowed");
    ask("check app1: check-app", "GET", "/v1/health", "").error(401, "unauthorized");
    server.terminate();
}

/// A token with a prefix, and keys outside it: in every place where a request may name one.
#[test]
fn keys_outside_the_prefix() {
    let fixture = Fixture::new(ROLES);
    let gate = |key: &str| format!("{key}=by=method&limit=9/1d");
    let gates = ["app10", "app", "other"].map(gate);
    let args: Vec<&str> = gates.iter().flat_map(|gate| ["--gate", gate]).collect();
    let server = Server::spawn(fixture.command(&args).arg("--token-file").arg(fixture.file()));
    let ask = |token: &str, method: &str, path: &str, body: &str| {
        Client::new(&server.url, Some(token)).ask(method, path, body)
    };
    ask("main", "POST", "/v1/limits", r#"[{"key":"app1:u","rate":9,"per":"1d"},{"key":"app10","rate":9,"per":"1d"}]"#)
        .ok();
    let calls = [
        ("check-app", "POST", "/v1/check", r#"{"key":"KEY"}"#),
        ("check-app", "POST", "/v1/check", r#"{"key":"KEY","limit":"5/1s"}"#),
        ("check-app", "POST", "/v1/check-all", r#"{"items":["app1:u",{"key":"KEY"}]}"#),
        ("check-app", "POST", "/v1/check-many", r#"{"items":["app1:u",["KEY",2]]}"#),
        ("check-app", "POST", "/v1/take/KEY", ""),
        ("check-app", "POST", "/v1/peek", r#"{"key":"KEY"}"#),
        ("check-app", "POST", "/v1/peek", r#"{"items":["app1:u","KEY"]}"#),
        ("check-app", "POST", "/v1/hold", r#"{"key":"KEY","limit":"5/1s"}"#),
        ("check-app", "POST", "/v1/hold", r#"{"items":["app1:u","KEY"]}"#),
        ("check-app", "POST", "/v1/charge", r#"{"key":"KEY","cost":1,"limit":"5/1s"}"#),
        ("check-app", "POST", "/v1/refund", r#"{"key":"KEY","cost":1}"#),
        ("check-app", "GET", "/v1/gate/KEY?limit=5/1s", ""),
        ("read-app", "GET", "/v1/limits/KEY", ""),
        ("read-app", "GET", "/v1/limits?prefix=KEY", ""),
        ("admin-app", "DELETE", "/v1/limits/KEY", ""),
        ("admin-app", "DELETE", "/v1/limits?prefix=KEY", ""),
        ("admin-app", "POST", "/v1/reset", r#"{"key":"KEY"}"#),
        ("admin-app", "POST", "/v1/reset", r#"{"prefix":"KEY"}"#),
        ("admin-app", "POST", "/v1/limits", r#"{"key":"KEY","rate":1,"per":"1s"}"#),
        (
            "admin-app",
            "POST",
            "/v1/limits",
            r#"[{"key":"app1:x","rate":1,"per":"1s"},{"key":"KEY","rate":1,"per":"1s"}]"#,
        ),
        ("admin-app", "PUT", "/v1/limits", r#"[{"key":"app1:x","limit":"1/1s"},{"key":"KEY","limit":"1/1s"}]"#),
    ];
    let state = || {
        let mut limits = ask("main", "GET", "/v1/limits?live=true", "").ok();
        // Of what is whole it is now.
        limits.as_array_mut().unwrap().iter_mut().for_each(|limit| limit["reset_at"] = Value::Null);
        limits
    };
    let before = state();
    for (token, method, path, body) in calls {
        for key in ["app10", "app", "other", "app1*"] {
            let said = ask(token, method, &path.replace("KEY", key), &body.replace("KEY", key)).error(403, "forbidden");
            assert!(
                said.contains("`app1`") && said.contains(&format!("`{key}`")),
                "{method} {path} {body} {key}: {said}"
            );
        }
    }
    // A gate's key has more than its name.
    for name in ["app10", "app", "other"] {
        let said = ask("check-app", "GET", &format!("/v1/gates/{name}/a"), "").error(403, "forbidden");
        assert!(said.contains(&format!("not for `{name}:GET`")), "{said}");
    }
    for path in ["/v1/limits", "/v1/limits?live=true", "/v1/limits?prefix=app1", "/v1/limits?pattern=app1:*"] {
        ask("read-app", "GET", path, "").error(403, "forbidden");
    }
    assert_eq!(state(), before, "nothing was done in part");
    // A hold with one key of another's can be made only by who may, and neither settled nor renewed by who may not.
    for items in [r#"["app10"]"#, r#"["app1:u","app10"]"#] {
        let hold = ask("checker", "POST", "/v1/hold", &format!(r#"{{"items":{items}}}"#)).ok();
        let hold = format!(r#"{{"hold":{}}}"#, hold["hold"]);
        let used = || ask("main", "GET", "/v1/limits/app10", "").ok()["total_allowed"].clone();
        let made = used();
        for path in ["/v1/renew", "/v1/settle"] {
            let said = ask("check-app", "POST", path, &hold).error(403, "forbidden");
            assert_eq!(said, "this token is only for keys with prefix `app1`, not for `app10`");
        }
        assert_eq!(used(), made);
        ask("checker", "POST", "/v1/renew", &hold).ok();
        ask("checker", "POST", "/v1/settle", &hold.replace('}', r#","costs":{"app10":0}}"#)).ok();
    }
    ask("check-app", "POST", "/v1/settle", r#"{"hold":"nothing"}"#).error(404, "hold_not_found");
    let listed = ask("read-app", "GET", "/v1/limits?prefix=app1%3A", "").ok();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    // The command line says it too.
    let denied = run(command().args(["--server", &server.url, "--token", "check-app", "limit", "check", "app10"]));
    let said = "flint: this token is only for keys with prefix `app1`, not for `app10`\n";
    assert_eq!((denied.code, denied.err.as_str()), (Some(3), said));
    server.terminate();
}

#[test]
fn where_the_token_comes_from() {
    let fixture = Fixture::new("of-file\n");
    let file = fixture.file();
    let file = file.to_str().unwrap();
    let started =
        |args: &[&str], variable: &str| Server::spawn(fixture.command(args).env("FLINT_SERVER_TOKEN", variable));
    for (args, variable, taken) in [
        (&["--token", "of-option", "--token-file", file][..], "of-variable", "of-option"),
        (&["--token-file", file][..], "of-variable", "of-file"),
        (&["--token", "", "--token-file", file][..], "of-variable", "of-file"),
        (&["--token", ""][..], "of-variable", "of-variable"),
        (&[][..], "of-variable", "of-variable"),
    ] {
        let server = started(args, variable);
        for token in ["of-option", "of-file", "of-variable"] {
            let expected = if token == taken { 200 } else { 401 };
            assert_eq!(status(&server, Some(token)), expected, "{token} with {args:?}");
        }
        let err = server.terminate();
        let warned = err.contains("--token is visible in the list of processes");
        assert_eq!(warned, taken == "of-option", "{args:?}: {err}");
        assert!(!err.contains("of-"), "{err}");
    }
    // An empty token is none at all.
    let server = started(&["--token", ""], "");
    assert_eq!((status(&server, None), status(&server, Some("any"))), (200, 200));
    server.terminate();
    // A signal cannot change what does not come from a file.
    let mut server = started(&[], "of-variable");
    hang_up(&server);
    until("SIGHUP is answered", || server.stderr().contains("the tokens are not from a --token-file"));
    assert_eq!(status(&server, Some("of-variable")), 200);
    server.terminate();
}

/// Requests, each with `SECRET` wherever there is room for it.
fn requests() -> Vec<String> {
    let head = "Host: 127.0.0.1\r\nConnection: close\r\nAuthorization: Bearer goodSECRET\r\n";
    let post = |path: &str, more: &str, body: &str| {
        format!("POST {path} HTTP/1.1\r\n{head}{more}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    let long = format!("{{\"key\":\"SECRET\",\"pad\":\"{}\"}}", "SECRET ".repeat(2000));
    vec![
        post("/v1/limits", "", r#"{"key":"SECRET","rate":1,"per":"1d"}"#),
        post("/v1/check", "", r#"{"key":"SECRET"}"#),
        post("/v1/check", "X-Api-Key: SECRET\r\nCookie: SECRET\r\n", r#"{"key":"SECRET"}"#),
        post("/v1/check", "", r#"{"key":"SECRET","SECRET":1}"#),
        post("/v1/check", "", r#"{"key":"SECRET""#),
        post("/v1/check", "", "SECRET"),
        post("/v1/check", "", &long),
        post("/v1/check?SECRET=SECRET", "", r#"{"key":"SECRET"}"#),
        post("/v1/take/SECRET?cost=SECRET", "", ""),
        post("/SECRET", "", "SECRET"),
        post("/v1/check", "Transfer-Encoding: chunked\r\n", "6\r\nSECRET\r\n0\r\n\r\n"),
        post("/v1/check", "Authorization: Bearer SECRET\r\n", "{}"),
        format!("POST /v1/check HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\nSECRET\r\nSECRET\r\n0\r\n\r\n"),
        format!("POST /v1/check HTTP/1.1\r\n{head}Content-Length: 5000\r\n\r\nSECRET"),
        format!("POST /v1/check HTTP/1.1\r\n{head}Content-Length: SECRET\r\n\r\nSECRET"),
        format!("POST /v1/check HTTP/1.1\r\n{head}Content-Length: 90000000000\r\n\r\nSECRET"),
        "GET /v1/health HTTP/1.1\r\nHost: SECRET\r\nAuthorization: Bearer SECRET\r\n\r\n".to_owned(),
        "GET /v1/health HTTP/1.1\r\nHost: SECRET.example\r\nAuthorization: Bearer goodSECRET\r\n\r\n".to_owned(),
        "GET /v1/health HTTP/1.1\r\nOrigin: https://SECRET\r\nAuthorization: Bearer goodSECRET\r\n\r\n".to_owned(),
        "GET /v1/health HTTP/1.1\r\nAuthorization: Basic SECRET\r\n\r\n".to_owned(),
        "SECRET SECRET SECRET\r\nSECRET\r\nSECRET: SECRET\r\n\r\nSECRET".to_owned(),
        "GET SECRET HTTP/9.9\r\nAuthorization: Bearer SECRET\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nAuthorization Bearer SECRET\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nExpect: SECRET\r\nAuthorization: Bearer SECRET\r\n\r\n".to_owned(),
    ]
}

fn logged_at(level: &str) -> String {
    // As long as the word it takes the place of: lengths are announced.
    let secret = "q7Zx4K";
    let fixture = Fixture::new(&format!("good{secret}\n"));
    let mut start = fixture.command(&["--token-file"]);
    let mut server = Server::spawn(start.arg(fixture.file()).env("FLINT_LOG", level));
    for request in requests() {
        server.client().finish(request.replace("SECRET", secret));
    }
    // They came through: the limit was made, and its one unit was spent.
    let mut client = Client::new(&server.url, Some(&format!("good{secret}")));
    assert_eq!(client.get(&format!("/v1/limits/{secret}")).ok()["total_allowed"], 1);
    hang_up(&server);
    until("the file is read again", || server.stderr().contains("read 1 token from"));
    std::fs::remove_file(Path::new(&fixture.file())).unwrap();
    hang_up(&server);
    until("the file is missed", || server.stderr().contains("SIGHUP changed no token"));
    client.compact();
    let err = server.terminate();
    assert!(!err.contains(secret), "{err}");
    err
}

#[test]
fn no_token_and_no_body_is_logged() {
    let err = logged_at("trace");
    assert!(err.contains("stopping"), "the log is on: {err}");
}

/// What the HTTP library itself would say is off; whoever turns it on gets no secret either.
#[test]
fn no_token_and_no_body_is_logged_by_the_http_library() {
    logged_at("trace,tiny_http=trace");
}
