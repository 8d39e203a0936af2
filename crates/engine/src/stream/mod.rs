//! Streams: events in, a prediction for every one of them out, each exactly
//! once in its table.
//!
//! **Words.** A *source* gives events by partition, each at an *offset*; the
//! *position* of a partition is the offset that comes next. A *poll* is what
//! the source gives at once. An *interval* is what goes into one commit; a
//! *cut* ends it. A *side table* holds what is no prediction: dead letters,
//! late events, alerts. A *checkpoint* is the state of the windows at a cut.
//!
//! **Flow.** [`source`] → [`decode`] (payloads to columns; what cannot be read
//! is set aside) → filter → [`windows`] (a fold per partition, in offset order)
//! → [`join`] (features from the lake, pinned) → model → rows. All of a poll
//! is scored at once. With `emit = "on_close"` there is a row for a key of a
//! window once the window has closed ([`states`]), and none for an event. Alerts leave as soon as their row is there; rows wait for
//! the cut, and another thread ([`commit`]) writes and commits them while the
//! next interval fills.
//!
//! **Guarantees.**
//! - An event has one row in exactly one of: predictions, late events, dead
//!   letters; or the filter took it out.
//! - The tables are the truth: a run begins where the prediction table says,
//!   with the window state that it names. Side tables commit first, the
//!   prediction table last; rows below a side table's own position are not
//!   written again.
//! - A partition belongs to whoever raised its epoch last; all others are
//!   refused at their next commit. Kafka's group says who should take which
//!   one, and is not believed: a process that was refused joins it again.
//! - A source that is not the one the positions are of, or that has lost
//!   events that were not read, stops the stream.
//! - A row is a function of its partition's events up to it, of the model and
//!   of the joined features at that moment; not of how polls were cut.

mod avro;
mod checkpoints;
mod commit;
mod compare;
mod cuts;
mod exposition;
mod expression;
mod feed;
mod flow;
mod forgotten;
mod join;
#[cfg(feature = "kafka")]
mod kafka_client;
mod letters;
mod live;
mod member;
mod metrics;
mod notices;
mod options;
mod program;
mod protobuf;
mod recorded;
mod refresher;
mod registry;
mod remembered;
mod replay;
mod run;
mod schemas;
mod set_aside;
mod source;
mod starts;
mod states;
mod status;
mod takeover;
mod telling;
mod upkeep;
mod windows;
mod worker;

pub(crate) use checkpoints::WindowFiles;
pub use compare::Difference;
pub use exposition::exposition;
#[cfg(feature = "faults")]
pub use feed::Feed;
pub use letters::{ReplaySummary, replay_dead_letters};
pub use options::{Alert, StreamEnd, StreamOptions, StreamSummary, Told};
pub(crate) use program::Program;
pub use program::check;
pub use recorded::Bound;
pub use replay::{ReplayOptions, ReplayReport, replay};
pub use run::run;
#[cfg(feature = "faults")]
pub use source::{Group, Partition, RawPart, Rebalance, Source};
pub use status::{LiveStatus, ProcessStatus, SourceStatus, Status, TableStatus, status};
#[cfg(feature = "faults")]
pub use upkeep::look_for_forgotten;

/// Properties of the tables that a stream makes: commits are many, so few old
/// metadata files are kept.
pub fn table_properties() -> std::collections::HashMap<String, String> {
    [
        ("write.metadata.previous-versions-max".to_owned(), "20".to_owned()),
        ("write.metadata.delete-after-commit.enabled".to_owned(), "true".to_owned()),
    ]
    .into()
}
