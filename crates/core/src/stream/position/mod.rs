//! Positions and ownership: who may commit what of a stream, decided on the
//! very base that the swap compares with.
//!
//! The table is the truth. Its committed state says of the source which one it
//! is, of each partition the next offset and the epoch of its owner, and which
//! intents are in. A writer first *acquires* partitions, by a commit that
//! raises their epochs and no other's; then it *appends* ranges `[lo, hi)`
//! under those epochs. Each commit is an [`Intent`] with an id of its own that
//! outlives retries, and [`decide`] is called anew on every base:
//!
//! - its id is in the ancestry: done, whatever the reply was;
//! - another table or another source under the same name: fatal; an acquisition
//!   may add topics at the end of a list, and who appends by the old list stops;
//! - a partition has a higher epoch: fenced, someone else owns it;
//! - a partition's position is not exactly `lo`, greater included: rebuild
//!   the window state from where the table is;
//! - else proceed, with the state that [`Decision::Proceed`] carries: the
//!   other partitions' positions, epochs and all intents go forward unchanged.
//!
//! After an unknown outcome a writer reloads and decides again with the same
//! intent. An old request that applies late then finds a moved base, or was
//! itself the commit that is found done.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

/// What the current snapshot of a table says of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Committed {
    /// The table's uuid.
    pub table: String,
    /// The identity of the source (a topic's id, not its name); `None` before
    /// the first acquisition.
    pub source: Option<String>,
    /// Partition to next offset, of all partitions.
    pub positions: BTreeMap<u32, i64>,
    /// Partition to owner.
    pub owners: BTreeMap<u32, Owner>,
    /// The intents of the ancestry.
    pub intents: BTreeSet<String>,
}

/// Who owns a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Raised by one with every acquisition of the partition.
    pub epoch: u64,
    /// The position at which this owner took it.
    pub lo: i64,
}

/// What a commit does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Raise the epochs of partitions; nothing is appended.
    Acquire,
    /// Append rows made from ranges of offsets.
    Append,
}

/// What a commit claims of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The epoch: the new one of an acquisition, the acquired one of an append.
    pub epoch: u64,
    /// The position that the table must have.
    pub lo: i64,
    /// The position that it will have; `lo` for an acquisition.
    pub hi: i64,
}

/// One commit, before it is tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Its idempotency key: new for every intent, never used again.
    pub id: String,
    /// The uuid of the table that it was prepared for.
    pub table: String,
    /// The identity of the source that it read.
    pub source: String,
    /// What it does.
    pub act: Act,
    /// Its partitions.
    pub claims: BTreeMap<u32, Claim>,
}

/// Why nothing that this writer does can go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The table was dropped and made again.
    #[error("table `{wanted}` was replaced by `{found}`")]
    TableReplaced {
        /// The uuid in the intent.
        wanted: String,
        /// The uuid now.
        found: String,
    },
    /// The topic was deleted and made again: its offsets mean other events.
    #[error("source `{wanted}` was read, but the table's positions are of `{found}`")]
    SourceReplaced {
        /// The identity in the intent.
        wanted: String,
        /// The identity in the table.
        found: String,
    },
    /// The table does not know an epoch that it gave: it was rolled back, or a
    /// commit did not carry the owners forward.
    #[error("partition {partition} has epoch {found} in the table, which had given {wanted}")]
    EpochLost {
        /// The partition.
        partition: u32,
        /// The epoch of the claim.
        wanted: u64,
        /// The epoch of the table, 0 for none.
        found: u64,
    },
    /// A partition has an owner and no position: positions were not carried
    /// forward.
    #[error("partition {0} has an owner and no position")]
    PositionLost(u32),
    /// A range that ends before it begins, or an acquisition that moves.
    #[error("the claim of partition {0} is impossible")]
    BadClaim(u32),
}

/// What to do on this base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The base holds this very commit already.
    Done,
    /// Swap this base for one with this state.
    Proceed(Committed),
    /// Others own these partitions now, with these epochs: give them up.
    Fenced(BTreeMap<u32, u64>),
    /// The table is elsewhere: read these partitions again from here.
    Rebuild(BTreeMap<u32, i64>),
    /// Stop.
    Fatal(Reason),
}

/// Decides about an intent on the base that the swap will compare with.
pub fn decide(base: &Committed, intent: &Intent) -> Decision {
    if base.intents.contains(&intent.id) {
        return Decision::Done;
    }
    if let Some(reason) = impossible(base, intent) {
        return Decision::Fatal(reason);
    }
    let (mut fenced, mut moved) = (BTreeMap::new(), BTreeMap::new());
    for (partition, claim) in &intent.claims {
        let epoch = base.owners.get(partition).map_or(0, |owner| owner.epoch);
        let free = match intent.act {
            Act::Acquire => claim.epoch > epoch,
            Act::Append => claim.epoch >= epoch,
        };
        if !free {
            fenced.insert(*partition, epoch);
        }
        match base.positions.get(partition) {
            Some(position) if *position != claim.lo => drop(moved.insert(*partition, *position)),
            _ => {}
        }
    }
    if !fenced.is_empty() {
        return Decision::Fenced(fenced);
    }
    if !moved.is_empty() {
        return Decision::Rebuild(moved);
    }
    Decision::Proceed(base.with(intent))
}

/// Whether positions of the source `before` are positions of `now`: of the same
/// one, or of a list of topics that begins with its topics. No topic has a comma
/// in its name; of other sources a comma says nothing.
pub fn continues(before: &str, now: &str) -> bool {
    let more = || now.strip_prefix(before).is_some_and(|more| more.starts_with(','));
    now == before || (before.starts_with("kafka:") && more())
}

/// Facts that no reload can mend.
fn impossible(base: &Committed, intent: &Intent) -> Option<Reason> {
    if base.table != intent.table {
        return Some(Reason::TableReplaced { wanted: intent.table.clone(), found: base.table.clone() });
    }
    let is_other = |source: &&String| match intent.act {
        Act::Acquire => !continues(source, &intent.source),
        Act::Append => **source != intent.source,
    };
    if let Some(source) = base.source.as_ref().filter(is_other) {
        return Some(Reason::SourceReplaced { wanted: intent.source.clone(), found: source.clone() });
    }
    for (partition, claim) in &intent.claims {
        let epoch = base.owners.get(partition).map_or(0, |owner| owner.epoch);
        let given = match intent.act {
            Act::Acquire => claim.epoch.checked_sub(1),
            Act::Append => Some(claim.epoch),
        };
        if given.is_none() || claim.hi < claim.lo || (intent.act == Act::Acquire && claim.hi != claim.lo) {
            return Some(Reason::BadClaim(*partition));
        }
        if let Some(wanted) = given.filter(|given| *given > epoch) {
            return Some(Reason::EpochLost { partition: *partition, wanted, found: epoch });
        }
        if epoch > 0 && !base.positions.contains_key(partition) {
            return Some(Reason::PositionLost(*partition));
        }
    }
    None
}

/// The intent that acquires partitions of a source on this base; partitions
/// without a position begin at the given offsets.
///
/// # Errors
/// [`Reason::PositionLost`], as [`decide`] would say.
pub fn acquire(base: &Committed, id: String, source: String, starts: &BTreeMap<u32, i64>) -> Result<Intent, Reason> {
    let mut claims = BTreeMap::new();
    for (partition, start) in starts {
        let owner = base.owners.get(partition);
        let position = base.positions.get(partition);
        if owner.is_some() && position.is_none() {
            return Err(Reason::PositionLost(*partition));
        }
        let lo = *position.unwrap_or(start);
        claims.insert(*partition, Claim { epoch: owner.map_or(0, |owner| owner.epoch) + 1, lo, hi: lo });
    }
    Ok(Intent { id, table: base.table.clone(), source, act: Act::Acquire, claims })
}

impl Committed {
    /// A table without a stream.
    pub fn new(table: impl Into<String>) -> Self {
        Self { table: table.into(), ..Self::default() }
    }

    /// This state and the intent.
    fn with(&self, intent: &Intent) -> Self {
        let mut next = self.clone();
        next.source = Some(intent.source.clone());
        next.intents.insert(intent.id.clone());
        for (partition, claim) in &intent.claims {
            next.positions.insert(*partition, claim.hi);
            if intent.act == Act::Acquire {
                next.owners.insert(*partition, Owner { epoch: claim.epoch, lo: claim.lo });
            }
        }
        next
    }
}
