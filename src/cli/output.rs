//! Output: lines, tables and JSON on stdout, one line of complaint on stderr.

use std::io::{self, Write};

use serde_json::Value;

use crate::error::{Error, Kind, Result};

/// Standard output, buffered until the command ends.
pub struct Output {
    stdout: io::BufWriter<io::Stdout>,
    reader_gone: bool,
}

impl Output {
    pub fn new() -> Output {
        Output { stdout: io::BufWriter::new(io::stdout()), reader_gone: false }
    }

    /// Whether nobody reads on, as `head` does not: that is no news to anyone.
    pub fn reader_gone(&self) -> bool {
        self.reader_gone
    }

    /// A line of text.
    pub fn line(&mut self, line: &str) -> Result<()> {
        self.text(&format!("{line}\n"))
    }

    /// Text that ends its lines itself.
    pub fn text(&mut self, text: &str) -> Result<()> {
        self.raw(text.as_bytes())
    }

    /// A JSON value on a line.
    pub fn json(&mut self, value: &Value) -> Result<()> {
        self.line(&value.to_string())
    }

    /// Bytes that are JSON, on a line.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.raw(bytes).and_then(|()| self.raw(b"\n"))
    }

    /// Sends what was written.
    pub fn flush(&mut self) -> Result<()> {
        let done = self.stdout.flush();
        self.done(done)
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        let done = self.stdout.write_all(bytes);
        self.done(done)
    }

    fn done(&mut self, done: io::Result<()>) -> Result<()> {
        done.map_err(|error| {
            self.reader_gone |= error.kind() == io::ErrorKind::BrokenPipe;
            Error::new(Kind::Io, format!("cannot write to standard output: {error}"))
        })
    }

    /// All there is to say of one limit, from its status object.
    pub fn status(&mut self, status: &Value) -> Result<()> {
        let time = |name: &str| match &status[name] {
            Value::Null => Ok("never".to_owned()),
            _ => text(status, name),
        };
        let count = |what: &str| {
            let (checks, units) = (format!("total_{what}"), format!("total_{what}_cost"));
            Ok::<_, Error>(format!(
                "{}, {}",
                counted(&text(status, &checks)?, "check"),
                counted(&text(status, &units)?, "unit")
            ))
        };
        let lines = [
            ("key", text(status, "key")?),
            ("limit", format!("{} per {}", text(status, "rate")?, text(status, "per")?)),
            ("algorithm", text(status, "algorithm")?),
            ("burst", if status["burst"].is_null() { "-".to_owned() } else { text(status, "burst")? }),
            ("remaining", text(status, "remaining")?),
            ("reset at", text(status, "reset_at")?),
            ("allowed", count("allowed")?),
            ("denied", count("denied")?),
            ("last allowed", time("last_allowed_at")?),
            ("last denied", time("last_denied_at")?),
            ("last reset", time("last_reset_at")?),
        ];
        lines.iter().try_for_each(|(name, value)| self.line(&format!("{name:<13} {value}")))
    }

    /// All there is to say of the storage, from the report of doctor: whether it is well, what is not, and then its
    /// numbers by their names. Of the objects in it those numbers are left out that are 0.
    pub fn report(&mut self, report: &Value) -> Result<()> {
        let mut lines = Vec::new();
        numbers("", report, &mut lines);
        let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        self.line(&format!("{:<width$}  {}", "ok", report["ok"]))?;
        for problem in report["problems"].as_array().into_iter().flatten() {
            self.line(&format!("problem: {}", printable(problem.as_str().unwrap_or_default())))?;
        }
        lines.iter().try_for_each(|(name, value)| self.line(&format!("{name:<width$}  {value}")))
    }
}

/// Names and values of an object and of those in it.
fn numbers(path: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let inner = !path.is_empty();
        let name = if inner { format!("{path}.{name}") } else { printable(name) };
        match value {
            Value::Object(_) => numbers(&name, value, lines),
            Value::Number(number) if !inner || number.as_u64() != Some(0) => lines.push((name, number.to_string())),
            Value::String(text) => lines.push((name, printable(text))),
            _ => {}
        }
    }
}

/// Limits in aligned columns, a page of them at a time: what came before is not kept, and is not aligned anew. The key
/// stands last: it may be long, or of characters whose width only the terminal knows.
pub struct Table {
    widths: [usize; KEY],
    begun: bool,
}

impl Table {
    pub fn new() -> Table {
        Table { widths: [0; KEY], begun: false }
    }

    /// Prints a page, below the heads of the columns where it is the first.
    pub fn page(&mut self, mut rows: Vec<Row>, output: &mut Output) -> Result<()> {
        if !std::mem::replace(&mut self.begun, true) {
            let heads = ["LIMIT", "ALGORITHM", "REMAINING", "ALLOWED", "DENIED", "RESET AT", "KEY"];
            rows.insert(0, heads.map(str::to_owned));
        }
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = cell.len().max(*width);
            }
        }
        for row in &rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(self.widths).enumerate() {
                let numeric = (2..5).contains(&column);
                line += &if numeric { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
            }
            output.line(&format!("{line}{}", row[KEY]))?;
        }
        Ok(())
    }
}

/// The column of the key.
const KEY: usize = 6;

/// A line of the table of limits.
pub type Row = [String; KEY + 1];

/// The line of a status object.
pub fn row(status: &Value) -> Result<Row> {
    Ok([
        format!("{}/{}", text(status, "rate")?, text(status, "per")?),
        text(status, "algorithm")?,
        text(status, "remaining")?,
        text(status, "total_allowed")?,
        text(status, "total_denied")?,
        whole_seconds(text(status, "reset_at")?),
        text(status, "key")?,
    ])
}

/// An instant without its milliseconds, for which a row has no room.
fn whole_seconds(instant: String) -> String {
    match instant.split_once('.') {
        Some((seconds, rest)) if rest.ends_with('Z') => format!("{seconds}Z"),
        _ => instant,
    }
}

/// A field for people: a number or a text.
fn text(object: &Value, name: &str) -> Result<String> {
    match &object[name] {
        Value::String(text) => Ok(printable(text)),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(crate::cli::remote::session::not_understood()),
    }
}

/// So many of something.
pub fn counted(number: &str, what: &str) -> String {
    format!("{number} {what}{}", if number == "1" { "" } else { "s" })
}

/// Text with nothing in it that a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// One line on stderr.
pub fn complain(error: &Error) {
    // When stderr is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "flint: {error}");
}
