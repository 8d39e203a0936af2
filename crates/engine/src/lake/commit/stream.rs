//! Commits that move a stream's positions: the table says how far the stream
//! is and who owns its partitions, and every commit is decided on the base of
//! its swap by [`insightera_core::stream::position`].

use std::collections::{BTreeMap, BTreeSet, HashMap};

use insightera_core::stream::position::{self, Act, Committed, Decision, Intent, Owner};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Change, Outcome, commit_if};
use crate::lake::faults::{self, Bug};
use crate::lake::{Lake, Table, keys};
use crate::{Error, Result};

/// Partition to hashes of some of the keys of its windows, in hexadecimal.
pub type Samples = BTreeMap<u32, BTreeSet<String>>;

/// The samples that the newest snapshot of a table with any carries.
///
/// # Errors
/// `Data` when they cannot be read.
pub fn samples_of(table: &Table) -> Result<Samples> {
    let text =
        table.ancestry().find_map(|snapshot| snapshot.summary().additional_properties.get(keys::KEY_SAMPLE).cloned());
    match text {
        None => Ok(Samples::new()),
        Some(text) => serde_json::from_str(&text).map_err(|e| damaged(table, keys::KEY_SAMPLE).cause(e)),
    }
}

/// What a table says of a stream.
#[derive(Debug, Clone, Default)]
pub struct StreamState {
    /// The snapshot that says it; none before the first.
    pub snapshot_id: Option<i64>,
    /// When it was committed, milliseconds since the epoch.
    pub committed_ms: i64,
    /// Positions, owners and intents.
    pub committed: Committed,
    /// What a partition is of the source, as the source wrote it down.
    pub partitions: BTreeMap<u32, Value>,
    /// Where a partition was begun, if not at its first event.
    pub begun: BTreeMap<u32, i64>,
    /// The files of the window state of a partition.
    pub checkpoints: BTreeMap<u32, Vec<String>>,
    /// Hashes of some of the keys of a partition's windows.
    pub samples: Samples,
    /// The newest prediction time, microseconds since the epoch.
    pub timestamp: Option<i64>,
    /// All keys of the snapshot's summary.
    pub summary: BTreeMap<String, String>,
}

/// What a commit does to a stream, beside the rows of its [`Change`].
#[derive(Debug, Clone)]
pub struct StreamMove {
    /// The pipeline.
    pub pipeline: String,
    /// The partitions that it claims; its id is that of the change.
    pub intent: Intent,
    /// What new partitions are of the source.
    pub partitions: BTreeMap<u32, Value>,
    /// Where new partitions are begun that do not begin at their first events.
    pub begun: BTreeMap<u32, i64>,
    /// The new files of window state; those of other partitions go forward.
    pub checkpoints: BTreeMap<u32, Vec<String>>,
    /// Hashes of some of the keys of its partitions' windows.
    pub samples: Samples,
}

/// How a stream's commit ended.
#[derive(Debug)]
pub enum StreamOutcome {
    /// It is in the table as this snapshot.
    Committed {
        /// The table with the commit in it.
        table: Box<Table>,
        /// The commit's snapshot.
        snapshot_id: i64,
    },
    /// The table says otherwise, and why: nothing was committed.
    Refused(Decision),
    /// An entity was erased that the rows may be of: nothing was committed.
    Erased,
}

/// Commits a change and moves a stream's positions with it.
///
/// # Errors
/// As [`commit`](super::commit), and `Data` when the table's own record of the
/// stream cannot be read.
pub fn commit_stream(lake: &Lake, change: &Change, moved: &StreamMove) -> Result<StreamOutcome> {
    let change = Change { intent_id: moved.intent.id.clone(), ..change.clone() };
    let mut refused = None;
    let outcome = commit_if(lake, &change, &mut |base| {
        let state = StreamState::read(base, &moved.pipeline)?;
        let mut intent = moved.intent.clone();
        if faults::bug(Bug::StreamBaseIgnored) && intent.act == Act::Append {
            for (partition, claim) in &mut intent.claims {
                claim.lo = state.committed.positions.get(partition).copied().unwrap_or(claim.lo);
                claim.hi = claim.hi.max(claim.lo);
                claim.epoch = state.committed.owners.get(partition).map_or(claim.epoch, |owner| owner.epoch);
            }
        }
        let at_least = faults::bug(Bug::PositionAtLeast).then(|| {
            let mut committed = state.committed.clone();
            for (partition, claim) in &intent.claims {
                committed.positions.entry(*partition).and_modify(|position| *position = claim.lo.min(*position));
            }
            committed
        });
        match position::decide(at_least.as_ref().unwrap_or(&state.committed), &intent) {
            Decision::Proceed(mut next) if faults::bug(Bug::OthersNotCarried) => {
                next.positions.retain(|partition, _| intent.claims.contains_key(partition));
                summary(&state, &next, moved).map(Some)
            }
            Decision::Proceed(next) => summary(&state, &next, moved).map(Some),
            other => {
                refused = Some(other);
                Ok(None)
            }
        }
    })?;
    match (outcome, refused) {
        (Outcome::Committed { table, snapshot_id }, _) => Ok(StreamOutcome::Committed { table, snapshot_id }),
        (Outcome::Stale { .. }, Some(decision)) => Ok(StreamOutcome::Refused(decision)),
        (Outcome::Stale { .. }, None) if change.erasures.is_some() => Ok(StreamOutcome::Erased),
        (Outcome::Stale { newest }, None) => {
            Err(Error::internal(format!("a stream's commit was stale at snapshot {newest} without a reason")))
        }
    }
}

/// The summary keys of the next snapshot.
fn summary(state: &StreamState, next: &Committed, moved: &StreamMove) -> Result<BTreeMap<String, String>> {
    let no_json = |e: serde_json::Error| Error::internal(format!("a stream's positions have no JSON form: {e}"));
    let source = next.source.clone().unwrap_or_default();
    let positions = serde_json::to_string(&BTreeMap::from([(source, &next.positions)])).map_err(no_json)?;
    let mut partitions = state.partitions.clone();
    partitions.extend(moved.partitions.clone());
    let mut checkpoints = state.checkpoints.clone();
    checkpoints.extend(moved.checkpoints.clone());
    let mut keys = BTreeMap::from([
        (keys::PIPELINE.to_owned(), moved.pipeline.clone()),
        (keys::POSITIONS.to_owned(), positions),
        (keys::OWNERS.to_owned(), serde_json::to_string(&next.owners).map_err(no_json)?),
    ]);
    if !partitions.is_empty() {
        keys.insert(keys::PARTITIONS.to_owned(), serde_json::to_string(&partitions).map_err(no_json)?);
    }
    let mut begun = state.begun.clone();
    for (partition, at) in &moved.begun {
        begun.entry(*partition).or_insert(*at);
    }
    if !begun.is_empty() {
        keys.insert(keys::BEGUN.to_owned(), serde_json::to_string(&begun).map_err(no_json)?);
    }
    let mut samples = state.samples.clone();
    samples.extend(moved.samples.clone());
    if !samples.is_empty() {
        keys.insert(keys::KEY_SAMPLE.to_owned(), serde_json::to_string(&samples).map_err(no_json)?);
    }
    if !checkpoints.is_empty() {
        keys.insert(keys::CHECKPOINT.to_owned(), serde_json::to_string(&checkpoints).map_err(no_json)?);
    }
    Ok(keys)
}

impl StreamState {
    /// What the newest commit of `pipeline` in the table's ancestry says;
    /// behind an expired parent, what the table's property remembers.
    ///
    /// # Errors
    /// `Data` when it cannot be read.
    pub fn read(table: &Table, pipeline: &str) -> Result<Self> {
        let mut state = Self { committed: Committed::new(table.metadata().uuid().to_string()), ..Self::default() };
        let (mut found, mut expired) = (false, false);
        for snapshot in table.ancestry() {
            let summary = &snapshot.summary().additional_properties;
            expired = snapshot.parent_snapshot_id().is_some_and(|id| table.metadata().snapshot_by_id(id).is_none());
            if summary.get(keys::PIPELINE).is_none_or(|name| name != pipeline) {
                if faults::bug(Bug::CompactionDropsPositions) {
                    break;
                }
                continue;
            }
            state.committed.intents.extend(summary.get(keys::INTENT_ID).cloned());
            if !found && summary.contains_key(keys::POSITIONS) {
                found = true;
                state.snapshot_id = Some(snapshot.snapshot_id());
                state.committed_ms = snapshot.timestamp_ms();
                state.take(table, summary)?;
            }
        }
        if !found
            && expired
            && !faults::bug(Bug::ExpiryDropsPositions)
            && let Some(text) = table.metadata().properties().get(&keys::progress(pipeline))
        {
            let mirror: HashMap<String, Value> = serde_json::from_str(text).map_err(|e| {
                let key = keys::progress(pipeline);
                Error::data(format!("property `{key}` of table `{}` is damaged", table.name())).cause(e)
            })?;
            state.snapshot_id = mirror.get("snapshot-id").and_then(Value::as_i64);
            state.committed_ms = table.metadata().last_updated_ms();
            let text = |(key, value): (String, Value)| Some((format!("insightera.{key}"), value.as_str()?.to_owned()));
            let summary: HashMap<String, String> = mirror.into_iter().filter_map(text).collect();
            state.committed.intents.extend(summary.get(keys::INTENT_ID).cloned());
            if summary.contains_key(keys::POSITIONS) {
                state.take(table, &summary)?;
            }
        }
        Ok(state)
    }

    /// What each commit of `pipeline` in the table's ancestry says, from the
    /// oldest on, and whether there were earlier ones that have been expired.
    ///
    /// # Errors
    /// `Data` when one cannot be read.
    pub fn history(table: &Table, pipeline: &str) -> Result<(Vec<Self>, bool)> {
        let (mut states, mut expired) = (Vec::new(), false);
        for snapshot in table.ancestry() {
            let summary = &snapshot.summary().additional_properties;
            expired = snapshot.parent_snapshot_id().is_some_and(|id| table.metadata().snapshot_by_id(id).is_none());
            let own = summary.get(keys::PIPELINE).is_some_and(|name| name == pipeline);
            if !own || !summary.contains_key(keys::POSITIONS) {
                continue;
            }
            let mut state = Self { committed: Committed::new(table.metadata().uuid().to_string()), ..Self::default() };
            state.snapshot_id = Some(snapshot.snapshot_id());
            state.committed_ms = snapshot.timestamp_ms();
            state.take(table, summary)?;
            states.push(state);
        }
        states.reverse();
        Ok((states, expired))
    }

    fn take(&mut self, table: &Table, summary: &HashMap<String, String>) -> Result<()> {
        let positions: BTreeMap<String, BTreeMap<u32, i64>> = parsed(table, summary, keys::POSITIONS)?;
        let owners: BTreeMap<u32, Owner> = parsed(table, summary, keys::OWNERS)?;
        let mut sources = positions.into_iter();
        if let (Some((source, positions)), None) = (sources.next(), sources.next()) {
            self.committed.source = Some(source);
            self.committed.positions = positions;
        } else {
            return Err(damaged(table, keys::POSITIONS));
        }
        self.committed.owners = owners;
        if summary.contains_key(keys::PARTITIONS) {
            self.partitions = parsed(table, summary, keys::PARTITIONS)?;
        }
        if summary.contains_key(keys::BEGUN) {
            self.begun = parsed(table, summary, keys::BEGUN)?;
        }
        if summary.contains_key(keys::CHECKPOINT) {
            self.checkpoints = parsed(table, summary, keys::CHECKPOINT)?;
        }
        if summary.contains_key(keys::KEY_SAMPLE) {
            self.samples = parsed(table, summary, keys::KEY_SAMPLE)?;
        }
        self.timestamp = summary.get(keys::TIMESTAMP).and_then(|text| text.parse().ok());
        self.summary = summary.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(())
    }
}

fn damaged(table: &Table, key: &str) -> Error {
    Error::data(format!("`{key}` of the newest commit of a stream in table `{}` cannot be read", table.name()))
        .hint("roll the table back to a snapshot before it")
}

fn parsed<T: DeserializeOwned>(table: &Table, summary: &HashMap<String, String>, key: &str) -> Result<T> {
    let text = summary.get(key).ok_or_else(|| damaged(table, key))?;
    serde_json::from_str(text).map_err(|e| damaged(table, key).cause(e))
}
