//! What the limiter is asked, and what it answers with.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Micros;
use crate::limit::{Detail, Limit, Mode, Quote, Quotes, Verdict, Window};

/// What a check asks for.
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
    /// The key; always literal, also with a `*`.
    pub key: &'a str,
    /// Units to spend, 1 to 10^12.
    pub cost: u64,
    /// What the key's limit is where none is configured for it: neither exactly nor by a pattern.
    pub limit: Option<&'a Limit>,
}

impl<'a> Item<'a> {
    /// One unit of the limit that is configured for `key`.
    pub fn new(key: &'a str) -> Item<'a> {
        Item { key, cost: 1, limit: None }
    }

    /// So many units.
    pub fn with_cost(self, cost: u64) -> Item<'a> {
        Item { cost, ..self }
    }

    /// Brings a limit, for a key that none is configured for.
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
/// A limit of several windows allows only what all of them allow. The window that binds is on a denial the one with the
/// longest wait, else the one with the least left; `remaining`, `used` and `debt` are its own, while the times are the
/// largest of all windows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decision {
    /// Whether it is allowed; the cost was spent then, unless a limit in shadow mode would have denied it.
    pub allowed: bool,
    /// What was asked for, in units.
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
    /// How long until one more unit is there; zero if nothing is missing. `None` for never.
    pub next: Option<Duration>,
    /// When the decision was made, in microseconds since the epoch.
    pub now: Micros,
    /// The pattern that the limit comes from, if it does.
    pub pattern: Option<Arc<str>>,
    /// Whether a limit decided that is shared by all keys that found no room under `max_keys`.
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
    /// Whether everything was spent; nothing was otherwise.
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
    /// What it is settled and renewed by: 1 to 40 lower-case letters and digits.
    pub id: String,
    /// When it runs out, in microseconds since the epoch.
    pub expires_at: Micros,
    /// How long that was from when it was made or renewed.
    pub ttl: Duration,
}

/// The answer to a hold of one key or several.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HoldDecision {
    /// As a check of the same items would have been answered.
    pub all: AllDecision,
    /// The hold; `None` if it was denied.
    pub hold: Option<Hold>,
}

/// What a hold is to have cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cost<'a> {
    /// What was held.
    AsHeld,
    /// So many units of its one key that has windows, 0 to 10^12.
    Units(u64),
    /// By key; what is not named is as held.
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

/// What became of one item of a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SettledItem {
    /// Its key.
    pub key: String,
    /// Units that were held.
    pub held: u64,
    /// What they cost in the end; of slots what was held.
    pub cost: u64,
    /// Whole units left, or free slots; `None` under `unlimited` and where the key has no limit any more.
    pub remaining: Option<u64>,
    /// Units used beyond the capacity.
    pub debt: u64,
    /// Whether the key has a limit. Where it has none, nothing was corrected.
    pub configured: bool,
}

/// The state of a limit of slots.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotsInUse {
    /// Slots that there are.
    pub slots: u64,
    /// Slots that are held; more than there are where the limit was made smaller.
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
    /// Since when, in microseconds since the epoch.
    pub at: Micros,
    /// Until when.
    pub until: Micros,
}

/// Where a key has its limit from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// It was configured for this key, for good or for a time, or is a pattern.
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

/// Values that lie over those of a key for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lasting {
    /// When they end, in microseconds since the epoch.
    pub until: Micros,
    /// How long until then.
    pub left: Duration,
    /// What was configured for the key itself and comes back; `None` where nothing was, so that a pattern or a request
    /// serves it again.
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
    /// Its values, those that last for a time included.
    pub limit: Arc<Limit>,
    /// Where they come from.
    pub source: Origin,
    /// The pattern that serves it, if one does.
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
    /// Units that count there, rounded up.
    pub used: Option<u64>,
    /// Units used beyond the capacity there.
    pub debt: u64,
    /// When it is untouched again if nothing more is spent, in microseconds since the epoch.
    pub reset_at: Option<Micros>,
    /// How long until one more unit is there; `None` for never, under `unlimited` and of a pattern.
    pub next: Option<Duration>,
    /// Until when its values last, if they end by themselves.
    pub lasting: Option<Lasting>,
    /// Whether it is beyond `max_keys`, so that these are the figures of the limit that all such keys share.
    pub overflow: bool,
    /// Of a limit of slots: which of them are held.
    pub slots: Option<SlotsInUse>,
    /// Of a pattern: live keys at most.
    pub max_keys: Option<u64>,
    /// Of a pattern: keys that live under it now.
    pub live: Option<u64>,
    /// What has happened since it was configured; to a key that lives under a pattern or request, since it lives.
    pub totals: Totals,
    /// When a check was last allowed, in microseconds since the epoch. Not told of patterns.
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
