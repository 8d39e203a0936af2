//! Simulations of a stream through the engine itself, each from a seed:
//! processes of a group that share partitions out, get events twice, lose and
//! gain partitions, stand still while others take over, die, send swaps that
//! are done late, on a machine that stops or loses power, while files are
//! compacted, snapshots expired and orphans removed. At the end every row of
//! every table is compared with a fold over the events.
//!
//! The topic ([`source`]) and the catalog ([`catalog`]) are in memory, what a
//! crash and a power loss take of files is modelled by `lake::faults`, and of
//! several processes one goes on at a time, from one question to the catalog
//! to another. So the same seed makes the same trace.
//!
//! `INSIGHTERA_SIMULATIONS` is how many (200), `INSIGHTERA_SIMULATION_SEED` the
//! first seed (1); a failure names its own.

mod catalog;
mod events;
mod simulation;
mod source;
mod world;

use std::path::Path;
use std::sync::atomic::Ordering;

use crate::project::tell;
use crate::sequences::{all, number};

/// What happens in simulations, each in one of fifty at least.
const KINDS: &[&str] = &[
    "compaction",
    "compaction and expiry",
    "crash",
    "death of one process",
    "event that an expression refuses",
    "expiry",
    "failed operation",
    "late swap",
    "late swap of one that died",
    "loss of the windows' files",
    "lost reply",
    "pause until others had ended",
    "power loss",
    "process that was overtaken",
    "removal of orphans",
    "rewrite of manifests",
    "stream with duplicates",
    "stream with rebalances",
    "switch to another process",
];

fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

#[test]
fn whatever_happens_to_a_stream_every_event_is_there_exactly_once() {
    let (first, count) = (number("INSIGHTERA_SIMULATION_SEED", 1), number("INSIGHTERA_SIMULATIONS", 200));
    let (temp, done) = (folder(), world::Done::default());
    let run = |folder: &Path, seed: u64, (): &()| simulation::run(folder, seed, &done).map(drop);
    let failures = all(temp.path(), (first, count), || (), run);
    let (last, steps) = (first + count - 1, done.steps.load(Ordering::SeqCst));
    let kinds: Vec<String> = done.kinds.lock().unwrap().iter().map(|(kind, n)| format!("{kind} {n}")).collect();
    tell(format_args!("simulations: seeds {first} to {last}: {steps} steps: {}", kinds.join(", ")));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // Nothing that they are about may come to be missing unnoticed.
    let kinds = done.kinds.lock().unwrap();
    for kind in KINDS.iter().filter(|_| count >= 200) {
        let found = kinds.get(kind).copied().unwrap_or(0);
        assert!(found >= count / 50, "{kind}: {found} in {count} simulations");
    }
}

#[test]
fn the_same_seed_makes_the_same_trace() {
    let done = world::Done::default();
    let trace = |seed: u64| {
        let temp = folder();
        simulation::run(&temp.path().canonicalize().unwrap(), seed, &done).unwrap()
    };
    for seed in 1..=number("INSIGHTERA_SIMULATED_TWICE", 12) {
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
}

/// A lost file of theirs would be another table's to who looks for orphans.
#[test]
fn processes_that_begin_at_once_leave_one_table_of_each_name() {
    use simulation::begin_at_once;
    for seed in 1..=8 {
        let temp = folder();
        begin_at_once(&temp.path().canonicalize().unwrap(), seed);
    }
}

/// Only the simulations find bugs here: the test program is started again with
/// one of them put back.
#[test]
fn every_known_bug_of_streams_that_is_put_back_is_found_by_a_simulation() {
    const NAME: &str = "simulations::whatever_happens_to_a_stream_every_event_is_there_exactly_once";
    // With the seed that found it first: other seeds follow.
    let bugs = [
        ("StreamBaseIgnored", 1),
        ("FenceOnOldBase", 4),
        ("PositionAtLeast", 27),
        ("BlindSwap", 14),
        ("OthersNotCarried", 1),
        ("CompactionDropsPositions", 2),
        ("ExpiryDropsPositions", 8),
        ("RestartedIntents", 1),
        ("DuplicatesTaken", 1),
        ("ForgetWindows", 1),
        ("RepeatSideRows", 1),
        ("PredictionsFirst", 4),
        ("DeadLettersLast", 337),
        ("NoMetadataFsync", 1),
        ("NoDirectoryFsync", 1),
        ("DeleteOnUnknown", 2),
        ("UnknownIsFailure", 10),
        ("LostManifests", 34),
        ("OrphansOfAnyAge", 22),
    ];
    let mut missed = Vec::new();
    for (bug, seed) in bugs {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
            .env("INSIGHTERA_BUG", bug)
            .env("INSIGHTERA_SIMULATIONS", "200")
            .env("INSIGHTERA_SIMULATION_SEED", seed.to_string())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        match told.lines().find(|line| line.contains("seed ") && line.contains(", step ")) {
            Some(line) if !output.status.success() => tell(format_args!("{bug}: {line:.200}")),
            _ => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
