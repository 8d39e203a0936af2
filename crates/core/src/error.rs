//! Error kinds, what the caller must do, shared by every crate; and the error
//! of those that store.

use std::fmt;

use crate::names::InvalidName;

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

/// Why an operation failed: a kind, a message with the identity of the thing, an
/// optional hint, and the cause.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Its result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind`; messages are lower case, without a full stop, with
    /// values in backticks.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, source: None }
    }

    /// A named thing does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// The request or the configuration is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// Stored data is not what it should be.
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Data, message)
    }

    /// Someone else changed the same thing first.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// A service, file or lock could not be reached.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// A defect of Insightera.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Adds the next step for the user.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn cause(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The next step for the user, where one is known.
    pub fn get_hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Whether trying again may help.
    pub fn retryable(&self) -> bool {
        self.kind.retryable()
    }
}

impl From<InvalidName> for Error {
    fn from(error: InvalidName) -> Self {
        Self::invalid(error.to_string())
    }
}
