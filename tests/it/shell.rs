//! scripts/flint.sh in every shell there is, against a real server.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::util::{Run, Server, run};

/// Shells and how they are called.
const SHELLS: [&[&str]; 3] = [&["dash"], &["bash", "--posix"], &["busybox", "sh"]];

fn installed(name: &str) -> bool {
    let mut command = Command::new(name);
    command.arg("--help").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let found = command.status().is_ok();
    if !found {
        eprintln!("SKIPPED: {name} is not installed");
    }
    found
}

/// Runs a script that has sourced the functions, under `set -eu`.
fn script(shell: &[&str], text: &str, environment: &[(&str, &str)]) -> Run {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/flint.sh");
    let text = format!("set -eu\n. '{}'\n{text}", path.display());
    let mut command = Command::new(shell[0]);
    command.args(&shell[1..]).args(["-c", &text]).stdin(Stdio::null());
    for name in ["FLINT_SERVER", "FLINT_SERVER_TOKEN", "FLINT_TOKEN_FILE"] {
        command.env_remove(name);
    }
    run(command.envs(environment.iter().copied()))
}

const WORK: &str = r#"
# A function that fails must not end the script here, and its status counts.
status() { status=0; "$@" >"$out" 2>"$err" || status=$?; }
expect() { # expect STATUS WORD COMMAND...
    want=$1 word=$2; shift 2
    status "$@"
    [ "$status" = "$want" ] || { echo "$*: status $status, not $want: $(cat "$out" "$err")"; exit 9; }
    case $(cat "$out" "$err") in *"$word"*) ;; *) echo "$*: no $word: $(cat "$out" "$err")"; exit 9 ;; esac
    [ "$want" -lt 2 ] || [ "$(wc -l <"$err")" -eq 1 ] || { echo "$*: more than a line: $(cat "$err")"; exit 9; }
    [ "$want" -gt 1 ] || [ ! -s "$err" ] || { echo "$*: complains: $(cat "$err")"; exit 9; }
}
expect 0 '"ok":true' flint_health
expect 0 '"created":true' flint_limit job 3 366d
expect 0 '"created":false' flint_limit job 3 366d token_bucket 3
expect 0 '"created":true' flint_limit win 10 7d fixed_window_counter
expect 0 '"remaining":1' flint_check job 2
expect 0 'ok 0' flint_take job
expect 1 'denied ' flint_take job
expect 1 '"allowed":false' flint_check job
expect 2 'cost' flint_check job 4
expect 2 'cost' flint_take job 0
expect 2 'COST' flint_check job 1.5
expect 2 'COST' flint_check job '1}'
expect 2 'RATE' flint_limit job x 1m
expect 2 'PER' flint_limit job 1
expect 2 'per' flint_limit job 1 1x
expect 2 'algorithm' flint_limit job 1 1s leaky
expect 2 'BURST' flint_limit job 1 1s token_bucket x
expect 2 'KEY' flint_check
expect 2 'KEY' flint_check ''
expect 2 'control' flint_check 'a
b'
expect 2 'key' flint_check ' '
expect 3 'no limit is configured for key `nobody`' flint_check nobody
expect 3 '`..`' flint_status ..
expect 0 '"remaining":6' flint_check_all --cost 4 win
expect 1 '"denied_key":"job"' flint_check_all win job
expect 0 '"remaining":6' flint_status win
expect 2 'KEY' flint_check_all
expect 2 'twice' flint_check_all win win
expect 3 'nobody' flint_check_all win nobody
# A limit that a request brings, a pattern, and several windows.
expect 0 'ok 0' flint_take backup 1 1/1d
expect 1 'denied ' flint_take backup 1 1/1d
expect 0 '"remaining":3' flint_check visitor 2 5/1h
expect 0 'ok 2' flint_take visitor 1 5/1h
expect 2 'limit' flint_check visitor 1 5
expect 2 'limit' flint_take visitor 1 5
expect 2 'per' flint_take visitor 1 '5/1x&cost=1'
expect 0 '"created":true' flint_limit 'user:*' 2/1d 1000/month
expect 0 '"created":false' flint_limit 'user:*' 1000/month 2/1d
expect 2 'per' flint_limit 'user:*' 2/
expect 0 '"remaining":1' flint_check user:7 1 1000/1s
expect 0 'ok 0' flint_take user:7
expect 1 'denied ' flint_take user:7 1 1000/1s
expect 0 'ok 1' flint_take user:8
expect 0 '"live":2' flint_status 'user:*'
expect 0 '"ok":true' flint_remove 'user:*'
expect 3 'no limit is configured' flint_take user:7
expect 3 'no limit is configured' flint_remove visitor
# Holds and slots.
expect 0 '' flint_hold gpu 2 slots=2 90s
hold=$(cat "$out")
expect 1 '' flint_hold gpu 1 slots=2
[ ! -s "$out" ] || exit 9
expect 2 'over the 2 slots' flint_hold gpu 3 slots=2
expect 2 'ttl' flint_hold gpu 1 slots=2 1ms
expect 2 'COST' flint_hold gpu x
expect 2 'KEY' flint_hold
expect 3 'nobody' flint_hold nobody
expect 0 "$hold" flint_status gpu
expect 0 '"remaining":2' flint_settle "$hold"
expect 0 '"ok":true' flint_settle "$hold" 5
expect 2 'HOLD' flint_settle
expect 2 'COST' flint_settle "$hold" x
expect 3 'no such hold' flint_settle 'a"b'
expect 0 '' flint_hold win 3
expect 0 '"cost":1' flint_settle "$(cat "$out")" 1
expect 0 '"ok":true' flint_reset win
expect 0 '"remaining":6' flint_check_all --cost 4 win
for odd in 'route:/v1/chat' 'a "b" \c\\ '"'q'" 'ключ 語' '%41?&#+' '"allowed":true,' '-n' '@file' '$HOME `x`' '\n' '{"error":"x"}'; do
    expect 0 created flint_limit "$odd" 1 366d
    expect 0 '"total_allowed":0' flint_status "$odd"
    expect 0 '"allowed":true' flint_check "$odd"
    expect 1 '"allowed":false' flint_check "$odd"
    expect 1 denied flint_take "$odd"
    expect 0 '"ok":true' flint_reset "$odd"
    expect 0 'ok 0' flint_take "$odd"
    expect 0 '"total_allowed":2' flint_list "$odd"
    expect 0 '"ok":true' flint_remove "$odd"
    expect 3 'no limit is configured' flint_status "$odd"
    [ "$(cat "$err")" = "flint: no limit is configured for key \`$odd\`; configure it first" ] || { cat "$err"; exit 9; }
done
expect 0 '[]' flint_list nothing
expect 0 '"key":"job"' flint_top
expect 0 '"key":"win"' flint_top allowed 9
expect 2 'by' flint_top size
expect 0 '"ok":true' flint_flush
case ${OVER_STORE-} in
1) expect 2 'no log to compact' flint_compact ;;
*) expect 0 '"snapshot_bytes"' flint_compact ;;
esac
expect 0 '"ok":true' flint_doctor
if flint_check win >"$out"; then :; else exit 9; fi
# A list with more in it than one argument of a command may hold.
long=$(printf '%0400d' 0)
set --
i=0
while [ "$i" -lt 330 ]; do i=$((i + 1)); set -- "$@" "$long$i"; done
expect 3 'no limit is configured' flint_check_all "$@"
# Under set -e an error ends the script.
left=$(set | grep -c '^_flint' || :)
[ "$left" = 0 ] || [ -n "${BASH_VERSION:-}" ] || { set | grep '^_flint'; exit 9; }
echo done
flint_check nobody 2>"$err"
echo never
"#;

fn work(shell: &[&str], url: &str, environment: &[(&str, &str)]) {
    let parent = tempfile::tempdir().unwrap();
    let text = format!("out='{0}/out' err='{0}/err'\n{WORK}", parent.path().display());
    let over_store = if crate::over_store::is_on() { "1" } else { "" };
    let common = [("FLINT_SERVER", url), ("OVER_STORE", over_store)];
    let done = script(shell, &text, &[&common[..], environment].concat());
    assert_eq!((done.out.as_str(), done.err.as_str(), done.code), ("done\n", "", Some(3)), "{shell:?}");
}

#[test]
fn every_function_in_every_shell() {
    if !installed("curl") {
        return;
    }
    for shell in SHELLS.into_iter().filter(|shell| installed(shell[0])) {
        let parent = tempfile::tempdir().unwrap();
        let server = Server::start(&parent.path().join("data"), &[]);
        work(shell, &server.url, &[]);
        server.terminate();
        let socket = format!("unix:{}/a socket", parent.path().display());
        let server = Server::start_on(&parent.path().join("other"), &socket, &["--token", "se\"c\\ret"]);
        work(shell, &socket, &[("FLINT_SERVER_TOKEN", "se\"c\\ret")]);
        server.terminate();
    }
}

#[test]
fn tokens_stay_off_the_command_line_and_errors_are_told() {
    if !installed("curl") {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let server = Server::start(&parent.path().join("data"), &["--token", "very-secret"]);
    let file = parent.path().join("token");
    std::fs::write(&file, "# a comment\n\n  very-secret  \nother\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    // A curl that notes how it was called.
    let bin = parent.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let path = std::env::var("PATH").unwrap();
    let wrapper = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$@\" >>'{0}/calls'\nPATH='{path}' exec curl \"$@\"\n",
        parent.path().display()
    );
    std::fs::write(bin.join("curl"), wrapper).unwrap();
    std::fs::set_permissions(bin.join("curl"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let path = format!("{}:{path}", bin.display());
    let file = file.to_str().unwrap();
    for shell in SHELLS.into_iter().filter(|shell| installed(shell[0])) {
        let ask = |environment: &[(&str, &str)]| {
            let common = [("FLINT_SERVER", server.url.as_str()), ("PATH", path.as_str())];
            script(shell, "flint_health", &[&common[..], environment].concat())
        };
        assert_eq!(ask(&[("FLINT_SERVER_TOKEN", "very-secret")]).code, Some(0), "{shell:?}");
        assert_eq!(ask(&[("FLINT_TOKEN_FILE", file), ("FLINT_SERVER_TOKEN", "bad")]).code, Some(0), "{shell:?}");
        for (environment, code, word) in [
            (&[][..], 3, "token"),
            (&[("FLINT_SERVER_TOKEN", "wrong")], 3, "FLINT_TOKEN_FILE"),
            (&[("FLINT_SERVER_TOKEN", "a\nheader = \"X: y\"")], 2, "token"),
            (&[("FLINT_TOKEN_FILE", "/nonexistent/file")], 2, "/nonexistent/file"),
            (&[("FLINT_SERVER", "http://127.0.0.1:1")], 3, "is it running?"),
            (&[("FLINT_SERVER", "ftp://x")], 2, "FLINT_SERVER"),
        ] {
            let run = ask(environment);
            assert_eq!((run.code, run.out.as_str(), run.err.lines().count()), (Some(code), "", 1), "{shell:?} {run:?}");
            assert!(run.err.starts_with("flint: ") && run.err.contains(word), "{shell:?} {environment:?}: {run:?}");
        }
        // What is in front of a token is for the server; a mounted secret can't be helped.
        let tokens = std::fs::read(file).unwrap();
        std::fs::write(file, "# first\n  admin: very-secret \n").unwrap();
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(ask(&[("FLINT_TOKEN_FILE", file)]).code, Some(0), "{shell:?}");
        std::fs::write(file, tokens).unwrap();
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o602)).unwrap();
        let open = ask(&[("FLINT_TOKEN_FILE", file)]);
        assert!(open.code == Some(2) && open.err.contains("by others"), "{shell:?} {open:?}");
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let calls = std::fs::read_to_string(parent.path().join("calls")).unwrap();
    assert!(calls.contains("-K") && !calls.contains("very-secret"), "{calls}");
    server.terminate();
}

/// The first thing that a user tries: one line of curl, and nothing to configure.
#[test]
fn a_limit_in_the_url_outlives_the_server() {
    if !installed("curl") {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let mut server = Server::start(&dir, &[]);
    let take = |server: &Server| {
        let url = format!("{}/v1/take/backup?limit=1/1d", server.url);
        run(Command::new("curl").args(["-fsS", "-XPOST", &url]))
    };
    let first = take(&server);
    assert_eq!((first.code, first.out.as_str()), (Some(0), "ok 0\n"), "{first:?}");
    let denied = |run: &Run| run.code == Some(22) && run.err.contains("429");
    let second = take(&server);
    assert!(denied(&second), "{second:?}");
    for killed in [false, true] {
        if killed {
            server.kill();
        } else {
            server.terminate();
        }
        server = Server::start(&dir, &[]);
        let again = take(&server);
        assert!(denied(&again), "killed {killed}: {again:?}");
    }
    server.terminate();
}
