//! `flint limit …`: configure, check, look and reset.

use serde_json::{Value, json};

use crate::bounds::{LIST_PAGE, MAX_PAGE, MAX_STATUS_BYTES};
use crate::cli::options::args::Args;
use crate::cli::options::global::Global;
use crate::cli::output::{Output, Table};
use crate::cli::remote::http::Request;
use crate::cli::remote::session::{Document, Session, ask, encode, not_understood, post, request};
use crate::cli::{Answer, done, missing, option_error};
use crate::error::{Error, Kind, Result};
use crate::limit::{Algorithm, Limit, excerpt, parse_period, validate_key};
use crate::limiter::Access;

/// `limit add`
pub fn add(mut args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let rate = args.number("--rate")?.ok_or_else(|| missing("--rate N"))?;
    let per = args.value("--per")?.ok_or_else(|| missing("--per DURATION"))?;
    let algorithm = args.value("--algorithm")?.unwrap_or_else(|| Algorithm::TokenBucket.name().to_owned());
    let burst = args.number("--burst")?;
    let [key] = args.exactly(["KEY"])?;
    let period = option_error("--", parse_period(&per))?;
    option_error("--", Algorithm::from_name(&algorithm).and_then(|known| Limit::new(rate, period, known, burst)))?;
    validate_key(&key)?;
    let mut body = json!({"key": key, "rate": rate, "per": per, "algorithm": algorithm});
    if let Some(burst) = burst {
        body["burst"] = burst.into();
    }
    let document = ask(global, Access::Create, &post("/v1/limits", &body))?;
    let created = document.value["created"].as_bool().ok_or_else(not_understood)?;
    if global.json {
        output.bytes(&document.bytes)?;
    } else {
        output.line(if created { "created" } else { "configured" })?;
    }
    Ok(Answer::Yes)
}

/// `limit check`
pub fn check(mut args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let cost = cost(&mut args)?;
    let [key] = args.exactly(["KEY"])?;
    let decision = Decision::ask(global, &key, cost)?;
    if global.json {
        output.bytes(&decision.document.bytes)?;
    } else if decision.allowed {
        let number = |name: &str| decision.document.value[name].as_u64().ok_or_else(not_understood);
        output.line(&format!("allowed, {} of {} left", number("remaining")?, number("limit")?))?;
    } else {
        output.line(&format!("denied, try again in {} ms", decision.retry_after_ms))?;
    }
    Ok(decision.allowed.into())
}

/// The value of `--cost`.
///
/// # Errors
/// `usage`.
pub fn cost(args: &mut Args) -> Result<u64> {
    let cost = args.number("--cost")?.unwrap_or(1);
    refuse_zero(cost).map(|()| cost)
}

/// The answer to one check.
pub struct Decision {
    pub allowed: bool,
    pub retry_after_ms: u64,
    pub document: Document,
}

impl Decision {
    /// Asks for it.
    ///
    /// # Errors
    /// As [`ask`], and for a bad key.
    pub fn ask(global: &Global, key: &str, cost: u64) -> Result<Decision> {
        validate_key(key)?;
        let document = ask(global, Access::Write, &post("/v1/check", &json!({"key": key, "cost": cost})))?;
        let allowed = document.value["allowed"].as_bool().ok_or_else(not_understood)?;
        let retry_after_ms = document.value["retry_after_ms"].as_u64().ok_or_else(not_understood)?;
        Ok(Decision { allowed, retry_after_ms, document })
    }
}

/// `limit check-all`
pub fn check_all(mut args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let mut costs: Vec<(String, u64)> = Vec::new();
    while let Some(value) = args.value_again("--cost")? {
        let (key, cost) = value
            .rsplit_once('=')
            .and_then(|(key, cost)| Some((key, cost.parse().ok()?)))
            .ok_or_else(|| Error::new(Kind::Usage, format!("--cost must be KEY=N, not `{}`", excerpt(&value))))?;
        if costs.iter().any(|(other, _)| other == key) {
            return Err(Error::new(Kind::Usage, format!("--cost names the key `{}` twice", excerpt(key))));
        }
        costs.push((key.to_owned(), cost));
    }
    let keys = args.operands()?;
    if keys.is_empty() {
        return Err(missing("KEY"));
    }
    if let Some((key, _)) = costs.iter().find(|(key, _)| !keys.contains(key)) {
        return Err(Error::new(Kind::Usage, format!("--cost names `{}`, which is not among the keys", excerpt(key))));
    }
    let cost_of = |key: &str| costs.iter().find(|(other, _)| other == key).map_or(1, |(_, cost)| *cost);
    let items: Vec<(&str, u64)> = keys.iter().map(|key| (key.as_str(), cost_of(key))).collect();
    crate::limiter::validate_items(&items)?;
    items.iter().try_for_each(|(_, cost)| refuse_zero(*cost))?;
    let items: Vec<Value> = items.iter().map(|(key, cost)| json!([key, cost])).collect();
    let document = ask(global, Access::Write, &post("/v1/check-all", &json!({"items": items})))?;
    let allowed = document.value["allowed"].as_bool().ok_or_else(not_understood)?;
    if global.json {
        output.bytes(&document.bytes)?;
    } else if allowed {
        output.line("allowed")?;
    } else {
        // The results run up to the first that was denied.
        let denied = document.value["results"].as_array().and_then(|results| results.last());
        let wait = denied.and_then(|denied| denied["retry_after_ms"].as_u64()).ok_or_else(not_understood)?;
        let key = document.value["denied_key"].as_str().ok_or_else(not_understood)?;
        output.line(&format!("denied by {key}, try again in {wait} ms; nothing was spent"))?;
    }
    Ok(allowed.into())
}

/// `limit status`
pub fn status(args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let [key] = args.exactly(["KEY"])?;
    validate_key(&key)?;
    let document = ask(global, Access::Read, &request("GET", format!("/v1/limits/{}", encode(&key))))?;
    if global.json {
        output.bytes(&document.bytes)?;
    } else {
        output.status(&document.value)?;
    }
    Ok(Answer::Yes)
}

/// `limit list`, a page at a time, so that no single answer grows with the number of limits.
pub fn list(mut args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let prefix = args.value("--prefix")?.unwrap_or_default();
    let mut after = args.value("--after")?;
    let mut left = page_size(&mut args)?.unwrap_or(usize::MAX);
    let [] = args.exactly([])?;
    let mut session = Session::open(global, Access::Read)?;
    let mut listing = Listing::new(global.json);
    while left > 0 {
        let size = left.min(LIST_PAGE);
        let mut url = format!("/v1/limits?limit={size}&prefix={}", encode(&prefix));
        if let Some(after) = &after {
            url += &format!("&after={}", encode(after));
        }
        let document = session.ask(&statuses(url, size))?;
        let page = listing.add(&document, output)?;
        let last = page.last().and_then(|status| status["key"].as_str());
        // A server whose pages don't go forward would be asked for ever.
        if page.len() < size || page.len() > left || last <= after.as_deref() {
            break;
        }
        left -= page.len();
        after = last.map(str::to_owned);
    }
    listing.end(output)
}

/// `limit top`
pub fn top(mut args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let by = args.value("--by")?.unwrap_or_else(|| "denied".to_owned());
    if by != "allowed" && by != "denied" {
        return Err(Error::new(Kind::Usage, format!("--by must be allowed or denied, not `{}`", excerpt(&by))));
    }
    let size = page_size(&mut args)?.unwrap_or(10);
    let [] = args.exactly([])?;
    let document = ask(global, Access::Read, &statuses(format!("/v1/top?by={by}&limit={size}"), size))?;
    let mut listing = Listing::new(global.json);
    listing.add(&document, output)?;
    listing.end(output)
}

/// The value of `--limit`.
fn page_size(args: &mut Args) -> Result<Option<usize>> {
    let wrong = || Error::new(Kind::Usage, format!("--limit must be from 1 to {MAX_PAGE}"));
    let size = args.number("--limit")?.map(|size| usize::try_from(size).unwrap_or(usize::MAX));
    if size.is_some_and(|size| !(1..=MAX_PAGE).contains(&size)) { Err(wrong()) } else { Ok(size) }
}

/// A request for so many status objects.
fn statuses(url: String, size: usize) -> Request {
    Request { most: size * MAX_STATUS_BYTES, ..request("GET", url) }
}

/// Pages of status objects, as one table or one array.
struct Listing {
    json: bool,
    table: Table,
    any: bool,
}

impl Listing {
    fn new(json: bool) -> Listing {
        Listing { json, table: Table::new(), any: false }
    }

    fn add<'d>(&mut self, document: &'d Document, output: &mut Output) -> Result<&'d [Value]> {
        let page = document.value.as_array().ok_or_else(not_understood)?;
        if self.json {
            let inner = document.bytes.trim_ascii();
            let inner = inner.strip_prefix(b"[").and_then(|inner| inner.strip_suffix(b"]")).unwrap_or_default();
            if !page.is_empty() {
                output.raw(if self.any { b"," } else { b"[" })?;
                output.raw(inner)?;
                self.any = true;
            }
        } else {
            self.table.page(page.iter().map(crate::cli::output::row).collect::<Result<_>>()?, output)?;
        }
        Ok(page)
    }

    fn end(self, output: &mut Output) -> Result<Answer> {
        match (self.json, self.any) {
            (true, true) => output.line("]")?,
            (true, false) => output.line("[]")?,
            // The heads stand there, whatever follows.
            (false, _) => {}
        }
        Ok(Answer::Yes)
    }
}

/// `limit reset`
pub fn reset(args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let [key] = args.exactly(["KEY"])?;
    validate_key(&key)?;
    let document = ask(global, Access::Write, &post("/v1/reset", &json!({"key": key})))?;
    done(&document, global, output)
}

/// `limit remove`
pub fn remove(args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let [key] = args.exactly(["KEY"])?;
    validate_key(&key)?;
    let document = ask(global, Access::Write, &request("DELETE", format!("/v1/limits/{}", encode(&key))))?;
    done(&document, global, output)
}

fn refuse_zero(cost: u64) -> Result<()> {
    if cost == 0 {
        return Err(Error::new(Kind::Usage, "--cost must be 1 or more, not 0"));
    }
    Ok(())
}
