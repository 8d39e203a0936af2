//! A checkpoint is the state, and bytes that are not one are refused.

use std::sync::Arc;

use proptest::prelude::*;

use super::events::{Event, batches, cuts, process, settings, streams, with_batch};
use crate::stream::{CheckpointError, Coverage, EachEvent, OnClose, Plan, Settings, StreamError, close};

/// What is done after a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Nothing,
    Full,
    Increment,
    /// Stop, and go on from the last checkpoint and its increments.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![2 => Just(Step::Nothing), 1 => Just(Step::Full), 4 => Just(Step::Increment), 3 => Just(Step::Crash)];
    proptest::collection::vec(step, 61)
}

fn restore(plan: &Arc<Plan>, chain: &[Vec<u8>]) -> EachEvent {
    let base = EachEvent::restore(plan, &chain[0]).unwrap();
    chain[1..].iter().fold(base, |state, bytes| state.apply(bytes).unwrap())
}

fn restore_on_close(plan: &Arc<Plan>, chain: &[Vec<u8>]) -> OnClose {
    let base = OnClose::restore(plan, &chain[0]).unwrap();
    chain[1..].iter().fold(base, |state, bytes| state.apply(bytes).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn going_on_from_a_base_and_its_increments_changes_nothing(
        events in streams(300), cuts in cuts(), steps in steps(),
    ) {
        let plan = Plan::new(settings()).unwrap();
        let new = || EachEvent::new(&plan, 1, 0, Coverage::FirstEvent);
        let (mut state, mut straight) = (new(), new());
        let (mut chain, mut from): (Vec<Vec<u8>>, usize) = (vec![state.checkpoint()], 0);
        let batches = batches(&events, &cuts);
        let mut at = 0;
        let mut steps = steps.into_iter();
        let (mut out, mut expected) = (plan.event_output(), plan.event_output());
        let mut straight_at = 0;
        while at < batches.len() {
            process(&mut state, batches[at], &mut out).unwrap();
            at += 1;
            match steps.next().unwrap_or(Step::Nothing) {
                Step::Nothing => continue,
                Step::Full => chain = vec![state.checkpoint()],
                Step::Increment => chain.push(state.increment().unwrap()),
                Step::Crash => {
                    state = restore(&plan, &chain);
                    at = from;
                }
            }
            from = at;
            while straight_at < at {
                process(&mut straight, batches[straight_at], &mut expected).unwrap();
                straight_at += 1;
            }
            // The same bytes: the same keys, numbers, tiles, sketches and sweep.
            prop_assert_eq!(&restore(&plan, &chain).checkpoint()[..], &{
                let copy = straight.checkpoint();
                straight.increment().unwrap();
                copy
            }[..]);
        }
        while straight_at < batches.len() {
            process(&mut straight, batches[straight_at], &mut expected).unwrap();
            straight_at += 1;
        }
        prop_assert_eq!(state.checkpoint(), straight.checkpoint());
        prop_assert_eq!((state.next_offset(), state.keys()), (straight.next_offset(), straight.keys()));
    }

    #[test]
    fn open_windows_go_on_from_a_base_and_its_increments(events in streams(300), cuts in cuts(), steps in steps()) {
        let plan = Plan::new(settings()).unwrap();
        let mut state = OnClose::new(&plan, 1, 0, Coverage::FirstEvent).unwrap();
        let mut straight = OnClose::new(&plan, 1, 0, Coverage::FirstEvent).unwrap();
        let mut chain = vec![state.checkpoint()];
        let (mut rows, mut expected) = (plan.closed_output(), plan.closed_output());
        let (mut out, mut straight_out) = (Vec::new(), Vec::new());
        let mut steps = steps.into_iter();
        for batch in batches(&events, &cuts) {
            for (state, rows, out) in
                [(&mut state, &mut rows, &mut out), (&mut straight, &mut expected, &mut straight_out)]
            {
                with_batch(1, batch, |batch| state.process(batch, 0, out)).unwrap();
                if let Some(watermark) = state.watermark() {
                    close(&mut [state], watermark, rows);
                }
            }
            match steps.next().unwrap_or(Step::Nothing) {
                Step::Nothing => {}
                Step::Full => chain = vec![state.checkpoint()],
                Step::Increment => chain.push(state.increment().unwrap()),
                Step::Crash => {
                    chain.push(state.increment().unwrap());
                    state = restore_on_close(&plan, &chain);
                }
            }
        }
        prop_assert_eq!(&format!("{rows:?}"), &format!("{expected:?}"));
        prop_assert_eq!(out, straight_out);
        prop_assert_eq!(state.checkpoint(), straight.checkpoint());
    }

    #[test]
    fn torn_and_rotten_bytes_are_refused(events in streams(60), at in any::<prop::sample::Index>(), flip in 1..=255u8) {
        let plan = Plan::new(settings()).unwrap();
        let mut state = EachEvent::new(&plan, 1, 0, Coverage::FirstEvent);
        process(&mut state, &events, &mut plan.event_output()).unwrap();
        let bytes = state.checkpoint();
        let cut = at.index(bytes.len());
        prop_assert!(EachEvent::restore(&plan, &bytes[..cut]).is_err());
        let mut longer = bytes.clone();
        longer.push(flip);
        prop_assert!(EachEvent::restore(&plan, &longer).is_err());
        let mut rotten = bytes;
        rotten[cut] ^= flip;
        prop_assert!(EachEvent::restore(&plan, &rotten).is_err());
    }

    #[test]
    fn forged_bytes_with_a_right_checksum_never_panic(
        events in streams(60),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let small = Settings { max_state_bytes: 4 << 20, ..settings() };
        let plan = Plan::new(small).unwrap();
        let mut state = EachEvent::new(&plan, 1, 0, Coverage::FirstEvent);
        let mut windows = OnClose::new(&plan, 1, 0, Coverage::FirstEvent).unwrap();
        let half = events.len() / 2;
        let run = |state: &mut EachEvent, windows: &mut OnClose, events: &[Event]| {
            process(state, events, &mut plan.event_output())?;
            with_batch(1, events, |batch| windows.process(batch, 0, &mut Vec::new()))
        };
        // Some streams are too much for so little memory.
        prop_assume!(run(&mut state, &mut windows, &events[..half]).is_ok());
        let (base, window_base) = (state.checkpoint(), windows.checkpoint());
        prop_assume!(run(&mut state, &mut windows, &events[half..]).is_ok());
        let forge = |bytes: Vec<u8>| {
            let mut bytes = bytes;
            let body = bytes.len() - 8;
            for (at, byte) in &changes {
                bytes[40 + at.index(body - 40)] = *byte;
            }
            let hash = super::super::hash::hash_bytes(&bytes[..body]);
            bytes[body..].copy_from_slice(&hash.to_le_bytes());
            bytes
        };
        let next = Event::at(i64::MAX - 1, 700, "key-0");
        let survive = |restored: Result<EachEvent, StreamError>| {
            if let Ok(mut state) = restored {
                let _ = with_batch(1, std::slice::from_ref(&next), |batch| {
                    state.process(batch, 0, &mut |_| Ok(Vec::new()), &mut plan.event_output())
                });
                let _ = state.checkpoint();
            }
        };
        survive(EachEvent::restore(&plan, &forge(base.clone())));
        let increment = forge(state.increment().unwrap());
        survive(EachEvent::restore(&plan, &base).unwrap().apply(&increment));
        let survive = |restored: Result<OnClose, StreamError>| {
            if let Ok(mut windows) = restored {
                let _ = with_batch(1, std::slice::from_ref(&next), |batch| windows.process(batch, 0, &mut Vec::new()));
                close(&mut [&mut windows], 1 << 59, &mut plan.closed_output());
                let _ = windows.checkpoint();
            }
        };
        survive(OnClose::restore(&plan, &forge(window_base.clone())));
        let increment = forge(windows.increment().unwrap());
        survive(OnClose::restore(&plan, &window_base).unwrap().apply(&increment));
    }
}

#[test]
fn an_increment_holds_only_what_changed() {
    let plan = Plan::new(settings()).unwrap();
    let mut state = EachEvent::new(&plan, 0, 0, Coverage::Everything);
    let many: Vec<Event> = (0..1000).map(|at| Event::at(at, 50, &format!("key-{at}"))).collect();
    process(&mut state, &many, &mut plan.event_output()).unwrap();
    let full = state.checkpoint();
    process(&mut state, &[Event::at(1000, 51, "key-7")], &mut plan.event_output()).unwrap();
    let increment = state.increment().unwrap();
    assert!(increment.len() * 300 < full.len(), "{} of {}", increment.len(), full.len());
    assert!(state.increment().unwrap().len() < 80);
}

#[test]
fn a_checkpoint_of_another_kind_place_mode_or_plan_is_refused() {
    let plan = Plan::new(settings()).unwrap();
    let refusal = |found: Result<EachEvent, StreamError>| match found {
        Err(StreamError::Checkpoint(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    let mut state = EachEvent::new(&plan, 0, 0, Coverage::Everything);
    assert_eq!(state.increment(), Err(CheckpointError::NoBase.into()));
    let base = state.checkpoint();
    process(&mut state, &[Event::at(0, 1, "a")], &mut plan.event_output()).unwrap();
    let first = state.increment().unwrap();
    let second = state.increment().unwrap();
    let restored = || EachEvent::restore(&plan, &base).unwrap();

    assert_eq!(
        refusal(EachEvent::restore(&plan, &first)),
        CheckpointError::OtherKind { found: "an increment", wanted: "a full checkpoint" }
    );
    assert_eq!(
        refusal(restored().apply(&base)),
        CheckpointError::OtherKind { found: "a full checkpoint", wanted: "an increment" }
    );
    assert_eq!(refusal(restored().apply(&second)), CheckpointError::OutOfSequence { expected: 1, found: 2 });
    // Two went on from the same base: the increment of one is not the other's.
    let mut other = restored();
    process(&mut other, &[Event::at(0, 1, "b")], &mut plan.event_output()).unwrap();
    let foreign = other.increment().unwrap();
    let behind_first = restored().apply(&first).unwrap();
    assert_eq!(refusal(behind_first.apply(&foreign)), CheckpointError::OutOfSequence { expected: 2, found: 1 });
    let behind_foreign = restored().apply(&foreign).unwrap();
    assert_eq!(refusal(behind_foreign.apply(&second)), CheckpointError::OutOfSequence { expected: 2, found: 0 });

    let wider = Plan::new(Settings { allowed_lateness: 16, ..settings() }).unwrap();
    assert_eq!(refusal(EachEvent::restore(&wider, &base)), CheckpointError::OtherSettings);
    let roomier = Plan::new(Settings { max_state_bytes: 1 << 30, ..settings() }).unwrap();
    assert!(EachEvent::restore(&roomier, &base).is_ok(), "a bound is no part of the state");
    let windows = OnClose::new(&plan, 0, 0, Coverage::Everything).unwrap().checkpoint();
    assert_eq!(refusal(EachEvent::restore(&plan, &windows)), CheckpointError::OtherMode);

    let mut newer = base.clone();
    newer[4] = 2;
    assert_eq!(refusal(EachEvent::restore(&plan, &newer)), CheckpointError::Version { found: 2, known: 1 });
    assert_eq!(refusal(EachEvent::restore(&plan, b"PAR1....")), CheckpointError::Foreign);
    assert_eq!(refusal(EachEvent::restore(&plan, b"")), CheckpointError::Torn { have: 0, want: 40 });
    let mut rotten = base.clone();
    rotten[44] ^= 1;
    assert_eq!(refusal(EachEvent::restore(&plan, &rotten)), CheckpointError::Checksum);
}

#[test]
fn version_1_is_read_for_ever() {
    let mut settings = settings();
    settings.sets.truncate(1);
    settings.sets[0].aggregates.truncate(2);
    let plan = Plan::new(settings).unwrap();
    let mut state = EachEvent::new(&plan, 0, 0, Coverage::Everything);
    process(&mut state, &[Event::at(4, 25, "a"), Event::at(9, 47, "b")], &mut plan.event_output()).unwrap();
    // Fixed for ever: a later version of the format adds its own beside it.
    let known = "4953575301010000b53ddddc6eb2b44200000000000000000000000000000000200000000000000000\
                 14015e01ffffffffffffffff3f0100020200000161080401010162101001015eb40e6dcd95e5f7";
    let bytes: Vec<u8> =
        (0..known.len() / 2).map(|at| u8::from_str_radix(&known[2 * at..2 * at + 2], 16).unwrap()).collect();
    assert_eq!(state.checkpoint(), bytes);
    let mut restored = EachEvent::restore(&plan, &bytes).unwrap();
    assert_eq!((restored.next_offset(), restored.keys(), restored.watermark()), (10, 2, Some(32)));
    let mut out = plan.event_output();
    process(&mut restored, &[Event::at(10, 48, "a")], &mut out).unwrap();
    assert_eq!(out.sets[0].columns[0].get(0), crate::stream::Value::Long(2));
}
