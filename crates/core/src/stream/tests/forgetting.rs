//! Who is forgotten is in no state, and everybody else's windows go on.

use proptest::prelude::*;

use super::events::{Event, process, settings, streams, with_batch};
use crate::stream::{ClosedRows, Coverage, EachEvent, Key, OnClose, Plan, Value, close};

fn is(name: &str) -> impl Fn(usize, Key<'_>) -> bool + '_ {
    move |kind, key| kind == 0 && matches!(key, Key::Bytes(bytes) if bytes == name.as_bytes())
}

/// Some events, whose name is forgotten after them, and events of others.
fn split(events: &[Event], at: usize) -> (&[Event], &str, Vec<Event>) {
    let (before, after) = events.split_at(at.min(events.len()));
    let gone = before.last().map_or("", |event| event.name.as_str());
    (before, gone, after.iter().filter(|event| event.name != gone).cloned().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn the_rows_of_others_are_those_of_a_state_that_forgot_nothing(events in streams(200), at in 1..200usize) {
        let plan = Plan::new(settings()).unwrap();
        let (before, gone, after) = split(&events, at);
        let mut state = EachEvent::new(&plan, 1, 0, Coverage::FirstEvent);
        process(&mut state, before, &mut plan.event_output()).unwrap();
        let mut forgetful = EachEvent::restore(&plan, &state.checkpoint()).unwrap();
        let had = forgetful.has_key(0, Key::Bytes(gone.as_bytes()));
        prop_assert_eq!(forgetful.forget(&is(gone)), usize::from(had));
        prop_assert!(forgetful.increment().is_err(), "an increment would not say who is gone");
        let mut forgetful = EachEvent::restore(&plan, &forgetful.checkpoint()).unwrap();
        prop_assert!(!forgetful.has_key(0, Key::Bytes(gone.as_bytes())));
        let (mut rows, mut wanted) = (plan.event_output(), plan.event_output());
        process(&mut forgetful, &after, &mut rows).unwrap();
        process(&mut state, &after, &mut wanted).unwrap();
        prop_assert_eq!(format!("{rows:?}"), format!("{wanted:?}"));
    }

    #[test]
    fn closed_windows_have_everybody_else(events in streams(200), at in 1..200usize) {
        let plan = Plan::new(settings()).unwrap();
        let (before, gone, after) = split(&events, at);
        let mut state = OnClose::new(&plan, 1, 0, Coverage::FirstEvent).unwrap();
        with_batch(1, before, |batch| state.process(batch, 0, &mut Vec::new())).unwrap();
        let mut forgetful = OnClose::restore(&plan, &state.checkpoint()).unwrap();
        forgetful.forget(&is(gone));
        let mut forgetful = OnClose::restore(&plan, &forgetful.checkpoint()).unwrap();
        prop_assert_eq!(forgetful.forget(&is(gone)), 0);
        let (mut rows, mut wanted) = (plan.closed_output(), plan.closed_output());
        for (state, rows) in [(&mut forgetful, &mut rows), (&mut state, &mut wanted)] {
            with_batch(1, &after, |batch| state.process(batch, 0, &mut Vec::new())).unwrap();
            close(&mut [state], i64::MAX - 1, rows);
        }
        let shown = |rows: &ClosedRows| -> Vec<String> {
            let others = (0..rows.len()).filter(|row| rows.keys.get(*row) != Value::Bytes(gone.as_bytes()));
            let shown = |row: usize| {
                let values: Vec<_> = rows.columns.iter().map(|column| column.get(row)).collect();
                format!("{:?} {} {} {values:?}", rows.keys.get(row), rows.window_ends[row], rows.complete[row])
            };
            others.map(shown).collect()
        };
        for (rows, wanted) in rows.iter().zip(&wanted) {
            prop_assert!((0..rows.len()).all(|row| rows.keys.get(row) != Value::Bytes(gone.as_bytes())));
            prop_assert_eq!(shown(rows), shown(wanted));
        }
    }
}
