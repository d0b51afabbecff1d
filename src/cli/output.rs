//! Output: lines, tables and JSON on stdout, one line of complaint on stderr.

use std::io::{self, Write};

use serde_json::Value;

use crate::error::{Error, Kind, Result};

/// Standard output, buffered until the command ends.
pub struct Output(io::BufWriter<io::Stdout>);

impl Output {
    pub fn new() -> Output {
        Output(io::BufWriter::new(io::stdout()))
    }

    /// A line of text.
    pub fn line(&mut self, line: &str) -> Result<()> {
        self.text(&format!("{line}\n"))
    }

    /// Text that ends its lines itself.
    pub fn text(&mut self, text: &str) -> Result<()> {
        self.0.write_all(text.as_bytes()).map_err(|error| failed(&error))
    }

    /// A JSON value on a line.
    pub fn json(&mut self, value: &Value) -> Result<()> {
        self.line(&value.to_string())
    }

    /// Bytes that are JSON, on a line.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).and_then(|()| self.0.write_all(b"\n")).map_err(|error| failed(&error))
    }

    /// Sends what was written.
    pub fn flush(&mut self) -> Result<()> {
        self.0.flush().map_err(|error| failed(&error))
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).map_err(|error| failed(&error))
    }

    /// All there is to say of one limit, from its status object.
    pub fn status(&mut self, status: &Value) -> Result<()> {
        let time = |name: &str| match &status[name] {
            Value::Null => Ok("never".to_owned()),
            _ => text(status, name),
        };
        let count = |what: &str| {
            let (checks, units) = (format!("total_{what}"), format!("total_{what}_cost"));
            Ok::<_, Error>(format!("{} checks, {} units", text(status, &checks)?, text(status, &units)?))
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

    /// Limits in aligned columns.
    pub fn table(&mut self, mut rows: Vec<Row>) -> Result<()> {
        rows.insert(0, ["KEY", "LIMIT", "ALGORITHM", "REMAINING", "ALLOWED", "DENIED", "RESET AT"].map(str::to_owned));
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 7] = std::array::from_fn(width);
        for row in &rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
                let numeric = (3..6).contains(&column);
                line += &if numeric { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
            }
            self.line(line.trim_end())?;
        }
        Ok(())
    }
}

/// A line of the table of limits.
pub type Row = [String; 7];

/// The line of a status object.
pub fn row(status: &Value) -> Result<Row> {
    Ok([
        text(status, "key")?,
        format!("{}/{}", text(status, "rate")?, text(status, "per")?),
        text(status, "algorithm")?,
        text(status, "remaining")?,
        text(status, "total_allowed")?,
        text(status, "total_denied")?,
        text(status, "reset_at")?,
    ])
}

/// A field for people: a number or a text, with nothing in it that a terminal would obey.
fn text(object: &Value, name: &str) -> Result<String> {
    match &object[name] {
        Value::String(text) => {
            Ok(text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect())
        }
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(super::target::not_understood()),
    }
}

/// One line on stderr.
pub fn complain(error: &Error) {
    // When stderr is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "flint: {error}");
}

fn failed(error: &io::Error) -> Error {
    Error::new(Kind::Io, format!("cannot write to standard output: {error}"))
}
