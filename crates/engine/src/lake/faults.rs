//! Numbered durable operations, and what a test can do to them.
//!
//! With the feature `faults`, `INSIGHTERA_FAULT` says what happens:
//! `record:FILE` appends one line per operation; `kill:before:N` and
//! `kill:after:N` abort the process at the N-th; `power:before:N` and
//! `power:after:N` first throw away what a power loss would: content that was
//! not fsynced is torn, names in directories that were not fsynced vanish;
//! `pause:swap:FILE` waits before the pointer swap until FILE exists,
//! `pause:swap@N:FILE` before the N-th;
//! `lose-reply` makes the swap report an unknown outcome after it happened.
//! `INSIGHTERA_BUG` puts one known bug back, by name.

use std::io;
use std::path::Path;

/// Which part of a run an operation belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Data and delete files.
    Data,
    /// Manifest files.
    Manifest,
    /// Manifest lists.
    List,
    /// Table metadata files.
    Metadata,
    /// The catalog's pointer swap.
    Swap,
    /// Everything else: folders, caches, the registry.
    Other,
}

impl Stage {
    /// The stage that a path belongs to, by Iceberg's naming.
    pub fn of(path: &Path) -> Self {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        if name.ends_with(".parquet") {
            Self::Data
        } else if name.starts_with("snap-") && name.ends_with(".avro") {
            Self::List
        } else if name.ends_with(".avro") {
            Self::Manifest
        } else if name.ends_with(".metadata.json") {
            Self::Metadata
        } else if name == "data" {
            Self::Data
        } else if name == "metadata" {
            Self::Metadata
        } else {
            Self::Other
        }
    }
}

/// Known bugs that a test can put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Metadata files are not fsynced.
    NoMetadataFsync,
    /// Directories are not fsynced.
    NoDirectoryFsync,
    /// The pointer moves without comparing the old value.
    BlindSwap,
    /// The fence is checked on an older base than the swap uses.
    FenceOnOldBase,
    /// An unknown outcome is taken for a failure and tried again.
    UnknownIsFailure,
    /// Entities that left the feature set are not recorded.
    ForgetRemoved,
    /// Manifests of the base are dropped when a commit is rebased.
    LostManifests,
    /// The state index is trusted without checking which snapshot it is of.
    StaleIndex,
    /// The pipeline's own progress is taken from any pipeline of the table.
    SharedProgress,
    /// Position deletes of an input are not seen as changes.
    IgnoreDeletes,
    /// A stream's commit is not compared with what the table says.
    StreamBaseIgnored,
    /// A stream's prediction table is committed before its side tables.
    PredictionsFirst,
    /// A restored stream starts without the state of its windows.
    ForgetWindows,
    /// Rows of a side table from below its own position are written again.
    RepeatSideRows,
}

#[cfg(not(feature = "faults"))]
mod active {
    use super::{Bug, Path, Stage, io};

    /// Numbers an operation and carries it out.
    #[inline(always)]
    pub fn step<T>(_: Stage, _: &str, _: &Path, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        act()
    }
    /// A file was created, its name not yet durable.
    #[inline(always)]
    pub fn file_created(_: &Path) {}
    /// A file's content is durable.
    #[inline(always)]
    pub fn file_synced(_: &Path) {}
    /// A directory's names are durable.
    #[inline(always)]
    pub fn directory_synced(_: &Path) {}
    /// Whether a known bug is put back.
    #[inline(always)]
    pub fn bug(_: Bug) -> bool {
        false
    }
    /// Waits before a pointer swap, when a test asks for it.
    #[inline(always)]
    pub fn before_swap() {}
    /// Whether a swap's answer gets lost.
    #[inline(always)]
    pub fn lose_reply() -> bool {
        false
    }
}

#[cfg(feature = "faults")]
mod active {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{LazyLock, Mutex};

    use super::{Bug, Path, Stage, io};

    enum Plan {
        None,
        Record(PathBuf),
        End { after: bool, power: bool, n: u64 },
    }

    static COUNT: AtomicU64 = AtomicU64::new(0);
    static SWAPS: AtomicU64 = AtomicU64::new(0);
    static PLAN: LazyLock<Plan> = LazyLock::new(|| {
        let text = std::env::var("INSIGHTERA_FAULT").unwrap_or_default();
        let parts: Vec<&str> = text.splitn(3, ':').collect();
        match parts.as_slice() {
            ["record", file] => Plan::Record(file.into()),
            [kind @ ("kill" | "power"), when, n] => Plan::End {
                after: *when == "after",
                power: *kind == "power",
                n: n.parse().expect("INSIGHTERA_FAULT: a number"),
            },
            _ => Plan::None,
        }
    });
    static BUG: LazyLock<String> = LazyLock::new(|| std::env::var("INSIGHTERA_BUG").unwrap_or_default());
    /// What a power loss would take: files without fsync, names whose
    /// directory was not fsynced since.
    static UNSYNCED: LazyLock<Mutex<(BTreeSet<PathBuf>, BTreeMap<PathBuf, BTreeSet<PathBuf>>)>> =
        LazyLock::new(Mutex::default);

    fn end(power: bool) -> ! {
        if power {
            let state = UNSYNCED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            for file in &state.0 {
                if let Ok(meta) = fs::metadata(file)
                    && let Ok(open) = fs::OpenOptions::new().write(true).open(file)
                {
                    let _ = open.set_len(meta.len() / 2);
                }
            }
            for names in state.1.values() {
                for name in names {
                    let _ = fs::remove_file(name);
                    let _ = fs::remove_dir(name);
                }
            }
        }
        std::process::abort()
    }

    /// Numbers an operation and carries it out.
    pub fn step<T>(stage: Stage, what: &str, path: &Path, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let skipped = (bug(Bug::NoMetadataFsync) && stage == Stage::Metadata && what == "fsync")
            || (bug(Bug::NoDirectoryFsync) && what == "fsync directory");
        let n = COUNT.fetch_add(1, Ordering::SeqCst) + 1;
        match &*PLAN {
            Plan::Record(file) => {
                let mut log = fs::OpenOptions::new().create(true).append(true).open(file)?;
                // One write, since several threads log.
                log.write_all(format!("{n}\t{stage:?}\t{what}\t{}\n", path.display()).as_bytes())?;
            }
            Plan::End { after: false, power, n: at } if *at == n => end(*power),
            _ => {}
        }
        let result = act();
        if skipped {
            SKIPPED.store(1, Ordering::SeqCst);
        }
        if let Plan::End { after: true, power, n: at } = &*PLAN
            && *at == n
        {
            // What this very operation made durable must count as durable.
            if !skipped {
                match what {
                    "fsync" => file_synced(path),
                    "fsync directory" => directory_synced(path),
                    _ => {}
                }
            }
            end(*power)
        }
        result
    }

    static SKIPPED: AtomicU64 = AtomicU64::new(0);

    fn was_skipped() -> bool {
        SKIPPED.swap(0, Ordering::SeqCst) == 1
    }

    /// A file was created, its name not yet durable.
    pub fn file_created(path: &Path) {
        let mut state = UNSYNCED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.0.insert(path.to_owned());
        if let Some(parent) = path.parent() {
            state.1.entry(parent.to_owned()).or_default().insert(path.to_owned());
        }
    }

    /// A file's content is durable.
    pub fn file_synced(path: &Path) {
        if was_skipped() {
            return;
        }
        let mut state = UNSYNCED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.0.remove(path);
    }

    /// A directory's names are durable.
    pub fn directory_synced(path: &Path) {
        if was_skipped() {
            return;
        }
        let mut state = UNSYNCED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.1.remove(path);
    }

    /// Whether a known bug is put back.
    pub fn bug(bug: Bug) -> bool {
        *BUG == format!("{bug:?}")
    }

    /// Waits before a pointer swap, when a test asks for it.
    pub fn before_swap() {
        let text = std::env::var("INSIGHTERA_FAULT").unwrap_or_default();
        let swap = SWAPS.fetch_add(1, Ordering::SeqCst) + 1;
        let file = match text.strip_prefix("pause:swap@").and_then(|rest| rest.split_once(':')) {
            Some((at, file)) => (at.parse() == Ok(swap)).then_some(file),
            None => text.strip_prefix("pause:swap:"),
        };
        if let Some(file) = file {
            let _ = fs::write(format!("{file}.waiting"), b"");
            while !Path::new(file).exists() {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    }

    /// Whether a swap's answer gets lost.
    pub fn lose_reply() -> bool {
        std::env::var("INSIGHTERA_FAULT").is_ok_and(|text| text == "lose-reply")
    }
}

pub use active::{before_swap, bug, directory_synced, file_created, file_synced, lose_reply, step};
