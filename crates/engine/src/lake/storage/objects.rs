//! The buckets of object stores: addresses, clients, requests.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use datafusion::execution::object_store::ObjectStoreUrl;
use futures::TryStreamExt;
use insightera_core::ErrorKind;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::SpawnedReqwestConnector;
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::path::Path;
use object_store::{
    ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig, StaticCredentialProvider,
};

use super::Listed;
use crate::config::{AzureSettings, GcsSettings, S3Settings, Secret, StoreSettings};
use crate::lake::faults::{self, Stage};
use crate::network;
pub(super) use crate::network::wait;
use crate::{Error, Result};

/// After this a request that keeps failing is given up.
const RETRY_FOR: Duration = Duration::from_secs(60);

/// Whose store an address is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Provider {
    S3,
    Azure,
    Gcs,
}

/// The parts of a location.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    provider: Provider,
    /// Scheme, bucket and, for Azure, account, as the location has them.
    pub address: String,
    bucket: String,
    account: Option<String>,
    host: String,
    pub path: Path,
}

impl Parts {
    /// The same for all spellings of a scheme.
    pub fn identity(&self) -> String {
        format!("{:?}://{}/{}", self.provider, self.host, self.path)
    }
}

/// Splits `scheme://bucket/path`, or `abfss://container@account.host/path`.
///
/// # Errors
/// When the scheme is not one of a store, or there is no bucket.
pub(super) fn parse(location: &str) -> Result<Parts> {
    let wrong = |why: &str| {
        Error::invalid(format!("`{location}` is not a location of files: {why}"))
            .hint("write a folder, `s3://bucket/path`, `abfss://container@account.dfs.core.windows.net/path` or `gs://bucket/path`")
    };
    let (scheme, rest) = location.split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.is_empty() {
        return Err(wrong("it names no bucket"));
    }
    let provider = match scheme {
        "s3" | "s3a" | "s3n" => Provider::S3,
        "abfs" | "abfss" | "wasb" | "wasbs" => Provider::Azure,
        "gs" | "gcs" => Provider::Gcs,
        _ => return Err(wrong(&format!("the scheme `{scheme}` is not known"))),
    };
    let (bucket, account) = match (provider, host.split_once('@')) {
        (Provider::Azure, Some((container, account))) if !container.is_empty() => {
            (container.to_owned(), account.split('.').next().map(str::to_owned))
        }
        (Provider::Azure, None) => (host.to_owned(), None),
        (_, None) => (host.to_owned(), None),
        _ => return Err(wrong("it names no bucket")),
    };
    let path = Path::parse(path.trim_end_matches('/')).map_err(|e| wrong(&e.to_string()))?;
    Ok(Parts { provider, address: format!("{scheme}://{host}"), bucket, account, host: host.to_owned(), path })
}

/// Whether a catalog's property is about a store.
pub(super) fn is_store_property(key: &str) -> bool {
    key.starts_with("s3.") || key.starts_with("adls.") || key.starts_with("gcs.") || key == "client.region"
}

/// One bucket and its client.
pub(super) struct Bucket {
    pub store: Arc<dyn ObjectStore>,
    /// Its address in DataFusion's registry.
    pub url: ObjectStoreUrl,
    address: String,
    provider: Provider,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl Bucket {
    /// A client with the settings and, before them, what a catalog gave.
    pub fn open(parts: &Parts, settings: &StoreSettings, vended: &HashMap<String, String>) -> Result<Self> {
        let store = match parts.provider {
            Provider::S3 => s3(parts, &settings.s3, vended)?,
            Provider::Azure => azure(parts, &settings.azure, vended)?,
            Provider::Gcs => gcs(parts, &settings.gcs, vended)?,
        };
        // Two tables may have credentials of their own for one bucket.
        let own = if vended.is_empty() { String::new() } else { format!("+{}", uuid::Uuid::new_v4().simple()) };
        let scheme = format!("{:?}", parts.provider).to_ascii_lowercase();
        let url = ObjectStoreUrl::parse(format!("{scheme}{own}://{}", parts.host.replace('@', ".")))
            .map_err(|e| Error::invalid(format!("`{}` is not the address of a bucket: {e}", parts.address)))?;
        Ok(Self { store, url, address: parts.address.clone(), provider: parts.provider })
    }
}

fn retry() -> RetryConfig {
    RetryConfig { retry_timeout: RETRY_FOR, ..RetryConfig::default() }
}

fn refused(parts: &Parts, error: object_store::Error) -> Error {
    Error::invalid(format!("the store of `{}` cannot be used: {error}", parts.address))
        .hint("correct [storage] in insightera.toml, or the variables of the environment that it names")
}

fn reveal(secret: &Option<Secret>, what: &str) -> Result<Option<String>> {
    secret.as_ref().map(|secret| secret.reveal(what)).transpose()
}

fn s3(parts: &Parts, settings: &S3Settings, vended: &HashMap<String, String>) -> Result<Arc<dyn ObjectStore>> {
    let given = |key: &str| vended.get(key).cloned();
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&parts.bucket)
        .with_http_connector(SpawnedReqwestConnector::new(network::handle()?.clone()))
        .with_retry(retry());
    let endpoint = given("s3.endpoint").or_else(|| settings.endpoint.clone());
    let path_style = given("s3.path-style-access").map(|v| v == "true").or(settings.path_style);
    builder = builder.with_virtual_hosted_style_request(!path_style.unwrap_or(endpoint.is_some()));
    if let Some(endpoint) = endpoint {
        builder = builder.with_allow_http(endpoint.starts_with("http://")).with_endpoint(endpoint);
    }
    if let Some(region) = given("client.region").or_else(|| given("s3.region")).or_else(|| settings.region.clone()) {
        builder = builder.with_region(region);
    }
    let (id, key, token) = match (given("s3.access-key-id"), given("s3.secret-access-key")) {
        (Some(id), Some(key)) => (Some(id), Some(key), given("s3.session-token")),
        _ => (
            reveal(&settings.access_key_id, "`access_key_id` of [storage.s3]")?,
            reveal(&settings.secret_access_key, "`secret_access_key` of [storage.s3]")?,
            reveal(&settings.session_token, "`session_token` of [storage.s3]")?,
        ),
    };
    if let (Some(id), Some(key)) = (id, key) {
        builder = builder.with_access_key_id(id).with_secret_access_key(key);
    }
    if let Some(token) = token {
        builder = builder.with_token(token);
    }
    Ok(Arc::new(builder.build().map_err(|e| refused(parts, e))?))
}

fn azure(parts: &Parts, settings: &AzureSettings, vended: &HashMap<String, String>) -> Result<Arc<dyn ObjectStore>> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(&parts.bucket)
        .with_http_connector(SpawnedReqwestConnector::new(network::handle()?.clone()))
        .with_retry(retry());
    let account = parts.account.clone().or_else(|| settings.account.clone());
    let sas = vended.iter().find(|(key, _)| key.starts_with("adls.sas-token")).map(|(_, token)| token.clone());
    if let Some(account) = account {
        builder = builder.with_account(account);
    }
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_allow_http(endpoint.starts_with("http://")).with_endpoint(endpoint.clone());
    }
    let sas = match sas {
        Some(sas) => Some(sas),
        None => reveal(&settings.sas_token, "`sas_token` of [storage.azure]")?,
    };
    if let Some(sas) = sas {
        let pairs = url::form_urlencoded::parse(sas.trim_start_matches('?').as_bytes());
        let pairs: Vec<(String, String)> = pairs.map(|(key, value)| (key.into_owned(), value.into_owned())).collect();
        builder = builder.with_sas_authorization(pairs);
    } else if let Some(key) = reveal(&settings.access_key, "`access_key` of [storage.azure]")? {
        builder = builder.with_access_key(key);
    } else if let Some(secret) = reveal(&settings.client_secret, "`client_secret` of [storage.azure]")? {
        builder = builder.with_client_secret(secret);
        if let Some(client) = &settings.client_id {
            builder = builder.with_client_id(client);
        }
        if let Some(tenant) = &settings.tenant_id {
            builder = builder.with_tenant_id(tenant);
        }
    }
    Ok(Arc::new(builder.build().map_err(|e| refused(parts, e))?))
}

fn gcs(parts: &Parts, settings: &GcsSettings, vended: &HashMap<String, String>) -> Result<Arc<dyn ObjectStore>> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(&parts.bucket)
        .with_http_connector(SpawnedReqwestConnector::new(network::handle()?.clone()))
        .with_retry(retry());
    if let Some(bearer) = vended.get("gcs.oauth2.token") {
        let credential = GcpCredential { bearer: bearer.clone() };
        builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(credential)));
    } else if let Some(key) = reveal(&settings.service_account_key, "`service_account_key` of [storage.gcs]")? {
        builder = builder.with_service_account_key(key);
    } else if let Some(path) = &settings.service_account {
        builder = builder.with_service_account_path(path.display().to_string());
    }
    Ok(Arc::new(builder.build().map_err(|e| refused(parts, e))?))
}

/// What a test's accident says instead of a request's answer.
pub(super) fn stopped(location: &str, error: io::Error) -> Error {
    Error::unavailable(format!("cannot write `{location}`: {error}")).cause(error)
}

/// One object.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub bucket: Arc<Bucket>,
    pub path: Path,
    pub location: String,
}

impl Object {
    /// Our error for a store's.
    pub fn error(&self, action: &str, error: object_store::Error) -> Error {
        let (kind, hint) = match &error {
            object_store::Error::NotFound { .. } => (ErrorKind::NotFound, None),
            object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
                (ErrorKind::Conflict, None)
            }
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                (ErrorKind::Invalid, Some("check the credentials of the store and what they are allowed to do"))
            }
            _ => (ErrorKind::Unavailable, None),
        };
        let new = Error::new(kind, format!("cannot {action} `{}`: {error}", self.location)).cause(error);
        match hint {
            Some(hint) => new.hint(hint),
            None => new,
        }
    }

    fn ask<T: Send + 'static, F: Future<Output = object_store::Result<T>> + Send + 'static>(
        &self,
        action: &str,
        request: impl FnOnce(Arc<dyn ObjectStore>, Path) -> F,
    ) -> Result<T> {
        wait(request(self.bucket.store.clone(), self.path.clone()))?.map_err(|e| self.error(action, e))
    }

    pub fn read(&self) -> Result<Bytes> {
        self.ask("read", |store, path| async move { store.get(&path).await?.bytes().await })
    }

    pub fn range(&self, range: Range<u64>) -> Result<Bytes> {
        self.ask("read", |store, path| async move { store.get_range(&path, range).await })
    }

    /// The same for an executor that must not be blocked.
    pub async fn range_async(&self, range: Range<u64>) -> Result<Bytes> {
        let (store, path) = (self.bucket.store.clone(), self.path.clone());
        network::run(async move { store.get_range(&path, range).await }).await?.map_err(|e| self.error("read", e))
    }

    /// The size.
    pub fn head(&self) -> Result<u64> {
        self.ask("find", |store, path| async move { store.head(&path).await.map(|meta| meta.size) })
    }

    /// Whether the bucket gave the object a version. Google's gives every object
    /// a generation, whether or not it keeps earlier ones: it does not tell.
    pub fn keeps_versions(&self) -> Result<bool> {
        match self.ask("find", |store, path| async move { store.head(&path).await }) {
            // Without versioning, or while it is suspended, the version is `null`.
            Ok(found) => {
                Ok(self.bucket.provider != Provider::Gcs && found.version.is_some_and(|version| version != "null"))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Creates the object if there is none. An answer that got lost is not
    /// mistaken for somebody else's object: what is there then is compared.
    pub fn put_new(&self, bytes: Bytes) -> Result<()> {
        let (payload, location) = (PutPayload::from(bytes.clone()), FilePath::new(&self.location));
        let written = faults::step(Stage::of(location), "put", location, || {
            Ok(self.ask("write", |store, path| async move {
                let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                store.put_opts(&path, payload, options).await
            }))
        });
        match written.map_err(|e| stopped(&self.location, e))? {
            Err(error) if error.kind() == ErrorKind::Conflict && self.read()? == bytes => Ok(()),
            other => other.map(drop),
        }
    }

    /// Answers whether it was there, as far as the store tells.
    pub fn remove(&self) -> Result<bool> {
        let location = FilePath::new(&self.location);
        let removed = faults::step(Stage::of(location), "remove", location, || {
            Ok(self.ask("remove", |store, path| async move { store.delete(&path).await }))
        });
        match removed.map_err(|e| stopped(&self.location, e))? {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            other => other.map(|()| true),
        }
    }

    pub fn copy(&self, to: &Self) -> Result<()> {
        let (target, location) = (to.path.clone(), FilePath::new(&self.location));
        let copied = faults::step(Stage::of(location), "copy", location, || {
            Ok(self.ask("copy", |store, path| async move { store.copy(&path, &target).await }))
        });
        copied.map_err(|e| stopped(&self.location, e))?
    }

    /// Every object below this path.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let address = self.bucket.address.clone();
        self.ask("list", |store, path| async move {
            let prefix = (!path.as_ref().is_empty()).then_some(path);
            let found: Vec<_> = store.list(prefix.as_ref()).try_collect().await?;
            let listed = found.into_iter().map(|meta| Listed {
                location: format!("{address}/{}", meta.location),
                bytes: meta.size,
                modified_ms: meta.last_modified.timestamp_millis(),
            });
            Ok(listed.collect())
        })
    }
}
