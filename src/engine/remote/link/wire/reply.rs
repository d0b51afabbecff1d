//! Reading replies.

use redis::Value as Reply;

use crate::clock::Micros;

/// `seconds.microseconds`, neither padded.
pub fn dotted(time: &[u8]) -> Option<Micros> {
    let text = std::str::from_utf8(time).ok()?;
    let (seconds, micros) = text.split_once('.')?;
    seconds.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(micros.parse().ok()?)
}

/// The reply to TIME.
pub fn time(reply: &Reply) -> Option<Micros> {
    let Reply::Array(items) = reply else { return None };
    let [seconds, micros] = items.as_slice() else { return None };
    let [seconds, micros] = [seconds, micros].map(|part| text(part)?.parse::<u64>().ok());
    seconds?.checked_mul(1_000_000)?.checked_add(micros?)
}

/// A string of any kind.
pub fn text(reply: &Reply) -> Option<&str> {
    match reply {
        Reply::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Reply::SimpleString(text) => Some(text),
        Reply::VerbatimString { text, .. } => Some(text),
        Reply::Okay => Some("OK"),
        _ => None,
    }
}

/// A whole number, also where it is written as text.
pub fn number(reply: &Reply) -> Option<i64> {
    match reply {
        Reply::Int(number) => Some(*number),
        _ => text(reply)?.parse().ok(),
    }
}

/// The value of a field, where a reply lists names and values in turn.
pub fn field<'a>(reply: &'a Reply, name: &str) -> Option<&'a Reply> {
    match reply {
        Reply::Array(items) => {
            items.chunks(2).find_map(|pair| (text(&pair[0]) == Some(name)).then(|| pair.get(1)).flatten())
        }
        Reply::Map(pairs) => pairs.iter().find_map(|(key, value)| (text(key) == Some(name)).then_some(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Reply {
        Reply::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn times_are_read_to_the_microsecond() {
        assert_eq!(dotted(b"1732600000.7"), Some(1_732_600_000_000_007));
        assert_eq!(dotted(b"1732600000.999999"), Some(1_732_600_000_999_999));
        assert_eq!(time(&Reply::Array(vec![bulk("1732600000"), bulk("42")])), Some(1_732_600_000_000_042));
        for wrong in ["", "1", "1.", ".1", "a.b", "99999999999999999999.0", "18446744073709551615.0"] {
            assert_eq!(dotted(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(time(&Reply::Array(vec![bulk("1")])), None);
        assert_eq!(time(&Reply::Nil), None);
    }

    #[test]
    fn fields_are_found_by_their_names() {
        let reply = Reply::Array(vec![bulk("ip"), bulk("10.0.0.1"), bulk("port"), bulk("6379"), bulk("odd")]);
        assert_eq!(field(&reply, "port").and_then(number), Some(6379));
        assert_eq!(field(&reply, "odd"), None);
        assert_eq!(field(&reply, "10.0.0.1"), None);
        assert_eq!(text(&Reply::Okay), Some("OK"));
    }
}
