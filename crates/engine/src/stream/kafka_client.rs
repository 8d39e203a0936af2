//! What a source and a live topic have in common as clients of Kafka: whether
//! this build can speak as their options want, and why brokers refuse them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::config::Secret;
use crate::{Error, Result};

/// How TLS comes into a build.
const WITH_TLS: &str = "TLS is OpenSSL's, which a build takes from the system: `apt-get install libssl-dev pkg-config`, \
                        then `cargo build --release --features kafka-tls`";

/// Refuses options for which this build has no TLS; `section` is where they
/// stand.
///
/// # Errors
/// `Invalid`, with the way to a build that has.
pub fn check_security(section: &str, options: &BTreeMap<String, String>) -> Result<()> {
    if cfg!(feature = "kafka-tls") {
        return Ok(());
    }
    for (key, written) in options {
        let value = Secret::new(written).reveal(&format!("{section} `{key}`"))?.to_ascii_uppercase();
        let wants = match key.as_str() {
            "security.protocol" => value == "SSL" || value == "SASL_SSL",
            "sasl.mechanism" | "sasl.mechanisms" => value.starts_with("SCRAM"),
            key => key.starts_with("ssl."),
        };
        if wants {
            let shown = if key.starts_with("ssl.") { "…" } else { written };
            return Err(Error::invalid(format!(
                "{section} `{key}` = `{shown}`: this insightera was built without TLS"
            ))
            .hint(format!(
                "{WITH_TLS}; without it brokers are reached by PLAINTEXT, and by SASL_PLAINTEXT with PLAIN"
            )));
        }
    }
    Ok(())
}

/// Why brokers refused the client, the last time that they did.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<Option<Refusal>>);

/// A connection that cannot be, however often it is tried.
#[derive(Debug, Clone)]
struct Refusal {
    is_secret: bool,
    why: String,
}

impl Refusals {
    /// Takes note of what the client says of its connections.
    pub fn note(&self, error: &KafkaError, why: &str) {
        let is_secret = match error {
            KafkaError::Global(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed) => true,
            // Others come and go with a broker.
            KafkaError::Global(RDKafkaErrorCode::SSL) if why.contains("certificate") => false,
            _ => return,
        };
        let refusal = Refusal { is_secret, why: why.to_owned() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
    }

    /// The refusal as an error of the options in `section`.
    pub fn error(&self, section: &str, options: &BTreeMap<String, String>) -> Option<Error> {
        let refusal = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let servers = options.get("bootstrap.servers").map_or("", String::as_str);
        let hint = match refusal.is_secret {
            true => {
                format!("correct `\"sasl.username\"` and `\"sasl.password\"`, or `\"sasl.mechanism\"`, in {section}")
            }
            false => format!("name the certificate that signed the brokers' as `\"ssl.ca.location\"` in {section}"),
        };
        Some(Error::invalid(format!("the brokers `{servers}` of {section}: {}", refusal.why)).hint(hint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_build_without_tls_says_how_to_get_it_and_shows_no_secret() {
        let plain = options(&[("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanism", "PLAIN")]);
        assert!(check_security("[source.kafka]", &plain).is_ok());
        for pair in [
            ("security.protocol", "sasl_ssl"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("ssl.key.password", "secret-of-a-key"),
        ] {
            let result = check_security("[source.kafka]", &options(&[pair]));
            if cfg!(feature = "kafka-tls") {
                assert!(result.is_ok());
                continue;
            }
            let error = result.unwrap_err();
            let text = format!("{error} {}", error.get_hint().unwrap_or_default());
            assert!(text.contains(pair.0) && text.contains("--features kafka-tls"), "{text}");
            assert!(text.contains("apt-get install libssl-dev") && !text.contains("secret-of-a-key"), "{text}");
        }
    }

    #[test]
    fn only_what_trying_again_does_not_mend_is_a_refusal() {
        let refusals = Refusals::default();
        let ssl = KafkaError::Global(RDKafkaErrorCode::SSL);
        refusals.note(&KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure), "certificate");
        refusals.note(&ssl, "SSL handshake failed: Disconnected");
        assert!(refusals.error("[source.kafka]", &options(&[])).is_none());
        refusals.note(&ssl, "certificate verify failed");
        let error = refusals.error("[source.kafka]", &options(&[("bootstrap.servers", "b:1")])).unwrap();
        assert!(
            error.to_string().contains("`b:1`") && error.get_hint().unwrap().contains("ssl.ca.location"),
            "{error}"
        );
        refusals.note(&KafkaError::Global(RDKafkaErrorCode::Authentication), "invalid credentials");
        let error = refusals.error("[source.kafka]", &options(&[])).unwrap();
        assert!(error.get_hint().unwrap().contains("sasl.password"), "{error}");
    }
}
