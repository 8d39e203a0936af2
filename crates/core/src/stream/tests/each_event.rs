//! `each_event` is a fold in offset order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::events::{Event, batches, cuts, entered, process, settings, streams, with_batch};
use super::oracle::{aggregate, assert_cell, dispositions, same_key, windows};
use crate::stream::{Coverage, EachEvent, Function, LatePolicy, Part, Plan, Seed, Settings, Value, Window};

/// Numbers at the edges of what one, two and four bytes hold; sums of some
/// hundreds of them are exact.
const WIDTHS: &[f64] =
    &[0.0, 1.0, 254.0, 255.0, 256.0, 65_535.0, 65_536.0, 4_294_967_295.0, 4_294_967_296.0, -1.0, 0.5];

/// Compares every cell with the oracle's.
fn compare(settings: &Settings, events: &[Event], cuts: &[usize]) {
    let plan = Plan::new(settings.clone()).unwrap();
    let mut state = EachEvent::new(&plan, 3, 0, Coverage::From(100));
    let mut out = plan.event_output();
    for batch in batches(events, cuts) {
        process(&mut state, batch, &mut out).unwrap();
    }
    let expected = dispositions(settings, events);
    assert_eq!(out.dispositions, expected);
    for (row, event) in events.iter().enumerate() {
        for (set, out) in settings.sets.iter().zip(&out.sets) {
            if !expected[row].entered() {
                assert!(out.columns.iter().all(|column| column.get(row) == Value::Null));
                continue;
            }
            let (start, end) = windows(set.window, event.time)[0];
            let arrived = events[..=row].iter().zip(&expected).filter(|(_, disposition)| disposition.entered());
            let inside: Vec<&Event> = arrived
                .map(|(event, _)| event)
                .filter(|other| same_key(set.key, event, other) && (start..end).contains(&other.time))
                .collect();
            assert_eq!((out.window_ends[row], out.complete[row]), (end, start >= 100));
            for (wanted, column) in set.aggregates.iter().zip(&out.columns) {
                assert_cell(column, row, &aggregate(wanted, &inside), &(&set.name, wanted, row, event));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn every_event_has_the_values_of_a_naive_fold_whatever_the_batches(events in streams(250), cuts in cuts()) {
        compare(&settings(), &events, &cuts);
    }

    #[test]
    fn late_events_enter_the_window_of_their_own_day_up_to_the_grace(events in streams(250), cuts in cuts()) {
        compare(&Settings { late: LatePolicy::IntoWindow { grace: 33 }, ..settings() }, &events, &cuts);
    }

    #[test]
    fn without_lateness_the_ring_is_exactly_one_window(events in streams(250), cuts in cuts()) {
        compare(&Settings { allowed_lateness: 0, ..settings() }, &events, &cuts);
    }

    #[test]
    fn numbers_of_every_width_have_the_values_of_a_naive_fold(
        mut events in streams(250),
        numbers in proptest::collection::vec(proptest::sample::select(WIDTHS), 250),
        cuts in cuts(),
    ) {
        for (event, number) in events.iter_mut().zip(numbers) {
            (event.double, event.long) = (Some(number), Some(number as i64));
        }
        compare(&settings(), &events, &cuts);
    }

    #[test]
    fn sums_of_any_doubles_are_the_same_bit_for_bit_whatever_the_batches(
        mut events in streams(200),
        doubles in proptest::collection::vec(any::<f64>(), 200),
        cuts in cuts(),
    ) {
        for (event, double) in events.iter_mut().zip(doubles) {
            event.double = Some(double);
        }
        let plan = Plan::new(settings()).unwrap();
        let run = |cuts: &[usize]| {
            let mut state = EachEvent::new(&plan, 0, 0, Coverage::Everything);
            let mut out = plan.event_output();
            for batch in batches(&events, cuts) {
                process(&mut state, batch, &mut out).unwrap();
            }
            (format!("{out:?}"), state.state_bytes(), state.keys())
        };
        prop_assert_eq!(run(&[]), run(&cuts));
    }
}

/// The sum of the doubles of a rolling window, in the order that is defined: of
/// each tile in the order of offsets, then of the tiles from old to new.
fn ordered_sum(settings: &Settings, inside: &[&Event]) -> Option<f64> {
    let Window::Rolling { tile, .. } = settings.sets[0].window else { panic!("the first window is rolling") };
    let mut tiles: BTreeMap<i64, f64> = BTreeMap::new();
    for event in inside {
        if let Some(double) = event.double {
            *tiles.entry(event.time.div_euclid(tile)).or_insert(0.0) += double;
        }
    }
    (!tiles.is_empty()).then(|| tiles.values().fold(0.0, |sum, tile| sum + tile))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn sums_of_any_doubles_are_those_of_the_defined_order_bit_for_bit(
        mut events in streams(200),
        doubles in proptest::collection::vec(any::<f64>(), 200),
        cuts in cuts(),
    ) {
        for (event, double) in events.iter_mut().zip(doubles) {
            event.double = event.double.map(|_| double);
        }
        let settings = settings();
        let plan = Plan::new(settings.clone()).unwrap();
        let set = &settings.sets[0];
        let of = |function| set.aggregates.iter().position(|a| a.function == function && a.argument == Some(0)).unwrap();
        let sums = set.aggregates.iter().position(|a| (a.function, a.argument, a.filter) == (Function::Sum, Some(0), None));
        let (sums, averages) = (sums.unwrap(), of(Function::Avg));
        let mut state = EachEvent::new(&plan, 0, 0, Coverage::Everything);
        let mut out = plan.event_output();
        for batch in batches(&events, &cuts) {
            process(&mut state, batch, &mut out).unwrap();
        }
        let expected = dispositions(&settings, &events);
        for (row, event) in events.iter().enumerate().filter(|(row, _)| expected[*row].entered()) {
            let (start, end) = windows(set.window, event.time)[0];
            let inside: Vec<&Event> = events[..=row]
                .iter()
                .zip(&expected)
                .filter(|(other, disposition)| disposition.entered() && same_key(set.key, event, other))
                .map(|(other, _)| other)
                .filter(|other| (start..end).contains(&other.time))
                .collect();
            let count = inside.iter().filter(|event| event.double.is_some()).count();
            let bits = |value: Value<'_>| match value {
                // All that are not numbers are one.
                Value::Double(value) if value.is_nan() => Some(f64::NAN.to_bits()),
                Value::Double(value) => Some(value.to_bits()),
                _ => None,
            };
            let wanted = ordered_sum(&settings, &inside);
            let of = |value: Option<f64>| value.and_then(|value| bits(Value::Double(value)));
            prop_assert_eq!(bits(out.sets[0].columns[sums].get(row)), of(wanted), "sum, row {}", row);
            let average = wanted.map(|sum| sum / count as f64);
            prop_assert_eq!(bits(out.sets[0].columns[averages].get(row)), of(average), "average, row {}", row);
        }
    }
}

#[test]
fn a_late_event_changes_the_windows_of_later_events_on_later_days() {
    let plan = Plan::new(Settings { allowed_lateness: 100, ..settings() }).unwrap();
    let mut state = EachEvent::new(&plan, 0, 0, Coverage::Everything);
    let mut out = plan.event_output();
    let times = [35, 8, 36, 75, 78, 90];
    let events: Vec<Event> = times.iter().enumerate().map(|(at, time)| Event::at(at as i64, *time, "a")).collect();
    process(&mut state, &events, &mut out).unwrap();
    let counts: Vec<Value<'_>> = (0..6).map(|row| out.sets[0].columns[0].get(row)).collect();
    // Day 3; day 0 sees itself only; day 3 sees day 0 too; day 7 is days 1 to 7.
    assert_eq!(counts, [1, 1, 3, 3, 4, 5].map(Value::Long));
}

#[test]
fn an_event_of_the_future_moves_nothing() {
    let plan = Plan::new(settings()).unwrap();
    let mut state = EachEvent::new(&plan, 0, 0, Coverage::Everything);
    let mut out = plan.event_output();
    let mut events = vec![Event::at(0, 100, "a"), Event::at(1, 5_000, "a"), Event::at(2, 101, "a")];
    events[1].arrival = 3_999;
    events.push(Event { time: i64::MAX, arrival: i64::MAX, ..Event::at(3, 0, "a") });
    events.push(Event { time: i64::MIN, ..Event::at(4, 0, "a") });
    process(&mut state, &events, &mut out).unwrap();
    assert_eq!(format!("{:?}", out.dispositions), "[OnTime, Future, OnTime, Unreadable, Unreadable]");
    assert_eq!((state.watermark(), state.next_offset()), (Some(101 - 15), 5));
}

#[test]
fn keys_that_no_window_can_need_are_removed_and_the_others_stay() {
    let plan = Plan::new(settings()).unwrap();
    let mut state = EachEvent::new(&plan, 0, 0, Coverage::Everything);
    let mut out = plan.event_output();
    let old: Vec<Event> = (0..1000).map(|at| Event::at(at, 50, &format!("old-{at}"))).collect();
    process(&mut state, &old, &mut out).unwrap();
    let full = state.state_bytes();
    assert!(state.keys() > 1000);
    let new: Vec<Event> = (1000..3000).map(|at| Event::at(at, 500, &format!("n{}", at % 7))).collect();
    process(&mut state, &new, &mut out).unwrap();
    assert_eq!(state.keys(), 7 + 1, "seven names and one id");
    assert!(state.state_bytes() < full / 5, "{} of {full}", state.state_bytes());
    assert_eq!(entered(&out.dispositions), 3000);
}

#[test]
fn a_seed_fills_the_days_before_the_stream_and_makes_the_window_complete() {
    let count_only = |settings: &mut Settings| {
        settings.sets.truncate(1);
        settings.sets[0].aggregates.truncate(1);
    };
    let mut settings = settings();
    count_only(&mut settings);
    let plan = Plan::new(settings).unwrap();
    let mut state = EachEvent::new(&plan, 0, 0, Coverage::From(100));
    let mut out = plan.event_output();
    let events: Vec<Event> = [("a", 101), ("b", 102), ("a", 125), ("b", 165), ("a", 168), ("a", 170)]
        .iter()
        .enumerate()
        .map(|(at, (name, time))| Event::at(at as i64, *time, name))
        .collect();
    let mut asked = Vec::new();
    with_batch(0, &events, |batch| {
        let mut seeds = |new: crate::stream::NewKey<'_>| {
            asked.push(new.key.to_string());
            let days = Part::spread_count(10, 7).into_iter().enumerate();
            let seed = Seed { set: 0, tiles: days.map(|(day, part)| (35 + 10 * day as i64, vec![part])).collect() };
            Ok(if asked.len() == 1 { vec![seed] } else { Vec::new() })
        };
        state.process(batch, 0, &mut seeds, &mut out).unwrap();
    });
    assert_eq!(asked, ["a", "b"], "each key is asked for once");
    let counts: Vec<Value<'_>> = (0..6).map(|row| out.sets[0].columns[0].get(row)).collect();
    // Days 3 to 9 hold 1 1 1 1 2 2 2: day 10 sees 4 to 9, day 12 sees 6 to 9.
    assert_eq!(counts, [10, 1, 9, 2, 3, 3].map(Value::Long));
    assert_eq!(out.sets[0].complete, [true, false, true, true, true, true]);
}
