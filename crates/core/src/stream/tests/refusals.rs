//! Every typed refusal, and that it changes nothing.

use super::events::{Event, process, settings, with_batch};
use crate::ErrorKind;
use crate::stream::{
    Aggregate, Batch, Column, Coverage, EachEvent, Function, Keys, LatePolicy, OnClose, Part, Plan, Seed, Settings,
    StreamError, Strings, Values, Window,
};

fn refused(change: impl FnOnce(&mut Settings)) -> String {
    let mut settings = settings();
    change(&mut settings);
    let refusal = Plan::new(settings).unwrap_err();
    assert_eq!(refusal.kind(), ErrorKind::Invalid);
    refusal.to_string()
}

#[test]
fn settings_that_contradict_themselves_are_refused_by_name() {
    let aggregate = |function, argument, filter| Aggregate { name: "a".to_owned(), function, argument, filter };
    let with = |wanted: Aggregate| refused(move |settings| settings.sets[0].aggregates = vec![wanted]);
    assert!(refused(|settings| settings.sets.clear()).contains("no window set"));
    assert!(refused(|settings| settings.allowed_lateness = -1).contains("`allowed_lateness` is -1"));
    assert!(refused(|settings| settings.max_future = i64::MAX).contains("`max_future`"));
    assert!(refused(|settings| settings.late = LatePolicy::IntoWindow { grace: -5 }).contains("`grace`"));
    assert!(refused(|settings| settings.sets[1].key = 2).contains("`tumbling`: there is no key 2"));
    let gap = Window::Hopping { size: 10, slide: 11, offset: 0 };
    assert!(refused(|settings| settings.sets[2].window = gap).contains("`hopping`: its slide"));
    assert!(refused(|settings| settings.allowed_lateness = 1 << 40).contains("tiles are too many"));
    assert!(with(aggregate(Function::Sum, None, None)).contains("`a`: it needs an argument"));
    assert!(with(aggregate(Function::Sum, Some(4), None)).contains("no column 4"));
    assert!(with(aggregate(Function::Sum, Some(3), None)).contains("Sum of Bytes"));
    assert!(with(aggregate(Function::Count, None, Some(0))).contains("column 0, is not boolean"));
    assert!(with(aggregate(Function::Quantile { q: 1.5 }, Some(0), None)).contains("1.5 is not from 0 to 1"));
    let many = refused(|settings| {
        settings.allowed_lateness = 3_000;
        settings.sets.extend(vec![settings.sets[0].clone(); 20]);
    });
    assert!(many.contains("more than 65536"), "{many}");
    let plan = Plan::new(Settings { late: LatePolicy::IntoWindow { grace: 5 }, ..settings() }).unwrap();
    assert!(matches!(OnClose::new(&plan, 0, 0, Coverage::Everything), Err(StreamError::Settings(_))));
}

#[test]
fn a_batch_that_does_not_fit_changes_nothing() {
    let plan = Plan::new(settings()).unwrap();
    let mut state = EachEvent::new(&plan, 0, 0, Coverage::Everything);
    let mut out = plan.event_output();
    let mut refuse = |state: &mut EachEvent, batch: &Batch<'_>, from: usize| {
        let refusal = state.process(batch, from, &mut |_| Ok(Vec::new()), &mut out).unwrap_err();
        assert!(out.is_empty() && state.next_offset() == 0 && state.keys() == 0);
        refusal.to_string()
    };
    let events = [Event::at(0, 1, "a"), Event::at(1, 2, "b")];
    with_batch(0, &events, |batch| {
        let ids = Keys::Ids(&[1, 2]);
        let names = batch.keys[0];
        let descending = Keys::Bytes(Strings::new(&[0, 2, 1], b"ab"));
        let outside = Keys::Bytes(Strings::new(&[0, 1, 3], b"ab"));
        let mut columns = batch.columns.to_vec();
        assert!(refuse(&mut state, &Batch { partition: 1, ..*batch }, 0).contains("of partition 1"));
        assert!(refuse(&mut state, &Batch { arrivals: &[1], ..*batch }, 0).contains("differ in length"));
        assert!(refuse(&mut state, batch, 3).contains("differ in length"));
        assert!(refuse(&mut state, &Batch { keys: &[names], ..*batch }, 0).contains("other columns"));
        for keys in [[ids, ids], [names, names], [names, Keys::Ids(&[1])], [descending, ids], [outside, ids]] {
            assert!(refuse(&mut state, &Batch { keys: &keys, ..*batch }, 0).contains("key column"));
        }
        columns[0] = Column { values: Values::Long(&[1, 2]), valid: None };
        assert!(refuse(&mut state, &Batch { columns: &columns, ..*batch }, 0).contains("column 0 is not 2 Double"));
        columns[0] = Column { values: Values::Double(&[1.0]), valid: None };
        assert!(refuse(&mut state, &Batch { columns: &columns, ..*batch }, 0).contains("column 0"));
    });
}

#[test]
fn an_offset_that_was_consumed_is_refused_before_anything_is_taken_in() {
    let plan = Plan::new(settings()).unwrap();
    let mut state = EachEvent::new(&plan, 0, 5, Coverage::Everything);
    let mut out = plan.event_output();
    let run = |state: &mut EachEvent, offsets: &[i64], out: &mut _| {
        let events: Vec<Event> = offsets.iter().map(|offset| Event::at(*offset, 1, "a")).collect();
        process(state, &events, out)
    };
    run(&mut state, &[5, 9], &mut out).unwrap();
    for (offsets, expected, found) in [(&[9][..], 10, 9), (&[10, 10], 11, 10), (&[12, 11], 13, 11)] {
        let refusal = run(&mut state, offsets, &mut out).unwrap_err();
        assert_eq!(refusal, StreamError::Offset { partition: 0, expected, found });
        assert_eq!((refusal.kind(), out.len(), state.next_offset()), (ErrorKind::Conflict, 2, 10));
    }
}

#[test]
fn a_seed_that_does_not_fit_is_refused_and_the_event_may_come_again() {
    let plan = Plan::new(settings()).unwrap();
    let mut state = EachEvent::new(&plan, 0, 0, Coverage::From(100));
    let mut out = plan.event_output();
    let mut run = |seeds: Vec<Seed>| {
        with_batch(0, &[Event::at(0, 105, "a")], |batch| {
            state.process(batch, 0, &mut |new| Ok(if new.index == 1 { seeds.clone() } else { Vec::new() }), &mut out)
        })
    };
    let seed = |set, time, parts: &[Part]| vec![Seed { set, tiles: vec![(time, parts.to_vec())] }];
    let good = [Part::Count(4), Part::Sum { sum: 6.0, count: 4 }];
    for (seeds, reason) in [
        (seed(7, 90, &good), "has not the key"),
        (seed(0, 90, &good), "has not the key"),
        (seed(2, 130, &good), "one that the stream covers"),
        (seed(2, i64::MAX, &good), "out of range"),
        (seed(2, 90, &good[..1]), "1 parts for 2 aggregates"),
        (seed(2, 90, &[Part::Count(4), Part::Count(4)]), "Count(4) is not a part of SumDouble"),
    ] {
        let refusal = run(seeds).unwrap_err();
        assert!(refusal.to_string().contains(reason), "{refusal}");
    }
    run(seed(2, 90, &good)).unwrap();
    assert_eq!(state.keys(), 2);
}
