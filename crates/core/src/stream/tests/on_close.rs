//! `on_close` against sort-everything, and against Spark's micro-batches.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::events::{Event, batches, cuts, settings, streams, with_batch};
use super::oracle::{Expected, aggregate, assert_cell, windows};
use crate::stream::{ClosedRows, Coverage, Disposition, OnClose, Plan, Settings, Value, close};

/// (set, window end, key) to the events of the window, partition by partition.
type Windows<'a> = BTreeMap<(usize, i64, String), Vec<&'a Event>>;

fn key_of(key: usize, event: &Event) -> String {
    if key == 0 { event.name.clone() } else { event.id.to_string() }
}

fn process(state: &mut OnClose, events: &[Event], out: &mut Vec<Disposition>) {
    with_batch(state.partition(), events, |batch| state.process(batch, 0, out)).unwrap();
}

/// Adds an event to its windows that end after `shut`; gives how many took it.
fn put<'a>(all: &mut Windows<'a>, settings: &Settings, event: &'a Event, shut: i64) -> usize {
    let mut taken = 0;
    for (index, set) in settings.sets.iter().enumerate() {
        for (_, end) in windows(set.window, event.time).into_iter().filter(|(_, end)| *end > shut) {
            all.entry((index, end, key_of(set.key, event))).or_default().push(event);
            taken += 1;
        }
    }
    taken
}

/// Rows in the order that one `close` gives them.
fn compare(settings: &Settings, expected: &Windows<'_>, rows: &[ClosedRows]) {
    for (index, (set, rows)) in settings.sets.iter().zip(rows).enumerate() {
        let of_set: Vec<_> = expected.iter().filter(|((at, ..), _)| *at == index).collect();
        assert_eq!(rows.len(), of_set.len(), "{}", set.name);
        for (row, ((_, end, key), events)) in of_set.into_iter().enumerate() {
            let found = match rows.keys.get(row) {
                Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                Value::Long(id) => id.to_string(),
                other => panic!("{other:?}"),
            };
            assert_eq!((rows.window_ends[row], &found), (*end, key));
            for (wanted, column) in set.aggregates.iter().zip(&rows.columns) {
                assert_cell(column, row, &aggregate(wanted, events), &(&set.name, wanted, end, key));
            }
        }
    }
}

/// Drops the events of the future, which Spark has no word for.
fn without_future(events: Vec<Event>) -> Vec<Event> {
    events.into_iter().filter(|event| event.time <= event.arrival + 1_000).collect()
}

/// Times raised so that none is more than the lateness behind the newest.
fn within_lateness(events: Vec<Event>, lateness: i64) -> Vec<Event> {
    let mut newest = i64::MIN;
    let mut events = without_future(events);
    for event in &mut events {
        event.time = event.time.max(newest.saturating_sub(lateness));
        newest = newest.max(event.time);
    }
    events
}

/// Spark 3.5, append mode: batch `n` drops an event for a window that ended at
/// or before the watermark of batch `n - 1`, and emits at its end the windows
/// that ended at or before the watermark of batch `n`, which comes from the
/// batches before `n`. After the last batch one without data follows.
fn spark<'a>(settings: &Settings, batches: &[&'a [Event]]) -> Windows<'a> {
    let (mut state, mut emitted) = (Windows::new(), Windows::new());
    let (mut newest, mut late_before) = (i64::MIN, i64::MIN);
    for batch in batches.iter().copied().chain([&[][..], &[][..]]) {
        let watermark = newest.saturating_sub(settings.allowed_lateness);
        for event in batch {
            put(&mut state, settings, event, late_before);
        }
        let (gone, kept): (Windows<'_>, Windows<'_>) =
            state.into_iter().partition(|((_, end, _), _)| *end <= watermark);
        state = kept;
        for (key, events) in gone {
            assert!(emitted.insert(key, events).is_none(), "append mode emits a window once");
        }
        newest = batch.iter().map(|event| event.time).fold(newest, i64::max);
        late_before = watermark;
    }
    emitted
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn within_the_lateness_all_events_are_in_and_spark_emits_the_same_rows(
        events in streams(250), ours in cuts(), theirs in cuts(),
    ) {
        let settings = settings();
        let events = within_lateness(events, settings.allowed_lateness);
        let plan = Plan::new(settings.clone()).unwrap();
        let mut state = OnClose::new(&plan, 0, 0, Coverage::Everything).unwrap();
        let mut dispositions = Vec::new();
        for batch in batches(&events, &ours) {
            process(&mut state, batch, &mut dispositions);
        }
        prop_assert!(dispositions.iter().all(|disposition| *disposition == Disposition::OnTime));
        let mut rows = plan.closed_output();
        if let Some(watermark) = state.watermark() {
            close(&mut [&mut state], watermark, &mut rows);
        }
        let mut sorted = Windows::new();
        for event in &events {
            put(&mut sorted, &settings, event, i64::MIN);
        }
        let newest = events.iter().map(|event| event.time).fold(i64::MIN, i64::max);
        sorted.retain(|(_, end, _), _| *end <= newest.saturating_sub(settings.allowed_lateness));
        compare(&settings, &sorted, &rows);
        prop_assert_eq!(spark(&settings, &batches(&events, &theirs)), sorted);
    }

    #[test]
    fn an_event_is_late_for_the_windows_that_its_own_partition_has_passed(
        events in streams(250), first in cuts(), second in cuts(), partitions in 1..4u32,
    ) {
        let settings = settings();
        let plan = Plan::new(settings.clone()).unwrap();
        let part = |number: u32| -> Vec<Event> {
            let of_part = |event: &&Event| event.offset.rem_euclid(i64::from(partitions)) == i64::from(number);
            events.iter().filter(of_part).cloned().collect()
        };
        let parts: Vec<Vec<Event>> = (0..partitions).map(part).collect();

        // Any batches, and closing after each of them or only at the end.
        let run = |cuts: &[usize], eager: bool| {
            let mut states: Vec<OnClose> =
                (0..partitions).map(|number| OnClose::new(&plan, number, 0, Coverage::Everything).unwrap()).collect();
            let mut dispositions = vec![Vec::new(); partitions as usize];
            let mut rows = plan.closed_output();
            let split: Vec<Vec<&[Event]>> = parts.iter().map(|events| batches(events, cuts)).collect();
            for turn in 0..split.iter().map(Vec::len).max().unwrap_or(0) {
                for (state, (split, out)) in states.iter_mut().zip(split.iter().zip(&mut dispositions)) {
                    if let Some(batch) = split.get(turn) {
                        process(state, batch, out);
                    }
                }
                if eager && let Some(watermark) = states.iter().map(OnClose::watermark).min().flatten() {
                    close(&mut states.iter_mut().collect::<Vec<_>>(), watermark, &mut rows);
                }
            }
            let last = states.iter().filter_map(OnClose::watermark).max().unwrap_or(i64::MIN);
            close(&mut states.iter_mut().collect::<Vec<_>>(), last, &mut rows);
            (rows, dispositions)
        };

        let mut expected = Windows::new();
        let mut last = i64::MIN;
        let mut dispositions = Vec::new();
        for events in &parts {
            let mut newest = i64::MIN;
            let of_part = events.iter().map(|event| {
                if event.time > event.arrival + settings.max_future {
                    return Disposition::Future;
                }
                let shut = newest.saturating_sub(settings.allowed_lateness);
                let all = put(&mut Windows::new(), &settings, event, i64::MIN);
                newest = newest.max(event.time);
                match put(&mut expected, &settings, event, shut) {
                    0 => Disposition::Late,
                    taken if taken < all => Disposition::LateInWindow,
                    _ => Disposition::OnTime,
                }
            });
            dispositions.push(of_part.collect::<Vec<_>>());
            last = last.max(newest.saturating_sub(settings.allowed_lateness));
        }
        expected.retain(|(_, end, _), _| *end <= last);
        let (rows, found) = run(&first, false);
        prop_assert_eq!(&found, &dispositions);
        compare(&settings, &expected, &rows);
        let (eager, found) = run(&second, true);
        prop_assert_eq!(&found, &dispositions);
        compare(&settings, &expected, &eager);
        prop_assert_eq!(format!("{rows:?}"), format!("{eager:?}"));
    }
}

#[test]
fn a_partition_that_was_idle_finds_its_windows_closed() {
    let plan = Plan::new(settings()).unwrap();
    let mut busy = OnClose::new(&plan, 0, 0, Coverage::FirstEvent).unwrap();
    let mut idle = OnClose::new(&plan, 1, 0, Coverage::FirstEvent).unwrap();
    let mut out = Vec::new();
    process(&mut idle, &[Event::at(0, 10, "b")], &mut out);
    process(&mut busy, &[Event::at(0, 12, "a"), Event::at(1, 200, "a")], &mut out);
    let mut rows = plan.closed_output();
    close(&mut [&mut busy, &mut idle], 185, &mut rows);
    let tumbling = &rows[1];
    let keys: Vec<Value<'_>> = (0..tumbling.len()).map(|row| tumbling.keys.get(row)).collect();
    assert_eq!(keys, [Value::Bytes(b"a"), Value::Bytes(b"b")]);
    assert_eq!((tumbling.window_starts[0], tumbling.window_ends[0], tumbling.complete[0]), (-3, 22, false));
    // The partition's own watermark is -5, but these windows were emitted.
    process(&mut idle, &[Event::at(1, 20, "b"), Event::at(2, 165, "b")], &mut out);
    assert_eq!(out[3..], [Disposition::Late, Disposition::LateInWindow]);
}

#[test]
fn a_key_in_two_partitions_is_one_row_folded_by_partition_number() {
    let plan = Plan::new(settings()).unwrap();
    let mut states: Vec<OnClose> =
        (0..2).map(|number| OnClose::new(&plan, number, 0, Coverage::Everything).unwrap()).collect();
    let mut out = Vec::new();
    for (state, double) in states.iter_mut().zip([0.1, 0.2]) {
        process(state, &[Event { double: Some(double), ..Event::at(0, 5, "a") }], &mut out);
    }
    let mut rows = plan.closed_output();
    close(&mut states.iter_mut().collect::<Vec<_>>(), 22, &mut rows);
    assert_eq!((rows[1].len(), rows[1].columns[0].get(0)), (1, Value::Long(2)));
    assert!(Expected::Double(0.0 + 0.1 + 0.2).is(rows[1].columns[1].get(0)));
    assert_eq!(states[0].windows(), 5 + 1, "the rolling windows but those that ended at 10 and 20");
}
