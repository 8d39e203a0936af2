//! Partitions do not see each other.

use proptest::prelude::*;

use super::events::{Event, settings, streams, with_batch};
use crate::stream::{Coverage, EachEvent, EventOutput, Partitions, Plan, StreamError};

fn process(
    partitions: &mut Partitions,
    number: u32,
    events: &[Event],
    out: &mut EventOutput,
) -> Result<(), StreamError> {
    with_batch(number, events, |batch| partitions.process(batch, 0, &mut |_| Ok(Vec::new()), out))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn how_partitions_interleave_changes_nothing(
        a in streams(120), mut b in streams(120), turns in proptest::collection::vec((any::<bool>(), 1..9usize), 1..80),
    ) {
        for event in &mut b {
            (event.name, event.id) = (format!("other-{}", event.name), event.id + 100);
        }
        let plan = Plan::new(settings()).unwrap();
        let run = |turns: &[(bool, usize)]| {
            let mut partitions = Partitions::default();
            for number in 0..2 {
                partitions.assign(EachEvent::new(&plan, number, 0, Coverage::FirstEvent)).unwrap();
            }
            let mut outs = [plan.event_output(), plan.event_output()];
            let mut rest = [&a[..], &b[..]];
            for (second, count) in turns.iter().copied().chain([(false, usize::MAX), (true, usize::MAX)]) {
                let number = usize::from(second);
                let (head, tail) = rest[number].split_at(count.min(rest[number].len()));
                rest[number] = tail;
                process(&mut partitions, number as u32, head, &mut outs[number]).unwrap();
            }
            let marks: Vec<_> = partitions.states().map(|state| state.watermark()).collect();
            (format!("{outs:?}"), marks, partitions.state_bytes())
        };
        prop_assert_eq!(run(&turns), run(&[]));
    }
}

#[test]
fn a_key_from_two_partitions_is_refused() {
    let plan = Plan::new(settings()).unwrap();
    let mut partitions = Partitions::default();
    let new = |number| EachEvent::new(&plan, number, 0, Coverage::Everything);
    partitions.assign(new(3)).unwrap();
    partitions.assign(new(4)).unwrap();
    assert_eq!(partitions.assign(new(4)).unwrap_err(), StreamError::AlreadyAssigned(4));
    let mut out = plan.event_output();
    process(&mut partitions, 3, &[Event::at(0, 5, "a")], &mut out).unwrap();
    assert_eq!(process(&mut partitions, 5, &[], &mut out), Err(StreamError::NotAssigned(5)));
    assert_eq!(partitions.revoke(5).unwrap_err(), StreamError::NotAssigned(5));
    let refusal = process(&mut partitions, 4, &[Event::at(0, 5, "a")], &mut out).unwrap_err();
    assert_eq!(refusal, StreamError::KeyInTwoPartitions { key: "a".into(), first: 3, second: 4 });
    // It may have moved: the partition that had it is gone from here.
    partitions.revoke(3).unwrap();
    process(&mut partitions, 4, &[Event::at(0, 5, "a")], &mut out).unwrap();
    assert_eq!(out.len(), 2);
}

#[test]
fn a_key_that_two_processes_took_in_is_seen_when_one_has_both_partitions() {
    let plan = Plan::new(settings()).unwrap();
    let state_of = |partition: u32, keys: &[&str]| {
        let mut alone = Partitions::default();
        alone.assign(EachEvent::new(&plan, partition, 0, Coverage::Everything)).unwrap();
        // The second key, a number, is as different as the first.
        let number = |key: &str| key.bytes().fold(7, |number: u64, byte| number * 257 + u64::from(byte));
        let event = |(at, key): (usize, &&str)| Event { id: number(key), ..Event::at(at as i64, 5, key) };
        let events: Vec<Event> = keys.iter().enumerate().map(event).collect();
        process(&mut alone, partition, &events, &mut plan.event_output()).unwrap();
        (alone.sample(partition), alone.revoke(partition).unwrap())
    };
    let many: Vec<String> = (0..100).map(|key| format!("k{key}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (other, shared) in [(vec!["x", "y"], None), (vec!["x", "k77"], Some("k77"))] {
        let mut both = Partitions::default();
        both.assign(state_of(3, &many).1).unwrap();
        both.assign(state_of(4, &other).1).unwrap();
        assert_eq!(both.shared_key(), shared.map(|key| (key.to_owned(), 3, 4)));
    }
    // And before that, of a topic that is not partitioned as was said.
    let (first, restored) = state_of(3, &many);
    let second = state_of(4, &many).0;
    assert_eq!(first, second, "the same keys have the same sample in whichever partition");
    assert_eq!(first.len(), 16);
    let mut again = Partitions::default();
    again.assign(restored).unwrap();
    for (other, found) in [(["x", "k77", "y"], Some("k77")), (["x", "y", "z"], None)] {
        let sample = state_of(4, &other).0;
        let seen: Vec<_> = sample.iter().filter_map(|hash| again.key_with_hash(*hash)).collect();
        let named: Vec<_> = seen.iter().filter(|(key, _)| key.starts_with('k')).cloned().collect();
        assert_eq!(named, found.map(|key| (key.to_owned(), 3)).into_iter().collect::<Vec<_>>());
        assert_eq!(seen.len(), 2 * named.len(), "its number as well");
    }
    assert_eq!(again.sample(3), first, "it is a function of the state");
}
