//! Modules import downwards only.

use std::path::{Path, PathBuf};

/// From the top.
const LADDER: [&str; 8] = ["cli", "server", "limiter", "store", "limit", "clock", "error", "bounds"];

/// The module that a name at the crate's root comes from.
fn module_of(name: &str) -> &str {
    match name {
        "Clock" => "clock",
        "Error" | "Kind" | "Result" => "error",
        "Algorithm" | "Limit" => "limit",
        "AllDecision" | "By" | "Decision" | "Limiter" | "Listing" | "Options" | "Page" | "Report" | "Status"
        | "SyncMode" => "limiter",
        module => module,
    }
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for item in std::fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// The names that follow each `crate::` of a line of code, with those of `crate::{a, b::c}` one by one.
fn imports(line: &str) -> Vec<&str> {
    let code = line.split("//").next().unwrap_or("");
    let mut names = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || "_$".contains(before)) {
            continue;
        }
        let rest = &code[at + found.len()..];
        let list = rest.strip_prefix('{').map_or(rest, |list| list.split('}').next().unwrap_or(list));
        let parts = if rest.starts_with('{') { list.split(',').collect() } else { vec![list] };
        for part in parts {
            let part = part.trim();
            let end = part.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(part.len());
            if end > 0 {
                names.push(&part[..end]);
            }
        }
    }
    names
}

#[test]
fn modules_import_downwards_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 20, "{files:?}");
    let rank = |module: &str| LADDER.iter().position(|rung| *rung == module);
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for file in files {
        let module = file.strip_prefix(&root).unwrap().components().next().unwrap();
        let module = module.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if module == "main" || module == "lib" {
            continue;
        }
        let Some(own) = rank(&module) else {
            wrong.push(format!("{}: module {module} has no rung on the ladder", file.display()));
            continue;
        };
        for (number, line) in std::fs::read_to_string(&file).unwrap().lines().enumerate() {
            for name in imports(line) {
                seen += 1;
                let place = format!("{}:{}", file.display(), number + 1);
                match rank(module_of(name)) {
                    Some(other) if other >= own => {}
                    Some(_) => wrong.push(format!("{place}: {module} imports {name}, which stands above it")),
                    None => wrong.push(format!("{place}: `crate::{name}` has no rung on the ladder")),
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} imports were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn imports_are_read() {
    assert_eq!(imports("use crate::store::{self, Disk};"), ["store"]);
    assert_eq!(imports("use crate::{cli, store::Disk, Limit};"), ["cli", "store", "Limit"]);
    assert_eq!(imports("    fn x() -> Result<crate::Limit> { $crate::cli::x() } // crate::cli"), ["Limit"]);
}
