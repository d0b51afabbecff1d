//! What an error says of a body that is not JSON, in the words of the body's author.

use serde_json::Error;

use crate::limit::excerpt;

/// How serde_json begins to say what is wrong, and what is said instead.
const FAULTS: [(&str, &str); 16] = [
    ("EOF while parsing a string", "it ends within a string"),
    ("EOF while parsing an object", "it ends within an object; a `}` is missing"),
    ("EOF while parsing a list", "it ends within an array; a `]` is missing"),
    ("EOF while parsing", "it ends where a value must follow"),
    ("expected `:`", "a `:` is missing after a field's name"),
    ("expected `,` or `}`", "a `,` or `}` is missing"),
    ("expected `,` or `]`", "a `,` or `]` is missing"),
    ("expected", "a value must be a string in double quotes, a number, true, false, null, an object or an array"),
    ("key must be a string", "the name of a field must be in double quotes"),
    ("trailing comma", "a comma must have another field or item after it"),
    ("trailing characters", "something follows after its end"),
    ("invalid escape", "a \\ in a string must have one of \" \\ / b f n r t u after it"),
    (
        "control character",
        "line breaks, tabs and other control characters in a string must be written as \\n, \\t or \\u",
    ),
    ("invalid number", "a number must be like 10 or 2.5, without a leading 0 or +"),
    ("invalid unicode code point", NOT_UTF8),
    ("recursion limit exceeded", "it is nested too deeply"),
];

const NOT_UTF8: &str = "it must be UTF-8";

/// Characters before and after the place of a fault that are shown.
const AROUND: usize = 12;

/// One sentence on what is wrong, and where.
pub fn not_json(bytes: &[u8], error: &Error) -> String {
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return "the body is not JSON: it begins with a byte order mark (BOM); send UTF-8 without it".to_owned();
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return "the body is not JSON: it is UTF-16; send UTF-8".to_owned();
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return format!("the body is not JSON: {NOT_UTF8}") };
    let said = error.to_string();
    let known = FAULTS.iter().find(|(beginning, _)| said.starts_with(beginning));
    let fault = known.map_or("its syntax is wrong", |(_, fault)| fault);
    format!("the body is not JSON: {fault}{}{}", place(text, error), on_line(error))
}

/// The line of a fault, where there are several.
pub fn on_line(error: &Error) -> String {
    if error.line() > 1 { format!(" (line {})", error.line()) } else { String::new() }
}

/// The text around a fault.
fn place(text: &str, error: &Error) -> String {
    let line_begins = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum::<usize>();
    // Columns are bytes, from 1.
    let at = (line_begins + error.column()).saturating_sub(1).min(text.len());
    let at = (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let (before, after) = text.split_at(at);
    let from = before.char_indices().rev().nth(AROUND - 1).map_or(0, |(index, _)| index);
    let to = after.char_indices().nth(AROUND).map_or(after.len(), |(index, _)| index);
    let shown = format!("{}{}", &before[from..], &after[..to]);
    if shown.trim().is_empty() { String::new() } else { format!(", near `{}`", excerpt(shown.trim())) }
}
