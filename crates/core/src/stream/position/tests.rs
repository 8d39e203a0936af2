//! The rules of a commit, one by one.

use super::*;

fn base() -> Committed {
    Committed {
        table: "t".into(),
        source: Some("topic-1".into()),
        positions: [(0, 10), (1, 20), (2, 30)].into(),
        owners: [(0, Owner { epoch: 2, lo: 5 }), (1, Owner { epoch: 7, lo: 20 }), (2, Owner { epoch: 1, lo: 0 })]
            .into(),
        intents: ["old".to_owned()].into(),
    }
}

fn append(claims: &[(u32, u64, i64, i64)]) -> Intent {
    let claims =
        claims.iter().map(|(partition, epoch, lo, hi)| (*partition, Claim { epoch: *epoch, lo: *lo, hi: *hi }));
    Intent { id: "new".into(), table: "t".into(), source: "topic-1".into(), act: Act::Append, claims: claims.collect() }
}

#[test]
fn an_append_moves_its_own_partitions_and_carries_the_others_forward() {
    let Decision::Proceed(next) = decide(&base(), &append(&[(0, 2, 10, 15), (1, 7, 20, 20)])) else { panic!() };
    assert_eq!(next.positions, [(0, 15), (1, 20), (2, 30)].into());
    assert_eq!((&next.owners, &next.source), (&base().owners, &base().source));
    assert_eq!(next.intents, ["new".to_owned(), "old".to_owned()].into());
    assert_eq!(decide(&next, &append(&[(0, 2, 10, 15)])), Decision::Done, "the lost reply of a commit that is in");
}

#[test]
fn a_position_that_is_greater_is_as_wrong_as_one_that_is_smaller() {
    for lo in [9, 11] {
        assert_eq!(decide(&base(), &append(&[(0, 2, lo, 15), (1, 7, 20, 25)])), Decision::Rebuild([(0, 10)].into()));
    }
}

#[test]
fn a_higher_epoch_of_one_partition_fences_and_those_of_others_do_not() {
    assert_eq!(decide(&base(), &append(&[(0, 2, 10, 11), (1, 6, 20, 21)])), Decision::Fenced([(1, 7)].into()));
    // Fenced comes before the position: the new owner has moved it.
    assert_eq!(decide(&base(), &append(&[(1, 6, 19, 21)])), Decision::Fenced([(1, 7)].into()));
    assert!(matches!(decide(&base(), &append(&[(2, 1, 30, 31)])), Decision::Proceed(_)));
}

#[test]
fn an_acquisition_raises_the_epochs_of_its_partitions_only() {
    let intent = acquire(&base(), "new".into(), "topic-1".into(), &[(1, 0), (3, 44)].into()).unwrap();
    let Decision::Proceed(next) = decide(&base(), &intent) else { panic!() };
    assert_eq!(next.positions, [(0, 10), (1, 20), (2, 30), (3, 44)].into());
    let epochs: Vec<_> = next.owners.iter().map(|(partition, owner)| (*partition, owner.epoch, owner.lo)).collect();
    assert_eq!(epochs, [(0, 2, 5), (1, 8, 20), (2, 1, 0), (3, 1, 44)]);
    // Of two that were planned on the same base, the second is fenced.
    let second = Intent { id: "second".into(), ..intent.clone() };
    assert_eq!(decide(&next, &second), Decision::Fenced([(1, 8), (3, 1)].into()));
    // The old owner committed in between: the position is another.
    let Decision::Proceed(moved) = decide(&base(), &append(&[(1, 7, 20, 29)])) else { panic!() };
    assert_eq!(decide(&moved, &second), Decision::Rebuild([(1, 29)].into()));
}

#[test]
fn topics_may_be_added_at_the_end_of_a_list_by_an_acquisition_alone() {
    for (before, now, wanted) in [
        ("kafka:C/a", "kafka:C/a", true),
        ("kafka:C/a", "kafka:C/a,b", true),
        ("kafka:C/a,b", "kafka:C/a,b,c", true),
        ("kafka:C/a", "kafka:C/ab", false),
        ("kafka:C/a", "kafka:D/a,b", false),
        ("kafka:C/a,b", "kafka:C/a", false),
        ("kafka:C/a,b", "kafka:C/b,a", false),
        ("kafka:C/a,b", "kafka:C/a,c,b", false),
        ("files:a", "files:a,b", false),
    ] {
        assert_eq!(continues(before, now), wanted, "{before} {now}");
    }
    let one = Committed { source: Some("kafka:C/a".into()), ..base() };
    let now = || "kafka:C/a,b".to_owned();
    let added = acquire(&one, "added".into(), now(), &[(3, 0)].into()).unwrap();
    let Decision::Proceed(two) = decide(&one, &added) else { panic!() };
    assert_eq!((two.source.clone(), two.positions[&0]), (Some(now()), one.positions[&0]));
    let by = |source: &str| Intent { source: source.into(), ..append(&[(0, 2, 10, 15)]) };
    assert!(matches!(decide(&two, &by("kafka:C/a,b")), Decision::Proceed(_)));
    for (base, intent) in [(&one, by("kafka:C/a,b")), (&two, by("kafka:C/a"))] {
        assert!(matches!(decide(base, &intent), Decision::Fatal(Reason::SourceReplaced { .. })), "{intent:?}");
    }
    let fewer = acquire(&two, "fewer".into(), "kafka:C/a".into(), &[(0, 0)].into()).unwrap();
    assert!(matches!(decide(&two, &fewer), Decision::Fatal(Reason::SourceReplaced { .. })));
}

#[test]
fn what_no_reload_can_mend_is_fatal_and_says_why() {
    let fatal = |base: &Committed, intent: &Intent| match decide(base, intent) {
        Decision::Fatal(reason) => reason.to_string(),
        other => panic!("{other:?}"),
    };
    let good = append(&[(0, 2, 10, 15)]);
    let other_table = Committed { table: "u".into(), ..base() };
    assert_eq!(fatal(&other_table, &good), "table `t` was replaced by `u`");
    let other_source = Intent { source: "topic-2".into(), ..good.clone() };
    assert!(fatal(&base(), &other_source).contains("source `topic-2` was read"));
    assert!(fatal(&base(), &append(&[(0, 3, 10, 15)])).contains("epoch 2 in the table, which had given 3"));
    assert!(fatal(&Committed::new("t"), &good).contains("epoch 0 in the table"));
    assert!(fatal(&base(), &append(&[(0, 2, 10, 9)])).contains("claim of partition 0"));
    let lost = Committed { positions: BTreeMap::new(), ..base() };
    assert_eq!(fatal(&lost, &good), "partition 0 has an owner and no position");
    assert!(acquire(&lost, "x".into(), "topic-1".into(), &[(0, 0)].into()).is_err());
    let moving = Intent { act: Act::Acquire, ..append(&[(0, 3, 10, 15)]) };
    assert!(fatal(&base(), &moving).contains("claim of partition 0"));
}
