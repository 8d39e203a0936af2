//! Requests to stores and catalogs.
//!
//! They run on a runtime of their own, so that code that waits for one blocks
//! its own thread and nobody's requests, inside and outside of other runtimes.

use std::sync::{LazyLock, mpsc};

use tokio::runtime::{Builder, Handle, Runtime};

use crate::{Error, Result};

static RUNTIME: LazyLock<std::result::Result<Runtime, String>> = LazyLock::new(|| {
    Builder::new_multi_thread().worker_threads(2).thread_name("network").enable_all().build().map_err(|e| e.to_string())
});

/// The runtime that requests run on.
pub(crate) fn handle() -> Result<&'static Handle> {
    match &*RUNTIME {
        Ok(runtime) => Ok(runtime.handle()),
        Err(error) => Err(Error::unavailable(format!("no threads for the network could be started: {error}"))),
    }
}

/// Runs a request and blocks until it has answered.
///
/// # Errors
/// When there are no threads for it, or the request panicked.
pub(crate) fn wait<T: Send + 'static>(request: impl Future<Output = T> + Send + 'static) -> Result<T> {
    let (answer, answered) = mpsc::sync_channel(1);
    handle()?.spawn(async move {
        // Nobody waits any more when this fails.
        let _ = answer.send(request.await);
    });
    answered.recv().map_err(|_| Error::internal("a request ended without an answer"))
}

/// Runs a request from any executor.
pub(crate) async fn run<T: Send + 'static>(request: impl Future<Output = T> + Send + 'static) -> Result<T> {
    handle()?.spawn(request).await.map_err(|e| Error::internal(format!("a request ended without an answer: {e}")))
}
