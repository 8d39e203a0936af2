//! Work beside that of who waits for an answer.

use std::future::Future;

use tokio::sync::oneshot;

use crate::{Error, Result};

/// How much less often than others such a thread runs when all want to, as
/// `nice` has it.
const NICE: i32 = 5;

/// Work on a thread of its own. It is given up, at the next point where it
/// waits, when this is dropped.
#[derive(Debug)]
pub struct Background {
    _alive: oneshot::Sender<()>,
}

impl Background {
    /// Starts it, behind the threads that are there.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn<F>(name: &str, work: F) -> Result<Self>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let failed = |e: std::io::Error| Error::unavailable(format!("no thread for the {name}: {e}")).cause(e);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (alive, gone) = oneshot::channel::<()>();
        let run = move || {
            step_back();
            runtime.block_on(async move {
                tokio::select! {
                    () = work => {}
                    _ = gone => {}
                }
            });
            // What it waits for is nobody's any more.
            runtime.shutdown_background();
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(failed)?;
        Ok(Self { _alive: alive })
    }
}

/// Lets others run before this thread, and before those that it starts from now
/// on. Where that cannot be said to the system nothing changes.
pub fn step_back() {
    #[cfg(target_os = "linux")]
    {
        #[expect(unsafe_code, reason = "the standard library has no priorities")]
        // SAFETY: it takes three numbers; the calling thread is meant by 0.
        unsafe {
            libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = NICE;
}
