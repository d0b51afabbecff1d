//! What the limiter is asked, and what it answers with.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Micros;
use crate::limit::{Detail, Limit, Mode, Quote, Quotes, Verdict, Window};

/// One item of a check: a key, a cost and perhaps a limit.
///
/// ```
/// use flint::{Item, Limit};
///
/// let limit: Limit = "100/1m".parse()?;
/// let items = [Item::new("user:42").with_cost(5).with_limit(&limit), ("org:acme", 1).into(), "route:/v1/chat".into()];
/// assert_eq!((items[0].cost, items[2].cost), (5, 1));
/// # Ok::<(), flint::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct Item<'a> {
    /// The key; always literal, even with a `*`.
    pub key: &'a str,
    /// Units to spend, 1 to 10^12.
    pub cost: u64,
    /// The limit if none is configured for the key, neither exactly nor by a pattern.
    pub limit: Option<&'a Limit>,
}

impl<'a> Item<'a> {
    /// One unit of the limit that is configured for `key`.
    pub fn new(key: &'a str) -> Item<'a> {
        Item { key, cost: 1, limit: None }
    }

    /// Asks for this many units.
    pub fn with_cost(self, cost: u64) -> Item<'a> {
        Item { cost, ..self }
    }

    /// Brings a limit, which applies if none is configured for the key.
    pub fn with_limit(self, limit: &'a Limit) -> Item<'a> {
        Item { limit: Some(limit), ..self }
    }
}

impl<'a> From<&'a str> for Item<'a> {
    fn from(key: &'a str) -> Item<'a> {
        Item::new(key)
    }
}

impl<'a> From<(&'a str, u64)> for Item<'a> {
    fn from((key, cost): (&'a str, u64)) -> Item<'a> {
        Item::new(key).with_cost(cost)
    }
}

/// The answer to one check.
///
/// A limit of several windows allows only what all of them allow. The window that binds is, on a denial, the window
/// with the longest wait, else the window with the least left; `remaining`, `used` and `debt` are those of this window,
/// while the times are the largest of all windows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decision {
    /// Whether it is allowed; the cost was spent then, unless a limit in shadow mode would have denied it.
    pub allowed: bool,
    /// The requested units.
    pub cost: u64,
    /// The limit's values.
    pub limit: Arc<Limit>,
    /// The state of each of its windows after the decision, in the order of the limit; none under `unlimited`.
    pub windows: Quotes,
    /// Index of the window that binds.
    pub binding: usize,
    /// Whole units left after the decision; `None` under `unlimited`.
    pub remaining: Option<u64>,
    /// Units that count, rounded up; `None` under `unlimited`.
    pub used: Option<u64>,
    /// Units used beyond the capacity.
    pub debt: u64,
    /// When the limit is untouched again if nothing more is spent, in microseconds since the epoch; `None` under
    /// `unlimited`.
    pub reset_at: Option<Micros>,
    /// How long until this same cost could be allowed, if nothing else is spent; zero when it was. `None` for never.
    pub retry_after: Option<Duration>,
    /// How long until one more unit is available; zero if nothing is missing. `None` for never.
    pub next: Option<Duration>,
    /// When the decision was made, in microseconds since the epoch.
    pub now: Micros,
    /// The pattern that the limit comes from, if any.
    pub pattern: Option<Arc<str>>,
    /// Whether the limit that all keys beyond `max_keys` share has decided.
    pub overflow: bool,
    /// Under a limit in shadow mode, whether it would have denied: then nothing was spent.
    pub would_deny: Option<bool>,
}

impl Decision {
    #[inline]
    pub(super) fn new(verdict: Verdict, limit: Arc<Limit>, cost: u64, now: Micros) -> Decision {
        let shadow = limit.mode() == Mode::Shadow;
        let Figures { remaining, used, debt, reset_at, retry, next } = Figures::of(&verdict);
        let allowed = verdict.allowed || shadow;
        Decision {
            allowed,
            cost,
            would_deny: shadow.then_some(!verdict.allowed),
            limit,
            windows: verdict.windows,
            binding: verdict.binding,
            remaining,
            used,
            debt,
            reset_at,
            retry_after: if allowed { Some(Duration::ZERO) } else { retry },
            next,
            now,
            pattern: None,
            overflow: false,
        }
    }

    /// Takes over the state of the limit; whether it is allowed stays.
    pub(super) fn stand(&mut self, verdict: Verdict) {
        let figures = Figures::of(&verdict);
        self.binding = verdict.binding;
        (self.remaining, self.used, self.debt) = (figures.remaining, figures.used, figures.debt);
        (self.reset_at, self.next) = (figures.reset_at, figures.next);
        self.windows = verdict.windows;
    }

    /// Whether the cost was spent.
    pub fn is_spent(&self) -> bool {
        self.allowed && self.would_deny != Some(true)
    }

    /// The window that binds and its state; `None` under `unlimited`.
    pub fn binding_window(&self) -> Option<(&Window, &Quote)> {
        self.limit.windows().get(self.binding).zip(self.windows.as_slice().get(self.binding))
    }
}

/// What is reported of all windows together.
pub(super) struct Figures {
    pub remaining: Option<u64>,
    pub used: Option<u64>,
    pub debt: u64,
    pub reset_at: Option<Micros>,
    pub retry: Option<Duration>,
    pub next: Option<Duration>,
}

impl Figures {
    #[inline]
    pub fn of(verdict: &Verdict) -> Figures {
        if let Quotes::One([quote]) = &verdict.windows {
            return Figures {
                remaining: Some(quote.remaining),
                used: Some(quote.used),
                debt: quote.debt,
                reset_at: Some(quote.reset_at),
                retry: quote.retry.map(Duration::from_micros),
                next: quote.next.map(Duration::from_micros),
            };
        }
        let quotes = verdict.windows.as_slice();
        let binding = quotes.get(verdict.binding);
        // `None` is never: longer than all others.
        let longest = |time: fn(&Quote) -> Option<Micros>| {
            quotes.iter().try_fold(0, |longest, quote| Some(longest.max(time(quote)?))).map(Duration::from_micros)
        };
        Figures {
            remaining: binding.map(|quote| quote.remaining),
            used: binding.map(|quote| quote.used),
            debt: binding.map_or(0, |quote| quote.debt),
            reset_at: quotes.iter().map(|quote| quote.reset_at).max(),
            retry: longest(|quote| quote.retry),
            next: longest(|quote| quote.next),
        }
    }
}

/// The answer to a check of several keys.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AllDecision {
    /// Whether everything was spent; otherwise nothing was.
    pub allowed: bool,
    /// Index of the first item that was denied.
    pub denied: Option<usize>,
    /// The decisions in the order of the items, up to and including the first denied one.
    pub results: Vec<Decision>,
}

/// A hold that was allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hold {
    /// Its id, by which it is settled and renewed: 1 to 40 lower-case letters and digits.
    pub id: String,
    /// When it expires, in microseconds since the epoch.
    pub expires_at: Micros,
    /// How long it lasts from when it was made or renewed.
    pub ttl: Duration,
}

/// The answer to a hold of one key or several.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HoldDecision {
    /// The same as the answer to a check of these items.
    pub all: AllDecision,
    /// The hold; `None` if it was denied.
    pub hold: Option<Hold>,
}

/// What a hold has cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cost<'a> {
    /// What was held.
    AsHeld,
    /// This many units of its single key with windows, 0 to 10^12.
    Units(u64),
    /// By key; keys that are not named cost what was held.
    Each(&'a [(&'a str, u64)]),
}

/// The answer to a settlement.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settled {
    /// Whether the hold had expired before.
    pub late: bool,
    /// One for each item of the hold, in its order.
    pub results: Vec<SettledItem>,
}

/// The result for one item of a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SettledItem {
    /// Its key.
    pub key: String,
    /// Units that were held.
    pub held: u64,
    /// What they cost in the end; for slots, what was held.
    pub cost: u64,
    /// Whole units left, or free slots; `None` under `unlimited` and if the key no longer has a limit.
    pub remaining: Option<u64>,
    /// Units used beyond the capacity.
    pub debt: u64,
    /// Whether the key has a limit. If it has none, nothing was corrected.
    pub configured: bool,
}

/// The state of a limit of slots.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotsInUse {
    /// The number of slots.
    pub slots: u64,
    /// Slots that are held; more than there are if the limit was made smaller.
    pub used: u64,
    /// When this was so, in microseconds since the epoch.
    pub now: Micros,
    /// The open holds, the oldest first; at most 1000 of them.
    pub holds: Arc<[OpenHold]>,
}

/// An open hold of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenHold {
    /// Its id.
    pub id: String,
    /// Slots that it takes.
    pub cost: u64,
    /// When it was made, in microseconds since the epoch.
    pub at: Micros,
    /// When it expires.
    pub until: Micros,
}

/// Where the limit of a key comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// It was configured for this key, permanently or for a time, or is a pattern.
    Exact,
    /// From a pattern.
    Pattern,
    /// From a check that brought it.
    Request,
}

impl Origin {
    /// `exact`, `pattern` or `request`.
    pub const fn name(self) -> &'static str {
        match self {
            Origin::Exact => "exact",
            Origin::Pattern => "pattern",
            Origin::Request => "request",
        }
    }
}

/// Temporary values, which replace those of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lasting {
    /// When they end, in microseconds since the epoch.
    pub until: Micros,
    /// How long until then.
    pub left: Duration,
    /// What was configured for the key itself and applies again then; `None` if nothing was, so that a pattern or a
    /// request serves it again.
    pub below: Option<Arc<Limit>>,
}

impl Lasting {
    pub(super) fn new(until: Micros, below: Option<&Arc<Limit>>, now: Micros) -> Lasting {
        Lasting { until, left: Duration::from_micros(until.saturating_sub(now)), below: below.cloned() }
    }
}

/// The state of a key, or a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Its key.
    pub key: String,
    /// Its values, including temporary ones.
    pub limit: Arc<Limit>,
    /// Where they come from.
    pub source: Origin,
    /// The pattern that serves it, if any.
    pub pattern: Option<Arc<str>>,
    /// The state of each window, in the order of the limit; none under `unlimited`, and none of a pattern, which counts
    /// nothing itself.
    pub windows: Quotes,
    /// What else is reported of each window, in the same order.
    pub details: Vec<Detail>,
    /// Index of the window with the least left.
    pub binding: usize,
    /// Whole units left in that window; `None` under `unlimited` and of a pattern.
    pub remaining: Option<u64>,
    /// Units that count in that window, rounded up.
    pub used: Option<u64>,
    /// Units used in that window beyond the capacity.
    pub debt: u64,
    /// When it is untouched again if nothing more is spent, in microseconds since the epoch.
    pub reset_at: Option<Micros>,
    /// How long until one more unit is available; `None` for never, under `unlimited` and for a pattern.
    pub next: Option<Duration>,
    /// Its temporary values, if it has any.
    pub lasting: Option<Lasting>,
    /// Whether it is beyond `max_keys`, so that these are the figures of the limit that all such keys share.
    pub overflow: bool,
    /// For a limit of slots: which of them are held.
    pub slots: Option<SlotsInUse>,
    /// For a pattern: the maximum number of live keys.
    pub max_keys: Option<u64>,
    /// For a pattern: keys that live under it now.
    pub live: Option<u64>,
    /// What has happened since it was configured; for a key that lives under a pattern or request, since it came to
    /// life.
    pub totals: Totals,
    /// When a check was last allowed, in microseconds since the epoch. `None` for patterns.
    pub last_allowed_at: Option<Micros>,
    /// When a check was last denied.
    pub last_denied_at: Option<Micros>,
    /// When it was last reset by hand.
    pub last_reset_at: Option<Micros>,
}

/// What has happened to a limit since it was configured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Allowed checks.
    pub allowed: u64,
    /// Denied checks.
    pub denied: u64,
    /// Units spent.
    pub allowed_cost: u64,
    /// Units refused.
    pub denied_cost: u64,
}

impl Totals {
    /// Adds what has happened elsewhere.
    pub(super) fn add(&mut self, other: Totals) {
        self.allowed = self.allowed.saturating_add(other.allowed);
        self.denied = self.denied.saturating_add(other.denied);
        self.allowed_cost = self.allowed_cost.saturating_add(other.allowed_cost);
        self.denied_cost = self.denied_cost.saturating_add(other.denied_cost);
    }

    /// As records have them: allowed, denied, allowed cost, denied cost.
    pub(super) fn to_numbers(self) -> [u64; 4] {
        [self.allowed, self.denied, self.allowed_cost, self.denied_cost]
    }

    /// From what a record has.
    pub(super) fn from_numbers([allowed, denied, allowed_cost, denied_cost]: [u64; 4]) -> Totals {
        Totals { allowed, denied, allowed_cost, denied_cost }
    }

    /// One allowed check of this cost.
    pub(super) fn of_allowed(cost: u64) -> Totals {
        Totals { allowed: 1, allowed_cost: cost, ..Totals::default() }
    }

    /// One denied check of this cost.
    pub(super) fn of_denied(cost: u64) -> Totals {
        Totals { denied: 1, denied_cost: cost, ..Totals::default() }
    }
}

/// What a compaction did, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compaction {
    /// Size of the log before.
    pub log_bytes_before: u64,
    /// Size of the log after.
    pub log_bytes_after: u64,
    /// Size of the new snapshot.
    pub snapshot_bytes: u64,
}
