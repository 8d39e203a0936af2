//! The crate's error: what the caller must do, what happened, what to try.

use std::collections::HashMap;

use insightera_core::ErrorKind;

/// Why a model could not be loaded or could not score.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An artifact that is damaged or not what it claims to be.
    pub(crate) fn data(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Data, message: message.into(), hint: None }
    }

    /// Rows or a model that cannot be used this way.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Invalid, message: message.into(), hint: None }
    }

    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error, said of a part of the model.
    #[must_use]
    pub(crate) fn within(self, part: &str) -> Self {
        Self { message: format!("{part}: {}", self.message), ..self }
    }

    /// The same error, where names in backticks are replaced.
    #[must_use]
    pub(crate) fn with_names(self, names: &HashMap<&str, &str>) -> Self {
        let rename = |text: &str| {
            let parts = text
                .split('`')
                .enumerate()
                .map(|(at, part)| if at % 2 == 1 { names.get(part).unwrap_or(&part) } else { part });
            parts.collect::<Vec<&str>>().join("`")
        };
        Self { kind: self.kind, message: rename(&self.message), hint: self.hint.as_deref().map(rename) }
    }

    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The next step, where one is known.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}
