//! `[storage.s3]`, `[storage.azure]` and `[storage.gcs]` of `insightera.toml`:
//! how object stores are reached.
//!
//! What is not said here is taken from the variables that the stores' own tools
//! read, `AWS_ACCESS_KEY_ID`, `AZURE_STORAGE_ACCOUNT_KEY`,
//! `GOOGLE_APPLICATION_CREDENTIALS` and their like.

use std::path::PathBuf;

use serde::Serialize;

use super::catalog::secret;
use super::notifiers::Secret;
use super::section::Section;
use crate::Result;

/// How object stores are reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StoreSettings {
    /// `s3://`.
    pub s3: S3Settings,
    /// `abfss://`.
    pub azure: AzureSettings,
    /// `gs://`.
    pub gcs: GcsSettings,
}

/// S3, and what speaks its protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct S3Settings {
    /// The server's address; by default AWS's.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// Whether the bucket is in the path of an address; by default with an
    /// endpoint of one's own.
    pub path_style: Option<bool>,
    /// The id of the access key.
    pub access_key_id: Option<Secret>,
    /// The access key.
    pub secret_access_key: Option<Secret>,
    /// The token of a temporary key.
    pub session_token: Option<Secret>,
}

/// Azure Blob Storage, Data Lake Storage Gen2 included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AzureSettings {
    /// The server's address; by default Azure's.
    pub endpoint: Option<String>,
    /// The account of locations that name none.
    pub account: Option<String>,
    /// The account's key.
    pub access_key: Option<Secret>,
    /// A shared access signature.
    pub sas_token: Option<Secret>,
    /// The tenant of an application.
    pub tenant_id: Option<String>,
    /// The application.
    pub client_id: Option<String>,
    /// The application's secret.
    pub client_secret: Option<Secret>,
}

/// Google Cloud Storage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcsSettings {
    /// The file of a service account.
    pub service_account: Option<PathBuf>,
    /// What would stand in that file.
    pub service_account_key: Option<Secret>,
}

impl StoreSettings {
    /// Reads the sections below `[storage]`.
    pub(super) fn read(storage: &Section<'_>) -> Result<Self> {
        let mut settings = Self::default();
        if let Some(section) = storage.section("s3")? {
            let keys = ["endpoint", "region", "path_style", "access_key_id", "secret_access_key", "session_token"];
            section.allow(&keys, &[])?;
            settings.s3 = S3Settings {
                endpoint: endpoint(&section)?,
                region: text(&section, "region")?,
                path_style: section.boolean("path_style")?,
                access_key_id: secret(&section, "access_key_id")?,
                secret_access_key: secret(&section, "secret_access_key")?,
                session_token: secret(&section, "session_token")?,
            };
        }
        if let Some(section) = storage.section("azure")? {
            let keys = ["endpoint", "account", "access_key", "sas_token", "tenant_id", "client_id", "client_secret"];
            section.allow(&keys, &[])?;
            settings.azure = AzureSettings {
                endpoint: endpoint(&section)?,
                account: text(&section, "account")?,
                access_key: secret(&section, "access_key")?,
                sas_token: secret(&section, "sas_token")?,
                tenant_id: text(&section, "tenant_id")?,
                client_id: text(&section, "client_id")?,
                client_secret: secret(&section, "client_secret")?,
            };
        }
        if let Some(section) = storage.section("gcs")? {
            section.allow(&["service_account", "service_account_key"], &[])?;
            settings.gcs = GcsSettings {
                service_account: text(&section, "service_account")?.map(PathBuf::from),
                service_account_key: secret(&section, "service_account_key")?,
            };
        }
        Ok(settings)
    }
}

fn text(section: &Section<'_>, key: &str) -> Result<Option<String>> {
    Ok(section.text(key)?.map(|text| text.value.to_owned()))
}

fn endpoint(section: &Section<'_>) -> Result<Option<String>> {
    let Some(found) = section.text("endpoint")? else { return Ok(None) };
    if !found.value.starts_with("http://") && !found.value.starts_with("https://") {
        return Err(section.error(&found.span, "`endpoint` is no address of the web").hint("write `https://…`"));
    }
    Ok(Some(found.value.trim_end_matches('/').to_owned()))
}
