//! A project folder as plain data: `insightera.toml`, `pipelines/NAME.toml` and
//! `feature_views/NAME.toml`.
//!
//! Words: *settings* are what the project file says about where things are and
//! how much a run may use; a *pipeline* is one configured flow; a *feature view*
//! says what a table's rows were at a time.
//!
//! Flow: a file is read into a [`document`] (text with positions), parsed into
//! a tree with spans, and taken apart by [`section`]s that know which keys are
//! allowed. Nothing here opens a catalog, a table or a model.
//!
//! Guarantees:
//! - Every unknown key, wrong type and wrong value is an error that names the
//!   file, line and column, shows the line, and offers the nearest valid name.
//! - `[output.columns]` keeps the order of the file.
//! - Only this module reads the environment, and the order of settings
//!   (built-in default < file < environment < flag) is one function,
//!   [`Settings::resolve`].
//! - A broken pipeline does not stop the others: a pipeline file is read when
//!   it is asked for.

mod catalog;
mod document;
mod events;
mod feature_view;
mod live;
mod notifiers;
mod partition;
mod pipeline;
mod project;
mod section;
mod settings;
mod source;
mod stores;
mod stream;
mod templates;
mod time_zone;

pub use catalog::{CatalogSettings, HiveSettings, PostgresSettings, RestSettings};
pub use events::{
    CHANGE_COLUMNS, CHANGE_TIMESTAMP, EVENT_COLUMNS, EventFormat, EventSettings, FieldKind, FieldSettings,
    SchemaRegistrySettings, SchemaSettings, TimeFormat,
};
pub use feature_view::{FeatureView, KnownTime};
pub use live::LiveSettings;
pub use notifiers::{Address, NotifierSettings, Secret};
pub use partition::PartitionTransform;
pub use pipeline::{
    Duplicates, Explain, Features, ModelRef, OnModelChange, Output, Pipeline, PipelineKind, RESERVED_COLUMNS, Selector,
    Strategy,
};
pub use project::{FEATURE_VIEWS, Project};
pub use settings::{
    InputSettings, Overrides, RegistrySettings, RunSettings, Settings, SqlSettings, StorageSettings, parse_bytes,
};
pub use source::{PARTITIONS_OF_A_TOPIC, SOURCE_TOPIC, SourceSettings, Start};
pub use stores::{AzureSettings, GcsSettings, S3Settings, StoreSettings};
pub use stream::{AlertSettings, Emit, JoinSettings, StreamPipeline, StreamSettings, WindowSettings};
pub use templates::{render_default_project, render_example_pipeline};

/// Checks the name of a time zone.
///
/// # Errors
/// When it is neither an IANA name nor an offset.
pub fn check_time_zone(name: &str) -> crate::Result<()> {
    if time_zone::is_time_zone(name) {
        return Ok(());
    }
    Err(crate::Error::invalid(format!("`{name}` is not a time zone")).hint(time_zone::TIME_ZONE_HINT))
}

#[cfg(test)]
mod tests;

/// `INSIGHTERA_BUSY_TIMEOUT_SECONDS`: how long another process may hold the
/// catalog or the registry. Ignored when it is not a positive number.
pub fn busy_timeout_seconds() -> Option<f64> {
    std::env::var("INSIGHTERA_BUSY_TIMEOUT_SECONDS").ok()?.parse().ok().filter(|s: &f64| *s >= 0.0 && *s < 86_400.0)
}
