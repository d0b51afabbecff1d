//! `flint store import` and `flint store export`: all limits from a data directory into a store, and back.

use serde_json::json;

use crate::cli::answer::{Answer, usage};
#[cfg(not(feature = "store"))]
use crate::cli::options::without_stores;
use crate::cli::options::{Args, Global, store_url};
use crate::cli::output::{Output, counted};
use crate::engine::Moved;
use crate::error::Result;

/// `store import`
pub fn import(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    global.refuse_server()?;
    let url = url(args)?;
    report(&into_store(args, &url)?, output)
}

/// `store export`
pub fn export(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    global.refuse_server()?;
    let url = url(args)?;
    report(&out_of_store(args, &url)?, output)
}

fn url(args: &Args) -> Result<String> {
    store_url(args)?.ok_or_else(|| usage("--store must name the store, such as redis://127.0.0.1:6379"))
}

fn report(moved: &Moved, output: &mut Output) -> Result<Answer> {
    let Moved { keys, patterns, holds, answers, left_answers } = moved;
    if output.json {
        output.json(&json!({"ok": true, "keys": keys, "patterns": patterns, "holds": holds, "answers": answers,
            "left_answers": left_answers}))?;
        return Ok(Answer::Yes);
    }
    output.line(&format!(
        "moved {}, {}, {}, {}",
        counted(keys, "key"),
        counted(patterns, "pattern"),
        counted(holds, "hold"),
        counted(answers, "kept answer")
    ))?;
    if *left_answers > 0 {
        output.line(&format!(
            "did not copy {}: a request that is repeated with its idempotency key is decided again",
            counted(left_answers, "kept answer")
        ))?;
    }
    Ok(Answer::Yes)
}

#[cfg(feature = "store")]
fn into_store(args: &Args, url: &str) -> Result<Moved> {
    use crate::engine::remote::{Settings, port};
    port::import(args.operands[0].as_ref(), &Settings::new(url))
}

#[cfg(feature = "store")]
fn out_of_store(args: &Args, url: &str) -> Result<Moved> {
    use crate::engine::remote::{Settings, port};
    port::export(&Settings::new(url), args.operands[0].as_ref())
}

#[cfg(not(feature = "store"))]
fn into_store(_: &Args, _: &str) -> Result<Moved> {
    Err(without_stores())
}

#[cfg(not(feature = "store"))]
fn out_of_store(_: &Args, _: &str) -> Result<Moved> {
    Err(without_stores())
}
