//! `scripts/deb` builds a package that holds what it should.

use std::path::Path;
use std::process::Command;

use crate::util::{Run, run};

fn field(package: &Path, name: &str) -> String {
    let shown = run(Command::new("dpkg-deb").arg("-f").arg(package).arg(name));
    assert_eq!(shown.code, Some(0), "{shown:?}");
    shown.out.trim().to_owned()
}

fn build(into: &Path) -> Run {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut script = Command::new(root.join("scripts/deb"));
    // The binary under test is large: packing it well would take its time.
    script.arg(into).env("FLINT_BIN", env!("CARGO_BIN_EXE_flint")).env("DEB_COMPRESSION", "none");
    run(script.env("SOURCE_DATE_EPOCH", "1700000000"))
}

#[test]
fn the_package_holds_what_it_should() {
    if Command::new("dpkg-deb").arg("--version").output().is_err() {
        eprintln!("SKIPPED: dpkg-deb is not installed, no package was built");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let built = build(dir.path());
    assert_eq!(built.code, Some(0), "{built:?}");
    let packages: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path()).collect();
    let [package] = &packages[..] else { panic!("{packages:?}") };

    assert_eq!(field(package, "Package"), "flint");
    assert_eq!(field(package, "Version"), format!("{}-1", env!("CARGO_PKG_VERSION")));
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
    // Nothing of it is to be kept over an upgrade, nor lies outside /usr.
    assert!(!listed.out.lines().any(|line| line.contains("./etc") || line.contains("./var")), "{}", listed.out);
    unpacked(package, dir.path());
}

/// What is unpacked works, and is what the sums say.
fn unpacked(package: &Path, dir: &Path) {
    let root = dir.join("root");
    let unpacked = run(Command::new("dpkg-deb").arg("-R").arg(package).arg(&root));
    assert_eq!(unpacked.code, Some(0), "{unpacked:?}");
    assert!(!root.join("DEBIAN/conffiles").exists());
    let version = run(Command::new(root.join("usr/bin/flint")).arg("--version"));
    assert_eq!(version.out, format!("flint {}\n", env!("CARGO_PKG_VERSION")));
    let sums = run(Command::new("md5sum").args(["--quiet", "-c", "DEBIAN/md5sums"]).current_dir(&root));
    assert_eq!((sums.code, sums.out.as_str()), (Some(0), ""), "{sums:?}");
    for script in ["postinst", "prerm"] {
        let checked = run(Command::new("sh").arg("-n").arg(root.join("DEBIAN").join(script)));
        assert_eq!(checked.code, Some(0), "{checked:?}");
    }
    let page = run(Command::new("gzip").arg("-dc").arg(root.join("usr/share/man/man7/flint-http.7.gz")));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/flint-http.7");
    assert_eq!(page.out, std::fs::read_to_string(source).unwrap());
    let copyright = std::fs::read_to_string(root.join("usr/share/doc/flint/copyright")).unwrap();
    assert!(copyright.contains("MIT License") && !copyright.contains("Copyright: \n"), "{copyright}");
}
