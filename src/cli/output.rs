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

/// So many of something.
pub fn counted(number: impl Display, what: &str) -> String {
    let number = number.to_string();
    format!("{number} {what}{}", if number == "1" { "" } else { "s" })
}

/// A length of time, rounded up: `350ms`, `12s`, `23h 59m`.
pub fn length(ms: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let seconds = ms.div_ceil(1000);
    // The largest unit and the next one are printed.
    let first = UNITS.iter().position(|(_, unit)| seconds >= *unit).unwrap_or(UNITS.len() - 1);
    let smallest = UNITS[(first + 1).min(UNITS.len() - 1)].1;
    let mut left = seconds.div_ceil(smallest) * smallest;
    let mut words = Vec::new();
    for (name, unit) in UNITS {
        if left >= unit {
            words.push(format!("{}{name}", left / unit));
            left %= unit;
        }
    }
    words.join(" ")
}

/// Text without characters that control a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// One line on standard error.
pub fn print_error(error: &Error) {
    // If standard error is closed, there is no other place for it.
    let _ = writeln!(io::stderr(), "flint: {error}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_rounded_up_to_what_is_told() {
        for (ms, text) in [
            (0, "0ms"),
            (999, "999ms"),
            (1000, "1s"),
            (1001, "2s"),
            (59_001, "1m"),
            (61_000, "1m 1s"),
            (3_599_001, "1h"),
            (3_600_001, "1h 1m"),
            (86_340_000, "23h 59m"),
            (86_340_001, "1d"),
            (90_000_001, "1d 2h"),
            (u64::MAX, "213503982334d 15h"),
        ] {
            assert_eq!(length(ms), text, "{ms}");
        }
    }
}
