//! The image of a container: a static binary that serves from an otherwise empty root.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::util::{Client, Server, run};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The lines of the image's file that begin with this instruction, without it.
fn instructions(name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join("scripts/container/Containerfile")).unwrap();
    let of = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    of.map(str::to_owned).collect()
}

/// The words of an instruction that is a JSON array.
fn words(name: &str) -> Vec<String> {
    serde_json::from_str(&instructions(name)[0]).unwrap()
}

#[test]
fn the_image_is_made_of_a_binary_and_an_empty_directory() {
    assert_eq!(instructions("FROM"), ["scratch"]);
    let dir = tempfile::tempdir().unwrap();
    let mut build = Command::new(root().join("scripts/container/build"));
    build.arg("--context-only").arg(dir.path()).env("FLINT_BIN", env!("CARGO_BIN_EXE_flint"));
    let built = run(&mut build);
    assert_eq!(built.code, Some(0), "{built:?}");
    for copied in instructions("COPY") {
        let from = copied.split(' ').find(|word| !word.starts_with("--")).unwrap().to_owned();
        assert!(dir.path().join(&from).exists(), "{from} is not made");
    }
    for script in ["build", "static"] {
        let help = run(Command::new(root().join("scripts/container").join(script)).arg("--help"));
        assert!(help.code == Some(0) && help.out.contains(&format!("scripts/container/{script}")), "{help:?}");
        let wrong = run(Command::new(root().join("scripts/container").join(script)).arg("--odd"));
        assert!(wrong.code == Some(2) && wrong.err.contains("--odd"), "{wrong:?}");
    }
}

/// What a builder would do, by hand. `scripts/test` builds a static binary and names it.
#[test]
fn the_static_binary_serves_from_an_empty_root() {
    let Some(binary) = std::env::var_os("FLINT_STATIC_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED: FLINT_STATIC_BIN names no static binary");
        return;
    };
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root may change the root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(binary, dir.path().join("flint")).unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    let user = instructions("USER").remove(0);
    assert!(run(Command::new("chown").arg(&user).arg(dir.path().join("data"))).code == Some(0));
    assert!(run(Command::new("chmod").arg("755").arg(dir.path())).code == Some(0));
    let command = || {
        let mut command = Command::new("chroot");
        command.arg(format!("--userspec={user}")).arg(dir.path()).arg(&words("ENTRYPOINT")[0]).env_clear();
        // Where chroot is.
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        for pair in instructions("ENV").iter().flat_map(|line| line.split(' ')) {
            let (name, value) = pair.split_once('=').unwrap();
            command.env(name, value);
        }
        command
    };
    let bind = |words: Vec<String>| words.into_iter().map(|word| word.replace("0.0.0.0:7878", "0.0.0.0:0"));
    let refused = run(command().args(bind(words("CMD"))));
    assert!(refused.code == Some(2) && refused.err.contains("--token"), "{refused:?}");
    let server = Server::spawn(command().env("FLINT_SERVER_TOKEN", "secret").args(bind(words("CMD"))));
    let mut client = Client::new(&server.url.replace("0.0.0.0", "127.0.0.1"), Some("secret"));
    let answer = client.post("/v1/check", r#"{"key":"k","limit":"5/day"}"#).ok();
    assert_eq!(answer["remaining"], 4);
    server.terminate();
    assert!(dir.path().join("data/flint.lock").exists());
}

/// The image as a builder makes it that needs no daemon, and its program as a container would run it.
#[test]
fn a_builder_without_a_daemon_makes_the_image() {
    let Some(binary) = std::env::var_os("FLINT_STATIC_BIN") else {
        eprintln!("SKIPPED: FLINT_STATIC_BIN names no static binary");
        return;
    };
    if Command::new("buildah").arg("--version").output().is_err() || !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: buildah is not installed (Debian package buildah), or this is not root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // Images and containers of this test only.
    let builder = dir.path().join("builder");
    let own = "exec buildah --root \"$dir/root\" --runroot \"$dir/run\" --storage-driver vfs \"$@\"";
    std::fs::write(&builder, format!("#!/bin/sh\ndir='{}'\n{own}\n", dir.path().display())).unwrap();
    assert_eq!(run(Command::new("chmod").arg("755").arg(&builder)).code, Some(0));
    let mut build = Command::new(root().join("scripts/container/build"));
    let built = run(build.arg(dir.path().join("context")).env("FLINT_BIN", binary).env("BUILDER", &builder));
    assert_eq!(built.code, Some(0), "{built:?}");
    let buildah = |args: &[&str]| {
        let done = run(Command::new(&builder).args(args));
        assert_eq!(done.code, Some(0), "{args:?}: {done:?}");
        done.out.trim_end().to_owned()
    };
    let version = env!("CARGO_PKG_VERSION");
    let container = buildah(&["from", &format!("localhost/flint:{version}")]);
    let image = buildah(&["mount", &container]);
    let user = instructions("USER").remove(0);
    let mut program = Command::new("chroot");
    program.arg(format!("--userspec={user}")).arg(&image).args(words("ENTRYPOINT")).arg("--version");
    let shown = run(program.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"));
    assert_eq!((shown.code, shown.out), (Some(0), format!("flint {version}\n")), "{}", shown.err);
    buildah(&["unmount", &container]);
    let left: serde_json::Value =
        serde_json::from_str(&buildah(&["inspect", "--type", "image", &format!("flint:{version}")])).unwrap();
    let config = &left["OCIv1"]["config"];
    assert_eq!((config["User"].as_str(), &config["Volumes"]), (Some(&*user), &serde_json::json!({"/data": {}})));
}
