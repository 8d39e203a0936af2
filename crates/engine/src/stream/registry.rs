//! A schema registry, by Confluent's REST interface: schemas by number, and
//! those that they refer to.

use std::time::Duration;

use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;
use tokio::runtime::Handle;

use crate::config::{SchemaRegistrySettings, Secret};
use crate::{Error, Result};

/// How deep references may go.
const DEPTH: usize = 16;
/// Bytes of an answer.
const ANSWER: usize = 16 << 20;
/// What a registry calls a schema, a subject or a version that it has not got.
const NOT_FOUND: std::ops::RangeInclusive<u64> = 40_401..=40_403;

/// A registry.
#[derive(Debug)]
pub struct SchemaRegistry {
    base: Url,
    /// As the pipeline's file has it.
    shown: String,
    client: Client,
    credentials: Option<(String, Secret)>,
}

/// A schema as the registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// `AVRO`, `PROTOBUF` or `JSON`.
    pub kind: String,
    /// The schema.
    pub text: String,
    /// Names and texts of those that it refers to, the deepest first.
    pub references: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Answer {
    schema: String,
    #[serde(rename = "schemaType")]
    kind: Option<String>,
    #[serde(default)]
    references: Vec<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    name: String,
    subject: String,
    version: i64,
}

impl SchemaRegistry {
    /// Does not ask it anything.
    ///
    /// # Errors
    /// When its settings are wrong.
    pub fn open(settings: &SchemaRegistrySettings) -> Result<Self> {
        let text = Secret::new(&settings.url).reveal("[events.registry] `url`")?;
        let base = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let base = base.ok_or_else(|| {
            // Without the credentials that may be in it.
            let shown = settings.url.rsplit('@').next().unwrap_or_default();
            Error::invalid(format!("[events.registry] `url` = `{shown}` is no address of the web"))
                .hint("write `https://HOST:PORT`")
        })?;
        if !base.username().is_empty() || base.password().is_some() {
            return Err(Error::invalid("[events.registry] `url` has credentials in it")
                .hint("write them as `username = \"…\"` and `password = \"env:NAME\"`"));
        }
        let mut client = Client::builder()
            .timeout(Duration::from_micros(settings.timeout as u64))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("insightera/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &settings.ca {
            let shown = path.display();
            let wrong = |why: String| Error::invalid(format!("[events.registry] `ca`: `{shown}`: {why}"));
            let pem = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
            for certificate in reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| wrong(e.to_string()))? {
                client = client.add_root_certificate(certificate);
            }
        }
        let client = client.build().map_err(|e| Error::internal(format!("a client of the schema registry: {e}")))?;
        let password = |user: &String| (user.clone(), settings.password.clone().unwrap_or_else(|| Secret::new("")));
        let credentials = settings.username.as_ref().map(password);
        // Fails here rather than at the first event.
        if let Some((_, password)) = &credentials {
            password.reveal("[events.registry] `password`")?;
        }
        Ok(Self { base, shown: settings.url.clone(), client, credentials })
    }

    /// A schema by its number; none when the registry says that it has not got
    /// it.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer; `Invalid` when it refuses, or is
    /// no schema registry.
    pub fn schema(&self, id: u32) -> Result<Option<Written>> {
        let Some(answer) = self.get(&["schemas", "ids", &id.to_string()])? else { return Ok(None) };
        let mut references = Vec::new();
        self.follow(&answer.references, &mut references, 0)?;
        let kind = answer.kind.unwrap_or_else(|| "AVRO".to_owned());
        Ok(Some(Written { kind, text: answer.schema, references }))
    }

    fn follow(&self, references: &[Reference], found: &mut Vec<(String, String)>, depth: usize) -> Result<()> {
        if depth > DEPTH {
            return Err(self.wrong("schemas refer to each other without an end"));
        }
        for Reference { name, subject, version } in references {
            if found.iter().any(|(known, _)| known == name) {
                continue;
            }
            let path = ["subjects", subject, "versions", &version.to_string()];
            let Some(answer) = self.get(&path)? else {
                return Err(
                    self.wrong(&format!("a schema refers to version {version} of `{subject}`, which is not there"))
                );
            };
            self.follow(&answer.references, found, depth + 1)?;
            found.push((name.clone(), answer.schema));
        }
        Ok(())
    }

    fn wrong(&self, why: &str) -> Error {
        Error::invalid(format!("the schema registry `{}`: {why}", self.shown))
    }

    fn get(&self, path: &[&str]) -> Result<Option<Answer>> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let mut request = self.client.get(url).header("Accept", "application/vnd.schemaregistry.v1+json");
        if let Some((user, password)) = &self.credentials {
            request = request.basic_auth(user, Some(password.reveal("[events.registry] `password`")?));
        }
        let asked = async {
            let mut response = request.send().await?;
            let (status, mut body) = (response.status(), Vec::new());
            while let Some(chunk) = response.chunk().await? {
                body.extend_from_slice(&chunk);
                if body.len() > ANSWER {
                    break;
                }
            }
            Ok::<_, reqwest::Error>((status, body))
        };
        let (status, body) = Handle::current().block_on(asked).map_err(|e| {
            let e = e.without_url();
            let mut why = e.to_string();
            let mut cause = std::error::Error::source(&e);
            while let Some(inner) = cause {
                why = format!("{why}: {inner}");
                cause = inner.source();
            }
            if why.contains("certificate") {
                // Asking again does not mend it.
                return self
                    .wrong(&why)
                    .hint("name the certificate that signed the registry's as `ca` in [events.registry]");
            }
            Error::unavailable(format!("the schema registry `{}` has no answer: {why}", self.shown))
        })?;
        if body.len() > ANSWER {
            return Err(self.wrong(&format!("its answer has more than {} MiB", ANSWER >> 20)));
        }
        let what = path.join("/");
        match status {
            StatusCode::OK => serde_json::from_slice(&body).map(Some).map_err(|e| {
                self.wrong(&format!("its answer to `{what}` is no schema: {e}"))
                    .hint("correct `url` in [events.registry]: it is that of the registry itself")
            }),
            StatusCode::NOT_FOUND => {
                let said: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
                let code = said.as_ref().and_then(|said| said.get("error_code")?.as_u64());
                // Anything can answer 404; a registry says what it has not got.
                match code.is_some_and(|code| NOT_FOUND.contains(&code)) {
                    true => Ok(None),
                    false => Err(self
                        .wrong(&format!("`{what}` is not found, and not as a registry says so"))
                        .hint("correct `url` in [events.registry]: it is that of the registry itself")),
                }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self
                .wrong(&format!("it refuses `{what}`, {status}"))
                .hint("correct `username` and `password` in [events.registry]")),
            other if other.is_server_error() || other == StatusCode::TOO_MANY_REQUESTS => {
                Err(Error::unavailable(format!("the schema registry `{}` answers `{what}` with {other}", self.shown)))
            }
            other => Err(self.wrong(&format!("it answers `{what}` with {other}"))),
        }
    }
}
