//! Memory: what it is, and that it does not grow beyond its bound.

use super::events::{Event, process, settings, with_batch};
use crate::stream::{Coverage, EachEvent, KeyType, OnClose, Plan, Settings, StreamError, Window};

const DAY: i64 = 86_400_000_000;

/// Count and filtered count over seven days.
fn two_counts() -> Settings {
    let mut settings = settings();
    settings.sets.truncate(1);
    settings.sets[0].window = Window::Rolling { tile: DAY, tiles: 7, offset: 0 };
    settings.sets[0].aggregates.truncate(2);
    settings.allowed_lateness = DAY;
    settings
}

#[test]
fn a_million_keys_of_seven_days_of_two_counts_take_less_than_80_bytes_each() {
    for (key, limit) in [(KeyType::Bytes, 80), (KeyType::Id, 65)] {
        let mut settings = Settings { max_state_bytes: 1 << 30, ..two_counts() };
        settings.sets[0].key = usize::from(key == KeyType::Id);
        let plan = Plan::new(settings).unwrap();
        let mut state = EachEvent::new(&plan, 0, 0, Coverage::Everything);
        let mut out = plan.event_output();
        let mut most = 0;
        for part in 0..100i64 {
            let events: Vec<Event> = (part * 10_000..(part + 1) * 10_000)
                .map(|at| Event { id: at as u64, ..Event::at(at, at % (7 * DAY), &format!("{at:010}")) })
                .collect();
            out.clear();
            process(&mut state, &events, &mut out).unwrap();
            most = most.max(state.state_bytes() / state.keys() as u64);
        }
        assert_eq!(state.keys(), 1_000_000);
        let each = state.state_bytes() / 1_000_000;
        assert!(each < limit, "{key:?}: {each} bytes for each key");
        assert!(most <= *plan.bytes_per_key(usize::from(key == KeyType::Id), 10).start(), "{most}");
    }
}

#[test]
fn state_refuses_to_grow_and_goes_on_with_the_keys_that_it_has() {
    let plan = Plan::new(Settings { max_state_bytes: 50_000, ..two_counts() }).unwrap();
    let mut state = EachEvent::new(&plan, 0, 0, Coverage::Everything);
    let mut out = plan.event_output();
    let events: Vec<Event> = (0..10_000).map(|at| Event::at(at, at, &format!("key-{at}"))).collect();
    let refusal = process(&mut state, &events, &mut out).unwrap_err();
    assert!(matches!(refusal, StreamError::StateLimit { limit: 50_000, needed } if needed > 50_000), "{refusal}");
    assert!(state.state_bytes() <= 50_000 && state.keys() > 100);
    assert_eq!((out.len(), state.next_offset()), (state.keys(), state.keys() as i64), "those before it are in");
    // It fits again without the new key, and once the old ones are gone.
    let at = out.len() as i64;
    process(&mut state, &[Event::at(at, at, "key-7")], &mut out).unwrap();
    let refused = with_batch(0, &events, |batch| {
        state.process(batch, out.len(), &mut |_| Ok(Vec::new()), &mut plan.event_output())
    });
    assert!(matches!(refused, Err(StreamError::StateLimit { .. })));
    let later: Vec<Event> = (at + 1..at + 500).map(|offset| Event::at(offset, 30 * DAY, "key-7")).collect();
    process(&mut state, &later, &mut out).unwrap();
    process(&mut state, &[Event::at(at + 500, 30 * DAY, "new")], &mut out).unwrap();
    assert_eq!(state.keys(), 2);
}

/// Numbers that outgrow one byte, two and four make the rows beside them wider.
#[test]
fn rows_become_wider_where_they_must_and_as_narrow_again_when_they_are_restored() {
    let mut settings = Settings { max_state_bytes: 1 << 30, ..two_counts() };
    settings.sets[0].aggregates =
        super::events::all_aggregates().into_iter().filter(|one| one.argument == Some(0)).take(2).collect();
    let plan = Plan::new(settings).unwrap();
    let mut state = EachEvent::new(&plan, 0, 0, Coverage::Everything);
    let mut out = plan.event_output();
    let first: Vec<Event> =
        (0..6_400).map(|at| Event { double: Some(1.0), ..Event::at(at, at, &format!("{at:06}")) }).collect();
    process(&mut state, &first, &mut out).unwrap();
    let mut before = state.state_bytes();
    // The sum of one key of a hundred chunks.
    for (at, number) in [(6_400, 300.0), (6_401, 70_000.0), (6_402, 5e9)] {
        let event = Event { double: Some(number), ..Event::at(at, at, "000100") };
        process(&mut state, &[event], &mut out).unwrap();
        let grown = state.state_bytes() - before;
        assert!((64..40_000).contains(&grown), "{grown} bytes for {number}");
        before = state.state_bytes();
    }
    let zero = Event { double: Some(-70_000.0 - 300.0 - 5e9), ..Event::at(6_403, 6_403, "000100") };
    process(&mut state, &[zero], &mut out).unwrap();
    assert_eq!(state.state_bytes(), before);
    let restored = EachEvent::restore(&plan, &state.checkpoint()).unwrap();
    assert!(restored.state_bytes() < before, "{} of {before}", restored.state_bytes());
    let last = out.sets[0].columns[0].len() - 1;
    assert_eq!(out.sets[0].columns[0].get(last), crate::stream::Value::Double(1.0));
}

#[test]
fn a_number_that_would_widen_the_state_beyond_its_limit_is_refused_and_smaller_ones_go_on() {
    let mut settings = Settings { max_state_bytes: 30_000, ..two_counts() };
    settings.sets[0].aggregates = super::events::all_aggregates().into_iter().skip(3).take(1).collect();
    let plan = Plan::new(settings).unwrap();
    let mut state = EachEvent::new(&plan, 0, 0, Coverage::Everything);
    let mut out = plan.event_output();
    let one = |at: i64, name: &str, double: f64| Event { double: Some(double), ..Event::at(at, at, name) };
    let events: Vec<Event> = (0..10_000).map(|at| one(at, &format!("key-{at}"), 1.0)).collect();
    assert!(process(&mut state, &events, &mut out).is_err());
    let (keys, at) = (state.keys(), state.next_offset());
    // One after the other, each in another chunk.
    let wide: Vec<Event> = (0..keys as i64).map(|key| one(at + key, &format!("key-{key}"), 1e12)).collect();
    let refusal = process(&mut state, &wide, &mut out).unwrap_err();
    assert!(matches!(refusal, StreamError::StateLimit { limit: 30_000, .. }), "{refusal}");
    assert!(state.state_bytes() <= 30_000, "{}", state.state_bytes());
    let at = state.next_offset();
    process(&mut state, &[one(at, &format!("key-{}", keys - 1), 2.0)], &mut out).unwrap();
    assert_eq!((state.keys(), state.next_offset()), (keys, at + 1));
}

#[test]
fn sketches_and_byte_values_count_and_are_bounded() {
    let plan = Plan::new(Settings { max_state_bytes: 2 << 20, ..settings() }).unwrap();
    let mut state = EachEvent::new(&plan, 0, 0, Coverage::Everything);
    let mut windows = OnClose::new(&plan, 0, 0, Coverage::Everything).unwrap();
    let events: Vec<Event> = (0..100_000)
        .map(|at| Event {
            double: Some(at as f64),
            bytes: Some(vec![b'v'; (at % 1000) as usize]),
            ..Event::at(at, 5, &format!("key-{}", at % 500))
        })
        .collect();
    assert!(matches!(process(&mut state, &events, &mut plan.event_output()), Err(StreamError::StateLimit { .. })));
    assert!((1 << 20..2 << 20).contains(&state.state_bytes()), "{}", state.state_bytes());
    let refused = with_batch(0, &events, |batch| windows.process(batch, 0, &mut Vec::new()));
    assert!(matches!(refused, Err(StreamError::StateLimit { .. })));
    assert!(windows.state_bytes() <= 2 << 20, "{}", windows.state_bytes());
    // A state that does not fit is not restored either.
    let bytes = state.checkpoint();
    let smaller = Plan::new(Settings { max_state_bytes: 100_000, ..settings() }).unwrap();
    assert!(matches!(EachEvent::restore(&smaller, &bytes), Err(StreamError::StateLimit { limit: 100_000, .. })));
}

#[test]
fn all_memory_comes_back_when_windows_close() {
    let plan = Plan::new(settings()).unwrap();
    let mut windows = OnClose::new(&plan, 0, 0, Coverage::Everything).unwrap();
    let events: Vec<Event> = (0..5_000).map(|at| Event::at(at, at / 10, &format!("key-{}", at % 50))).collect();
    with_batch(0, &events, |batch| windows.process(batch, 0, &mut Vec::new())).unwrap();
    assert!(windows.state_bytes() > 1 << 20);
    crate::stream::close(&mut [&mut windows], 1_000, &mut plan.closed_output());
    assert_eq!((windows.state_bytes(), windows.windows()), (0, 0));
}
