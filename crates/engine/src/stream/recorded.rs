//! What the commits of a stream say of their rows: where the events came from,
//! which model scored them, which snapshots were joined.
//!
//! A *commit* moved partitions from a position to another. A *stretch* is a
//! run of commits that were made with the same model and the same features.

use std::collections::BTreeMap;

use super::states::REPLAYS;
use crate::lake::commit::StreamState;
use crate::lake::keys;
use crate::score::Consumed;
use crate::{Error, Result};

/// Where a replay begins or ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// Commits made from this time on, or before it: microseconds since the
    /// epoch.
    Time(i64),
    /// This offset in every partition.
    Offset(i64),
    /// These offsets; other partitions have no bound.
    Offsets(BTreeMap<u32, i64>),
}

impl Bound {
    fn offset(&self, partition: u32) -> Option<i64> {
        match self {
            Self::Time(_) => None,
            Self::Offset(offset) => Some(*offset),
            Self::Offsets(offsets) => offsets.get(&partition).copied(),
        }
    }

    fn time(&self) -> Option<i64> {
        match self {
            Self::Time(micros) => Some(*micros),
            Self::Offset(_) | Self::Offsets(_) => None,
        }
    }
}

/// What made the rows of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The model's name and sha256; none is a rule.
    pub model: Option<(String, String)>,
    /// What `model_version` says.
    pub version: String,
    /// The definition, in hexadecimal.
    pub definition_hash: String,
    /// What was joined.
    pub inputs: BTreeMap<String, Consumed>,
}

/// Rows that were made alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// What made them.
    pub facts: Facts,
    /// Partition to the first offset and that behind the last.
    pub ranges: BTreeMap<u32, (i64, i64)>,
    /// The newest prediction time, microseconds since the epoch.
    pub timestamp: i64,
}

/// The commits of a stream, from the oldest that is known.
#[derive(Debug, Default)]
pub struct Recorded {
    /// What each says.
    pub commits: Vec<StreamState>,
    /// Whether there were earlier ones.
    pub expired: bool,
}

impl Recorded {
    /// Where a partition begins, as far as is known.
    pub fn first(&self, partition: u32) -> Option<i64> {
        self.commits.iter().find_map(|commit| commit.committed.positions.get(&partition).copied())
    }

    /// The commits before which a partition was not read beyond `offset`, from
    /// the newest on.
    pub fn before(&self, partition: u32, offset: i64) -> impl Iterator<Item = (&StreamState, i64)> {
        let at = move |commit: &StreamState| {
            commit.committed.positions.get(&partition).copied().filter(|position| *position <= offset)
        };
        self.commits.iter().rev().filter_map(move |commit| Some((commit, at(commit)?)))
    }

    /// The stretches between two bounds.
    ///
    /// # Errors
    /// `Data` when a commit cannot be read.
    pub fn stretches(&self, from: Option<&Bound>, to: Option<&Bound>) -> Result<Vec<Stretch>> {
        let mut stretches: Vec<Stretch> = Vec::new();
        for pair in self.commits.windows(2) {
            let [before, commit] = pair else { continue };
            let micros = commit.committed_ms.saturating_mul(1000);
            if from.and_then(Bound::time).is_some_and(|from| micros < from)
                || to.and_then(Bound::time).is_some_and(|to| micros >= to)
            {
                continue;
            }
            let mut ranges = BTreeMap::new();
            for (partition, hi) in &commit.committed.positions {
                let Some(lo) = before.committed.positions.get(partition) else { continue };
                let lo = from.and_then(|from| from.offset(*partition)).map_or(*lo, |from| from.max(*lo));
                let hi = to.and_then(|to| to.offset(*partition)).map_or(*hi, |to| to.min(*hi));
                if *partition < REPLAYS && lo < hi {
                    ranges.insert(*partition, (lo, hi));
                }
            }
            if ranges.is_empty() {
                continue;
            }
            let facts = facts(commit)?;
            let timestamp = commit.timestamp.unwrap_or(micros);
            match stretches.last_mut() {
                Some(last) if last.facts == facts && adjoin(&last.ranges, &ranges) => {
                    for (partition, (lo, hi)) in ranges {
                        last.ranges.entry(partition).or_insert((lo, hi)).1 = hi;
                    }
                    last.timestamp = last.timestamp.max(timestamp);
                }
                _ => stretches.push(Stretch { facts, ranges, timestamp }),
            }
        }
        Ok(stretches)
    }
}

/// Whether ranges go on where others end. They do, but where a table was
/// written by hand.
fn adjoin(earlier: &BTreeMap<u32, (i64, i64)>, later: &BTreeMap<u32, (i64, i64)>) -> bool {
    later.iter().all(|(partition, (lo, _))| earlier.get(partition).is_none_or(|(_, hi)| hi == lo))
}

fn facts(commit: &StreamState) -> Result<Facts> {
    let text = |key: &str| {
        commit.summary.get(key).cloned().ok_or_else(|| {
            let id = commit.snapshot_id.unwrap_or_default();
            Error::data(format!("snapshot {id} has rows of the stream, and no `{key}` that says what made them"))
        })
    };
    let inputs = text(keys::INPUTS)?;
    let inputs = serde_json::from_str(&inputs)
        .map_err(|e| Error::data(format!("`{}` cannot be read: `{inputs}`", keys::INPUTS)).cause(e))?;
    let model = match (commit.summary.get(keys::MODEL), commit.summary.get(keys::MODEL_SHA256)) {
        (Some(name), Some(sha256)) => Some((name.clone(), sha256.clone())),
        _ => None,
    };
    let (version, definition_hash) = (text(keys::MODEL_VERSION)?, text(keys::DEFINITION_HASH)?);
    Ok(Facts { model, version, definition_hash, inputs })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(ms: i64, positions: &[(u32, i64)], version: Option<&str>) -> StreamState {
        let mut state = StreamState { snapshot_id: Some(ms), committed_ms: ms, ..StreamState::default() };
        state.committed.positions = positions.iter().copied().collect();
        if let Some(version) = version {
            for (key, value) in
                [(keys::INPUTS, "{}"), (keys::MODEL_VERSION, version), (keys::DEFINITION_HASH, "00000000000000aa")]
            {
                state.summary.insert(key.to_owned(), value.to_owned());
            }
        }
        state
    }

    fn recorded() -> Recorded {
        let commits = vec![
            commit(1, &[(0, 0), (1, 50)], None),
            commit(2, &[(0, 10), (1, 50)], Some("1")),
            commit(3, &[(0, 20), (1, 60)], Some("1")),
            // Another process takes over: nothing moves.
            commit(4, &[(0, 20), (1, 60)], None),
            commit(5, &[(0, 30), (1, 60), (REPLAYS, 1)], Some("2")),
            commit(6, &[(0, 40), (1, 70), (REPLAYS, 2)], Some("1")),
        ];
        Recorded { commits, expired: false }
    }

    /// A version of the model, and of each partition the offsets from and to.
    type Found = (String, Vec<(u32, i64, i64)>);

    fn found(from: Option<Bound>, to: Option<Bound>) -> Vec<Found> {
        let stretches = recorded().stretches(from.as_ref(), to.as_ref()).unwrap();
        let ranges = |stretch: &Stretch| stretch.ranges.iter().map(|(p, (lo, hi))| (*p, *lo, *hi)).collect();
        stretches.iter().map(|stretch| (stretch.facts.version.clone(), ranges(stretch))).collect()
    }

    #[test]
    fn commits_that_were_made_alike_are_one_stretch() {
        let all = [
            ("1".to_owned(), vec![(0, 0, 20), (1, 50, 60)]),
            ("2".to_owned(), vec![(0, 20, 30)]),
            ("1".to_owned(), vec![(0, 30, 40), (1, 60, 70)]),
        ];
        assert_eq!(found(None, None), all);
    }

    #[test]
    fn bounds_are_offsets_or_times_of_commits() {
        assert_eq!(
            found(Some(Bound::Time(3_000)), Some(Bound::Time(6_000))),
            [("1".to_owned(), vec![(0, 10, 20), (1, 50, 60)]), ("2".to_owned(), vec![(0, 20, 30)]),]
        );
        assert_eq!(
            found(Some(Bound::Offset(15)), Some(Bound::Offsets([(1, 55)].into()))),
            [
                ("1".to_owned(), vec![(0, 15, 20), (1, 50, 55)]),
                ("2".to_owned(), vec![(0, 20, 30)]),
                ("1".to_owned(), vec![(0, 30, 40)]),
            ]
        );
        assert!(found(Some(Bound::Offset(1_000)), None).is_empty());
    }

    #[test]
    fn a_state_is_of_the_newest_commit_that_was_not_beyond() {
        let recorded = recorded();
        let at = |offset| recorded.before(0, offset).next().map(|(commit, position)| (commit.committed_ms, position));
        assert_eq!((at(20), at(29), at(9), at(-1)), (Some((4, 20)), Some((4, 20)), Some((1, 0)), None));
        assert_eq!(recorded.first(1), Some(50));
    }

    #[test]
    fn a_commit_that_does_not_say_what_made_its_rows_is_an_error() {
        let mut recorded = recorded();
        recorded.commits[2].summary.clear();
        let error = recorded.stretches(None, None).unwrap_err();
        assert!(error.to_string().contains("snapshot 3"), "{error}");
    }
}
