//! Partitions come to this process and go to others.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio::runtime::Handle;

use super::run::Stream;
use super::set_aside;
use super::source::{Partition, Rebalance, file_of};
use super::states::{CLOSED, PartitionState, States};
use super::windows::refused;
use crate::lake::commit::StreamState;
use crate::lake::faults::{self, Bug};
use crate::{Error, Result};

/// Which partitions of the source a process reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sharing {
    /// All, as they come.
    All,
    /// These.
    Named(Vec<u32>),
    /// Those that the group of processes gives it.
    Group,
}

impl Stream {
    /// Takes over partitions that are new to this process, where no group says
    /// which those are.
    pub(super) fn look_for_partitions(&mut self) -> Result<()> {
        let found = match self.source.partitions(&self.known) {
            // A broker that is away for a while comes back.
            Err(error) if error.retryable() && !self.positions.is_empty() => return Ok(()),
            found => found?,
        };
        if let (Sharing::Named(own), true) = (&self.sharing, self.positions.is_empty())
            && let Some(missing) = own.iter().find(|partition| !found.contains_key(partition))
        {
            return Err(Error::invalid(format!(
                "`--partitions` names {missing}, and `{}` has no such partition",
                self.source.identity()
            ))
            .hint(format!("it has {}", found.keys().map(u32::to_string).collect::<Vec<_>>().join(", "))));
        }
        let wanted = |partition: &u32| {
            let own = match &self.sharing {
                Sharing::All => true,
                Sharing::Named(own) => own.contains(partition),
                Sharing::Group => false,
            };
            own && !self.positions.contains_key(partition)
        };
        let new: BTreeMap<u32, Partition> = found.into_iter().filter(|(p, _)| wanted(p)).collect();
        if new.is_empty() {
            return Ok(());
        }
        self.settle()?;
        match self.take_over(&new) {
            // Its state cannot be read at the moment: it is taken over later.
            Err(error) if error.retryable() && self.positions.keys().any(|own| !new.contains_key(own)) => {
                self.give_up(&new.into_keys().collect::<Vec<_>>());
                return Ok(());
            }
            taken => taken?,
        }
        self.source.assign(&self.positions)
    }

    /// Does what the group wants. What was read is committed first, so that
    /// the next owner of a partition finds it in the tables; if the tables say
    /// that it has one already, this process joins the group anew.
    pub(super) fn rebalance(&mut self) -> Result<()> {
        match self.source.rebalance() {
            None => Ok(()),
            // What was read is committed first, and it must be told what it is of.
            Some(_) if !self.may_cut()? => Ok(()),
            Some(Rebalance::Lost(lost)) => {
                self.settle()?;
                self.give_up(&lost);
                self.source.assign(&self.positions)
            }
            Some(Rebalance::Gained(gained)) => {
                // Those that stay are cut as well: a commit is of all.
                self.settle()?;
                let taken = self.gain(&gained);
                match taken {
                    // The broker or the catalog is away: the group's wish stays.
                    Err(error) if error.retryable() => {
                        self.give_up(&gained);
                        Ok(())
                    }
                    taken => taken,
                }
            }
        }
    }

    fn gain(&mut self, gained: &[u32]) -> Result<()> {
        if !gained.is_empty() {
            let mut found = self.source.partitions(&self.known)?;
            found.retain(|partition, _| gained.contains(partition));
            self.take_over(&found)?;
            if let States::EachEvent(states) = &self.flow.states
                && let Some((key, first, second)) = states.shared_key()
            {
                return Err(self.in_two_partitions(&key, first, second));
            }
        }
        self.source.assign(&self.positions)
    }

    /// A key of a window whose events are not in one partition of a topic; all
    /// files are read by one process, whose windows say it.
    pub(super) fn in_two_partitions(&self, key: &str, first: u32, second: u32) -> Error {
        let what = format!("pipeline `{}`", self.program.pipeline.name);
        let name = |partition| self.program.pipeline.source.partition_name(partition);
        let (first, second) = (name(first), name(second));
        Error::invalid(format!("{what}: key `{key}` came from partitions {first} and {second}"))
            .hint("the topic is not partitioned by what [source] partition_key says: correct it, or its producers")
    }

    /// Everything that was read is in the tables.
    fn settle(&mut self) -> Result<()> {
        self.cut()?;
        self.finish_commit(true)
    }

    /// Raises the epochs of partitions, and restores their windows.
    fn take_over(&mut self, new: &BTreeMap<u32, Partition>) -> Result<()> {
        let mut starts: BTreeMap<u32, i64> = new.iter().map(|(partition, found)| (*partition, found.start)).collect();
        let first = self.positions.is_empty() && self.program.on_close();
        if first {
            starts.insert(CLOSED, 0);
        }
        let described = new.iter().filter(|(_, found)| !found.description.is_null());
        let described: BTreeMap<u32, Value> = described.map(|(p, found)| (*p, found.description.clone())).collect();
        let (mut committer, source) = (self.worker.committer(), &mut self.source);
        let state = committer.acquire(&starts, &described, &mut || source.begins())?;
        let ahead: BTreeMap<u32, Option<i64>> =
            new.keys().map(|partition| (*partition, committer.dead_letters_position(*partition))).collect();
        drop(committer);
        // Who had them may have been ahead of this process's clock.
        self.flow.timestamp = self.flow.timestamp.max(state.timestamp.unwrap_or(i64::MIN));
        for (partition, found) in new {
            // Its windows reach no further back than the stream does.
            let start = state.begun.get(partition).map_or(found.start, |begun| found.start.max(*begun));
            self.restore(*partition, start, &state)?;
            if let (Some(from), Some(Some(ahead))) = (self.positions.get(partition).copied(), ahead.get(partition))
                && from < *ahead
            {
                let position = state.committed.positions.get(partition).copied().unwrap_or(start);
                self.remember_verdicts(*partition, from, position)?;
            }
        }
        if let States::OnClose(closing) = &mut self.flow.states {
            let committed = state.committed.positions.get(&CLOSED).copied().unwrap_or(0);
            closing.closed_to(closing.closed.max(committed));
        }
        self.known = state.partitions;
        let files = self.known.iter().filter_map(|(number, known)| Some((*number, file_of(known)?.to_owned())));
        self.flow.files = files.collect();
        Ok(())
    }

    /// Forgets partitions; what was read of them has been committed, or is for
    /// others to read.
    fn give_up(&mut self, lost: &[u32]) {
        for partition in lost {
            self.positions.remove(partition);
            self.flow.forget(*partition);
            self.checkpoints.forget(*partition);
            self.interval.ranges.remove(partition);
        }
        self.worker.committer().release(lost);
    }

    /// Events that are read again are judged as they were: by their arrival, and
    /// those that are dead letters stay that, and are that once.
    fn remember_verdicts(&mut self, partition: u32, from: i64, position: i64) -> Result<()> {
        let (workspace, pipeline) = (&self.workspace, &self.program.pipeline.name);
        let Some(dead) = self.program.sides.first() else { return Ok(()) };
        let verdicts = set_aside::verdicts(workspace, &dead.name, pipeline, partition, (from, position));
        let verdicts = Handle::current().block_on(verdicts)?;
        self.flow.judge_again(partition, &verdicts);
        let known = verdicts.iter().filter(|verdict| verdict.offset >= position);
        self.worker.committer().dead_already(known.map(|verdict| (partition, verdict.offset)));
        Ok(())
    }

    /// Restores the windows of a partition, or reads it again to build them.
    fn restore(&mut self, partition: u32, start: i64, state: &StreamState) -> Result<()> {
        let position = state.committed.positions.get(&partition).copied().unwrap_or(start);
        let mut from = position;
        let files = state.checkpoints.get(&partition).map(Vec::as_slice).unwrap_or_default();
        let plan = self.program.windows.as_ref().map(|windows| (&windows.plan, self.program.on_close()));
        let restored = match self.checkpoints.restore(plan, partition, files, &mut self.flow.remembered) {
            Ok(restored) => restored.filter(|state| state.next_offset() <= position),
            Err(error) if error.retryable() => return Err(error),
            // Windows that were declared otherwise, or files that are gone:
            // the source has the events.
            Err(error) => {
                let name = self.program.pipeline.source.partition_name(partition);
                self.warn(&format!(
                    "partition {name}: its windows cannot be taken up where they were ({error}); its events are \
                     read again from offset {start}, which is as far back as they reach now, and alerts with \
                     `on_change` are told once more"
                ));
                None
            }
        };
        if !self.program.remembers() {
            self.flow.remembered.forget(partition);
        }
        if let Some((plan, on_close)) = plan {
            let restored = restored.filter(|_| !faults::bug(Bug::ForgetWindows));
            let windows = match restored {
                Some(restored) => restored,
                None => {
                    if !faults::bug(Bug::ForgetWindows) {
                        from = start;
                    }
                    PartitionState::new(plan, on_close, partition, from).map_err(|e| refused(e, "windows"))?
                }
            };
            let now = self.workspace.clock().now_micros();
            self.flow.states.assign(windows, now).map_err(|e| refused(e, "windows"))?;
        }
        if from != position {
            // Reading begins elsewhere, and would not notice that what comes
            // next is gone.
            self.source.ends(&BTreeMap::from([(partition, position)]))?;
        }
        if from < position {
            self.flow.silent_until.insert(partition, position);
        }
        self.positions.insert(partition, from);
        Ok(())
    }
}
