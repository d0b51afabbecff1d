//! Output: lines, tables and JSON on stdout, one line of complaint on stderr.

use std::io::{self, Write};

use serde_json::Value;

use crate::clock::rfc3339;
use crate::error::{Error, Kind, Result};
use crate::limit::format_period;
use crate::limiter::Status;

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

    /// All there is to say of one limit.
    pub fn status(&mut self, status: &Status) -> Result<()> {
        let time = |time: Option<u64>| time.map_or_else(|| "never".to_owned(), |time| rfc3339(time).to_string());
        let totals = &status.totals;
        let lines = [
            ("key", status.key.clone()),
            ("limit", format!("{} per {}", status.limit.rate(), format_period(status.limit.period_ms()))),
            ("algorithm", status.limit.algorithm().name().to_owned()),
            ("burst", status.burst().map_or_else(|| "-".to_owned(), |burst| burst.to_string())),
            ("remaining", status.remaining.to_string()),
            ("reset at", rfc3339(status.reset_at).to_string()),
            ("allowed", format!("{} checks, {} units", totals.allowed, totals.allowed_cost)),
            ("denied", format!("{} checks, {} units", totals.denied, totals.denied_cost)),
            ("last allowed", time(status.last_allowed_at)),
            ("last denied", time(status.last_denied_at)),
            ("last reset", time(status.last_reset_at)),
        ];
        lines.iter().try_for_each(|(name, value)| self.line(&format!("{name:<13} {value}")))
    }

    /// Limits in aligned columns.
    pub fn table(&mut self, statuses: &[Status]) -> Result<()> {
        let head = ["KEY", "LIMIT", "ALGORITHM", "REMAINING", "ALLOWED", "DENIED", "RESET AT"].map(str::to_owned);
        let rows = statuses.iter().map(|status| {
            [
                status.key.clone(),
                format!("{}/{}", status.limit.rate(), format_period(status.limit.period_ms())),
                status.limit.algorithm().name().to_owned(),
                status.remaining.to_string(),
                status.totals.allowed.to_string(),
                status.totals.denied.to_string(),
                rfc3339(status.reset_at).to_string(),
            ]
        });
        let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
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

/// One line on stderr.
pub fn complain(error: &Error) {
    // When stderr is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "flint: {error}");
}

fn failed(error: &io::Error) -> Error {
    Error::new(Kind::Io, format!("cannot write to standard output: {error}"))
}
