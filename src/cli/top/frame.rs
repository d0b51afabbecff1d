//! The lines that show a view, for a terminal of any size and for a pipe.
//!
//! A key is last on its line: it may be long, or hold characters whose width only the terminal knows. The terminal
//! cuts off what has no room.

use super::sample::{Row, View};
use crate::cli::output::counted;

/// Columns from which on a row has both rates and what is left.
const WIDE: usize = 60;

/// How lines are drawn.
#[derive(Clone, Copy)]
pub struct Style {
    /// Bars of blocks, to an eighth of a column; else of `#`.
    pub blocks: bool,
    /// The heads of columns are bold.
    pub bold: bool,
}

impl Style {
    /// For a pipe.
    pub const PLAIN: Style = Style { blocks: false, bold: false };

    /// For the terminal that the environment describes.
    pub fn of_terminal() -> Style {
        let set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find(set).and_then(|name| std::env::var(name).ok());
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        Style { blocks: locale.contains("utf-8") || locale.contains("utf8"), bold: true }
    }
}

/// The lines of a view, for this many columns and lines.
pub fn frame(view: &View, (width, height): (usize, usize), style: Style) -> Vec<String> {
    let mut lines = vec![format!("flint top: {}", view.place), rates(view), counts(view, width)];
    lines.extend(view.note.clone());
    lines.push(String::new());
    lines.push(head(view, width, style));
    let most = view.rows.iter().map(|row| row.rate.by(&view.by)).fold(0.0, f64::max);
    lines.extend(view.rows.iter().map(|row| line(view, row, most, width, style)));
    lines.truncate(height);
    lines
}

fn rates(view: &View) -> String {
    let Some(all) = view.all else { return "counting for a second".to_owned() };
    let checks = all.allowed + all.denied;
    let part = if checks > 0.0 { 100.0 * all.denied / checks } else { 0.0 };
    format!("{} checks/s, {} denied/s ({part:.1}%)", short(checks), short(all.denied))
}

/// What there is, as far as it has room.
fn counts(view: &View, width: usize) -> String {
    let all = [(view.limits, "limit"), (view.patterns, "pattern"), (view.live, "live key"), (view.holds, "hold")];
    let mut text = String::new();
    for (number, what) in all {
        let next = counted(number, what);
        let next = if text.is_empty() { next } else { format!(", {next}") };
        if text.len() + next.len() > width {
            break;
        }
        text += &next;
    }
    text
}

fn head(view: &View, width: usize, style: Style) -> String {
    let by = if view.by == "denied" { "DENIED/S" } else { "ALLOWED/S" };
    let bar = bar_width(width);
    let head = match width >= WIDE {
        true => format!("{:>9}  {:>8}  {:>7}  {:<bar$}  KEY", "ALLOWED/S", "DENIED/S", "LEFT", ""),
        false => format!("{by:>9}  {:<bar$}  KEY", ""),
    };
    if style.bold { format!("\x1b[1m{head}\x1b[22m") } else { head }
}

fn line(view: &View, row: &Row, most: f64, width: usize, style: Style) -> String {
    let rate = row.rate.by(&view.by);
    let bar = bar(if most > 0.0 { rate / most } else { 0.0 }, bar_width(width), style.blocks);
    let Row { name, rate: both, left } = row;
    match width >= WIDE {
        true => {
            let left = left.map_or_else(|| "-".to_owned(), |left| short(left as f64));
            format!("{:>9}  {:>8}  {left:>7}  {bar}  {name}", short(both.allowed), short(both.denied))
        }
        false => format!("{:>9}  {bar}  {name}", short(rate)),
    }
}

fn bar_width(width: usize) -> usize {
    (width / 4).clamp(4, 40)
}

/// A bar that fills this part of its columns. What is not nothing shows.
fn bar(part: f64, width: usize, blocks: bool) -> String {
    const EIGHTHS: [&str; 7] = ["▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let part = part.clamp(0.0, 1.0);
    let steps = if blocks { 8 } else { 1 };
    let mut filled = (part * (width * steps) as f64).round() as usize;
    if part > 0.0 {
        filled = filled.max(1);
    }
    let mut bar = if blocks { "█" } else { "#" }.repeat(filled / steps);
    bar.extend(filled.checked_rem(steps).and_then(|rest| EIGHTHS.get(rest.checked_sub(1)?)).copied());
    let columns = filled.div_ceil(steps);
    bar + &" ".repeat(width - columns)
}

/// A number in at most five characters up to a trillion: `0`, `1.5`, `123`, `12.3k`, `123M`.
fn short(number: f64) -> String {
    if number < 0.05 {
        return "0".to_owned();
    }
    let (mut number, mut unit) = (number, "");
    for next in ["k", "M", "G", "T"] {
        // What would be rounded up to 1000 has the next unit.
        if number < 999.5 {
            break;
        }
        (number, unit) = (number / 1000.0, next);
    }
    let whole = number >= 99.95 || (unit.is_empty() && number.fract() == 0.0);
    if whole { format!("{number:.0}{unit}") } else { format!("{number:.1}{unit}") }
}

#[cfg(test)]
mod tests {
    use super::super::sample::Rate;
    use super::*;

    fn view(by: &str) -> View {
        let row = |name: &str, allowed: f64, denied: f64, left: Option<u64>| Row {
            name: name.to_owned(),
            rate: Rate { allowed, denied },
            left,
        };
        View {
            place: "http://127.0.0.1:7878".to_owned(),
            by: by.to_owned(),
            all: Some(Rate { allowed: 1234.0, denied: 100.0 }),
            limits: 2,
            patterns: 1,
            live: 10_000,
            holds: 0,
            note: None,
            rows: vec![
                row("user:42", 1200.0, 0.0, Some(58)),
                row("a key that is longer than the line has room for it", 30.0, 100.0, Some(0)),
                row("free", 0.0, 0.0, None),
            ],
        }
    }

    #[test]
    fn eighty_columns() {
        let lines = frame(&view("allowed"), (80, 24), Style::PLAIN);
        assert_eq!(
            lines,
            [
                "flint top: http://127.0.0.1:7878",
                "1.3k checks/s, 100 denied/s (7.5%)",
                "2 limits, 1 pattern, 10000 live keys, 0 holds",
                "",
                "ALLOWED/S  DENIED/S     LEFT                        KEY",
                "     1.2k         0       58  ####################  user:42",
                "       30       100        0  #                     a key that is longer than the line has room for it",
                "        0         0        -                        free",
            ]
        );
        assert_eq!(frame(&view("allowed"), (80, 6), Style::PLAIN).len(), 6);
    }

    #[test]
    fn forty_columns() {
        let mut view = view("denied");
        view.note = Some("problem: the disk is full".to_owned());
        let lines = frame(&view, (40, 24), Style { blocks: true, bold: false });
        assert_eq!(
            lines,
            [
                "flint top: http://127.0.0.1:7878",
                "1.3k checks/s, 100 denied/s (7.5%)",
                "2 limits, 1 pattern, 10000 live keys",
                "problem: the disk is full",
                "",
                " DENIED/S              KEY",
                "        0              user:42",
                "      100  ██████████  a key that is longer than the line has room for it",
                "        0              free",
            ]
        );
        view.all = None;
        assert_eq!(frame(&view, (40, 24), Style::PLAIN)[1], "counting for a second");
    }

    #[test]
    fn no_size_is_too_small() {
        for width in 0..100 {
            for height in 0..12 {
                assert!(frame(&view("allowed"), (width, height), Style::PLAIN).len() <= height);
            }
        }
    }

    #[test]
    fn bars() {
        for (part, expected) in
            [(0.0, "    "), (1.0, "████"), (0.5, "██  "), (0.001, "▏   "), (0.6, "██▍ "), (2.0, "████")]
        {
            assert_eq!(bar(part, 4, true), expected, "{part}");
        }
        for (part, expected) in [(0.0, "    "), (1.0, "####"), (0.5, "##  "), (0.001, "#   ")] {
            assert_eq!(bar(part, 4, false), expected, "{part}");
        }
    }

    #[test]
    fn numbers_are_short() {
        for (number, expected) in [
            (0.0, "0"),
            (0.04, "0"),
            (0.9, "0.9"),
            (3.0, "3"),
            (3.25, "3.2"),
            (99.0, "99"),
            (99.97, "100"),
            (999.4, "999"),
            (999.6, "1.0k"),
            (12_345.0, "12.3k"),
            (999_600.0, "1.0M"),
            (1e12, "1.0T"),
        ] {
            assert_eq!(short(number), expected, "{number}");
        }
    }
}
