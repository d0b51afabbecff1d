//! The command line: embedded commands, exit statuses, and what is refused.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::util::{Run, Server, command, flint, run};

struct Dir {
    parent: tempfile::TempDir,
    path: PathBuf,
}

impl Dir {
    fn new() -> Dir {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        Dir { parent, path }
    }

    fn run(&self, args: &[&str]) -> Run {
        flint(&self.path, args)
    }

    /// Runs a command that must end with 0 and say nothing on stderr; returns its output.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let run = self.run(args);
        assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{args:?}: {run:?}");
        run.out
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let run = self.run(&[args, &["--json"]].concat());
        assert_eq!((run.code, run.out.lines().count()), (Some(0), 1), "{args:?}: {run:?}");
        run.json()
    }

    /// Runs a command that must end with this status and one line on stderr, which is returned.
    #[track_caller]
    fn error(&self, code: i32, args: &[&str]) -> String {
        let run = self.run(args);
        assert_eq!((run.code, run.out.as_str()), (Some(code), ""), "{args:?}: {run:?}");
        assert!(run.err.starts_with("flint: ") && run.err.lines().count() == 1, "{args:?}: {run:?}");
        run.err
    }
}

#[test]
fn an_open_bind_needs_a_token_and_touches_no_file() {
    let dir = Dir::new();
    for address in ["0.0.0.0:0", "[::]:0", "10.255.255.1:7878", "[::ffff:10.0.0.1]:80"] {
        for token in [&[][..], &["--token", ""]] {
            let args = [&["server", "start", "--bind", address][..], token].concat();
            let message = dir.error(2, &args);
            let expected = "flint: refusing to bind shared mode to a non-loopback address without --token: ";
            assert_eq!(message, format!("{expected}{address}\n"));
        }
    }
    let mut empty = command();
    empty.env("FLINT_SERVER_TOKEN", "").arg("--data-dir").arg(&dir.path);
    assert_eq!(run(empty.args(["server", "start", "--bind=0.0.0.0:0"])).code, Some(2));
    assert_eq!(std::fs::read_dir(dir.parent.path()).unwrap().count(), 0);
    // With a token it is no matter of usage.
    let server = Server::start_on(&dir.path, "0.0.0.0:0", &["--token", "t"]);
    assert!(server.url.starts_with("http://0.0.0.0:"), "{}", server.url);
    server.terminate();
}

#[test]
fn one_writer_per_directory() {
    let dir = Dir::new();
    let server = Server::start(&dir.path, &[]);
    let message = dir.error(3, &["server", "start", "--bind", "127.0.0.1:0"]);
    let locked = format!("data directory is already locked: {} (by process {})", dir.path.display(), server.pid());
    assert!(message.contains(&locked), "{message}");
    server.client().get("/v1/health").ok();
    // A killed owner leaves no lock behind.
    server.kill();
    Server::start(&dir.path, &[]).terminate();
    dir.ok(&["doctor"]);
}

#[test]
fn limits_embedded() {
    let dir = Dir::new();
    assert!(dir.ok(&["limit", "add", "job", "--rate", "3", "--per", "366d"]).contains("created"));
    assert_eq!(dir.json(&["limit", "add", "job", "--rate=3", "--per=366d"]), json!({"ok": true, "created": false}));
    let args = ["limit", "add", "win", "--rate", "10", "--per", "366d", "--algorithm", "fixed_window_counter"];
    assert_eq!(dir.json(&args), json!({"ok": true, "created": true}));
    dir.ok(&["limit", "add", "ключ/%", "--rate", "1", "--per", "24h", "--burst", "5"]);

    assert!(dir.ok(&["limit", "check", "job"]).contains('2'));
    let decision = dir.json(&["limit", "check", "job", "--cost", "2"]);
    let expected = json!({"key": "job", "allowed": true, "cost": 2, "limit": 3, "remaining": 0,
        "reset_at": decision["reset_at"], "retry_after_ms": 0, "algorithm": "token_bucket"});
    assert_eq!(decision, expected);
    let denied = dir.run(&["limit", "check", "job"]);
    assert_eq!((denied.code, denied.err.as_str()), (Some(1), ""), "{denied:?}");
    let denied = dir.run(&["limit", "check", "job", "--json"]);
    assert_eq!((denied.code, &denied.json()["allowed"]), (Some(1), &json!(false)));

    let all = dir.json(&["limit", "check-all", "win", "ключ/%", "--cost", "win=4", "--cost", "ключ/%=2"]);
    assert_eq!((&all["allowed"], &all["denied_key"]), (&json!(true), &Value::Null));
    assert_eq!((&all["results"][0]["remaining"], &all["results"][1]["remaining"]), (&json!(6), &json!(3)));
    let denied = dir.run(&["limit", "check-all", "win", "job", "--json"]);
    assert_eq!((denied.code, &denied.json()["denied_key"]), (Some(1), &json!("job")));
    let denied = dir.run(&["limit", "check-all", "win", "job"]);
    assert!(denied.code == Some(1) && denied.out.contains("job"), "{denied:?}");

    let status = dir.json(&["limit", "status", "win"]);
    assert_eq!((&status["remaining"], &status["total_allowed_cost"]), (&json!(6), &json!(4)), "{status}");
    assert_eq!(dir.json(&["limit", "status", "job"])["total_denied"], 4);
    let text = dir.ok(&["limit", "status", "win"]);
    assert!(text.contains("fixed_window_counter") && text.contains("win"), "{text}");
    let listing = dir.json(&["limit", "list"]);
    assert_eq!(listing.as_array().unwrap().iter().map(|one| &one["key"]).collect::<Vec<_>>(), ["job", "win", "ключ/%"]);
    assert_eq!(listing[1], status);
    assert_eq!(dir.json(&["limit", "list", "--prefix", "w"]), json!([status]));
    assert_eq!(dir.json(&["limit", "list", "--after", "job", "--limit", "1"]), json!([status]));
    let text = dir.ok(&["limit", "list"]);
    assert_eq!(text.lines().count(), 4, "{text}");
    assert_eq!(dir.json(&["limit", "top"])[0]["key"], "job");
    let top = dir.json(&["limit", "top", "--by", "allowed", "--limit", "1"]);
    assert_eq!((top.as_array().unwrap().len(), &top[0]["key"]), (1, &json!("job")));
    let history = dir.json(&["limit", "history", "job"]);
    assert_eq!((&history[0]["event"], &history[1]["event"]), (&json!("created"), &json!("spent")), "{history}");
    assert!(dir.ok(&["limit", "history", "job"]).lines().count() >= 4);

    assert_eq!(dir.json(&["limit", "reset", "job"]), json!({"ok": true}));
    dir.ok(&["limit", "check", "job"]);
    dir.ok(&["limit", "reset", "win"]);
    assert_eq!(dir.json(&["limit", "remove", "win"]), json!({"ok": true}));
    dir.ok(&["limit", "remove", "job"]);
    assert_eq!(dir.json(&["limit", "list"]).as_array().unwrap().len(), 1);
    for args in [
        &["limit", "check", "job"][..],
        &["limit", "check-all", "ключ/%", "job"],
        &["limit", "status", "job"],
        &["limit", "reset", "job"],
        &["limit", "remove", "job"],
    ] {
        assert!(dir.error(3, args).contains("`job`"), "{args:?}");
    }
    // A key that begins with a dash, behind two dashes.
    dir.ok(&["limit", "add", "--rate", "1", "--per", "1d", "--", "--odd"]);
    dir.ok(&["limit", "check", "--", "--odd"]);
}

#[test]
fn storage_embedded() {
    let dir = Dir::new();
    dir.ok(&["limit", "add", "job", "--rate", "3", "--per", "366d"]);
    dir.ok(&["limit", "check", "job"]);
    dir.ok(&["log", "flush"]);
    assert_eq!(dir.json(&["log", "flush"]), json!({"ok": true}));
    let dump = dir.ok(&["log", "dump"]);
    let lines: Vec<Value> = dump.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["event"] == "spent" && line["key"] == "job"), "{dump}");
    assert_eq!(dir.json(&["log", "verify"])["ok"], true);
    dir.ok(&["log", "verify"]);
    let status = dir.json(&["limit", "status", "job"]);
    let compaction = dir.json(&["log", "compact"]);
    assert!(compaction["ok"] == true && compaction["snapshot_bytes"].as_u64().unwrap() > 0, "{compaction}");
    dir.ok(&["log", "compact"]);
    assert_eq!(dir.json(&["limit", "status", "job"]), status);
    let doctor = dir.json(&["doctor"]);
    assert_eq!((&doctor["ok"], &doctor["problems"], &doctor["limits"]), (&json!(true), &json!([]), &json!(1)));
    assert!(dir.run(&["doctor", "--json"]).out.starts_with("{\"ok\":true"));
    dir.ok(&["doctor"]);
    // Looking changes no file.
    let files = crate::util::log_files(&dir.path);
    for look in [&["limit", "list"][..], &["limit", "status", "job"], &["log", "dump"], &["log", "verify"], &["doctor"]]
    {
        dir.ok(look);
    }
    assert!(crate::util::log_files(&dir.path) == files);
}

#[test]
fn a_directory_that_is_not_there() {
    let dir = Dir::new();
    for args in [
        &["limit", "check", "job"][..],
        &["limit", "check-all", "job"],
        &["limit", "status", "job"],
        &["limit", "list"],
        &["limit", "top"],
        &["limit", "history", "job"],
        &["limit", "reset", "job"],
        &["limit", "remove", "job"],
        &["log", "flush"],
        &["log", "compact"],
        &["log", "dump"],
        &["log", "verify"],
    ] {
        let message = dir.error(3, args);
        assert!(message.contains(dir.path.to_str().unwrap()), "{message}");
    }
    let doctor = dir.run(&["doctor"]);
    assert!(doctor.code.is_some_and(|code| code == 1 || code == 3), "{doctor:?}");
    assert!(!dir.path.exists());
    std::fs::write(&dir.path, "a file").unwrap();
    dir.error(3, &["limit", "add", "job", "--rate", "1", "--per", "1s"]);
    dir.error(3, &["server", "start", "--bind", "127.0.0.1:0"]);
    assert_eq!(std::fs::read_to_string(&dir.path).unwrap(), "a file");
}

#[test]
fn wrong_usage_names_what_is_wrong() {
    let dir = Dir::new();
    let add = ["limit", "add", "job", "--rate", "1", "--per", "1s"];
    let mut wrong = Vec::new();
    for (args, name) in [
        (&[][..], "command"),
        (&["nonsense"], "nonsense"),
        (&["limit"], "limit"),
        (&["limit", "nonsense"], "nonsense"),
        (&["log", "dumb"], "dumb"),
        (&["server"], "server"),
        (&["server", "stop"], "stop"),
        (&["--nonsense", "doctor"], "--nonsense"),
        (&["doctor", "--nonsense"], "--nonsense"),
        (&["doctor", "-x"], "-x"),
        (&["doctor", "more"], "more"),
        (&["limit", "check"], "KEY"),
        (&["limit", "check", "a", "b"], "`b`"),
        (&["limit", "check", "a", "--cost"], "--cost"),
        (&["limit", "check", "a", "--cost", "x"], "--cost"),
        (&["limit", "check", "a", "--cost", "-1"], "--cost"),
        (&["limit", "check", "a", "--cost", "1.5"], "--cost"),
        (&["limit", "check", "a", "--cost", "1", "--cost", "2"], "--cost"),
        (&["limit", "check-all"], "KEY"),
        (&["limit", "check-all", "a", "--cost", "5"], "--cost"),
        (&["limit", "check-all", "a", "--cost", "b=5"], "--cost"),
        (&["limit", "check-all", "a", "--cost", "a=1", "--cost", "a=2"], "--cost"),
        (&["limit", "add", "job", "--per", "1s"], "--rate"),
        (&["limit", "add", "job", "--rate", "1"], "--per"),
        (&["limit", "add", "--rate", "1", "--per", "1s"], "KEY"),
        (&["limit", "add", "job", "--rate", "0", "--per", "1s"], "--rate"),
        (&["limit", "add", "job", "--rate", "--per", "1s"], "--rate"),
        (&["limit", "add", "job", "--rate", "1", "--per", "1w"], "--per"),
        (&["limit", "add", "job", "--rate", "1", "--per", "367d"], "--per"),
        (&[&add[..], &["--algorithm", "leaky"]].concat(), "--algorithm"),
        (&[&add[..], &["--burst", "0"]].concat(), "--burst"),
        (&[&add[..], &["--algorithm", "sliding_window_log", "--burst", "2"]].concat(), "--burst"),
        (&[&add[..], &["--rate", "2"]].concat(), "--rate"),
        (&[&add[..], &["--json", "--json"]].concat(), "--json"),
        (&[&add[..], &["--colour=red"]].concat(), "--colour"),
        (&["limit", "list", "more"], "more"),
        (&["limit", "list", "--limit", "x"], "--limit"),
        (&["limit", "top", "--by", "size"], "--by"),
        (&["limit", "status"], "KEY"),
        (&["limit", "history"], "KEY"),
        (&["limit", "reset"], "KEY"),
        (&["limit", "remove"], "KEY"),
        (&["log", "flush", "now"], "now"),
        (&["log", "verify", "--deep"], "--deep"),
        (&["server", "start", "--port=80"], "--port"),
        (&["server", "start", "--port", "80"], "--port"),
        (&["server", "start", "--bind"], "--bind"),
        (&["server", "start", "--bind", "--sync"], "--bind"),
        (&["server", "start", "--bind", "localhost"], "--bind"),
        (&["server", "start", "--bind=127.0.0.1:99999"], "--bind"),
        (&["server", "start", "--bind", "127.0.0.1:0", "--bind", "127.0.0.1:0"], "--bind"),
        (&["server", "start", "--sync", "never"], "--sync"),
        (&["server", "start", "--flush-every-ms", "0"], "--flush-every-ms"),
        (&["server", "start", "--flush-every-ms", "x"], "--flush-every-ms"),
        (&["server", "start", "--flush-every-events", "0"], "--flush-every-events"),
        (&["server", "start", "--max-blocking", "0"], "--max-blocking"),
        (&["server", "start", "--max-blocking", "4097"], "--max-blocking"),
        (&["server", "start", "--compact-after", "many"], "--compact-after"),
        (&["server", "start", "--socket-mode", "9"], "--socket-mode"),
        (&["server", "start", "--token-file", "/nonexistent/file"], "--token-file"),
        (&["server", "start", "--token", "a", "--token", "b"], "--token"),
        (&["server", "start", "more"], "more"),
        (&["help", "nonsense"], "nonsense"),
        (&["--data-dir", "elsewhere", "doctor"], "--data-dir"),
    ] {
        let run = dir.run(args);
        let said = run.err.starts_with("flint: ") && run.err.contains(name) && run.err.lines().count() == 1;
        if run.code != Some(2) || !run.out.is_empty() || !said {
            wrong.push(format!("{args:?}: {run:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(run(command().args(["doctor", "--data-dir"])).code, Some(2));
    assert_eq!(run(command().args(["--data-dir", "", "doctor"])).code, Some(2));
    assert_eq!(std::fs::read_dir(dir.parent.path()).unwrap().count(), 0, "wrong usage touches no file");
    // A cost that can never be is wrong usage too, and never a denial.
    dir.ok(&add);
    assert!(dir.error(2, &["limit", "check", "job", "--cost", "2"]).contains("job"));
    assert!(dir.error(2, &["limit", "check", "job", "--cost", "0"]).contains("cost"));
    dir.error(2, &["limit", "check-all", "job", "job"]);
    assert!(dir.error(2, &["limit", "check", ""]).contains("key"));
    dir.error(2, &["limit", "check-all", "job", "--cost", "job=2"]);
}

#[test]
fn help_for_every_command() {
    let dir = Dir::new();
    let whole = dir.ok(&["help"]);
    assert_eq!(dir.ok(&["--help"]), whole);
    let commands = [
        (&["server", "start"][..], "--bind"),
        (&["limit", "add"], "--rate"),
        (&["limit", "check"], "--cost"),
        (&["limit", "check-all"], "--cost"),
        (&["limit", "status"], "KEY"),
        (&["limit", "list"], "--prefix"),
        (&["limit", "reset"], "KEY"),
        (&["limit", "remove"], "KEY"),
        (&["limit", "top"], "--by"),
        (&["limit", "history"], "KEY"),
        (&["log", "flush"], "--json"),
        (&["log", "compact"], "--json"),
        (&["log", "dump"], "--json"),
        (&["log", "verify"], "--json"),
        (&["log", "repair"], "--to"),
        (&["doctor"], "--json"),
        (&["run"], "--wait"),
        (&["completions"], "bash, zsh or fish"),
    ];
    for (command, option) in commands {
        let help = dir.ok(&[&["help"], command].concat());
        let name = command.join(" ");
        assert!(help.starts_with(&format!("Usage: flint {name}")), "{help}");
        assert!(help.contains(option) && help.contains("Exit status"), "{help}");
        assert!(whole.contains(&name), "{whole}");
        assert_eq!(dir.ok(&[command, &["--help"]].concat()), help);
        assert_eq!(dir.ok(&[command, &["-h"]].concat()), help);
    }
    assert!(dir.ok(&["help", "help"]).starts_with("Usage: flint help [COMMAND]"));
    assert!(dir.ok(&["limit", "add", "job", "--help"]).starts_with("Usage: flint limit add KEY"));
    for group in ["limit", "log", "server"] {
        assert!(dir.ok(&["help", group]).contains(&format!("  {group} ")), "{group}");
    }
    for (words, told) in [
        (&["limit"][..], "`limit` needs a further word: add, check"),
        (&["limit", "ad"], "no command `limit ad`; `limit` has add, check"),
        (&["odd"], "no command `odd`; `flint help`"),
        (&["limti", "add"], "no command `limti add`; did you mean `limit`?"),
        (&["doctor", "--jsno"], "unknown option `--jsno`; did you mean `--json`?"),
        (&["doctor", "--odd"], "unknown option `--odd`; `flint help doctor` lists them"),
        (&["help", "log", "odd"], "no command `log odd`; `log` has flush"),
    ] {
        assert!(dir.error(2, words).contains(told), "{words:?}");
    }
    let start = dir.ok(&["help", "server", "start"]);
    for option in ["--token", "--token-file", "--sync", "--flush-every-ms", "--flush-every-events", "--max-blocking"] {
        assert!(start.contains(option), "{option}");
    }
    assert_eq!(dir.ok(&["--version"]), format!("flint {}\n", env!("CARGO_PKG_VERSION")));
    assert!(!dir.path.exists());
}

#[test]
fn commands_wait_for_each_other() {
    let dir = Dir::new();
    dir.ok(&["limit", "add", "job", "--rate", "5", "--per", "366d"]);
    let codes: Vec<_> = std::thread::scope(|scope| {
        let commands: Vec<_> = (0..4).map(|_| scope.spawn(|| dir.run(&["limit", "check", "job"]).code)).collect();
        commands.into_iter().map(|command| command.join().unwrap()).collect()
    });
    // On a slow machine one may give up its wait (3); none may be denied.
    assert!(codes.iter().all(|code| [Some(0), Some(3)].contains(code)), "{codes:?}");
    let done = codes.iter().filter(|code| **code == Some(0)).count();
    assert!(done > 0);
    assert_eq!(dir.json(&["limit", "status", "job"])["total_allowed"], done);
}

#[test]
fn columns_stand_below_each_other_whatever_the_keys() {
    let dir = Dir::new();
    let long = "x".repeat(512);
    let keys = ["--dash", "a \"b\" %41/\\", "e\u{301}", &long, "\u{65e5}\u{672c}", "\u{1f469}\u{200d}\u{1f467}"];
    for key in keys {
        dir.ok(&["limit", "add", "--rate", "1000000000000", "--per", "366d", "--", key]);
    }
    dir.ok(&["limit", "add", "small", "--rate", "1", "--per", "1s", "--algorithm", "sliding_window_log"]);
    for args in [&["limit", "list"][..], &["limit", "top", "--by", "allowed"]] {
        let table = dir.ok(args);
        let heads = table.lines().next().unwrap();
        let starts = ["ALGORITHM", "RESET AT", "KEY"].map(|head| heads.find(head).unwrap());
        let ends = ["REMAINING", "ALLOWED", "DENIED"].map(|head| heads.find(head).unwrap() + head.len());
        assert_eq!(table.lines().count(), keys.len() + 2, "{table}");
        for line in table.lines().skip(1) {
            // Behind a column's end and before its start stand two blanks, and the key ends the line.
            assert!(starts.iter().all(|at| &line[at - 2..*at] == "  " && line.as_bytes()[*at] != b' '), "{table}");
            assert!(ends.iter().all(|at| &line[*at..at + 2] == "  " && line.as_bytes()[at - 1] != b' '), "{table}");
            let key = &line[starts[2]..];
            assert!(keys.contains(&key) || key == "small", "{key}");
        }
    }
}

#[test]
fn a_reader_that_goes_is_no_news_and_a_full_disk_is() {
    let dir = Dir::new();
    dir.ok(&["limit", "add", "job", "--rate", "3", "--per", "366d"]);
    let into = |stdout: std::process::Stdio, args: &[&str]| {
        let mut started = command();
        started.arg("--data-dir").arg(&dir.path).args(args);
        let done = started.stdout(stdout).stderr(std::process::Stdio::piped()).output().unwrap();
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    for args in [&["limit", "list"][..], &["limit", "list", "--json"], &["help"], &["log", "dump"], &["doctor"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(into(writer.into(), args), (Some(3), String::new()), "{args:?}");
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let (code, told) = into(full.into(), args);
        assert!(code == Some(3) && told.starts_with("flint: cannot write to standard output: "), "{args:?}: {told}");
    }
    // A server does not end without a word.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let (code, told) = into(writer.into(), &["server", "start", "--bind", "127.0.0.1:0"]);
    assert!(code == Some(3) && told.contains("ERROR cannot write to standard output: "), "{told}");
    // An answer that nobody got is not given.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(into(writer.into(), &["limit", "check", "job"]), (Some(3), String::new()));
}

#[test]
fn log_lines_tell_the_time_or_the_journal_their_priority() {
    use std::os::unix::fs::MetadataExt;
    let dir = Dir::new();
    let path = dir.parent.path().join("log");
    let logged = |journal: &str| {
        let file = std::fs::File::create(&path).unwrap();
        let id = file.metadata().unwrap();
        let mut start = command();
        start.env("JOURNAL_STREAM", journal.replace("FILE", &format!("{}:{}", id.dev(), id.ino())));
        // It warns of the token, and then of the address.
        start.args(["server", "start", "--token", "secret", "--bind", "odd"]).stderr(file);
        assert_eq!(start.output().unwrap().status.code(), Some(2));
        let text = std::fs::read_to_string(&path).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        assert!(rest.starts_with("flint: --bind") && !text.contains("secret"), "{text}");
        first.to_owned()
    };
    let warning = "--token shows in the list of processes; --token-file and FLINT_SERVER_TOKEN do not";
    for elsewhere in ["", "1:2", "odd"] {
        let line = logged(elsewhere);
        let (time, rest) = line.split_once(' ').unwrap();
        let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!((shape.as_str(), rest), ("0000-00-00T00:00:00.000Z", format!("WARN  {warning}").as_str()));
    }
    assert_eq!(logged("FILE"), format!("<4>{warning}"));
}
