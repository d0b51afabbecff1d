//! Reads a manual page's source, as far as the tests that hold pages to the code need it.

use std::path::Path;

/// A page, as its lines.
pub struct Page {
    lines: Vec<String>,
}

impl Page {
    /// The page `man/NAME`.
    pub fn read(name: &str) -> Page {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man").join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Page { lines: text.lines().map(str::to_owned).collect() }
    }

    /// The lines of a section (`.Sh`) or subsection (`.Ss`), up to the next of either; of a section all that is in it.
    pub fn section(&self, title: &str) -> &[String] {
        let is =
            |line: &str, kind: &str| line.strip_prefix(kind).is_some_and(|name| name.trim_matches([' ', '"']) == title);
        let start = self.lines.iter().position(|line| is(line, ".Sh ") || is(line, ".Ss "));
        let start = start.unwrap_or_else(|| panic!("the page has no section {title}"));
        let whole = self.lines[start].starts_with(".Sh ");
        let rest = &self.lines[start + 1..];
        let ends = |line: &String| line.starts_with(".Sh ") || (!whole && line.starts_with(".Ss "));
        &rest[..rest.iter().position(ends).unwrap_or(rest.len())]
    }

    /// The page without the marks of mdoc, in one line: for sentences that must be in it.
    pub fn text(&self) -> String {
        let words = self.lines.iter().flat_map(|line| {
            let line =
                line.strip_prefix('.').map_or(line.as_str(), |rest| rest.split_once(' ').map_or("", |(_, rest)| rest));
            line.split_whitespace().map(str::to_owned)
        });
        unescape(&words.collect::<Vec<_>>().join(" "))
    }
}

/// What follows `.It MACRO ` in each item of a list.
pub fn items<'a>(lines: &'a [String], mark: &str) -> Vec<&'a str> {
    lines.iter().filter_map(|line| line.strip_prefix(".It ")?.strip_prefix(mark)?.strip_prefix(' ')).collect()
}

/// The literal blocks, as they are shown.
pub fn displays(lines: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<String> = None;
    for line in lines {
        match (&mut open, line.as_str()) {
            (_, line) if line.starts_with(".Bd -literal") => open = Some(String::new()),
            (Some(_), ".Ed") => found.extend(open.take()),
            (Some(block), line) => *block += &format!("{}\n", unescape(line)),
            _ => {}
        }
    }
    found
}

/// Text as it is shown.
pub fn unescape(text: &str) -> String {
    text.replace("\\&", "").replace("\\(dq", "\"").replace("\\-", "-").replace("\\e", "\\")
}

#[test]
fn escapes_and_displays_are_read() {
    let lines = [".Bd -literal -offset indent", "\\&.a \\en", "", ".Ed", "b", ".It Cm GET Pa /x"].map(str::to_owned);
    assert_eq!(displays(&lines), [".a \\n\n\n"]);
    assert_eq!(items(&lines, "Cm"), ["GET Pa /x"]);
}
