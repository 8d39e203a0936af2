//! Watermarks: of one partition, for lateness; of all, for closing windows.

use std::collections::BTreeMap;

use super::output::Disposition;
use super::plan::Plan;
use super::tiles::TIME_LIMIT;

/// The event time of one partition. Its watermark is the newest time seen
/// minus the allowed lateness: a function of the partition's own events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PartitionClock {
    pub newest: Option<i64>,
}

impl PartitionClock {
    /// Times before this are late.
    #[inline]
    pub fn watermark(&self, plan: &Plan) -> Option<i64> {
        self.newest.map(|newest| newest - plan.settings().allowed_lateness)
    }

    /// Whether a time is refused whatever the windows are.
    #[inline]
    pub fn refuses(time: i64, arrival: i64, plan: &Plan) -> Option<Disposition> {
        if !(-TIME_LIMIT..=TIME_LIMIT).contains(&time) {
            return Some(Disposition::Unreadable);
        }
        (time > arrival.saturating_add(plan.settings().max_future)).then_some(Disposition::Future)
    }

    #[inline]
    pub fn advance(&mut self, time: i64) {
        self.newest = Some(self.newest.map_or(time, |newest| newest.max(time)));
    }
}

/// The watermark of several partitions: the smallest of those that are not
/// idle. A partition that has brought no event holds it back until it is
/// idle; when all are idle, nobody is waited for and it is the greatest. It
/// never goes back. A partition that is held is never idle: it may have events
/// that nobody could read yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watermarks {
    partitions: BTreeMap<u32, Progress>,
    reached: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    watermark: Option<i64>,
    /// Microseconds of the injected clock at the last event.
    heard: i64,
    held: bool,
}

impl Watermarks {
    /// Starts to wait for a partition.
    pub fn assign(&mut self, partition: u32, watermark: Option<i64>, now: i64) {
        self.partitions.insert(partition, Progress { watermark, heard: now, held: false });
    }

    /// Stops waiting for a partition.
    pub fn revoke(&mut self, partition: u32) {
        self.partitions.remove(&partition);
    }

    /// A partition brought events and its watermark is this now.
    pub fn observe(&mut self, partition: u32, watermark: Option<i64>, now: i64) {
        if let Some(progress) = self.partitions.get_mut(&partition) {
            *progress = Progress { watermark, heard: now, held: progress.held };
        }
    }

    /// Whether a partition is waited for however long it is silent.
    pub fn hold(&mut self, partition: u32, held: bool) {
        if let Some(progress) = self.partitions.get_mut(&partition) {
            progress.held = held;
        }
    }

    /// Time in which nobody listened: no partition was idle in it.
    pub fn postpone(&mut self, span: i64) {
        for progress in self.partitions.values_mut() {
            progress.heard = progress.heard.saturating_add(span);
        }
    }

    /// The watermark at `now`, where a partition is idle when it is not held and
    /// brought nothing for `idle_after` microseconds; after none at all, nothing
    /// is waited for.
    pub fn reached(&mut self, now: i64, idle_after: i64) -> Option<i64> {
        let is_active =
            |progress: &&Progress| idle_after > 0 && (progress.held || now.saturating_sub(progress.heard) < idle_after);
        let mut active = self.partitions.values().filter(is_active).peekable();
        let watermark = if active.peek().is_some() {
            // `None` is smaller than any watermark: a silent partition holds.
            active.map(|progress| progress.watermark).min().flatten()
        } else {
            self.partitions.values().filter_map(|progress| progress.watermark).max()
        };
        self.reached = self.reached.max(watermark);
        self.reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_partition_that_is_not_idle_decides() {
        let mut marks = Watermarks::default();
        marks.assign(0, None, 0);
        marks.assign(1, None, 0);
        marks.observe(0, Some(100), 5);
        assert_eq!(marks.reached(9, 10), None, "partition 1 may still bring anything");
        marks.observe(1, Some(40), 8);
        assert_eq!(marks.reached(9, 10), Some(40));
        assert_eq!(marks.reached(16, 10), Some(40), "partition 0 is idle and 1 is slower");
        marks.observe(0, Some(100), 17);
        assert_eq!(marks.reached(18, 10), Some(100), "partition 1 is idle");
        marks.observe(1, Some(50), 19);
        assert_eq!(marks.reached(19, 10), Some(100), "it never goes back");
    }

    #[test]
    fn time_in_which_nobody_listened_makes_no_partition_idle() {
        let mut marks = Watermarks::default();
        marks.assign(0, Some(100), 0);
        marks.assign(1, Some(40), 0);
        marks.postpone(50);
        assert_eq!(marks.reached(55, 10), Some(40));
        marks.observe(0, Some(100), 59);
        assert_eq!(marks.reached(60, 10), Some(100), "partition 1 has been idle since");
    }

    #[test]
    fn a_partition_with_events_that_cannot_be_read_is_not_idle() {
        let mut marks = Watermarks::default();
        marks.assign(0, Some(100), 0);
        marks.assign(1, Some(40), 0);
        marks.hold(1, true);
        assert_eq!(marks.reached(50, 10), Some(40));
        marks.observe(1, Some(50), 60);
        assert_eq!(marks.reached(90, 10), Some(50), "it is held until it is let go");
        marks.hold(1, false);
        assert_eq!(marks.reached(91, 10), Some(100));
        marks.hold(0, true);
        marks.observe(0, Some(200), 92);
        assert_eq!(marks.reached(92, 0), Some(200), "nothing is waited for at the end");
    }

    #[test]
    fn when_all_are_idle_the_greatest_is_reached() {
        let mut marks = Watermarks::default();
        assert_eq!(marks.reached(0, 10), None);
        marks.assign(0, Some(7), 0);
        marks.assign(1, Some(9), 0);
        marks.assign(2, None, 0);
        assert_eq!(marks.reached(5, 10), None);
        assert_eq!(marks.reached(50, 10), Some(9));
    }
}
