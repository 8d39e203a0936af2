//! The windows of the partitions that a process has, in one of the two modes.

use std::collections::BTreeMap;
use std::sync::Arc;

use insightera_core::stream::{
    Batch, ClosedRows, Coverage, Disposition, EachEvent, EventOutput, Key, OnClose, Partitions, Plan, StreamError,
    Watermarks, close,
};

/// Where windows have been closed to is a position of its own, under the number
/// of no partition: every window that ends before it has its rows in the table.
/// It is in microseconds since the epoch, and begins there.
pub const CLOSED: u32 = u32::MAX;

/// How many replays of dead letters are in a table is a position of its own as
/// well, under this number: each replay moves it by one.
pub const REPLAYS: u32 = u32::MAX - 1;

/// Microseconds without a look at the source, from which on they say nothing
/// of its partitions: a commit that took long, a broker that was away.
const GAP: i64 = 1_000_000;

/// The windows of one partition.
#[derive(Debug)]
pub enum PartitionState {
    /// For rows at every event.
    EachEvent(EachEvent),
    /// For rows of closed windows.
    OnClose(OnClose),
}

impl PartitionState {
    /// No state, before offset `next_offset`.
    ///
    /// # Errors
    /// When the mode does not go with the settings.
    pub fn new(plan: &Arc<Plan>, on_close: bool, partition: u32, next_offset: i64) -> Result<Self, StreamError> {
        let coverage = Coverage::FirstEvent;
        Ok(if on_close {
            Self::OnClose(OnClose::new(plan, partition, next_offset, coverage)?)
        } else {
            Self::EachEvent(EachEvent::new(plan, partition, next_offset, coverage))
        })
    }

    /// The state of a full checkpoint.
    ///
    /// # Errors
    /// When it is damaged, or of other windows.
    pub fn restore(plan: &Arc<Plan>, on_close: bool, bytes: &[u8]) -> Result<Self, StreamError> {
        Ok(if on_close {
            Self::OnClose(OnClose::restore(plan, bytes)?)
        } else {
            Self::EachEvent(EachEvent::restore(plan, bytes)?)
        })
    }

    /// The state after an increment.
    ///
    /// # Errors
    /// As [`PartitionState::restore`], and when it is another state's.
    pub fn apply(self, bytes: &[u8]) -> Result<Self, StreamError> {
        Ok(match self {
            Self::EachEvent(state) => Self::EachEvent(state.apply(bytes)?),
            Self::OnClose(state) => Self::OnClose(state.apply(bytes)?),
        })
    }

    /// Forgets the keys for which `gone` holds. Answers how many.
    pub fn forget(&mut self, gone: &dyn Fn(usize, Key<'_>) -> bool) -> usize {
        match self {
            Self::EachEvent(state) => state.forget(gone),
            Self::OnClose(state) => state.forget(gone),
        }
    }

    /// All of it, as a file that stands alone.
    pub fn checkpoint(&mut self) -> Vec<u8> {
        match self {
            Self::EachEvent(state) => state.checkpoint(),
            Self::OnClose(state) => state.checkpoint(),
        }
    }

    /// The offset behind the last event.
    pub fn next_offset(&self) -> i64 {
        match self {
            Self::EachEvent(state) => state.next_offset(),
            Self::OnClose(state) => state.next_offset(),
        }
    }
}

/// A state that can be written down.
pub trait Checkpointed {
    /// The partition.
    fn partition(&self) -> u32;
    /// All of it.
    fn checkpoint(&mut self) -> Vec<u8>;
    /// What changed since the last one.
    ///
    /// # Errors
    /// Before the first full one.
    fn increment(&mut self) -> Result<Vec<u8>, StreamError>;
}

macro_rules! checkpointed {
    ($state:ty) => {
        impl Checkpointed for $state {
            fn partition(&self) -> u32 {
                <$state>::partition(self)
            }

            fn checkpoint(&mut self) -> Vec<u8> {
                <$state>::checkpoint(self)
            }

            fn increment(&mut self) -> Result<Vec<u8>, StreamError> {
                <$state>::increment(self)
            }
        }
    };
}

checkpointed!(EachEvent);
checkpointed!(OnClose);

/// All windows of a process.
#[derive(Debug)]
pub enum States {
    /// For rows at every event.
    EachEvent(Partitions),
    /// For rows of closed windows.
    OnClose(Closing),
}

/// How large the states are, and where they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extent {
    /// Keys, or open windows.
    pub keys: u64,
    /// Bytes.
    pub bytes: u64,
    /// The oldest watermark of a partition.
    pub watermark: Option<i64>,
}

impl States {
    /// No partition yet.
    pub fn new(plan: Option<&Arc<Plan>>, on_close: bool) -> Self {
        match plan {
            Some(plan) if on_close => Self::OnClose(Closing::new(plan)),
            _ => Self::EachEvent(Partitions::default()),
        }
    }

    /// Takes over a partition.
    ///
    /// # Errors
    /// When it is there already.
    pub fn assign(&mut self, state: PartitionState, now: i64) -> Result<(), StreamError> {
        match (self, state) {
            (Self::EachEvent(states), PartitionState::EachEvent(state)) => states.assign(state),
            (Self::OnClose(closing), PartitionState::OnClose(state)) => closing.assign(state, now),
            _ => Err(StreamError::Settings("a state of the other mode".to_owned())),
        }
    }

    /// The states that can be written down.
    pub fn checkpointed(&mut self) -> Vec<&mut dyn Checkpointed> {
        match self {
            Self::EachEvent(states) => states.states().map(|state| state as &mut dyn Checkpointed).collect(),
            Self::OnClose(closing) => closing.states.values_mut().map(|state| state as &mut dyn Checkpointed).collect(),
        }
    }

    /// How large they are.
    pub fn extent(&mut self) -> Extent {
        let each: Vec<(u64, u64, Option<i64>)> = match self {
            Self::EachEvent(states) => {
                states.states().map(|state| (state.keys() as u64, state.state_bytes(), state.watermark())).collect()
            }
            Self::OnClose(closing) => {
                let states = closing.states.values();
                states.map(|state| (state.windows() as u64, state.state_bytes(), state.watermark())).collect()
            }
        };
        each.into_iter().fold(Extent::default(), |all, (keys, bytes, watermark)| Extent {
            keys: all.keys + keys,
            bytes: all.bytes + bytes,
            watermark: match (all.watermark, watermark) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            },
        })
    }
}

/// Open windows, and which are closed.
#[derive(Debug)]
pub struct Closing {
    states: BTreeMap<u32, OnClose>,
    marks: Watermarks,
    rows: Vec<ClosedRows>,
    /// When windows were closed last, microseconds.
    looked: Option<i64>,
    /// The position [`CLOSED`].
    pub closed: i64,
}

impl Closing {
    fn new(plan: &Arc<Plan>) -> Self {
        Self {
            states: BTreeMap::new(),
            marks: Watermarks::default(),
            rows: plan.closed_output(),
            looked: None,
            closed: 0,
        }
    }

    fn assign(&mut self, state: OnClose, now: i64) -> Result<(), StreamError> {
        let partition = state.partition();
        if self.states.contains_key(&partition) {
            return Err(StreamError::AlreadyAssigned(partition));
        }
        self.marks.assign(partition, state.watermark(), now);
        self.states.insert(partition, state);
        Ok(())
    }

    /// Says where windows have been closed to: an event of a window that ends
    /// before is late, also for a partition that was idle when it closed.
    pub fn closed_to(&mut self, position: i64) {
        self.closed = position;
        let mut states: Vec<&mut OnClose> = self.states.values_mut().collect();
        close(&mut states, position - 1, &mut self.rows);
    }

    /// Whether a partition may have events that nobody could read yet: it is
    /// waited for, however long it brings nothing.
    pub fn hold(&mut self, partition: u32, held: bool) {
        self.marks.hold(partition, held);
    }

    /// Takes events into the windows of their partition.
    ///
    /// # Errors
    /// As [`OnClose::process`].
    pub fn process(&mut self, batch: &Batch<'_>, out: &mut Vec<Disposition>, now: i64) -> Result<(), StreamError> {
        let state = self.states.get_mut(&batch.partition).ok_or(StreamError::NotAssigned(batch.partition))?;
        let before = out.len();
        state.process(batch, 0, out)?;
        // What the filter took out, or has no time to go by, says nothing.
        if out[before..].iter().any(|event| event.entered() || *event == Disposition::Late) {
            self.marks.observe(batch.partition, state.watermark(), now);
        }
        Ok(())
    }

    /// Closes the windows that nothing is waited for any more, and gives their
    /// rows and the first of them that is not in the table yet. While windows
    /// are built up again (`silent`), only those close that are in the table.
    pub fn close(&mut self, now: i64, idle_after: i64, silent: bool) -> Option<(&ClosedRows, usize)> {
        let since = now - self.looked.replace(now).unwrap_or(now);
        if since > GAP {
            self.marks.postpone(since);
        }
        let reached = self.marks.reached(now, idle_after)?;
        let mark = if silent { reached.min(self.closed - 1) } else { reached };
        for rows in &mut self.rows {
            rows.clear();
        }
        let mut states: Vec<&mut OnClose> = self.states.values_mut().collect();
        close(&mut states, mark, &mut self.rows);
        let known = self.closed;
        self.closed = known.max(mark.saturating_add(1));
        // There is one window. What ends before the position was emitted.
        let rows = self.rows.first()?;
        let first = rows.window_ends.partition_point(|end| *end < known);
        (first < rows.len()).then_some((rows, first))
    }
}

/// Rows at every event, as [`States::EachEvent`] gives them.
///
/// # Errors
/// As [`Partitions::process`].
pub fn process_each(states: &mut Partitions, batch: &Batch<'_>, out: &mut EventOutput) -> Result<(), StreamError> {
    states.process(batch, 0, &mut |_| Ok(Vec::new()), out)
}
