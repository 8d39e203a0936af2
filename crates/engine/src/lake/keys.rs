//! Snapshot summary keys and table properties: a public format.

/// The format of the keys below.
pub const FORMAT: &str = "insightera.format";
/// Which pipeline committed.
pub const PIPELINE: &str = "insightera.pipeline";
/// The run that committed.
pub const RUN_ID: &str = "insightera.run-id";
/// The idempotency key of the commit.
pub const INTENT_ID: &str = "insightera.intent-id";
/// The pipeline's last commit that the run planned on.
pub const PREVIOUS: &str = "insightera.previous";
/// JSON: input name to what was consumed of it.
pub const INPUTS: &str = "insightera.inputs";
/// The model's name.
pub const MODEL: &str = "insightera.model";
/// The model's version.
pub const MODEL_VERSION: &str = "insightera.model-version";
/// The model artifact's sha256.
pub const MODEL_SHA256: &str = "insightera.model-sha256";
/// The definition that scored: model, SQL and output expressions.
pub const DEFINITION_HASH: &str = "insightera.definition-hash";
/// Live entities after the run.
pub const ENTITIES: &str = "insightera.entities";

/// The time that a run scored as of, microseconds since the epoch; such a
/// commit has no `insightera.pipeline`, since it is no progress.
pub const AS_OF: &str = "insightera.as-of";
/// The pipeline of such a commit.
pub const AS_OF_PIPELINE: &str = "insightera.as-of-pipeline";
/// JSON: a stream's source to partition to the next offset, of all partitions.
pub const POSITIONS: &str = "insightera.positions";
/// JSON: partition to the epoch of its owner and where that one took it.
pub const OWNERS: &str = "insightera.owners";
/// JSON: partition to what it is of the source, where numbers are not enough.
pub const PARTITIONS: &str = "insightera.partitions";
/// JSON: partition to where it was begun, of partitions that were not begun at
/// their first events.
pub const BEGUN: &str = "insightera.begun";
/// JSON: partition to the files of its window state.
pub const CHECKPOINT: &str = "insightera.checkpoint";
/// JSON: partition to hashes of some of the keys of its windows, in hexadecimal.
pub const KEY_SAMPLE: &str = "insightera.key-sample";
/// The newest prediction time, microseconds since the epoch.
pub const TIMESTAMP: &str = "insightera.prediction-timestamp";

/// The table property that mirrors a pipeline's newest progress.
pub fn progress(pipeline: &str) -> String {
    format!("insightera.progress.{pipeline}")
}

/// The table property that counts the erasures that the table went through: a
/// commit of rows that respect fewer of them is refused.
pub const ERASURES: &str = "insightera.erasures";

/// The newest erasure that a table went through; 0 is none.
pub fn erasures_of(table: &super::Table) -> u64 {
    table.metadata().properties().get(ERASURES).and_then(|text| text.parse().ok()).unwrap_or(0)
}
