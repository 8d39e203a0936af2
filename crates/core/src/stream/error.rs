//! What can go wrong in the stream engine, and what the caller must do.

use crate::ErrorKind;

/// Why the stream engine refused. Every refusal leaves its state as it was
/// before the event, the seed or the bytes that it refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The settings contradict themselves; nothing was built.
    #[error("the stream's windows are wrong: {0}")]
    Settings(String),
    /// The columns of a batch do not fit the settings, or each other.
    #[error("a batch of partition {partition} is malformed: {reason}")]
    Batch {
        /// The partition that the batch claims.
        partition: u32,
        /// What does not fit.
        reason: String,
    },
    /// An offset that was consumed already, or offsets that go back: the
    /// source delivered twice, or the caller mixed up positions.
    #[error("partition {partition} is at offset {expected}, but the batch brings offset {found}")]
    Offset {
        /// The partition.
        partition: u32,
        /// The smallest offset that may come next.
        expected: i64,
        /// The offset that came.
        found: i64,
    },
    /// The state may not grow any more. Events before this one are in.
    #[error("the window state needs {needed} bytes and may have {limit}; hint: raise `max_state` in [stream]")]
    StateLimit {
        /// Bytes that the next event could need in all.
        needed: u64,
        /// The limit of the settings.
        limit: u64,
    },
    /// A seed that cannot be laid under the windows.
    #[error("a seed of window set `{set}` cannot be used: {reason}")]
    Seed {
        /// The window set.
        set: String,
        /// Why.
        reason: String,
    },
    /// A key came from two partitions: its windows would depend on how the
    /// partitions interleave.
    #[error(
        "key `{key}` came from partitions {first} and {second}; hint: every window key must contain the partition key"
    )]
    KeyInTwoPartitions {
        /// The key, as text.
        key: String,
        /// The partition that has it.
        first: u32,
        /// The partition that brought it again.
        second: u32,
    },
    /// A partition that is not assigned here, or one that is already.
    #[error("partition {0} is not assigned here")]
    NotAssigned(u32),
    /// A partition was assigned while it is here already.
    #[error("partition {0} is assigned here already")]
    AlreadyAssigned(u32),
    /// Bytes that are not the checkpoint that was asked for.
    #[error("the checkpoint cannot be read: {0}")]
    Checkpoint(#[from] CheckpointError),
}

/// Why checkpoint bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The bytes end early or have more than they say.
    #[error("it is torn: {have} bytes where {want} are said")]
    Torn {
        /// Bytes that are there.
        have: u64,
        /// Bytes that should be.
        want: u64,
    },
    /// Not a checkpoint of this engine at all.
    #[error("it does not start as a window checkpoint does")]
    Foreign,
    /// Written by another version of the format.
    #[error("it has format version {found}, this program reads version {known}")]
    Version {
        /// The version in the bytes.
        found: u8,
        /// The one known here.
        known: u8,
    },
    /// The bytes were changed after they were written.
    #[error("its checksum does not match")]
    Checksum,
    /// Windows, aggregates, lateness or columns differ from those that wrote it.
    #[error("it was written with other window settings")]
    OtherSettings,
    /// A checkpoint of the other emission mode.
    #[error("it belongs to the other emission mode")]
    OtherMode,
    /// A full checkpoint where an increment is wanted, or the reverse.
    #[error("it is {found}, where {wanted} is wanted")]
    OtherKind {
        /// What it is.
        found: &'static str,
        /// What is wanted.
        wanted: &'static str,
    },
    /// An increment of another base, or out of order.
    #[error("it is increment {found} of its base, where increment {expected} of this base is wanted")]
    OutOfSequence {
        /// The next increment of this base.
        expected: u64,
        /// What came; 0 when it is of another base.
        found: u64,
    },
    /// An increment was asked for before any full checkpoint.
    #[error("there is no full checkpoint that it could follow")]
    NoBase,
    /// The checksum is right and the content is impossible.
    #[error("its content is impossible: {0}")]
    Corrupt(&'static str),
}

impl StreamError {
    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Settings(_) | Self::StateLimit { .. } | Self::KeyInTwoPartitions { .. } => ErrorKind::Invalid,
            Self::Seed { .. } | Self::Checkpoint(CheckpointError::OtherSettings) => ErrorKind::Invalid,
            Self::Offset { .. } => ErrorKind::Conflict,
            Self::Checkpoint(CheckpointError::NoBase) => ErrorKind::Internal,
            Self::Checkpoint(_) => ErrorKind::Data,
            Self::Batch { .. } | Self::NotAssigned(_) | Self::AlreadyAssigned(_) => ErrorKind::Internal,
        }
    }

    pub(crate) fn batch(partition: u32, reason: impl Into<String>) -> Self {
        Self::Batch { partition, reason: reason.into() }
    }

    pub(crate) fn corrupt(reason: &'static str) -> Self {
        Self::Checkpoint(CheckpointError::Corrupt(reason))
    }
}
