//! Output: lines, tables and JSON on standard output, one line of an error on standard error.

use std::fmt::Display;
use std::io::{self, Write};

use serde_json::Value;

use super::answer::{Answer, Document, not_understood};
use crate::error::{Error, Kind, Result};

/// Standard output, buffered until the command ends.
pub struct Output {
    /// Whether `--json` was given.
    pub json: bool,
    stdout: io::BufWriter<io::Stdout>,
    reader_gone: bool,
}

impl Output {
    pub fn new() -> Output {
        Output { json: false, stdout: io::BufWriter::new(io::stdout()), reader_gone: false }
    }

    /// Whether the reader has closed its end, as `head` does: that needs no message.
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

    /// A reply: its JSON as it came, or what is printed for people.
    pub fn reply(&mut self, reply: &Document, people: impl FnOnce(&mut Output) -> Result<()>) -> Result<Answer> {
        let printed = if self.json { self.raw(&[&reply.bytes[..], b"\n"].concat()) } else { people(self) };
        printed.map(|()| Answer::Yes)
    }

    /// The reply to a command that only says that it is done.
    pub fn done(&mut self, reply: &Document) -> Result<Answer> {
        if !reply.bool("ok")? {
            return Err(not_understood());
        }
        self.reply(reply, |output| output.line("ok"))
    }

    /// Sends what was written.
    pub fn flush(&mut self) -> Result<()> {
        let result = self.stdout.flush();
        self.checked(result)
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        let result = self.stdout.write_all(bytes);
        self.checked(result)
    }

    fn checked(&mut self, result: io::Result<()>) -> Result<()> {
        result.map_err(|error| {
            self.reader_gone |= error.kind() == io::ErrorKind::BrokenPipe;
            Error::new(Kind::Io, format!("cannot write to standard output: {error}"))
        })
    }

    /// Everything about one limit, from its status object.
    pub fn status(&mut self, status: &Value) -> Result<()> {
        let or = |none: &str, name| if status[name].is_null() { Ok(none.to_owned()) } else { text(status, name) };
        let count = |checks, units| {
            let (checks, units) = (text(status, checks)?, text(status, units)?);
            Ok::<_, Error>(format!("{}, {}", counted(checks, "check"), counted(units, "unit")))
        };
        let lines = [
            ("key", text(status, "key")?),
            ("limit", format!("{} per {}", text(status, "rate")?, text(status, "per")?)),
            ("algorithm", text(status, "algorithm")?),
            ("burst", or("-", "burst")?),
            ("remaining", text(status, "remaining")?),
            ("reset at", text(status, "reset_at")?),
            ("allowed", count("total_allowed", "total_allowed_cost")?),
            ("denied", count("total_denied", "total_denied_cost")?),
            ("last allowed", or("never", "last_allowed_at")?),
            ("last denied", or("never", "last_denied_at")?),
            ("last reset", or("never", "last_reset_at")?),
        ];
        lines.iter().try_for_each(|(name, value)| self.line(&format!("{name:<13} {value}")))
    }

    /// Everything about the storage, from the report of doctor: whether it is healthy, its problems, and its numbers by
    /// name. Numbers in inner objects are left out where they are 0.
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

/// Limits in aligned columns, a page at a time: earlier pages are not kept and not aligned again. The key comes last:
/// it may be long, or hold characters whose width only the terminal knows.
#[derive(Default)]
pub struct Table {
    widths: [usize; KEY],
    begun: bool,
}

impl Table {
    /// Prints a page; the first one below the heads of the columns.
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
        _ => Err(not_understood()),
    }
}

/// So many of something.
pub fn counted(number: impl Display, what: &str) -> String {
    let number = number.to_string();
    format!("{number} {what}{}", if number == "1" { "" } else { "s" })
}

/// Text without characters that control a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// One line on standard error.
pub fn print_error(error: &Error) {
    // Where standard error is closed, there is no other place for it.
    let _ = writeln!(io::stderr(), "flint: {error}");
}
