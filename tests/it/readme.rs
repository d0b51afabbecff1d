//! README.md is true: its first minute runs unchanged, and what it points at exists.

use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::util::run;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).unwrap()
}

fn section<'a>(text: &'a str, title: &str) -> &'a str {
    let rest = text.split(&format!("\n## {title}\n")).nth(1).unwrap_or_else(|| panic!("no section {title}"));
    rest.split("\n## ").next().unwrap()
}

/// Fenced blocks with their languages.
fn blocks(text: &str) -> Vec<(&str, &str)> {
    text.split("\n```").skip(1).step_by(2).map(|block| block.split_once('\n').unwrap()).collect()
}

fn there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|done| done.status.success())
}

/// One script of a section's blocks for sh and Python, each Python block as a separate program.
fn script(section: &str, python: bool) -> String {
    let blocks = blocks(section);
    assert!(blocks.len() > 5, "{blocks:?}");
    let mut script = String::new();
    for (language, text) in blocks {
        match language {
            "sh" => script += &format!("{text}\n"),
            "python" if python => script += &format!("python3 - <<'END'\n{text}\nEND\n"),
            "python" => {}
            other => panic!("a block for {other}"),
        }
    }
    script
}

/// A port that is free now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A shell that runs a script of README in a directory, with the program of this build.
fn shell(dir: &Path, script: &str) -> Command {
    let programs = Path::new(env!("CARGO_BIN_EXE_flint")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.args(["-euc", script]).current_dir(dir).process_group(0).env("PATH", path);
    for variable in ["FLINT_SERVER", "FLINT_SERVER_TOKEN", "FLINT_LOG"] {
        shell.env_remove(variable);
    }
    shell
}

#[test]
fn each_user_has_a_limit_behind_nginx() {
    for program in ["curl", "python3", "nginx"] {
        let shows = if program == "nginx" { "-v" } else { "--version" };
        if Command::new(program).arg(shows).output().is_err() {
            eprintln!("SKIPPED: {program} is not installed, README's lines for nginx were not run");
            return;
        }
    }
    let readme = readme();
    let blocks = blocks(section(&readme, "Behind nginx"));
    let [("sh", start), ("nginx", configuration), ("sh", ask)] = blocks[..] else { panic!("{blocks:?}") };
    let [flint, front, application] = [(); 3].map(|()| free_port());
    let ports = |text: &str| {
        let text = text.replace("127.0.0.1:7878", &format!("127.0.0.1:{flint}"));
        let text = text.replace("127.0.0.1:8080", &format!("127.0.0.1:{front}"));
        let text = text.replace("127.0.0.1:8000", &format!("127.0.0.1:{application}"));
        text.replace("http.server 8000", &format!("http.server {application}"))
            .replace("server start", &format!("server start --bind 127.0.0.1:{flint}"))
    };
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path();
    let conf = dir.join("conf.d");
    for made in [&conf, &dir.join("tmp")] {
        std::fs::create_dir(made).unwrap();
    }
    std::fs::write(conf.join("flint.conf"), ports(configuration)).unwrap();
    // What a distribution's own file has around it.
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path tmp; "));
    let around = format!(
        "daemon off; master_process off; pid nginx.pid; error_log error.log; events {{}} \
         http {{ access_log off; {} include conf.d/*.conf; }}",
        kinds.concat()
    );
    std::fs::write(dir.join("nginx.conf"), around).unwrap();
    // All three end with the script, even if a line fails.
    let script = format!(
        "trap 'kill $started 2>/dev/null || true' EXIT; started=\n{}\n\
         nginx -p \"$PWD\" -c nginx.conf &\nstarted=\"$started $!\"\n\
         for url in http://127.0.0.1:{flint}/v1/health http://127.0.0.1:{application}/ http://127.0.0.1:{front}/; do \
         curl -s -o /dev/null --retry 100 --retry-delay 1 --retry-connrefused \"$url\"; done\n{}",
        (ports(start) + "\n").replace(" &\n", " &\nstarted=\"$started $!\"\n"),
        ports(ask)
    );
    let done = run(&mut shell(dir, &script));
    assert_eq!(done.code, Some(0), "{done:?}");
    let lines: Vec<Vec<&str>> = done
        .out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .filter(|words: &Vec<_>| words.len() < 3)
        .collect();
    let [passed, denied, other] = &lines[..] else { panic!("{done:?}") };
    let [passed, denied] = [(passed, "200"), (denied, "429")].map(|(words, status)| {
        assert_eq!(words[1], status, "{done:?}");
        words[0].parse::<u64>().unwrap()
    });
    // What comes back while they are sent: one in 0.6 s.
    assert!((100..150).contains(&passed) && passed + denied == 150, "{done:?}");
    assert_eq!(other, &["200"], "{done:?}");
}

#[test]
fn the_first_minute_runs_as_it_stands() {
    if !there("curl") {
        eprintln!("SKIPPED: curl is not installed, README's commands were not run");
        return;
    }
    let python = there("python3");
    if !python {
        eprintln!("SKIPPED: python3 is not installed, README's Python was not run");
    }
    let port = free_port();
    let readme = readme();
    let script = script(section(&readme, "60 seconds"), python);
    assert!(script.contains("127.0.0.1:7878"));
    let script = script.replace("127.0.0.1:7878", &format!("127.0.0.1:{port}"));
    let parent = tempfile::tempdir().unwrap();
    symlink(root().join("scripts"), parent.path().join("scripts")).unwrap();
    // If a line fails, the server ends with the script.
    let mut shell = shell(parent.path(), &format!("trap 'kill $! 2>/dev/null || true' EXIT\n{script}"));
    shell.env("PYTHONPATH", root().join("scripts/python")).env("PYTHONDONTWRITEBYTECODE", "1");
    let done = run(&mut shell);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(!done.out.contains("\"error\""), "{done:?}");
    let wanted = script.lines().filter_map(|line| line.strip_prefix("# prints "));
    let wanted: Vec<&str> = wanted.filter(|line| python || !line.starts_with(['T', 'F'])).collect();
    assert!(wanted.len() >= 6, "{wanted:?}");
    let mut printed = done.out.lines();
    for line in wanted {
        assert!(printed.any(|other| other == line), "`{line}` was not printed in its place: {done:?}");
    }
}

#[test]
fn what_it_points_at_is_there() {
    let readme = readme();
    let mut links = 0;
    for link in readme.split("](").skip(1) {
        let link = link.split(')').next().unwrap();
        assert!(root().join(link).exists(), "{link} is not there");
        links += 1;
    }
    for page in std::fs::read_dir(root().join("man")).unwrap() {
        let name = page.unwrap().file_name().into_string().unwrap();
        assert!(readme.contains(&format!("](man/{name})")), "{name} is not named");
    }
    assert!(links > 5);
    for word in readme.split(|c: char| c.is_whitespace() || c == '`') {
        if word.starts_with("scripts/") || word.starts_with("tests/") || word.starts_with("man/") {
            let path = word.trim_end_matches(['.', ',', ';', ')']);
            assert!(root().join(path).exists(), "{path} is not there");
        }
    }
}

#[test]
fn two_commands_are_all_the_setting_up() {
    let readme = readme();
    let (_, commands) = blocks(section(&readme, "Two commands"))[0];
    let commands: Vec<&str> = commands.lines().map(|line| line.split('#').next().unwrap().trim()).collect();
    assert_eq!(commands, ["cargo run --release -- server start", "scripts/test"]);
    // The works of scripts/bench that it names are known.
    let bench = std::fs::read_to_string(root().join("scripts/bench")).unwrap();
    let (_, commands) = blocks(section(&readme, "Benchmarks"))[0];
    let known = bench.split("# WORK:").nth(1).unwrap().split('(').next().unwrap();
    for command in commands.lines() {
        let command = command.split('#').next().unwrap();
        for work in command.split_whitespace().skip(1).filter(|word| !word.starts_with('-')) {
            assert!(known.split_whitespace().any(|name| name == work), "{work}: {known}");
        }
    }
}
