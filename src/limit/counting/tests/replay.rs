//! A log of what happened, replayed: the same state, whatever the zone data say by then.

use super::*;
use crate::limit::calendar::Recorded;
use crate::limit::tests::limits;

#[derive(Debug, Clone)]
enum Event {
    Spent(u64, Micros, Vec<Micros>),
    Set(Limit, Micros, Vec<Micros>),
}

#[derive(Debug, Clone)]
enum Step {
    Look(Micros),
    Check(u64),
    Charge(u64),
    Set(usize),
    /// The state goes into a snapshot and comes back.
    Snapshot,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pause = prop_oneof![4 => pauses(), 1 => 0..DAY, 1 => (0..40u64).prop_map(|days| days * DAY)];
    let step = prop_oneof![
        6 => pause.prop_map(Step::Look),
        6 => (1..20u64).prop_map(Step::Check),
        1 => (1..100u64).prop_map(Step::Charge),
        4 => (0..6usize).prop_map(Step::Set),
        2 => Just(Step::Snapshot),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_replay_gives_the_state_that_was_there(
        values in prop::collection::vec(prop_oneof![limits(), small_limits()], 1..6),
        steps in steps(),
        shift in 0..DAY,
    ) {
        let mut live = Key::of(&values[0], 1_000_000 * SECOND);
        let mut events = Vec::new();
        let ends = || Plain { shift, noted: Vec::new() };
        for step in steps {
            match step {
                Step::Look(pause) => {
                    live.wait(pause);
                    live.standing.quote(&live.limit, live.now, 1, &mut ends());
                }
                Step::Check(cost) | Step::Charge(cost) => {
                    let allowed = live.standing.quote(&live.limit, live.now, cost, &mut ends()).allowed;
                    if allowed || matches!(step, Step::Charge(_)) {
                        let mut ends = ends();
                        live.standing.spend(&live.limit, live.now, cost, &mut ends);
                        events.push(Event::Spent(cost, live.now, ends.noted));
                    }
                }
                Step::Set(which) => {
                    let (mut ends, new) = (ends(), &values[which % values.len()]);
                    live.standing.reconfigure(&live.limit, new, live.now, &mut ends);
                    live.limit = new.clone();
                    events.push(Event::Set(new.clone(), live.now, ends.noted));
                }
                Step::Snapshot => {
                    live.standing = Standing::restore(&live.limit, &live.standing.parts());
                }
            }
        }
        let mut again = Key::of(&values[0], 1_000_000 * SECOND);
        for event in events {
            match event {
                Event::Spent(cost, at, ends) => {
                    again.at(at);
                    let mut ends = Recorded(ends.iter());
                    again.standing.spend(&again.limit, at, cost, &mut ends);
                    prop_assert_eq!(ends.0.len(), 0);
                }
                Event::Set(new, at, ends) => {
                    again.at(at);
                    let mut ends = Recorded(ends.iter());
                    again.standing.reconfigure(&again.limit, &new, at, &mut ends);
                    prop_assert_eq!(ends.0.len(), 0);
                    again.limit = new;
                }
            }
        }
        again.at(live.now);
        live.at(live.now);
        prop_assert_eq!(live, again);
    }
}
