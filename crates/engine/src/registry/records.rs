//! What goes into a registry and what comes out: plain data.

use std::collections::BTreeMap;
use std::path::PathBuf;

use insightera_infer::Artifact;
use serde::Serialize;

/// A version to be.
#[derive(Debug)]
pub struct Registration {
    /// The registered model; made if it does not exist.
    pub name: String,
    /// The model's files.
    pub artifact: Artifact,
    /// What is special about this version.
    pub description: Option<String>,
    /// Tags of the version.
    pub tags: BTreeMap<String, String>,
    /// Metrics of the run that made it, such as `auc`.
    pub metrics: BTreeMap<String, f64>,
    /// Parameters of that run.
    pub params: BTreeMap<String, String>,
    /// The experiment of that run; `Default` if `None`.
    pub experiment: Option<String>,
    /// The kind of model, such as `xgboost`.
    pub model_type: Option<String>,
    /// The inputs and outputs of the model.
    pub signature: Option<serde_json::Value>,
    /// An alias that moves to the new version in the same transaction.
    pub alias: Option<String>,
    /// Whether an existing version with the same SHA-256 will do.
    pub if_absent: bool,
}

impl Registration {
    /// A version of the model `name` with nothing but its files.
    pub fn new(name: impl Into<String>, artifact: Artifact) -> Self {
        Self {
            name: name.into(),
            artifact,
            description: None,
            tags: BTreeMap::new(),
            metrics: BTreeMap::new(),
            params: BTreeMap::new(),
            experiment: None,
            model_type: None,
            signature: None,
            alias: None,
            if_absent: false,
        }
    }
}

/// The answer to a registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Registered {
    /// The registered model.
    pub name: String,
    /// Its version with these files.
    pub version: u64,
    /// The SHA-256 of the artifact.
    pub sha256: String,
    /// Whether the version was there before.
    pub reused: bool,
    /// How the alias moved, if one was asked for.
    pub alias: Option<AliasMove>,
}

/// A model in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelSummary {
    /// The registered model.
    pub name: String,
    /// How many versions it has.
    pub versions: u64,
    /// The highest version.
    pub latest_version: u64,
    /// What its aliases point to.
    pub aliases: BTreeMap<String, u64>,
    /// When it was made, in microseconds since the epoch.
    pub created_micros: i64,
    /// When it last changed, in microseconds since the epoch.
    pub updated_micros: i64,
}

/// A model with all its versions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelDetails {
    /// The registered model.
    pub name: String,
    /// When it was made, in microseconds since the epoch.
    pub created_micros: i64,
    /// When it last changed, in microseconds since the epoch.
    pub updated_micros: i64,
    /// What its aliases point to.
    pub aliases: BTreeMap<String, u64>,
    /// Its versions, oldest first.
    pub versions: Vec<VersionDetails>,
}

/// One version of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VersionDetails {
    /// The number, from 1.
    pub version: u64,
    /// The SHA-256 of the artifact.
    pub sha256: String,
    /// The size of all files.
    pub bytes: u64,
    /// The names and sizes of the files.
    pub files: BTreeMap<String, u64>,
    /// When it was registered, in microseconds since the epoch.
    pub created_micros: i64,
    /// What is special about it.
    pub description: Option<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// The run that made it.
    pub run_id: String,
    /// The experiment of that run.
    pub experiment: String,
    /// Metrics of that run; not a number if the metric is not.
    pub metrics: BTreeMap<String, f64>,
    /// Parameters of that run.
    pub params: BTreeMap<String, String>,
    /// The kind of model.
    pub model_type: Option<String>,
    /// Its inputs and outputs.
    pub signature: Option<serde_json::Value>,
    /// The aliases that point to it.
    pub aliases: Vec<String>,
}

/// A version that was looked up: what a run pins.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct ResolvedModel {
    /// The registered model.
    pub name: String,
    /// The version.
    pub version: u64,
    /// The SHA-256 of the artifact: the model's identity.
    pub sha256: String,
    /// The folder of the files.
    pub artifact_path: PathBuf,
}

/// How an alias moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AliasMove {
    /// The alias.
    pub alias: String,
    /// The version before; `None` if the alias is new.
    pub from: Option<u64>,
    /// The version now.
    pub to: u64,
    /// Whether anything changed.
    pub moved: bool,
}

/// A time during which an alias pointed to one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AliasChange {
    /// The version.
    pub version: u64,
    /// Since when, inclusive, in microseconds since the epoch (valid time).
    pub from_micros: i64,
    /// Until when, exclusive; `None` is until now.
    pub to_micros: Option<i64>,
    /// What began it.
    pub by: AliasAction,
    /// When it was written, in microseconds since the epoch (system time).
    pub system_micros: i64,
}

impl AliasChange {
    /// Whether `micros` falls into this time.
    pub fn contains(&self, micros: i64) -> bool {
        self.from_micros <= micros && self.to_micros.is_none_or(|to| micros < to)
    }
}

/// What moves an alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AliasAction {
    /// A registration that named the alias.
    Register,
    /// A promotion.
    Promote,
    /// A rollback.
    Rollback,
}

impl AliasAction {
    /// The word in the database and in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Promote => "promote",
            Self::Rollback => "rollback",
        }
    }

    /// The action of a word.
    pub(super) fn from_word(word: &str) -> Option<Self> {
        [Self::Register, Self::Promote, Self::Rollback].into_iter().find(|action| action.as_str() == word)
    }
}
