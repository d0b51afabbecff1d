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
    let unit = std::fs::read_to_string(root.join("lib/systemd/system/flint.service")).unwrap();
    assert!(unit.contains("\nExecStart=/opt/flint/bin/flint --data-dir "), "{unit}");
    let version = run(Command::new(root.join("bin/flint")).arg("--version"));
    assert_eq!(version.out, format!("flint {}\n", env!("CARGO_PKG_VERSION")));
    // Once more, over what is there.
    assert_eq!(install().code, Some(0));
    let left = run(Command::new("find").arg(parent.path()).args(["-name", ".flint-install*"]));
    assert_eq!(left.out, "");
    // A prefix that means something to sed and to systemd.
    let mut odd = Command::new(&script);
    odd.env("FLINT_BIN", BINARY).env("DESTDIR", parent.path()).env("PREFIX", "/opt/a & 100%|b\\");
    assert_eq!(run(&mut odd).code, Some(0));
    let unit = parent.path().join("opt/a & 100%|b\\/lib/systemd/system/flint.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    assert!(unit.contains("\nExecStart=\"/opt/a & 100%%|b\\\\/bin/flint\" --data-dir "), "{unit}");
    let wrong = run(Command::new(&script).env("FLINT_BIN", BINARY).env("PREFIX", "relative"));
    assert!(wrong.code == Some(2) && wrong.err.contains("PREFIX"), "{wrong:?}");
}

#[test]
fn options_of_the_installation() {
    let parent = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install");
    let install = |args: &[&str]| {
        let mut install = Command::new(&script);
        install.env_remove("PREFIX").env_remove("DESTDIR").env("FLINT_BIN", BINARY).current_dir(parent.path());
        run(install.args(args))
    };
    let files = || run(Command::new("find").arg(parent.path()).args(["-type", "f"])).out;
    // Whatever it is asked for wrongly, and for help, it installs nothing.
    let stage = ["--destdir", "stage", "--prefix=/opt/flint"];
    for help in ["--help", "-h"] {
        let done = install(&[&stage[..], &[help]].concat());
        assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{done:?}");
        assert!(done.out.contains("--uninstall") && done.out.starts_with("Installs flint"), "{done:?}");
    }
    for (args, word) in [
        (&["--destdir", "stage", "--odd"][..], "--odd"),
        (&["--destdir=stage", "--prefix", "opt"], "must begin with /"),
        (&["--destdir=stage", "--prefix"], "--prefix needs a directory"),
    ] {
        let done = install(args);
        assert_eq!((done.code, done.err.lines().count()), (Some(2), 1), "{done:?}");
        assert!(done.err.contains(word), "{done:?}");
    }
    assert_eq!(files(), "");
    let done = install(&stage);
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{done:?}");
    assert!(parent.path().join("stage/opt/flint/bin/flint").exists());
    let own = parent.path().join("stage/opt/flint/bin/other");
    std::fs::write(&own, "").unwrap();
    let done = install(&[&stage[..], &["--uninstall"]].concat());
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{done:?}");
    assert_eq!(files(), format!("{}\n", own.display()), "what is somebody else's stays");
    assert_eq!(install(&[&stage[..], &["--uninstall"]].concat()).out, "");
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
            let knows = |word: &&str| script.contains(word) || word.contains('[') || word.contains('|');
            assert!(words.iter().all(knows), "{shell} does not know {command_line}");
        }
    }
    let unknown = completions("csh");
    assert!(unknown.code == Some(2) && unknown.err.contains("csh"), "{unknown:?}");
}

/// Asks bash for what may follow these words, the last of which is begun.
fn ask_bash(file: &Path, words: &str) -> String {
    let script = format!(
        ". '{}'; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _flint; echo \"${{COMPREPLY[*]}}\"",
        file.display()
    );
    run(Command::new("bash").args(["-c", &script])).out.trim_end().to_owned()
}

/// Asks fish; each answer is a line with its description.
fn ask_fish(file: &Path, line: &str) -> String {
    let script = format!("source '{}'; complete -C '{line}'", file.display());
    run(Command::new("fish").env("HOME", file.parent().unwrap()).args(["--no-config", "-c", &script])).out
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
}

#[test]
fn bash_completes() {
    if !installed("bash") {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("bash");
    std::fs::write(&file, completions("bash").out).unwrap();
    std::fs::create_dir(parent.path().join("a dir")).unwrap();
    std::fs::write(parent.path().join("a file"), "").unwrap();
    let here = parent.path().display();
    for (words, answer) in [
        ("flint li", "limit".to_owned()),
        ("flint limit st", "status".to_owned()),
        ("flint --data-dir x limit check-a", "check-all".to_owned()),
        ("flint --data-dir = x limit check-a", "check-all".to_owned()),
        ("flint limit add --al", "--algorithm".to_owned()),
        ("flint limit add --algorithm sliding_window_l", "sliding_window_log".to_owned()),
        ("flint limit add --algorithm = sliding_window_l", "sliding_window_log".to_owned()),
        ("flint server start --sync ''", "always batch relaxed".to_owned()),
        ("flint server start --sync =", "always batch relaxed".to_owned()),
        ("flint limit add --rate ''", String::new()),
        ("flint limit check --cost 5 --js", "--json".to_owned()),
        ("flint doctor --js", "--json".to_owned()),
        ("flint help lim", "limit".to_owned()),
        ("flint help limit st", "status".to_owned()),
        ("flint help doctor ''", String::new()),
        ("flint completions z", "zsh".to_owned()),
        (&format!("flint --data-dir '{here}/a'"), format!("{here}/a dir")),
        (&format!("flint run key -- cat '{here}/a f'"), format!("{here}/a file")),
        ("flint run key --co", "--cost".to_owned()),
        ("flint run -- --key -", "--".to_owned()),
        ("flint run -- --key -- mapfil", "mapfile".to_owned()),
        ("flint limit check -- -", String::new()),
    ] {
        assert_eq!(ask_bash(&file, words), answer, "{words}");
    }
}

#[test]
fn fish_completes() {
    if !installed("fish") {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("fish");
    std::fs::write(&file, completions("fish").out).unwrap();
    for (line, answer) in [
        ("flint li", "limit\tadd, check"),
        ("flint limit st", "status\tShow the state"),
        ("flint --data-dir x limit check-a", "check-all\t"),
        ("flint limit add --al", "--algorithm\thow units are counted (token_bucket, "),
        ("flint limit add --algorithm sliding_window_l", "sliding_window_log\t"),
        ("flint server start --sync b", "batch\t"),
        ("flint help li", "limit\t"),
        ("flint help limit st", "status\t"),
        ("flint completions z", "zsh"),
        ("flint run key --co", "--cost\t"),
        ("flint run key -- printen", "printenv"),
        ("flint run -- --key -- printen", "printenv"),
    ] {
        let got = ask_fish(&file, line);
        assert!(got.starts_with(answer), "{line}: {got}");
    }
    assert_eq!(ask_fish(&file, "flint limit add lim"), "", "an operand is no command");
}

/// Types lines into zsh, and waits for what it completes them to.
const ZSH: &str = r#"
zmodload zsh/zpty
zpty z zsh -f -i
expect() {
    local shown= piece=
    while (( SECONDS < 60 )); do
        while zpty -r -t z piece; do shown+=$piece; done
        # What is shown, without what moves the cursor.
        shown=${shown//$'\e'\[[0-9;?]#[a-zA-Z]/}
        [[ $shown != *$1* ]] || return 0
        sleep 0.05
    done
    print -r -- "no $1 in ${(V)shown}"
    exit 1
}
setopt extended_glob
zpty -w z "PS1=; setopt no_beep; stty cols 200; fpath=($1 \$fpath); autoload -U compinit; compinit -u -D; LISTMAX=0; echo READ''Y"
expect READY
shift
while (( $# )); do
    zpty -n -w z $'\C-u'"$1"$'\t\t'
    expect $2
    shift 2
done
zpty -d z
"#;

#[test]
fn zsh_completes() {
    if !installed("zsh") {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    std::fs::write(parent.path().join("_flint"), completions("zsh").out).unwrap();
    let script = parent.path().join("script");
    std::fs::write(&script, ZSH).unwrap();
    let mut zsh = Command::new("zsh");
    zsh.arg("-f").arg(&script).arg(parent.path()).env("TERM", "xterm").env("HOME", parent.path());
    zsh.args(["flint li", "limit"]);
    zsh.args(["flint limit st", "status"]);
    zsh.args(["flint limit ", "Show the state of a limit."]);
    zsh.args(["flint --data-dir x limit check-a", "check-all"]);
    zsh.args(["flint limit add --al", "--algorithm"]);
    zsh.args(["flint limit add --algorithm=sliding_window_l", "sliding_window_log"]);
    zsh.args(["flint limit top --by ", "allowed"]);
    zsh.args(["flint doctor --js", "--json"]);
    zsh.args(["flint help limit rese", "reset"]);
    zsh.args(["flint completions fi", "fish"]);
    zsh.args(["flint run key -- printen", "printenv"]);
    let typed = run(&mut zsh);
    assert_eq!((typed.code, typed.out.as_str()), (Some(0), ""), "{typed:?}");
}
