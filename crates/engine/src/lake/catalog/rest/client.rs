//! The HTTP side of an Iceberg REST catalog: addresses, authorization, errors.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use insightera_core::ErrorKind;
use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::{RestSettings, Secret};
use crate::network::wait;
use crate::{Error, Result};

/// A request that has no answer after this has failed.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Tries of a request that only reads.
const READS: u32 = 4;

/// Why there is no answer to use.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server refused with this status: nothing was done.
    Refused(u16, Error),
    /// No answer, or one that says that the server failed.
    Lost(Error),
}

impl Failure {
    /// The error alone.
    pub fn error(self) -> Error {
        match self {
            Self::Refused(_, error) | Self::Lost(error) => error,
        }
    }
}

pub(super) type Answer<T> = std::result::Result<T, Failure>;

/// Talks to one server.
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    prefix: String,
    authorization: Authorization,
    vended: bool,
    token: Mutex<Option<Secret>>,
}

enum Authorization {
    None,
    Token(Secret),
    Credential { secret: Secret, uri: Option<String>, scope: String },
}

/// The answer to `v1/config`.
#[derive(Debug, Default, Deserialize)]
struct Config {
    #[serde(default)]
    defaults: serde_json::Map<String, Value>,
    #[serde(default)]
    overrides: serde_json::Map<String, Value>,
}

impl Client {
    /// Asks the server for its configuration.
    ///
    /// # Errors
    /// When it cannot be reached, refuses, or a secret is not in the environment.
    pub fn connect(settings: &RestSettings) -> Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(Duration::from_secs(10))
            .user_agent(concat!("insightera/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Error::internal(format!("no HTTP client could be made: {e}")))?;
        let authorization = match (&settings.token, &settings.credential) {
            (Some(token), _) => Authorization::Token(token.clone()),
            (None, Some(secret)) => Authorization::Credential {
                secret: secret.clone(),
                uri: settings.oauth2_uri.clone(),
                scope: settings.scope.clone().unwrap_or_else(|| "catalog".to_owned()),
            },
            (None, None) => Authorization::None,
        };
        let base = settings.uri.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let mut client =
            Self { http, base, prefix: String::new(), authorization, vended: settings.vended, token: Mutex::default() };
        let query = match &settings.warehouse {
            Some(warehouse) => format!("config?warehouse={}", escape(warehouse)),
            None => "config".to_owned(),
        };
        let config: Config = client.get(&query).map_err(Failure::error)?;
        let text = |key: &str| {
            let found = config.overrides.get(key).or_else(|| config.defaults.get(key));
            found.and_then(Value::as_str).map(|text| text.trim_matches('/').to_owned())
        };
        if let Some(uri) = text("uri").filter(|uri| uri.starts_with("http")) {
            client.base = uri.trim_end_matches("/v1").to_owned();
        }
        client.prefix = text("prefix").map_or_else(String::new, |prefix| format!("{prefix}/"));
        Ok(client)
    }

    /// The server's address.
    pub fn address(&self) -> &str {
        &self.base
    }

    /// Below the server's prefix.
    pub fn path(&self, parts: &[&str]) -> String {
        let parts: Vec<String> = parts.iter().map(|part| escape(part)).collect();
        format!("{}{}", self.prefix, parts.join("/"))
    }

    /// Reads; tries again while the server does not answer.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Answer<T> {
        let mut pause = Duration::from_millis(100);
        for _ in 1..READS {
            match self.send(&Method::GET, path, None) {
                Err(Failure::Lost(_)) => std::thread::sleep(pause),
                other => return self.parse(path, other),
            }
            pause *= 3;
        }
        let last = self.send(&Method::GET, path, None);
        self.parse(path, last)
    }

    /// Changes something, once.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Answer<T> {
        let answer = self.send(&Method::POST, path, Some(body));
        self.parse(path, answer)
    }

    /// Changes something, once; the answer does not matter.
    pub fn change(&self, method: &Method, path: &str, body: Option<&Value>) -> Answer<()> {
        self.send(method, path, body).map(drop)
    }

    fn parse<T: DeserializeOwned>(&self, path: &str, answer: Answer<Vec<u8>>) -> Answer<T> {
        // A change whose answer cannot be read may have been made.
        serde_json::from_slice(&answer?).map_err(|e| {
            Failure::Lost(
                Error::unavailable(format!(
                    "the catalog at `{}` gave an answer to `{path}` that cannot be read: {e}",
                    self.base
                ))
                .hint("is `uri` of [catalog] the address of an Iceberg REST catalog?")
                .cause(e),
            )
        })
    }

    fn send(&self, method: &Method, path: &str, body: Option<&Value>) -> Answer<Vec<u8>> {
        let token = self.token(false).map_err(Failure::Lost)?;
        match self.send_with(method, path, body, token) {
            // A token that has expired is not one that was refused.
            Err(Failure::Refused(401 | 419, _)) if matches!(self.authorization, Authorization::Credential { .. }) => {
                let token = self.token(true).map_err(Failure::Lost)?;
                self.send_with(method, path, body, token)
            }
            other => other,
        }
    }

    fn send_with(&self, method: &Method, path: &str, body: Option<&Value>, token: Option<String>) -> Answer<Vec<u8>> {
        let mut request = self.http.request(method.clone(), format!("{}/v1/{path}", self.base));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if self.vended {
            request = request.header("X-Iceberg-Access-Delegation", "vended-credentials");
        }
        if let Some(body) = body {
            request = request.header("Content-Type", "application/json").body(body.to_string());
        }
        let (status, text) = self.fetch(request).map_err(Failure::Lost)?;
        match status {
            200..300 => Ok(text),
            500.. => Err(Failure::Lost(self.told(status, &text))),
            _ => Err(Failure::Refused(status, self.told(status, &text))),
        }
    }

    fn fetch(&self, request: reqwest::RequestBuilder) -> Result<(u16, Vec<u8>)> {
        let answer = wait(async move {
            let response = request.send().await?;
            let status = response.status().as_u16();
            Ok((status, response.bytes().await?.to_vec()))
        })?;
        answer.map_err(|e: reqwest::Error| {
            // The address of a request can hold secrets, its cause does not.
            let e = e.without_url();
            let mut cause: &dyn std::error::Error = &e;
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            let error = Error::unavailable(format!("the catalog at `{}` does not answer: {cause}", self.base));
            if e.is_connect() { error.hint("is it running, and is `uri` of [catalog] right?") } else { error }
        })
    }

    /// The error that the server tells.
    fn told(&self, status: u16, body: &[u8]) -> Error {
        let json: Value = serde_json::from_slice(body).unwrap_or_default();
        let error = &json["error"];
        let message = match (error["type"].as_str(), error["message"].as_str()) {
            (Some(kind), Some(message)) => format!("{kind}: {message}"),
            (None, Some(message)) => message.to_owned(),
            _ => error.as_str().map_or_else(|| "no reason is given".to_owned(), str::to_owned),
        };
        let (kind, hint) = match status {
            401 | 403 | 419 => {
                (ErrorKind::Invalid, Some("check `token` or `credential` of [catalog] and what they are allowed to do"))
            }
            404 => (ErrorKind::NotFound, None),
            409 => (ErrorKind::Conflict, None),
            429 | 500.. => (ErrorKind::Unavailable, None),
            _ => (ErrorKind::Invalid, None),
        };
        let new = Error::new(kind, format!("the catalog at `{}` refused with status {status}: {message}", self.base));
        match hint {
            Some(hint) => new.hint(hint),
            None => new,
        }
    }

    fn token(&self, fresh: bool) -> Result<Option<String>> {
        let (secret, uri, scope) = match &self.authorization {
            Authorization::None => return Ok(None),
            Authorization::Token(token) => return token.reveal("`token` of [catalog]").map(Some),
            Authorization::Credential { secret, uri, scope } => (secret, uri, scope),
        };
        let mut kept = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = kept.as_ref().filter(|_| !fresh) {
            return token.reveal("the token").map(Some);
        }
        let credential = secret.reveal("`credential` of [catalog]")?;
        let (id, key) = credential.split_once(':').unwrap_or(("", &credential));
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials").append_pair("client_secret", key);
        form.append_pair("scope", scope);
        if !id.is_empty() {
            form.append_pair("client_id", id);
        }
        let address = uri.clone().unwrap_or_else(|| format!("{}/v1/oauth/tokens", self.base));
        let request = self.http.post(&address).header("Content-Type", "application/x-www-form-urlencoded");
        let (status, body) = self.fetch(request.body(form.finish()))?;
        if status != 200 {
            return Err(self.told(status, &body));
        }
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        let token = json["access_token"].as_str().ok_or_else(|| {
            Error::unavailable(format!("the answer of `{address}` holds no `access_token`"))
                .hint("correct `oauth2_uri` of [catalog]")
        })?;
        *kept = Some(Secret::new(token));
        Ok(Some(token.to_owned()))
    }
}

/// Percent-encodes one part of a path or query.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn a_part_of_a_path_stays_one() {
        assert_eq!(escape("a/b c\u{1f}d"), "a%2Fb%20c%1Fd");
    }
}
