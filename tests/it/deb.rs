//! `scripts/deb` builds a package that holds what it should.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::util::{Run, run};

fn field(package: &Path, name: &str) -> String {
    let shown = run(Command::new("dpkg-deb").arg("-f").arg(package).arg(name));
    assert_eq!(shown.code, Some(0), "{shown:?}");
    shown.out.trim().to_owned()
}

fn build(binary: &Path, into: &Path) -> Run {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut script = Command::new(root.join("scripts/deb"));
    script.arg(into).env("FLINT_BIN", binary).env_remove("DEBEMAIL").env_remove("DEBFULLNAME");
    run(script.env("SOURCE_DATE_EPOCH", "1700000000"))
}

/// Builds the package of a binary, in which lintian finds nothing.
fn packed(binary: &Path, dir: &Path) -> PathBuf {
    let built = build(binary, dir);
    assert_eq!(built.code, Some(0), "{built:?}");
    let packages: Vec<_> = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect();
    let [package] = &packages[..] else { panic!("{packages:?}") };
    if Command::new("lintian").arg("--version").output().is_err() {
        eprintln!("SKIPPED: lintian is not installed");
    } else {
        let checked = run(Command::new("lintian").args(["--allow-root", "--fail-on", "error,warning"]).arg(package));
        assert_eq!((checked.code, checked.out.as_str()), (Some(0), ""), "{checked:?}");
    }
    package.clone()
}

/// `scripts/test` builds a static binary and names it.
#[test]
fn the_package_of_a_static_binary_needs_nothing() {
    let Some(binary) = std::env::var_os("FLINT_STATIC_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED: FLINT_STATIC_BIN names no static binary");
        return;
    };
    if Command::new("dpkg-deb").arg("--version").output().is_err() {
        eprintln!("SKIPPED: dpkg-deb is not installed, no package was built");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let package = packed(&binary, dir.path());
    assert_eq!(field(&package, "Depends"), "");
    let listed = run(Command::new("dpkg-deb").arg("-c").arg(&package));
    assert!(listed.out.contains("./usr/share/lintian/overrides/flint"), "{listed:?}");
}

#[test]
fn the_package_holds_what_it_should() {
    if Command::new("dpkg-deb").arg("--version").output().is_err() {
        eprintln!("SKIPPED: dpkg-deb is not installed, no package was built");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let package = &packed(Path::new(env!("CARGO_BIN_EXE_flint")), dir.path());
    assert_eq!(field(package, "Package"), "flint");
    assert_eq!(field(package, "Version"), format!("{}-0flint1", env!("CARGO_PKG_VERSION")));
    assert!(field(package, "Depends").starts_with("libc6 (>= 2."), "{}", field(package, "Depends"));
    let listed = run(Command::new("dpkg-deb").arg("-c").arg(package));
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let mut wanted = vec![
        "-rwxr-xr-x ./usr/bin/flint".to_owned(),
        "-rw-r--r-- ./usr/lib/systemd/system/flint.service".to_owned(),
        "-rw-r--r-- ./usr/lib/systemd/system/flint.socket".to_owned(),
        "-rw-r--r-- ./usr/share/doc/flint/copyright".to_owned(),
        "-rw-r--r-- ./usr/share/doc/flint/changelog.gz".to_owned(),
    ];
    for page in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("man")).unwrap() {
        let name = page.unwrap().file_name().into_string().unwrap();
        let section = name.rsplit_once('.').unwrap().1;
        wanted.push(format!("-rw-r--r-- ./usr/share/man/man{section}/{name}.gz"));
    }
    for wanted in &wanted {
        let (mode, path) = wanted.split_once(' ').unwrap();
        let found = listed.out.lines().any(|line| {
            line.starts_with(mode)
                && line.contains(" root/root ")
                && line.contains("2023-11-14")
                && line.ends_with(path)
        });
        assert!(found, "{wanted} is not in {}", listed.out);
    }
    // The options are kept over an upgrade; nothing else lies outside /usr.
    let outside = listed.out.lines().filter(|line| !line.ends_with('/') && !line.contains(" ./usr/"));
    assert_eq!(outside.map(|line| line.rsplit(' ').next().unwrap()).collect::<Vec<_>>(), ["./etc/default/flint"]);
    unpacked(package, dir.path());
}

/// What is unpacked works, and is what the sums say.
fn unpacked(package: &Path, dir: &Path) {
    let root = dir.join("root");
    let unpacked = run(Command::new("dpkg-deb").arg("-R").arg(package).arg(&root));
    assert_eq!(unpacked.code, Some(0), "{unpacked:?}");
    assert_eq!(std::fs::read_to_string(root.join("DEBIAN/conffiles")).unwrap(), "/etc/default/flint\n");
    let options =
        run(Command::new("sh").args(["-euc", ". ./etc/default/flint; echo \"[$FLINT_OPTIONS]\""]).current_dir(&root));
    assert_eq!(options.out, "[]\n", "{options:?}");
    let version = run(Command::new(root.join("usr/bin/flint")).arg("--version"));
    assert_eq!(version.out, format!("flint {}\n", env!("CARGO_PKG_VERSION")));
    let sums = run(Command::new("md5sum").args(["--quiet", "-c", "DEBIAN/md5sums"]).current_dir(&root));
    assert_eq!((sums.code, sums.out.as_str()), (Some(0), ""), "{sums:?}");
    for script in ["postinst", "prerm", "postrm"] {
        let checked = run(Command::new("sh").arg("-n").arg(root.join("DEBIAN").join(script)));
        assert_eq!(checked.code, Some(0), "{checked:?}");
    }
    let page = run(Command::new("gzip").arg("-dc").arg(root.join("usr/share/man/man7/flint-http.7.gz")));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/flint-http.7");
    assert_eq!(page.out, std::fs::read_to_string(source).unwrap());
    let copyright = std::fs::read_to_string(root.join("usr/share/doc/flint/copyright")).unwrap();
    assert!(copyright.contains("Permission is hereby granted") && !copyright.contains("Copyright: \n"), "{copyright}");
}
