//! Random sequences of everything that can happen to a table, with crashes,
//! power losses, failures and lost replies at any durable operation: after
//! every step each reachable file is there and every row of every snapshot is
//! right, says a [`walker`] that shares no code with what removes files.
//!
//! In [`memory`], many, by the engine's functions; on [`disk`], few, by SQL
//! statements and whole commands.
//!
//! `INSIGHTERA_SEQUENCES` is how many in memory (1000),
//! `INSIGHTERA_DISK_SEQUENCES` how many on disk (50),
//! `INSIGHTERA_SEQUENCE_SEED` the first seed (1); a failure names its own. The
//! same seed makes the same steps and accidents; names of files differ, and
//! with them the order in which files are removed.

mod catalog;
mod disk;
mod ledger;
mod memory;
mod walker;
mod world;

pub use world::age;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::project::tell;

/// Numbers from a seed: splitmix64.
pub struct Seeded(u64);

impl Seeded {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

pub fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn first_seed() -> u64 {
    number("INSIGHTERA_SEQUENCE_SEED", 1)
}

/// Runs `count` seeds from `first` on, on two threads, each in a folder of its
/// own below `top`; answers what was wrong. After a failure no other begins.
pub fn all<T>(
    top: &Path,
    (first, count): (u64, u64),
    new_worker: impl Fn() -> T + Sync,
    run: impl Fn(&Path, u64, &T) -> Result<(), String> + Sync,
) -> Vec<String> {
    let (next, failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let work = || {
        let (worker, mut failures) = (new_worker(), Vec::new());
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= first + count || failed.load(Ordering::SeqCst) {
                return failures;
            }
            let folder = top.join(seed.to_string());
            std::fs::create_dir(&folder).unwrap();
            let folder = folder.canonicalize().unwrap();
            if let Err(failure) = run(&folder, seed, &worker) {
                failed.store(true, Ordering::SeqCst);
                failures.push(failure);
            }
            std::fs::remove_dir_all(&folder).unwrap();
        }
    };
    std::thread::scope(|scope| {
        let workers = [scope.spawn(work), scope.spawn(work)];
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

#[test]
fn whatever_happens_to_a_table_no_reachable_file_is_lost_and_every_row_is_right() {
    let count = number("INSIGHTERA_SEQUENCES", 1000);
    let memory = Path::new("/dev/shm");
    let temp = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let done = memory::Done::default();
    let failures = all(temp.path(), (first_seed(), count), world::Tools::new, |folder, seed, tools| {
        memory::run(folder, seed, tools, &done)
    });
    let (last, steps) = (first_seed() + count - 1, done.steps.load(Ordering::SeqCst));
    let kinds: Vec<String> = done.kinds.lock().unwrap().iter().map(|(kind, n)| format!("{kind} {n}")).collect();
    tell(format_args!("sequences: seeds {} to {last}: {steps} steps: {}", first_seed(), kinds.join(", ")));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn whatever_happens_to_a_table_on_disk_no_reachable_file_is_lost_and_every_row_is_right() {
    let temp = tempfile::tempdir().unwrap();
    let count = number("INSIGHTERA_DISK_SEQUENCES", 50);
    let failures = all(temp.path(), (first_seed(), count), || (), |folder, seed, ()| disk::run(folder, seed));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Only the sequences find bugs here: the test program is started again with
/// one of them put back.
#[test]
fn every_known_bug_that_is_put_back_is_found_by_a_sequence() {
    const NAME: &str = "sequences::whatever_happens_to_a_table_no_reachable_file_is_lost_and_every_row_is_right";
    // With the seed that found it first: other seeds follow.
    let bugs = [
        ("NoMetadataFsync", 1),
        ("NoDirectoryFsync", 1),
        ("BlindSwap", 4),
        ("UnknownIsFailure", 8),
        ("LostManifests", 8),
        ("TrustFolders", 188),
        ("DeleteOnUnknown", 4),
        ("ExpireIgnoresTags", 4),
        ("ReachOfCurrent", 4),
        ("OrphansOfAnyAge", 2),
        ("RewriteIgnoresDeletes", 1),
        ("RewriteIgnoresRace", 21),
        ("DanglingIgnoresAdded", 186),
        ("ExpectedById", 38),
        ("EraseKeepsPositions", 2),
        ("ErasedNamesNotSynced", 1),
    ];
    let mut missed = Vec::new();
    for (bug, seed) in bugs {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
            .env("INSIGHTERA_BUG", bug)
            .env("INSIGHTERA_SEQUENCES", "1000")
            .env("INSIGHTERA_SEQUENCE_SEED", seed.to_string())
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
