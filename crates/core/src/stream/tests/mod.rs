//! The laws of the windows, against oracles that keep every event.

mod bounds;
mod checkpoints;
mod each_event;
mod events;
mod forgetting;
mod on_close;
mod oracle;
mod partitions;
mod refusals;
mod sketches;
