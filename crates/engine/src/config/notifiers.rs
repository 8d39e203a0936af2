//! `[notifiers.NAME]` of `insightera.toml`: who is told of alerts.

use std::fmt;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use super::section::{Section, quoted};
use crate::{Error, Result};

/// Somebody who is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NotifierSettings {
    /// Gets JSON: pipeline, alert, count and rows.
    Webhook(Address),
    /// Gets text, as Slack and those that understand it want it.
    Slack(Address),
    /// A file that gets a line of JSON for each notice: what a webhook gets, and
    /// when.
    Log {
        /// As the settings have it, relative to the project.
        file: PathBuf,
    },
}

/// Where notices are posted to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Address {
    /// The address.
    pub url: Secret,
    /// Microseconds until a request has failed.
    pub timeout: i64,
}

impl NotifierSettings {
    /// Where notices are posted to, if they are.
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Webhook(address) | Self::Slack(address) => Some(address),
            Self::Log { .. } => None,
        }
    }
}

/// A text that is never shown: itself, or `env:NAME`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// As it stands in a file.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text; `what` is what it is for.
    ///
    /// # Errors
    /// When it is of the environment, which has no such variable.
    pub fn reveal(&self, what: &str) -> Result<String> {
        let Some(name) = self.0.strip_prefix("env:") else { return Ok(self.0.clone()) };
        std::env::var(name).map_err(|_| {
            Error::invalid(format!("{what} is `env:{name}`, and the environment has no variable `{name}`"))
                .hint(format!("export {name}=…, or write the value itself"))
        })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// Makes a notifier that posts to an address.
type Posting = fn(Address) -> NotifierSettings;

/// Reads `[notifiers.NAME]`.
pub(super) fn read_notifier(section: &Section<'_>) -> Result<NotifierSettings> {
    section.allow(&["kind", "url", "timeout", "file"], &[])?;
    let kinds: [(&str, Option<Posting>); 3] =
        [("webhook", Some(NotifierSettings::Webhook)), ("slack", Some(NotifierSettings::Slack)), ("log", None)];
    let Some(posted) = section.choice("kind", &kinds, &["email"])? else {
        let names: Vec<&str> = kinds.iter().map(|(name, _)| *name).collect();
        return Err(section.missing("kind").hint(format!("it is one of {}", quoted(&names))));
    };
    let (foreign, kind) =
        if posted.is_some() { (&["file"][..], "a file") } else { (&["url", "timeout"][..], "an address") };
    if let Some(entry) = foreign.iter().find_map(|key| section.find(key)) {
        let error = section.error(&entry.key_span, format!("`{}` goes with notifiers that are {kind}", entry.key));
        return Err(error.hint("`kind = \"log\"` has `file`, the others have `url`"));
    }
    let Some(posted) = posted else {
        return Ok(NotifierSettings::Log { file: section.required_text("file")?.value.into() });
    };
    let url = read_url(section)?;
    let timeout = super::stream::span(section, "timeout", 1000)?.unwrap_or(5_000_000);
    Ok(posted(Address { url, timeout }))
}

/// Reads `url`: an address of the web, or `env:NAME`.
pub(super) fn read_url(section: &Section<'_>) -> Result<Secret> {
    let url = section.required_text("url")?;
    if ["http://", "https://", "env:"].iter().any(|start| url.value.starts_with(start)) {
        return Ok(Secret::new(url.value));
    }
    Err(section
        .error(&url.span, "`url` is no address of the web")
        .hint("write `https://…`, or `env:NAME` to keep it out of the file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::new("https://hooks/T0");
        assert_eq!((format!("{secret:?}"), serde_json::to_string(&secret).unwrap()), ("***".into(), "\"***\"".into()));
        assert_eq!(secret.reveal("url").unwrap(), "https://hooks/T0");
        let error = Secret::new("env:INSIGHTERA_NO_SUCH_NAME").reveal("`url` of [notifiers.ops]").unwrap_err();
        assert!(error.to_string().contains("INSIGHTERA_NO_SUCH_NAME"), "{error}");
    }
}
