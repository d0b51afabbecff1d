//! The values of a limit: from operands and options to the fields of a request.
//!
//! They are looked at before anything is asked, so that wrong usage touches no file.

use serde_json::{Map, Value, json};

use crate::bounds::MAX_PERIOD_MS;
use crate::cli::answer::usage;
use crate::cli::options::{Args, Global, as_option, text};
use crate::error::{Error, Result};
use crate::limit::{Fields, Limit, Mode, Window, excerpt, parse_length};

/// The fields of a limit that `limit add` configures, but its key.
///
/// # Errors
/// `usage`.
pub fn configured(args: &Args, global: &Global) -> Result<Map<String, Value>> {
    let texts = args.operands[1..].iter().map(text).collect::<Result<Vec<_>>>()?;
    let named = ["--rate", "--per"].into_iter().find(|name| args.os_text(name).is_some());
    let whole = ["--unlimited", "--slots"].into_iter().filter(|name| args.os_text(name).is_some());
    let operands = (!texts.is_empty()).then_some("RATE/PER");
    let mut ways = whole.chain(named).chain(operands);
    let limit = match (ways.next(), ways.next()) {
        (Some(one), Some(other)) => return Err(usage(format!("{one} and {other} can't be used together"))),
        (None, _) => return Err(usage("RATE/PER is missing, such as 100/1m or 5000/day")),
        (Some("--unlimited"), None) => Limit::unlimited(),
        (Some("--slots"), None) => Limit::of_slots(args.number("--slots")?).map_err(wrong)?,
        (Some("RATE/PER"), None) => combined(&texts, "limit")?,
        (Some(_), None) => {
            let (rate, per) = (args.number("--rate")?, args.text("--per")?.to_owned());
            let fields = Fields { rate: Some(rate), per: Some(per), ..Fields::default() };
            as_option(fields.window())?.into()
        }
    };
    let mode = args.given_text("--mode")?.map(str::parse).transpose()?.unwrap_or(limit.mode());
    let mut fields = fields_of(&with_options(&limit, args, global)?, limit.slots());
    if mode != Mode::default() {
        fields.insert("mode".to_owned(), mode.name().into());
    }
    if let Some(length) = args.given_text("--for")? {
        parse_length("--for", length, 1, MAX_PERIOD_MS).map_err(|error| usage(error.message()))?;
        fields.insert("for".to_owned(), length.into());
    }
    if let Some(most) = args.given_number("--max-keys")? {
        if !args.key()?.contains('*') {
            return Err(usage("--max-keys is for patterns: KEY must contain a *"));
        }
        fields.insert("max_keys".to_owned(), most.into());
    }
    Ok(fields)
}

/// The limit that a check brings: the values of all `--limit`.
///
/// # Errors
/// `usage`.
pub fn brought(args: &Args) -> Result<Option<Value>> {
    let texts = args.texts("--limit")?;
    if texts.is_empty() {
        return Ok(None);
    }
    let limit = combined(&texts, "--limit")?;
    let windows: Vec<Fields> = limit.windows().iter().map(Window::fields).collect();
    let mut fields = fields_of(&windows, limit.slots());
    if limit.mode() != Mode::default() {
        fields.insert("mode".to_owned(), limit.mode().name().into());
    }
    Ok(Some(fields.into()))
}

/// The limit of several texts: all windows of all of them.
fn combined(texts: &[&str], name: &str) -> Result<Limit> {
    let read = |text: &&str| {
        text.parse::<Limit>().map_err(|error| match error.message().strip_prefix("limit ") {
            Some(rest) => usage(format!("{name} {rest}")),
            None => usage(format!("{name} `{}`: {error}", excerpt(text))),
        })
    };
    let limits = texts.iter().map(read).collect::<Result<Vec<_>>>()?;
    if let [only] = limits.as_slice() {
        return Ok(only.clone());
    }
    if let Some(whole) = limits.iter().find(|limit| limit.windows().is_empty()) {
        return Err(usage(format!("{name} {whole} can't be combined with others")));
    }
    let mode = limits.iter().map(Limit::mode).find(|mode| *mode != Mode::default()).unwrap_or_default();
    let limit = Limit::of(limits.iter().flat_map(Limit::windows).copied().collect());
    limit.map(|limit| limit.with_mode(mode)).map_err(wrong)
}

/// The windows of a limit with the options that say more of them. An option counts for each window that can have it.
fn with_options(limit: &Limit, args: &Args, global: &Global) -> Result<Vec<Fields>> {
    let algorithm = args.given_text("--algorithm")?;
    let (burst, tz, anchor) = (args.given_number("--burst")?, args.given_text("--tz")?, args.given_number("--anchor")?);
    let given = ["--algorithm", "--burst", "--tz", "--anchor"].into_iter().find(|name| args.os_text(name).is_some());
    match (limit.windows().len(), given) {
        (0, Some(name)) => {
            let whole = if limit.is_unlimited() { "--unlimited" } else { "--slots" };
            return Err(usage(format!("{whole} and {name} can't be used together")));
        }
        (2.., Some("--burst")) => {
            return Err(usage(
                "--burst is for a single window; with several, write it after its window: '100/1m burst=200'",
            ));
        }
        _ => {}
    }
    // If none can have an option, the first has it, and its error says why not.
    let of = |able: fn(&Window) -> bool| {
        let none = !limit.windows().iter().any(able);
        move |index: usize, window: &Window| able(window) || (none && index == 0)
    };
    let has_algorithm = of(|window| !window.period().is_calendar());
    let has_tz = of(|window| window.period().is_calendar());
    let has_anchor = of(|window| window.period().anchor().is_some());
    let windows = limit.windows().iter().enumerate().map(|(index, window)| {
        let mut fields = window.fields();
        if let Some(name) = algorithm.filter(|_| has_algorithm(index, window)) {
            fields.algorithm = Some(name.to_owned());
            // It was the default of a token bucket.
            fields.burst = fields.burst.filter(|burst| *burst != window.rate());
        }
        fields.burst = burst.or(fields.burst);
        fields.tz = tz.map(str::to_owned).filter(|_| has_tz(index, window)).or(fields.tz);
        fields.anchor = anchor.filter(|_| has_anchor(index, window)).or(fields.anchor);
        fields
    });
    let windows: Vec<Fields> = windows.collect();
    // A server elsewhere may know zones that this machine does not.
    let elsewhere = global.server()?.is_some();
    let validate = |fields: &Fields| {
        let utc = || Some("UTC".to_owned());
        let tz = if elsewhere { fields.tz.as_ref().and_then(|_| utc()) } else { fields.tz.clone() };
        as_option(Fields { tz, ..fields.clone() }.window())
    };
    let validated = windows.iter().map(validate).collect::<Result<Vec<_>>>()?;
    if !validated.is_empty() {
        Limit::of(validated).map_err(wrong)?;
    }
    Ok(windows)
}

/// The fields of windows in a request; of none, those of slots or of `unlimited`.
fn fields_of(windows: &[Fields], slots: Option<u64>) -> Map<String, Value> {
    let of_window = |fields: &Fields| {
        let Fields { rate, per, algorithm, burst, tz, anchor } = fields;
        let all = json!({"rate": rate, "per": per, "algorithm": algorithm, "burst": burst, "tz": tz, "anchor": anchor});
        let given = all.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        given.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>()
    };
    match windows {
        [] => match slots {
            Some(slots) => Map::from_iter([("slots".to_owned(), slots.into())]),
            None => Map::from_iter([("unlimited".to_owned(), true.into())]),
        },
        [only] => of_window(only),
        several => {
            let windows: Vec<Value> = several.iter().map(|fields| of_window(fields).into()).collect();
            Map::from_iter([("windows".to_owned(), windows.into())])
        }
    }
}

fn wrong(error: Error) -> Error {
    usage(error.message())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::options::Line;

    /// The fields of `limit add KEY` with these words, or its error.
    fn add(words: &[&str]) -> std::result::Result<Value, String> {
        let words = ["limit", "add"].iter().chain(words).map(OsString::from).collect();
        let read = || match Line::read(words)? {
            Line::Command(args) => configured(&args, &Global::read(&args)?),
            _ => panic!("a command"),
        };
        read().map(Value::from).map_err(|error| {
            assert_eq!(error.kind(), crate::error::Kind::Usage, "{error}");
            error.message().to_owned()
        })
    }

    fn check(limits: &[&str]) -> std::result::Result<Option<Value>, String> {
        let options = limits.iter().map(|limit| format!("--limit={limit}"));
        let words = ["limit", "check", "k"].map(str::to_owned).into_iter().chain(options).map(OsString::from).collect();
        match Line::read(words).unwrap() {
            Line::Command(args) => brought(&args).map_err(|error| error.message().to_owned()),
            _ => panic!("a command"),
        }
    }

    #[test]
    fn operands_and_options_are_windows() {
        let bucket = |rate: u64, per: &str, burst: u64| {
            let algorithm = "token_bucket";
            json!({"rate": rate, "per": per, "algorithm": algorithm, "burst": burst})
        };
        let month = |tz: &str, anchor: u64| {
            let algorithm = "fixed_window_counter";
            json!({"rate": 9, "per": "month", "algorithm": algorithm, "tz": tz, "anchor": anchor})
        };
        let log = json!({"rate": 10, "per": "1s", "algorithm": "sliding_window_log"});
        let with = |mut values: Value, name: &str, value: Value| {
            values[name] = value;
            values
        };
        for (words, expected) in [
            (&["k", "100/1m"][..], bucket(100, "1m", 100)),
            (&["k", "--rate=100", "--per", "60"], bucket(100, "1m", 100)),
            (&["k", "100/60s burst=200"], bucket(100, "1m", 200)),
            (&["k", "100/m", "--burst=200"], bucket(100, "1m", 200)),
            (&["k", "0/1h"], json!({"rate": 0, "per": "1h", "algorithm": "token_bucket"})),
            (&["k", "10/1s", "--algorithm=sliding_window_log"], log.clone()),
            (&["k", "9/month", "--tz", "Europe/Berlin", "--anchor=31"], month("Europe/Berlin", 31)),
            (&["k", "9/month", "10/1s"], json!({"windows": [bucket(10, "1s", 10), month("UTC", 1)]})),
            (&["k", "10/1s, 9/month"], json!({"windows": [bucket(10, "1s", 10), month("UTC", 1)]})),
            // Each option counts for the windows that can have it.
            (
                &["k", "9/month", "10/1s", "--anchor=2", "--tz=Europe/Berlin", "--algorithm=sliding_window_log"],
                json!({"windows": [log, month("Europe/Berlin", 2)]}),
            ),
            (&["k", "--unlimited"], json!({"unlimited": true})),
            (&["k", "--slots", "4"], json!({"slots": 4})),
            (&["k", "slots=4 shadow"], json!({"slots": 4, "mode": "shadow"})),
            (&["k", "unlimited"], json!({"unlimited": true})),
            (&["k", "1/1s", "--mode", "shadow"], with(bucket(1, "1s", 1), "mode", "shadow".into())),
            (&["k", "1/1s shadow"], with(bucket(1, "1s", 1), "mode", "shadow".into())),
            (&["k", "1/1s", "--mode", "enforce"], bucket(1, "1s", 1)),
            (&["k", "1/1s", "--for", "1h"], with(bucket(1, "1s", 1), "for", "1h".into())),
            (&["k*", "1/1s", "--max-keys", "5"], with(bucket(1, "1s", 1), "max_keys", 5.into())),
            // The zone data of the server counts, not those of this machine.
            (&["k", "9/month", "--tz", "Mars/Olympus", "--server", "http://127.0.0.1:1"], month("Mars/Olympus", 1)),
        ] {
            assert_eq!(add(words), Ok(expected), "{words:?}");
        }
        assert_eq!(check(&[]), Ok(None));
        assert_eq!(check(&["slots=4"]), Ok(Some(json!({"slots": 4}))));
        assert_eq!(check(&["100/1m"]), Ok(Some(bucket(100, "1m", 100))));
        let both = json!({"windows": [bucket(10, "1s", 10), month("UTC", 1)], "mode": "shadow"});
        assert_eq!(check(&["9/month shadow", "10/1s"]), Ok(Some(both)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (words, message) in [
            (&["k"][..], "RATE/PER is missing, such as 100/1m or 5000/day"),
            (&["k", "--rate=1"], "--per PER is missing"),
            (&["k", "--per=1s"], "--rate N is missing"),
            (&["k", "1/1s", "--rate=1"], "--rate and RATE/PER can't be used together"),
            (&["k", "1/1s", "--unlimited"], "--unlimited and RATE/PER can't be used together"),
            (&["k", "--per=1s", "--unlimited"], "--unlimited and --per can't be used together"),
            (&["k", "--unlimited", "--burst=1"], "--unlimited and --burst can't be used together"),
            (&["k", "--slots=4", "--tz=UTC"], "--slots and --tz can't be used together"),
            (&["k", "--slots=4", "1/1s"], "--slots and RATE/PER can't be used together"),
            (&["k", "--slots=4", "--unlimited"], "--unlimited and --slots can't be used together"),
            (&["k", "--slots=0"], "--slots must be from 1 to 1000000"),
            (&["k", "slots=0"], "limit `slots=0`: slots must be an integer of 1 to 1000000, not 0"),
            (&["k", "slots=1", "1/1s"], "limit slots=1 can't be combined with others"),
            (&["k", "100"], "limit must be RATE/PER, such as 100/1m or 5000/day, not `100`"),
            (&["k", "1/1s", "unlimited"], "limit unlimited can't be combined with others"),
            (&["k", "1/1s", "1/1s"], "windows must differ in rate, per or algorithm, and `1/1s` is given twice"),
            (&["k", "1/1s", "2/1s", "--burst=3"], "--burst is for a single window"),
            (&["k", "1/1s", "--tz=UTC"], "--tz is only for a calendar period"),
            (&["k", "1/day", "--anchor=2"], "--anchor is only for a month, quarter or year"),
            (&["k", "1/month", "--anchor=32"], "--anchor must be from 1 to 31"),
            (&["k", "1/day", "--algorithm=token_bucket"], "--algorithm of a calendar period must be"),
            (&["k", "1/month", "--tz=Mars/Olympus"], "--tz `Mars/Olympus` is not a time zone"),
            (&["k", "1/1s", "--for=soon"], "--for must be a whole number and a unit"),
            (&["k", "1/1s", "--max-keys=5"], "--max-keys is for patterns: KEY must contain a *"),
            (&["k", "1/1s", "--mode=off"], "--mode must be enforce or shadow, not `off`"),
        ] {
            let error = add(words).unwrap_err();
            assert!(error.starts_with(message), "{words:?}: {error}");
        }
        let error = add(&["k", "5/1x"]).unwrap_err();
        assert!(error.starts_with("limit `5/1x`: per must be"), "{error}");
        let error = check(&["5"]).unwrap_err();
        assert!(error.starts_with("--limit must be RATE/PER"), "{error}");
        assert!(check(&["5/1x"]).unwrap_err().starts_with("--limit `5/1x`: per must be"));
        let many = ["1/1s"; 9].join(",");
        assert_eq!(check(&[&many]).unwrap_err(), format!("--limit `{many}`: windows must be 1 to 8, not 9"));
    }
}
