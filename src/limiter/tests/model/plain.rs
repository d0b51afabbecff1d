//! The model: each key that was ever seen, and the rules as the contract has them.
//!
//! Time goes on by itself here as there: what is due is found at a look, and made by what spends or changes. Only the
//! arithmetic of [`Standing`] is the limiter's own.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::clock::Micros;
use crate::limit::{Limit, Live, Mode, Quote, Standing};

/// Values that end by themselves.
type Over = Option<(Limit, Micros)>;

/// Where the limit of a key comes from; a pattern by its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Home {
    Exact,
    Pattern(String),
    Request,
}

#[derive(Debug, Clone)]
pub struct Kept {
    pub home: Home,
    /// Its own values.
    pub limit: Limit,
    /// What lies over these.
    pub over: Over,
    pub standing: Standing,
    /// Last spend or reset.
    pub last: Micros,
}

#[derive(Debug, Clone)]
pub struct Pattern {
    pub limit: Limit,
    pub over: Over,
    /// When its values were changed last.
    pub since: Micros,
}

/// What is reported of a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    pub limit: Limit,
    pub windows: Vec<Quote>,
    pub lasting: Lasting,
}

/// When values end, and what is configured to come back.
pub type Lasting = Option<(Micros, Option<Limit>)>;

/// What is decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    pub allowed: bool,
    pub would_deny: Option<bool>,
    pub limit: Limit,
    pub windows: Vec<Quote>,
    pub pattern: Option<String>,
}

/// Why nothing is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    NotConfigured,
    TooMuch,
}

#[derive(Debug, Clone, Default)]
pub struct Model {
    pub keys: BTreeMap<String, Kept>,
    pub patterns: BTreeMap<String, Pattern>,
}

/// Whether each `*` of a pattern can stand for one or more characters of the key.
pub fn matches(pattern: &[char], key: &[char]) -> bool {
    match pattern.split_first() {
        None => key.is_empty(),
        Some(('*', rest)) => (1..=key.len()).any(|taken| matches(rest, &key[taken..])),
        Some((char, rest)) => key.first() == Some(char) && matches(rest, &key[1..]),
    }
}

/// The greater one of two patterns serves a key that both match.
pub fn rank(pattern: &str) -> (Option<usize>, usize, Reverse<String>) {
    let literal = pattern.chars().filter(|char| *char != '*').count();
    (pattern.find('*'), literal, Reverse(pattern.to_owned()))
}

impl Pattern {
    fn covered(&self, now: Micros) -> bool {
        self.over.as_ref().is_some_and(|(_, until)| *until > now)
    }

    /// When its values end, and what comes then.
    pub fn lasting(&self, now: Micros) -> Lasting {
        let over = self.over.as_ref().filter(|(_, until)| *until > now);
        over.map(|(_, until)| (*until, Some(self.limit.clone())))
    }

    /// Its values at `now`, and since when they hold.
    pub fn in_force(&self, now: Micros) -> (&Limit, Micros) {
        match &self.over {
            Some((limit, until)) if *until > now => (limit, self.since),
            Some((_, until)) => (&self.limit, self.since.max(*until)),
            None => (&self.limit, self.since),
        }
    }
}

impl Kept {
    pub fn new(home: Home, limit: Limit) -> Kept {
        Kept { home, standing: Standing::new(&limit), limit, over: None, last: 0 }
    }

    fn covered(&self, now: Micros) -> bool {
        self.over.as_ref().is_some_and(|(_, until)| *until > now)
    }

    /// The values under which it counts.
    fn in_force(&self) -> &Limit {
        self.over.as_ref().map_or(&self.limit, |(limit, _)| limit)
    }

    /// Decides without a spend; what becomes of it by the spend, if it is one.
    pub fn decide(mut self, cost: u64, now: Micros) -> Result<(Decided, Option<Kept>), Refused> {
        let limit = self.in_force().clone();
        if limit.windows().iter().any(|window| window.rate() > 0 && cost > window.capacity()) {
            return Err(Refused::TooMuch);
        }
        self.standing.advance(&limit, now);
        let verdict = self.standing.quote(&limit, now, cost, &mut Live::default());
        let shadow = limit.mode() == Mode::Shadow;
        let pattern = match &self.home {
            Home::Pattern(text) if self.over.is_none() => Some(text.clone()),
            _ => None,
        };
        let decided = Decided {
            allowed: verdict.allowed || shadow,
            would_deny: shadow.then_some(!verdict.allowed),
            windows: verdict.windows.as_slice().to_vec(),
            limit: limit.clone(),
            pattern,
        };
        if !verdict.allowed {
            return Ok((decided, None));
        }
        self.standing.spend(&limit, now, cost, &mut Live::default());
        self.last = now;
        Ok((decided, Some(self)))
    }

    /// New values for what it counts.
    fn reconfigure(&mut self, limit: &Limit, at: Micros) {
        let old = self.in_force().clone();
        self.standing.reconfigure(&old, limit, at, &mut Live::default());
    }

    /// Lets what lay over it end, if that is over.
    fn lift(&mut self, to: &Limit, now: Micros) {
        if let Some((_, until)) = self.over.clone().filter(|(_, until)| *until <= now) {
            self.reconfigure(to, until);
            self.over = None;
            self.limit = to.clone();
        }
    }

    /// Its own values become these, with what they come from.
    pub fn become_of(&mut self, home: Home, limit: &Limit, at: Micros) {
        if self.over.is_none() {
            self.reconfigure(limit, at);
        }
        (self.home, self.limit) = (home, limit.clone());
    }

    pub fn untouched(&self, now: Micros) -> bool {
        let mut standing = self.standing.clone();
        standing.advance(self.in_force(), now);
        !self.covered(now) && standing.is_untouched(self.in_force(), now)
    }
}

impl Model {
    /// The pattern that serves a key.
    pub fn pattern_of(&self, key: &str) -> Option<(&String, &Pattern)> {
        let key: Vec<char> = key.chars().collect();
        let serves = |text: &String| matches(&text.chars().collect::<Vec<_>>(), &key);
        self.patterns.iter().filter(|(text, _)| serves(text)).max_by_key(|(text, _)| rank(text))
    }

    /// The key after all that is due at `now`, for a look that brings such values.
    fn after_due(&self, key: &str, brought: Option<&Limit>, now: Micros) -> Option<Kept> {
        let mut kept = self.keys.get(key)?.clone();
        if kept.home == Home::Exact {
            let own = kept.limit.clone();
            kept.lift(&own, now);
            return Some(kept);
        }
        if let Some((text, pattern)) = self.pattern_of(key) {
            let (limit, since) = pattern.in_force(now);
            let home = Home::Pattern(text.clone());
            match kept.over.as_ref().filter(|(_, until)| *until <= now).map(|(_, until)| *until) {
                // What comes back are the values of then, if they are still there.
                Some(until) if since <= until || (kept.home == home && kept.limit == *limit) => {
                    kept.lift(limit, now);
                    kept.home = home;
                }
                ended => {
                    let own = kept.limit.clone();
                    kept.lift(&own, now);
                    if kept.home != home || kept.limit != *limit {
                        let at = if ended.is_some() { since } else { since.max(kept.last) };
                        kept.become_of(home, limit, at);
                    }
                }
            }
            return Some(kept);
        }
        let own = kept.limit.clone();
        kept.lift(&own, now);
        if let Some(brought) = brought.filter(|brought| kept.over.is_none() && kept.limit != **brought) {
            kept.become_of(Home::Request, brought, now);
        }
        Some(kept)
    }

    /// As [`Model::after_due`]; a key that was never seen is like a key of which nothing counts any more.
    fn served(&self, key: &str, brought: Option<&Limit>, now: Micros) -> Result<Kept, Refused> {
        match self.after_due(key, brought, now) {
            Some(kept) if kept.home == Home::Request && kept.over.is_none() && brought.is_none() => {
                Err(Refused::NotConfigured)
            }
            Some(kept) => Ok(kept),
            None => match (self.pattern_of(key), brought) {
                (Some((text, pattern)), _) => {
                    Ok(Kept::new(Home::Pattern(text.clone()), pattern.in_force(now).0.clone()))
                }
                (None, Some(brought)) => Ok(Kept::new(Home::Request, brought.clone())),
                (None, None) => Err(Refused::NotConfigured),
            },
        }
    }

    /// Decides on a key without a spend; the key as it is after the spend, if it is one.
    pub fn decide(
        &self,
        key: &str,
        cost: u64,
        brought: Option<&Limit>,
        now: Micros,
    ) -> Result<(Decided, Option<Kept>), Refused> {
        let kept = self.served(key, brought, now)?;
        // Under `unlimited` nothing is stored of a key of which nothing counts.
        let unseen = self.keys.get(key).is_none_or(|kept| kept.home != Home::Exact && kept.untouched(now));
        let (decided, spent) = kept.decide(cost, now)?;
        Ok((decided, spent.filter(|kept| !(kept.in_force().is_unlimited() && unseen))))
    }

    pub fn check(&mut self, key: &str, cost: u64, brought: Option<&Limit>, now: Micros) -> Result<Decided, Refused> {
        let (decided, spent) = self.decide(key, cost, brought, now)?;
        self.keys.extend(spent.map(|kept| (key.to_owned(), kept)));
        Ok(decided)
    }

    /// Several keys, all or none. With a denial, the decisions up to it.
    pub fn check_all(
        &mut self,
        items: &[(&str, u64, Option<&Limit>)],
        now: Micros,
    ) -> Result<(bool, Vec<Decided>), Refused> {
        let all: Vec<_> = items
            .iter()
            .map(|(key, cost, brought)| self.decide(key, *cost, *brought, now))
            .collect::<Result<_, _>>()?;
        if let Some(denied) = all.iter().position(|(decided, _)| !decided.allowed) {
            return Ok((false, all.into_iter().take(denied + 1).map(|(decided, _)| decided).collect()));
        }
        let mut results = Vec::new();
        for ((key, ..), (decided, spent)) in items.iter().zip(all) {
            self.keys.extend(spent.map(|kept| ((*key).to_owned(), kept)));
            results.push(decided);
        }
        Ok((true, results))
    }

    /// Whether an operator's limit holds for this key.
    pub fn is_configured(&self, key: &str, now: Micros) -> bool {
        match key.contains('*') {
            true => self.patterns.contains_key(key),
            false => self.keys.get(key).is_some_and(|kept| kept.home == Home::Exact || kept.covered(now)),
        }
    }

    /// Whether it would be new; `Err` for values of a pattern that end, where none would come back.
    pub fn configure(&mut self, key: &str, limit: &Limit, until: Option<Micros>, now: Micros) -> Result<bool, ()> {
        let created = !self.is_configured(key, now);
        if key.contains('*') {
            return self.configure_pattern(key, limit, until, now).map(|()| created);
        }
        let seen = self.keys.get(key).is_some_and(|kept| kept.home == Home::Exact);
        if until.is_none() && seen && self.keys[key].limit == *limit {
            return Ok(false);
        }
        // A key of which nothing counts any more is like a key that was never seen.
        let due = self.after_due(key, None, now).filter(|kept| kept.home == Home::Exact || !kept.untouched(now));
        let mut kept = match due {
            Some(kept) => kept,
            None => match (until, self.pattern_of(key)) {
                (None, _) => Kept::new(Home::Exact, limit.clone()),
                (Some(_), Some((text, pattern))) => {
                    Kept::new(Home::Pattern(text.clone()), pattern.in_force(now).0.clone())
                }
                (Some(_), None) => Kept::new(Home::Request, limit.clone()),
            },
        };
        match until {
            Some(until) => {
                kept.reconfigure(limit, now);
                kept.over = Some((limit.clone(), until));
            }
            None => kept.become_of(Home::Exact, limit, now),
        }
        self.keys.insert(key.to_owned(), kept);
        Ok(created)
    }

    fn configure_pattern(&mut self, text: &str, limit: &Limit, until: Option<Micros>, now: Micros) -> Result<(), ()> {
        match (self.patterns.get_mut(text), until) {
            (None, Some(_)) => return Err(()),
            (None, None) => {
                let pattern = Pattern { limit: limit.clone(), over: None, since: now };
                self.patterns.insert(text.to_owned(), pattern);
            }
            (Some(pattern), Some(until)) => {
                pattern.over = Some((limit.clone(), until));
                pattern.since = now;
            }
            (Some(pattern), None) if pattern.limit == *limit => {}
            (Some(pattern), None) => {
                if !pattern.covered(now) {
                    (pattern.over, pattern.since) = (None, now);
                }
                pattern.limit = limit.clone();
            }
        }
        Ok(())
    }

    /// Whether there was something to remove.
    pub fn remove(&mut self, key: &str, now: Micros) -> bool {
        if !self.is_configured(key, now) {
            return false;
        }
        if key.contains('*') {
            let served = |name: &&String| self.pattern_of(name).is_some_and(|(text, _)| text == key);
            let served: Vec<String> = self.keys.keys().filter(served).cloned().collect();
            self.patterns.remove(key);
            self.lead_away(&Home::Pattern(key.to_owned()), &served, now);
            return true;
        }
        let Some(mut kept) = self.after_due(key, None, now) else { return false };
        let next = match (self.pattern_of(key), &kept.home) {
            (Some((text, pattern)), _) => Some((Home::Pattern(text.clone()), pattern.in_force(now).0.clone())),
            (None, Home::Request) => Some((Home::Request, kept.limit.clone())),
            (None, _) => None,
        };
        match next {
            Some((home, limit)) => {
                kept.reconfigure(&limit, now);
                (kept.over, kept.home, kept.limit) = (None, home, limit);
                self.keys.insert(key.to_owned(), kept);
            }
            None => drop(self.keys.remove(key)),
        }
        true
    }

    /// Leads the keys of a pattern that was removed to others, or removes them. Those that it served and that had not
    /// moved to it yet are led away too, where another one serves them now.
    fn lead_away(&mut self, gone: &Home, served: &[String], now: Micros) {
        let of_pattern = |(key, kept): &(&String, &Kept)| kept.home == *gone || served.contains(key);
        let keys: Vec<String> = self.keys.iter().filter(of_pattern).map(|(key, _)| key.clone()).collect();
        for key in keys {
            let mut kept = self.keys[&key].clone();
            let own = kept.limit.clone();
            match self.pattern_of(&key) {
                _ if kept.home == Home::Exact => continue,
                Some((text, pattern)) => {
                    let (home, limit) = (Home::Pattern(text.clone()), pattern.in_force(now).0.clone());
                    kept.lift(&own, now);
                    kept.become_of(home, &limit, now);
                }
                None if kept.home != *gone => continue,
                None if kept.covered(now) => kept.home = Home::Request,
                None => {
                    self.keys.remove(&key);
                    continue;
                }
            }
            self.keys.insert(key, kept);
        }
    }

    /// Resets one key that is there.
    pub fn reset_key(&mut self, key: &str, now: Micros) {
        // A key that could have vanished meanwhile has nothing to reset, and no instant of a reset.
        if !self.is_gone(key, now) {
            self.keys.get_mut(key).into_iter().for_each(|kept| kept.reset(now));
        }
    }

    /// Whether there was a limit.
    pub fn reset(&mut self, key: &str, now: Micros) -> bool {
        if key.contains('*') && self.patterns.contains_key(key) {
            let keys: Vec<String> = self.keys.keys().cloned().collect();
            for name in keys {
                let served = self.pattern_of(&name).is_some_and(|(text, _)| text == key);
                if served && self.keys[&name].home != Home::Exact {
                    self.reset_key(&name, now);
                }
            }
            return true;
        }
        let served = self.look(key, now).is_some();
        self.reset_key(key, now);
        served
    }

    /// The state of the key; `None` if no limit would serve it.
    pub fn look(&self, key: &str, now: Micros) -> Option<Look> {
        let mut kept = match self.after_due(key, None, now) {
            Some(kept) if kept.home != Home::Request || !kept.untouched(now) => kept,
            _ => self.served_unseen(key, now)?,
        };
        let limit = kept.in_force().clone();
        kept.standing.advance(&limit, now);
        let verdict = kept.standing.glance(&limit, now, &mut Live::default());
        let lasting = match (&kept.over, &kept.home) {
            (Some((_, until)), home) => Some((*until, (*home == Home::Exact).then(|| kept.limit.clone()))),
            (None, Home::Pattern(text)) => self.patterns[text].lasting(now),
            (None, _) => None,
        };
        Some(Look { limit, windows: verdict.windows.as_slice().to_vec(), lasting })
    }

    fn served_unseen(&self, key: &str, now: Micros) -> Option<Kept> {
        let (text, pattern) = self.pattern_of(key)?;
        Some(Kept::new(Home::Pattern(text.clone()), pattern.in_force(now).0.clone()))
    }

    /// Whether it is as if the key had never been seen.
    pub fn is_gone(&self, key: &str, now: Micros) -> bool {
        self.keys.get(key).is_none_or(|kept| kept.home != Home::Exact && kept.untouched(now))
            && !self.is_listed(key, now)
    }

    /// Whether a list with live keys shows this one.
    pub fn is_listed(&self, key: &str, now: Micros) -> bool {
        self.after_due(key, None, now).is_some_and(|kept| kept.home == Home::Exact || !kept.untouched(now))
    }
}

impl Kept {
    pub fn reset(&mut self, now: Micros) {
        if !self.covered(now) {
            self.over = None;
        }
        self.standing = Standing::new(self.in_force());
        self.last = now;
    }
}
