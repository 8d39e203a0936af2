//! Numbered durable operations, and what a test can do to them.
//!
//! With the feature `faults`, `INSIGHTERA_FAULT` says what happens:
//! `record:FILE` appends one line per operation; `kill:before:N` and
//! `kill:after:N` abort the process at the N-th; `power:before:N` and
//! `power:after:N` first throw away what a power loss would: content that was
//! not fsynced is torn, names in directories that were not fsynced vanish;
//! `swap@N` in the place of N is the N-th pointer swap;
//! `pause:swap:FILE` waits before the pointer swap until FILE exists,
//! `pause:swap@N:FILE` before the N-th;
//! `lose-reply` makes the swap report an unknown outcome after it happened.
//! `INSIGHTERA_BUG` puts one known bug back, by name.
//!
//! A test can also plan an accident below a folder of its own process,
//! `plan_accident`: the machine stops there, and from then on every operation
//! below the folder fails until `recover`; or one operation fails, or is done
//! and answers an error. What a power loss takes is known for all folders;
//! removed files come back in those that a test has told of, `watch`.

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
    /// A stream's dead letters are committed after its other side tables.
    DeadLettersLast,
    /// A restored stream starts without the state of its windows.
    ForgetWindows,
    /// Rows of a side table from below its own position are written again.
    RepeatSideRows,
    /// A folder that is there is taken for durable.
    TrustFolders,
    /// What a commit of an unknown outcome wrote is removed.
    DeleteOnUnknown,
    /// Tags and branches keep no snapshot from expiry.
    ExpireIgnoresTags,
    /// Expiry removes files that the current snapshot does not need.
    ReachOfCurrent,
    /// Files of a commit in progress are orphans.
    OrphansOfAnyAge,
    /// A rewrite reads rows that position deletes have taken out.
    RewriteIgnoresDeletes,
    /// A rewrite is committed over deletes that came meanwhile.
    RewriteIgnoresRace,
    /// Deletes by value that came during a rewrite are dropped with the files
    /// that it replaced.
    DanglingIgnoresAdded,
    /// A change that expects a snapshot looks at its id alone, which an erasure keeps.
    ExpectedById,
    /// An erasure leaves position deletes where they are.
    EraseKeepsPositions,
    /// The names of files that an erasure removed are not fsynced.
    ErasedNamesNotSynced,
    /// A stream's commit takes a position behind what it claims from for equal.
    PositionAtLeast,
    /// Positions are looked for in the newest snapshot alone, whoever made it.
    CompactionDropsPositions,
    /// Positions of a snapshot that has been expired are not remembered.
    ExpiryDropsPositions,
    /// A commit leaves the positions of other partitions out.
    OthersNotCarried,
    /// The ids of a stream's commits are counted from the start of a process.
    RestartedIntents,
    /// Events that a source gives again are taken again.
    DuplicatesTaken,
}

#[cfg(not(feature = "faults"))]
mod active {
    use std::io;

    use super::{Bug, Path, Stage};

    /// Numbers an operation and carries it out.
    #[inline(always)]
    pub fn step<T>(_: Stage, _: &str, _: &Path, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        act()
    }
    /// A file was created, its name not yet durable.
    #[inline(always)]
    pub fn file_created(_: &Path) {}
    /// A folder was created, its name not yet durable.
    #[inline(always)]
    pub fn folder_created(_: &Path) {}
    /// A file has another name, not yet durably.
    #[inline(always)]
    pub fn file_moved(_: &Path, _: &Path) {}
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
mod active;
#[cfg(feature = "faults")]
mod power;

#[cfg(feature = "faults")]
pub use active::{Accident, Happened, is_off, plan_accident, recover};
pub use active::{
    before_swap, bug, directory_synced, file_created, file_moved, file_synced, folder_created, lose_reply, step,
};
#[cfg(feature = "faults")]
pub use power::{forget, watch};
