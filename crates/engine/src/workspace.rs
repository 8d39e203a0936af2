//! An open project: its settings, its lake, its registry, its clock.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use insightera_core::{Clock, RunId};

use crate::Result;
use crate::config::{Overrides, Project};
use crate::lake::{self, Lake};
use crate::registry::{EmbeddedRegistry, Registry, RegistryOptions};

/// How long another process may hold a lock before we give up.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Everything that commands work with.
#[derive(Debug, Clone)]
pub struct Workspace {
    project: Project,
    lake: Lake,
    registry: Arc<dyn Registry>,
    clock: Arc<dyn Clock>,
    #[cfg(feature = "faults")]
    feed: Option<crate::stream::Feed>,
}

impl Workspace {
    /// Opens the project in `dir`.
    ///
    /// # Errors
    /// When the project file is wrong, the catalog is missing, locked,
    /// damaged or cannot be reached, or a newer Insightera wrote the warehouse.
    pub fn open(dir: &Path, overrides: Overrides, clock: Arc<dyn Clock>) -> Result<Self> {
        Self::open_with(dir, overrides, clock, false)
    }

    /// Opens the project in `dir` and creates its catalog when it is missing.
    ///
    /// # Errors
    /// As [`Workspace::open`], and when the folder cannot be written.
    pub fn create(dir: &Path, overrides: Overrides, clock: Arc<dyn Clock>) -> Result<Self> {
        Self::open_with(dir, overrides, clock, true)
    }

    fn open_with(dir: &Path, overrides: Overrides, clock: Arc<dyn Clock>, create: bool) -> Result<Self> {
        let busy = busy_timeout();
        let project = Project::load_with(dir, overrides)?;
        let settings = &project.settings;
        let lake = lake::connect(settings, busy, clock.clone(), create)?;
        let options = RegistryOptions { create: true, busy_timeout: busy };
        let registry = EmbeddedRegistry::open_with(&settings.registry.path, clock.clone(), options)?;
        Ok(Self {
            lake,
            registry: Arc::new(registry),
            clock,
            project,
            #[cfg(feature = "faults")]
            feed: None,
        })
    }

    /// The same project over another lake, its streams fed by a test.
    #[cfg(feature = "faults")]
    #[must_use]
    pub fn simulated(&self, lake: Lake, feed: crate::stream::Feed) -> Self {
        Self { lake, feed: Some(feed), ..self.clone() }
    }

    /// What a test feeds the streams with.
    #[cfg(feature = "faults")]
    pub(crate) fn feed(&self) -> Option<&crate::stream::Feed> {
        self.feed.as_ref()
    }

    /// The project.
    pub fn project(&self) -> &Project {
        &self.project
    }

    /// The lake.
    pub fn lake(&self) -> &Lake {
        &self.lake
    }

    /// The model registry.
    pub fn registry(&self) -> &Arc<dyn Registry> {
        &self.registry
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Worker threads of a run.
    pub fn threads(&self) -> usize {
        match self.project.settings.run.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        }
    }

    /// Where caches are: deleting the folder costs time, nothing else.
    pub fn cache(&self) -> PathBuf {
        self.project.dir.join(".insightera")
    }

    /// A fresh run id.
    pub fn new_run_id(&self) -> RunId {
        RunId::from_parts(self.clock.now_millis(), uuid::Uuid::new_v4().as_u128())
    }
}

/// `INSIGHTERA_BUSY_TIMEOUT_SECONDS`, else 30 seconds.
fn busy_timeout() -> Duration {
    crate::config::busy_timeout_seconds().map_or(BUSY_TIMEOUT, Duration::from_secs_f64)
}
