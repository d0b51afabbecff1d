//! Names of time zones. This file and `calendar.rs` are the only users of the time-zone library.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError, RwLock};
use std::thread;

use jiff::tz::{TimeZone, TimeZoneDatabase, db};

use super::text::excerpt;
use crate::error::{Error, Result};

/// Files of the zone data that name what this machine prefers: another zone on another machine.
const LOCAL: [&str; 2] = ["localtime", "posixrules"];

/// The name of an IANA time zone. A name is kept once and never freed (there are about 600).
///
/// ```
/// use flint::Zone;
///
/// assert_eq!(Zone::named("UTC")?, Zone::UTC);
/// assert!(Zone::named("Atlantis/Capital").unwrap_err().message().starts_with("tz `Atlantis/Capital`"));
/// # Ok::<(), flint::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Zone(&'static str);

impl Zone {
    /// UTC.
    pub const UTC: Zone = Zone("UTC");

    /// The zone of this name, which the system's zone data must know. Capitals don't matter: the zone has the name as
    /// the zone data writes it.
    ///
    /// # Errors
    /// `invalid_argument`, naming `tz` and the zone. On a machine without zone data only `UTC` is known, and the error
    /// says what to install.
    pub fn named(name: &str) -> Result<Zone> {
        if name == Zone::UTC.0 {
            return Ok(Zone::UTC);
        }
        let zone = with_room(|| Zone::found(db(), name))?;
        // Its data is there before a check is to open a window by it.
        zone.data();
        Ok(zone)
    }

    fn found(db: &TimeZoneDatabase, name: &str) -> Result<Zone> {
        let zone = db.get(name).ok().filter(|_| !LOCAL.iter().any(|local| local.eq_ignore_ascii_case(name)));
        match zone.as_ref().and_then(TimeZone::iana_name).filter(|name| is_plain(name)) {
            Some(name) => Ok(Zone::recorded(name)),
            None if db.is_definitively_empty() => Err(Error::invalid(format!(
                "tz `{}` can't be looked up: this machine has no time zone data (/usr/share/zoneinfo), so only UTC is \
                 known; install the package tzdata and start again",
                excerpt(name)
            ))),
            None => Err(Error::invalid(format!(
                "tz `{}` is not a time zone that this machine knows; use an IANA name such as Europe/Berlin or UTC",
                excerpt(name)
            ))),
        }
    }

    /// The zone of a name from the log, whether this machine knows it or not.
    pub(crate) fn recorded(name: &str) -> Zone {
        static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
        if name == Zone::UTC.0 {
            return Zone::UTC;
        }
        let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.get(name) {
            return Zone(known);
        }
        let name: &'static str = Box::leak(name.into());
        names.insert(name);
        Zone(name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.0
    }

    /// Whether this machine has the data of this zone. Without it the days of the zone are taken as those of UTC.
    pub fn is_known(self) -> bool {
        self == Zone::UTC || with_room(|| db().get(self.0)).is_ok()
    }

    /// Whether this machine has any zone data.
    pub fn data_found() -> bool {
        with_room(|| !db().is_definitively_empty())
    }

    /// The data of the zone, which is read once and kept. A zone that this machine does not know is taken as UTC and
    /// logged once.
    pub(super) fn data(self) -> TimeZone {
        static READ: RwLock<BTreeMap<Zone, TimeZone>> = RwLock::new(BTreeMap::new());
        if self == Zone::UTC {
            return TimeZone::UTC;
        }
        if let Some(data) = READ.read().unwrap_or_else(PoisonError::into_inner).get(&self) {
            return data.clone();
        }
        let data = with_room(|| db().get(self.0)).unwrap_or_else(|_| {
            log::error!(
                "time zone `{}` is not known to this machine, its days are taken as those of UTC; install the package \
                 tzdata and start again",
                excerpt(self.0)
            );
            TimeZone::UTC
        });
        READ.write().unwrap_or_else(PoisonError::into_inner).entry(self).or_insert(data).clone()
    }
}

/// Reads zone data in a separate thread: jiff's reader of TZif files takes more stack than the threads of a server
/// have: with 256 KiB a debug build overflowed it.
fn with_room<T: Send>(read: impl FnOnce() -> T + Send) -> T {
    const STACK: usize = 4 * 1024 * 1024;
    let cell = Mutex::new(Some(read));
    let take = || cell.lock().unwrap_or_else(PoisonError::into_inner).take();
    let done = thread::scope(|scope| {
        let run = || take().map(|read| read());
        let reader = thread::Builder::new().name("flint-zone".to_owned()).stack_size(STACK).spawn_scoped(scope, run);
        reader.ok().and_then(|reader| reader.join().ok().flatten())
    });
    match (done, take()) {
        (Some(done), _) => done,
        // No thread could be started: what stack there is must do.
        (None, Some(read)) => read(),
        (None, None) => panic!("reading the zone data panicked"),
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

/// Whether a name is made as those of the IANA are: it may stand in the text of a limit.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_-+".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_known_by_name() {
        let berlin = Zone::named("Europe/Berlin").unwrap();
        assert_eq!(
            (berlin.name(), berlin.to_string().as_str(), berlin.is_known()),
            ("Europe/Berlin", "Europe/Berlin", true)
        );
        assert!(std::ptr::eq(berlin.name(), Zone::named("europe/BERLIN").unwrap().name()));
        assert_eq!(Zone::named("utc").unwrap(), Zone::UTC);
        assert!(Zone::data_found());
        for wrong in [
            "",
            " ",
            "Europe/Berlim",
            "../etc/passwd",
            "/etc/localtime",
            "localtime",
            "LocalTime",
            "posixrules",
            "zone.tab",
            "Etc/Unknown",
            "+02:00",
            "Europe/Berlin ",
            "Europe",
            "right/UTC",
            "EST5EDT4,M3.2.0,M11.1.0",
            "a\n\u{1b}",
        ] {
            let error = Zone::named(wrong).unwrap_err();
            assert!(
                error.message().starts_with("tz `") && error.message().contains("such as Europe/Berlin"),
                "{error}"
            );
            assert!(!error.message().contains(char::is_control), "{error}");
        }
    }

    #[test]
    fn a_machine_without_zone_data_says_what_is_missing() {
        let error = Zone::found(&TimeZoneDatabase::none(), "Europe/Berlin").unwrap_err();
        assert!(error.message().starts_with("tz `Europe/Berlin` can't be looked up"), "{error}");
        assert!(error.message().contains("install the package tzdata"), "{error}");
    }

    #[test]
    fn a_recorded_zone_need_not_be_known() {
        let zone = Zone::recorded("Atlantis/Capital");
        assert_eq!((zone.name(), zone.is_known()), ("Atlantis/Capital", false));
        assert_eq!(zone.data(), TimeZone::UTC);
        assert_eq!(Zone::recorded("Europe/Berlin"), Zone::named("Europe/Berlin").unwrap());
    }
}
