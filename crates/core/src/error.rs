//! Error kinds: what the caller must do, shared by every crate.

use std::fmt;

/// What a caller must do about an error. Each library crate has its own error
/// type; all of them carry one of these kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A named thing does not exist: create it, or name another.
    NotFound,
    /// Someone else changed the same thing first: decide again on the new state.
    Conflict,
    /// The request, the configuration or the SQL is wrong: fix it.
    Invalid,
    /// A service, a file or a lock could not be reached: try again.
    Unavailable,
    /// Stored data is missing, corrupt or not what it claims to be.
    Data,
    /// A defect of Insightera.
    Internal,
}

impl ErrorKind {
    /// Whether the same call may succeed without any change by the user.
    pub fn retryable(self) -> bool {
        matches!(self, Self::Conflict | Self::Unavailable)
    }

    /// The exit code of the command line: 1 is the user's to fix, 2 is ours.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Internal => 2,
            _ => 1,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "not found",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
            Self::Unavailable => "unavailable",
            Self::Data => "bad data",
            Self::Internal => "internal error",
        })
    }
}
