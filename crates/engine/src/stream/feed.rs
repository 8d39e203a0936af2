//! Where a stream's events come from: what the pipeline names, or, with the
//! feature `faults`, what a test feeds it with.

use super::source::{self, Group, Source};
use crate::Result;
use crate::config::SourceSettings;
use crate::workspace::Workspace;

/// Opens a source for a process of this group.
#[cfg(feature = "faults")]
pub type OpenSource = dyn Fn(&Group) -> Result<Box<dyn Source>> + Send + Sync;

/// Events from a test, in the place of the pipeline's own.
#[cfg(feature = "faults")]
#[derive(Clone)]
pub struct Feed {
    /// Opens the source.
    pub open: std::sync::Arc<OpenSource>,
    /// Whether the stream waits after a poll until the commit that runs is
    /// done; else it does not look whether it is. So how far polls are ahead
    /// of commits is not left to threads.
    pub waits: std::sync::Arc<dyn Fn() -> bool + Send + Sync>,
}

#[cfg(feature = "faults")]
impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").finish_non_exhaustive()
    }
}

/// Opens a stream's source.
///
/// # Errors
/// When its settings are wrong or it is not there.
pub(super) fn open(workspace: &Workspace, settings: &SourceSettings, group: &Group) -> Result<Box<dyn Source>> {
    #[cfg(feature = "faults")]
    if let Some(feed) = workspace.feed() {
        return (feed.open)(group);
    }
    source::open(&workspace.project().dir, settings, workspace.clock(), group)
}

/// Whether the loop looks, after a poll, for what the commit that runs has
/// answered, and then whether it waits for that.
pub(super) fn look(workspace: &Workspace) -> Option<bool> {
    #[cfg(feature = "faults")]
    if let Some(feed) = workspace.feed() {
        return (feed.waits)().then_some(true);
    }
    let _ = workspace;
    Some(false)
}
