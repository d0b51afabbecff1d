//! `flint limit list` and `top`: pages of limits, as one table or one array.

use serde_json::Value;

use crate::bounds::{LIST_PAGE, MAX_STATUS_BYTES};
use crate::cli::answer::{Answer, Document, not_understood};
use crate::cli::columns::Table;
use crate::cli::options::{Args, Global};
use crate::cli::output::Output;
use crate::cli::remote::{Request, Session, ask, encode};
use crate::cli::status::{LIST, rows};
use crate::error::Result;
use crate::limiter::Access;

/// `limit list`, a page at a time, so that no single reply grows with the number of limits.
pub fn list(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let mut filter = String::new();
    if args.os_text("--live").is_some() {
        filter += "&live=true";
    }
    for (option, name) in [("--prefix", "prefix"), ("--pattern", "pattern")] {
        if let Some(text) = args.given_text(option)? {
            filter += &format!("&{name}={}", encode(text));
        }
    }
    let mut after = args.given_text("--after")?.map(str::to_owned);
    let mut left = args.given_number("--limit")?.map_or(usize::MAX, |limit| limit as usize);
    let mut session = Session::open(global, Access::Read)?;
    let mut listing = Listing { table: Table::new(LIST), any: false };
    while left > 0 {
        let size = left.min(LIST_PAGE);
        let mut url = format!("/v1/limits?limit={size}{filter}");
        if let Some(after) = &after {
            url += &format!("&after={}", encode(after));
        }
        let reply = session.ask(&statuses(url, size))?;
        let page = listing.add(&reply, output)?;
        let last = page.last().and_then(|status| status["key"].as_str());
        // A server whose pages do not advance would be asked for ever.
        if page.len() < size || page.len() > left || last <= after.as_deref() {
            break;
        }
        left -= page.len();
        after = last.map(str::to_owned);
    }
    listing.end(output)
}

/// `limit top`
pub fn top(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let size = args.number("--limit")? as usize;
    let url = format!("/v1/top?by={}&limit={size}", args.text("--by")?);
    let reply = ask(global, Access::Read, &statuses(url, size))?;
    let mut listing = Listing { table: Table::new(LIST), any: false };
    listing.add(&reply, output)?;
    listing.end(output)
}

/// A request for this many status objects.
fn statuses(url: String, size: usize) -> Request {
    Request { most: size * MAX_STATUS_BYTES, ..Request::new("GET", url) }
}

/// What was printed of a listing so far.
struct Listing {
    table: Table,
    any: bool,
}

impl Listing {
    fn add<'d>(&mut self, reply: &'d Document, output: &mut Output) -> Result<&'d [Value]> {
        let page = reply.value.as_array().ok_or_else(not_understood)?;
        if !output.json {
            let page = page.iter().map(rows).collect::<Result<Vec<_>>>()?;
            output.text(&self.table.page(page.concat()))?;
        } else if !page.is_empty() {
            let inner = reply.bytes.trim_ascii();
            let inner = inner.strip_prefix(b"[").and_then(|inner| inner.strip_suffix(b"]")).unwrap_or_default();
            output.raw(if self.any { b"," } else { b"[" })?;
            output.raw(inner)?;
            self.any = true;
        }
        Ok(page)
    }

    fn end(self, output: &mut Output) -> Result<Answer> {
        // A table without rows has its heads.
        if output.json {
            output.line(if self.any { "]" } else { "[]" })?;
        }
        Ok(Answer::Yes)
    }
}
