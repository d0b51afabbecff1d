//! Requests that may be sent again: the header `Idempotency-Key`, and the answer as it is kept.
//!
//! A request is known by hashes: of the key with the token that the client has, and of all that it asks for. What is
//! kept is the reply's header lines and its body.

use std::borrow::Cow;

use super::super::super::digest::half_digest;
use super::super::super::http::reply::Reply;
use super::super::call::{Answer, Call};
use crate::bounds::MAX_IDEMPOTENCY_KEY;
use crate::error::{Error, Result};
use crate::limiter::{Begin, Guard, Once};

/// Answers a call that spends: once, if the client has given it a key. `reply` tells what `ask` came to; what is kept
/// of it is the answer to the letter.
///
/// # Errors
/// `invalid_argument` for a bad key, `idempotency_mismatch`; and as `ask`.
pub fn once<T>(
    call: &Call<'_>,
    ask: impl FnOnce(Option<&Guard<'_>>) -> Result<T>,
    reply: impl FnOnce(&T) -> Reply,
) -> Answer {
    let Some(key) = header(call, "Idempotency-Key")? else { return Ok(reply(&ask(None)?)) };
    if !(1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()) || !key.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(Error::invalid(format!(
            "header Idempotency-Key must be 1 to {MAX_IDEMPOTENCY_KEY} printable ASCII characters"
        )));
    }
    let authorization = header(call, "Authorization")?.unwrap_or_default();
    let token = authorization.split_once(' ').map_or("", |(_, token)| token.trim());
    // All of these endpoints have one method.
    let once = Once {
        key: half_digest(&[token.as_bytes(), key.as_bytes()]),
        request: half_digest(&[b"POST", call.target.as_bytes(), call.body]),
    };
    match call.limiter()?.once(once, call.sources.non_blocking)? {
        Begin::Fresh(guard) => {
            let told = ask(Some(&guard))?;
            Ok(guard.kept().map_or_else(|| reply(&told), |kept| read(&kept)))
        }
        Begin::Before(kept) => Ok(read_again(&kept)),
    }
}

/// The value of a header that may be sent only once.
fn header<'c>(call: &Call<'c>, name: &'static str) -> Result<Option<&'c str>> {
    let mut values = call.headers.iter().filter(|header| header.field.equiv(name)).map(|header| header.value.as_str());
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(Error::invalid(format!("header {name} was sent twice; send it once"))),
        (value, None) => Ok(value),
    }
}

/// A reply as it is kept. Its body is an object, and no header line begins like one.
pub fn write(reply: &Reply) -> String {
    let [headers, body] = [&reply.headers, &reply.body].map(|bytes| String::from_utf8_lossy(bytes));
    [headers, Cow::Borrowed("\r\n"), body].concat()
}

/// The reply that was kept.
fn read(kept: &str) -> Reply {
    let (headers, body) = kept.split_at(kept.find("\r\n{").map_or(0, |at| at + 2));
    let headers = headers.strip_suffix("\r\n").unwrap_or(headers);
    let mut reply = Reply::json_part(body.as_bytes().to_vec());
    reply.headers = headers.as_bytes().to_vec();
    reply
}

/// The same, for a request that was sent again.
fn read_again(kept: &str) -> Reply {
    let mut reply = read(kept);
    reply.header("Idempotency-Replayed", "true");
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_read_as_it_was_written() {
        for headers in ["", "RateLimit: \"5/1s\";r=4\r\nCache-Control: no-store\r\n"] {
            let mut reply = Reply::json(b"{\"key\":\"a\\r\\n{\"}".to_vec());
            reply.headers = headers.as_bytes().to_vec();
            let again = read_again(&write(&reply));
            assert_eq!((again.status, &again.body), (200, &reply.body));
            let expected = format!("{headers}Idempotency-Replayed: true\r\n");
            assert_eq!(String::from_utf8(again.headers).unwrap(), expected);
        }
    }
}
