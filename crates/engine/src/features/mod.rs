//! Features outside of runs: training sets from feature views.
//!
//! Words: a *label row* says what came of an entity at a time; its *moment* is
//! that time. A *leak* is a value in the training set that nobody could have
//! had at the moment.
//!
//! Flow: [`export`] joins every view to the label rows at their moments, by
//! the same join that SQL has → [`leaks`] looks at the result, with code that
//! knows nothing of that join → the file, or none when there is a leak.

mod export;
mod leaks;

pub use export::{Export, ExportReport, ViewReport, export};
pub use leaks::{Leak, LeakKind};
