//! Requests to webhooks: those of notifiers, and those that get the predictions
//! of a stream.
//!
//! A request has one of three ends: it was taken, it was refused, which asking
//! again does not mend, or it may be taken later. Who asks decides how often
//! and how long. What is told of a webhook names scheme, host and port of its
//! address and nothing else of it: the rest may be a secret.

use std::time::Duration;

use bytes::Bytes;
use chrono::DateTime;
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};

use crate::config::Secret;
use crate::{Error, Result};

/// Bytes of a refusal that are told.
const SAID: usize = 200;

/// An address that JSON is posted to.
#[derive(Debug)]
pub struct Webhook {
    url: Url,
    client: Client,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was taken: any 2xx.
    Taken,
    /// It will not be taken, however often it is sent.
    Refused {
        /// The status; none when there is no such request.
        status: Option<StatusCode>,
        /// The beginning of what the webhook says of it, in one line; may be empty.
        said: String,
    },
    /// It may be taken later: 5xx, 408 and 429, no connection, no answer in
    /// time.
    Later {
        /// What happened.
        why: String,
        /// How long the webhook wants to be left alone, if it says so.
        after: Option<Duration>,
    },
}

impl Webhook {
    /// Reads the address; sends nothing. `what` is where the address stands,
    /// `timeout` the microseconds that a request may take.
    ///
    /// # Errors
    /// `Invalid` when it is no address of the web, or is in a variable that is
    /// not there.
    pub fn new(url: &Secret, what: &str, timeout: i64) -> Result<Self> {
        let text = url.reveal(what)?;
        let url = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let Some(url) = url else {
            return Err(Error::invalid(format!("{what} is no address of the web")).hint("write `https://…`"));
        };
        let client = Client::builder()
            .timeout(Duration::from_micros(timeout.unsigned_abs()))
            // Followed, a request becomes another one that brings nothing.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("insightera/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Error::internal(format!("a client for {what}: {}", e.without_url())))?;
        Ok(Self { url, client })
    }

    /// Scheme, host and port: what may be shown of the address.
    pub fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// Sends JSON once. `key` says which request it is, so that who gets it
    /// twice can drop the second.
    pub async fn post(&self, body: Bytes, key: Option<&str>) -> Answer {
        let mut request = self.client.post(self.url.clone()).header("content-type", "application/json").body(body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        match request.send().await {
            Ok(answer) if answer.status().is_success() => Answer::Taken,
            Ok(answer) if is_for_later(answer.status()) => {
                Answer::Later { why: format!("it answered {}", answer.status()), after: retry_after(answer.headers()) }
            }
            Ok(answer) => Answer::Refused { status: Some(answer.status()), said: beginning(answer).await },
            Err(error) if error.is_builder() => Answer::Refused { status: None, said: reason(&error.without_url()) },
            Err(error) => Answer::Later { why: reason(&error.without_url()), after: None },
        }
    }
}

fn is_for_later(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT
}

/// How long a webhook wants to be left alone: seconds, or the time between two
/// points of its own clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let after = text(RETRY_AFTER)?;
    if let Ok(seconds) = after.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let time = |text: &str| DateTime::parse_from_rfc2822(text).ok();
    time(after)?.signed_duration_since(time(text(DATE)?)?).to_std().ok()
}

/// The first bytes of a body, in one line.
async fn beginning(mut answer: Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < SAID {
        // What does not come is not told.
        let Ok(Some(chunk)) = answer.chunk().await else { break };
        bytes.extend_from_slice(&chunk);
    }
    bytes.truncate(SAID);
    let text = String::from_utf8_lossy(&bytes);
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// An error with its causes, which say what really happened.
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn the_wait_that_a_webhook_asks_for_is_in_seconds_or_until_a_time_of_its_clock() {
        let now = "Wed, 21 Oct 2015 07:28:00 GMT";
        for (after, date, wanted) in [
            ("7", None, Some(7)),
            (" 120 ", Some(now), Some(120)),
            ("Wed, 21 Oct 2015 07:28:30 GMT", Some(now), Some(30)),
            ("Wed, 21 Oct 2015 07:27:30 GMT", Some(now), None),
            ("Wed, 21 Oct 2015 07:28:30 GMT", None, None),
            ("soon", Some(now), None),
            ("-1", Some(now), None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(after));
            if let Some(date) = date {
                headers.insert(DATE, HeaderValue::from_static(date));
            }
            assert_eq!(retry_after(&headers), wanted.map(Duration::from_secs), "{after}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn only_what_time_mends_is_for_later() {
        for (status, later) in
            [(500, true), (503, true), (429, true), (408, true), (400, false), (404, false), (301, false)]
        {
            assert_eq!(is_for_later(StatusCode::from_u16(status).unwrap()), later, "{status}");
        }
    }

    #[test]
    fn nothing_of_an_address_is_shown_but_where_it_is() {
        let webhook = |text: &str| Webhook::new(&Secret::new(text), "`url` of [live]", 1_000_000);
        let secret = webhook("https://me:word@hooks.example.org:8443/T0/B0?token=1").unwrap();
        assert_eq!(secret.origin(), "https://hooks.example.org:8443");
        for wrong in ["ftp://hooks.example.org/T0", "hooks.example.org/T0", "env:INSIGHTERA_NO_SUCH_NAME"] {
            let error = webhook(wrong).unwrap_err().to_string();
            assert!(error.contains("`url` of [live]") && !error.contains("T0"), "{error}");
        }
    }
}
