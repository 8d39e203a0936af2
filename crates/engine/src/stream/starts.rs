//! Where partitions begin of which a table has no position.
//!
//! With `start` a topic is begun as a whole: the first commit of a stream says
//! of every partition that is there by then where it begins, also of those that
//! other processes will read. So a topic is begun at one moment, whoever comes
//! to a partition first and whatever is killed before it does. A partition that
//! comes later is read from its first event.

use std::collections::BTreeMap;

/// Partition to offset.
pub type Offsets = BTreeMap<u32, i64>;

/// What a process acquires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Starts {
    /// Partitions, and where each begins if it has no position.
    pub all: Offsets,
    /// Those of them that do not begin at their first event.
    pub begun: Offsets,
}

/// Where partitions begin, of a table with these positions. `own` are those that
/// the process takes over, with their first events; `begins` says of all
/// partitions of each topic where it is begun, of those that are not begun at
/// their first events.
pub fn starts(positions: &Offsets, own: &Offsets, begins: &[Offsets]) -> Starts {
    let mut starts = Starts { all: own.clone(), begun: Offsets::new() };
    for topic in begins {
        if topic.keys().any(|partition| positions.contains_key(partition)) {
            continue;
        }
        starts.all.extend(topic);
        starts.begun.extend(topic);
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(of: &[(u32, i64)]) -> Offsets {
        of.iter().copied().collect()
    }

    #[test]
    fn a_topic_is_begun_as_a_whole_by_whoever_comes_first() {
        let (own, topic) = (offsets(&[(1, 3)]), offsets(&[(0, 70), (1, 80), (2, 90)]));
        let found = starts(&offsets(&[]), &own, std::slice::from_ref(&topic));
        assert_eq!(found, Starts { all: topic.clone(), begun: topic });
        assert_eq!(starts(&offsets(&[]), &own, &[]), Starts { all: own, begun: offsets(&[]) });
    }

    #[test]
    fn a_partition_that_comes_later_begins_at_its_first_event() {
        let (own, topic) = (offsets(&[(2, 5)]), offsets(&[(0, 70), (1, 80), (2, 90)]));
        let found = starts(&offsets(&[(0, 70)]), &own, &[topic]);
        assert_eq!(found, Starts { all: own, begun: offsets(&[]) });
    }

    #[test]
    fn each_topic_is_begun_by_itself() {
        let own = offsets(&[(0, 1), (1, 1), (65_536, 2)]);
        let topics = [offsets(&[(0, 70), (1, 80)]), offsets(&[(65_536, 9), (65_537, 8)])];
        let found = starts(&offsets(&[(0, 75)]), &own, &topics);
        assert_eq!(found.all, offsets(&[(0, 1), (1, 1), (65_536, 9), (65_537, 8)]));
        assert_eq!(found.begun, topics[1]);
    }
}
