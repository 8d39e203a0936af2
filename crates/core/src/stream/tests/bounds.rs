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
fn a_million_keys_of_seven_days_of_two_counts_stay_below_250_bytes_each() {
    for (key, limit) in [(KeyType::Bytes, 200), (KeyType::Id, 180)] {
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
        assert!(most <= plan.bytes_per_key(usize::from(key == KeyType::Id), 10), "{most}");
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
