//! scripts/install, and the completions that it installs.

use std::path::Path;
use std::process::Command;

use crate::util::{Run, command, run};

const BINARY: &str = env!("CARGO_BIN_EXE_flint");

fn completions(shell: &str) -> Run {
    run(command().args(["completions", shell]))
}

fn installed(name: &str) -> bool {
    let found = run(Command::new("sh").args(["-c", "command -v \"$1\"", "sh", name])).code == Some(0);
    if !found {
        eprintln!("SKIPPED: {name} is not installed");
    }
    found
}

#[test]
fn a_fresh_prefix() {
    let parent = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install");
    let install = || {
        let mut install = Command::new(&script);
        run(install.env("FLINT_BIN", BINARY).env("DESTDIR", parent.path()).env("PREFIX", "/opt/flint"))
    };
    let done = install();
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{done:?}");
    let root = parent.path().join("opt/flint");
    for file in [
        "share/man/man1/flint.1",
        "share/flint/flint.sh",
        "share/bash-completion/completions/flint",
        "share/zsh/site-functions/_flint",
        "share/fish/vendor_completions.d/flint.fish",
    ] {
        assert!(std::fs::metadata(root.join(file)).unwrap().len() > 100, "{file}");
        assert!(done.out.contains(file), "{file} was not told of: {}", done.out);
    }
    let version = run(Command::new(root.join("bin/flint")).arg("--version"));
    assert_eq!(version.out, format!("flint {}\n", env!("CARGO_PKG_VERSION")));
    // Once more, over what is there.
    assert_eq!(install().code, Some(0));
    let left = run(Command::new("find").arg(parent.path()).args(["-name", ".flint-install*"]));
    assert_eq!(left.out, "");
    let wrong = run(Command::new(&script).env("FLINT_BIN", BINARY).env("PREFIX", "relative"));
    assert!(wrong.code == Some(2) && wrong.err.contains("PREFIX"), "{wrong:?}");
}

#[test]
fn completions_know_every_command_and_option() {
    let whole = run(command().arg("help")).out;
    let listed = |line: &&str| line.starts_with("  ") && !line.starts_with("  -") && !line.starts_with("   ");
    let commands: Vec<&str> =
        whole.lines().filter(listed).map(|line| line.trim().split("  ").next().unwrap()).collect();
    assert!(commands.len() > 15, "{commands:?}");
    for shell in ["bash", "zsh", "fish"] {
        let script = completions(shell).out;
        for command_line in commands.iter().filter(|line| !line.starts_with("help")) {
            let words: Vec<&str> = command_line.split(' ').collect();
            let help = run(command().arg("help").args(&words)).out;
            for line in help.lines().filter(|line| line.starts_with("  --")) {
                let option = line.trim().split(' ').next().unwrap();
                let name = option.trim_start_matches('-');
                let known = script.contains(option) || script.contains(&format!(" -l {name} "));
                assert!(known, "{shell} does not know {option} of {command_line}");
            }
            assert!(words.iter().all(|word| script.contains(word)), "{shell} does not know {command_line}");
        }
    }
    let unknown = completions("csh");
    assert!(unknown.code == Some(2) && unknown.err.contains("csh"), "{unknown:?}");
}

#[test]
fn shells_take_their_completions() {
    let parent = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"].into_iter().filter(|shell| installed(shell)) {
        let file = parent.path().join(shell);
        std::fs::write(&file, completions(shell).out).unwrap();
        let parsed = run(Command::new(shell).arg("-n").arg(&file));
        assert_eq!((parsed.code, parsed.err.as_str()), (Some(0), ""), "{shell}: {parsed:?}");
    }
    if installed("bash") {
        let ask = |words: &str| {
            let script = format!(
                ". '{}'; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _flint; echo \"${{COMPREPLY[*]}}\"",
                parent.path().join("bash").display()
            );
            run(Command::new("bash").args(["-c", &script])).out.trim_end().to_owned()
        };
        assert_eq!(ask("flint li"), "limit");
        assert_eq!(ask("flint limit st"), "status");
        assert_eq!(ask("flint --data-dir x limit check-a"), "check-all");
        assert_eq!(ask("flint limit add --al"), "--algorithm");
        assert_eq!(ask("flint limit add --algorithm sliding_window_l"), "sliding_window_log");
        assert_eq!(ask("flint server start --sync ''"), "always batch");
        assert_eq!(ask("flint doctor --js"), "--json");
    }
    if installed("fish") {
        let ask = |line: &str| {
            let file = parent.path().join("fish");
            let script = format!("source '{}'; complete -C '{line}'", file.display());
            run(Command::new("fish").env("HOME", parent.path()).args(["--no-config", "-c", &script])).out
        };
        assert!(ask("flint li").starts_with("limit"), "{}", ask("flint li"));
        assert!(ask("flint limit st").starts_with("status\t"), "{}", ask("flint limit st"));
        assert!(ask("flint limit add --al").starts_with("--algorithm"), "{}", ask("flint limit add --al"));
    }
}
