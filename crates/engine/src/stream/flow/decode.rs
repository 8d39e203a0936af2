//! Payloads of a poll to events; what cannot be one is set aside.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{filter, filter_record_batch};
use arrow::datatypes::UInt32Type;
use insightera_events::{Origin, Problem};

use super::super::set_aside::SetAside;
use super::super::source::RawPart;
use super::rows::{others, refused_rows};
use super::{Flow, batch_offsets, batch_partitions, micros, misfit, named, place, taken};
use crate::Result;
use crate::config::PARTITIONS_OF_A_TOPIC;

/// The events of a poll that were decoded.
pub(super) struct Decoded {
    pub batch: RecordBatch,
    /// The number of each event in the poll.
    pub raw: UInt32Array,
    pub ranges: Vec<(u32, Range<usize>)>,
}

impl Flow {
    pub(super) fn decode(&mut self, parts: &[RawPart], aside: &mut Vec<SetAside>) -> Result<Decoded> {
        let events = parts.iter().map(RawPart::len).sum();
        let mut columns = self.program.decoder.columns(events);
        let (mut raw, mut ranges) = (Vec::with_capacity(events), Vec::with_capacity(parts.len()));
        let (mut partitions, mut offsets, mut arrivals) =
            (Vec::with_capacity(events), Vec::with_capacity(events), Vec::with_capacity(events));
        let mut first = 0;
        for part in parts {
            let start = offsets.len();
            for index in 0..part.len() {
                let read = match part.cut(index) {
                    None => self.program.decoder.read(part.payload(index), &mut columns),
                    Some(length) => Err((
                        Problem::Json,
                        format!("the event has {length} bytes, which is too long; the payload here is its beginning"),
                    )),
                };
                match read {
                    Ok(()) => {
                        raw.push((first + index) as u32);
                        partitions.push(part.partition as i32);
                        offsets.push(part.offsets[index]);
                        let before = match self.arrivals.is_empty() {
                            true => None,
                            false => self.arrivals.remove(&(part.partition, part.offsets[index])),
                        };
                        arrivals.push(before.unwrap_or(part.arrivals[index]));
                    }
                    Err(_) if self.is_silent(part.partition, part.offsets[index]) => {}
                    Err((problem, message)) => aside.push(taken(part, index, None, problem, message)),
                }
            }
            ranges.push((part.partition, start..offsets.len()));
            first += part.len();
        }
        let times = TimestampMicrosecondArray::from(std::mem::take(&mut columns.times)).with_timezone("UTC");
        let mut arrays = columns.finish();
        self.look(parts);
        if let Some(drift) = &mut self.drift {
            let origin = |row: usize| Origin { partition: partitions[row] as u32, offset: offsets[row] };
            drift.count(&arrays, &origin);
        }
        let topics = self.program.pipeline.source.listed().map(|topics| {
            let topic = |partition: &i32| topics.get((*partition as u32 / PARTITIONS_OF_A_TOPIC) as usize);
            partitions.iter().map(topic).collect::<StringArray>()
        });
        arrays.extend([
            Arc::new(times) as ArrayRef,
            Arc::new(TimestampMicrosecondArray::from(arrivals).with_timezone("UTC")),
            Arc::new(Int32Array::from(partitions)),
            Arc::new(Int64Array::from(offsets)),
        ]);
        arrays.extend(topics.map(|topics| Arc::new(topics) as ArrayRef));
        let batch = RecordBatch::try_new(self.program.decoded_schema.clone(), arrays).map_err(misfit)?;
        let decoded = self.with_computed(Decoded { batch, raw: raw.into(), ranges }, parts, aside)?;
        self.with_keys(decoded, parts, aside)
    }

    /// With the columns of [events.columns], between the payload's and the
    /// source's.
    fn with_computed(&self, decoded: Decoded, parts: &[RawPart], aside: &mut Vec<SetAside>) -> Result<Decoded> {
        let program = &self.program;
        if program.computed.is_empty() {
            return Ok(decoded);
        }
        let fields = program.payload_fields;
        let (decoded, computed) = self.able(decoded, parts, aside, &|batch| {
            let payload = batch.project(&(0..fields).collect::<Vec<_>>()).map_err(misfit)?;
            program.computed.iter().map(|column| column.evaluate(&payload)).collect::<Result<Vec<_>>>()
        })?;
        let mut arrays = decoded.batch.columns().to_vec();
        arrays.splice(fields..fields, computed);
        let batch = RecordBatch::try_new(program.event_schema.clone(), arrays).map_err(misfit)?;
        Ok(Decoded { batch, ..decoded })
    }

    /// Does `work` on all events, or on all but those for whose values it fails,
    /// which are set aside.
    pub(super) fn able<T>(
        &self,
        decoded: Decoded,
        parts: &[RawPart],
        aside: &mut Vec<SetAside>,
        work: &dyn Fn(&RecordBatch) -> Result<T>,
    ) -> Result<(Decoded, T)> {
        let failed = match work(&decoded.batch) {
            Ok(done) => return Ok((decoded, done)),
            Err(error) => error,
        };
        let count = decoded.batch.num_rows();
        let part_of = |rows: Range<usize>| decoded.batch.slice(rows.start, rows.len());
        let refused = refused_rows(failed, count, &|rows| work(&part_of(rows)).map(drop))?;
        self.set_aside(&decoded.batch, &refused, parts, aside);
        let decoded = decoded.keep(&others(&refused, count))?;
        let done = work(&decoded.batch)?;
        Ok((decoded, done))
    }

    /// Sets events aside because of their values, with why.
    pub(super) fn set_aside(
        &self,
        events: &RecordBatch,
        refused: &[(usize, String)],
        parts: &[RawPart],
        aside: &mut Vec<SetAside>,
    ) {
        let (partitions, offsets) = (batch_partitions(events), batch_offsets(events));
        let times = micros(events, "event_timestamp");
        for (row, why) in refused {
            let (partition, offset) = (partitions.value(*row) as u32, offsets.value(*row));
            let part = parts.iter().find(|part| part.partition == partition);
            if let Some(part) = part.filter(|_| !self.is_silent(partition, offset))
                && let Ok(index) = part.offsets.binary_search(&offset)
            {
                aside.push(taken(part, index, Some(times.value(*row)), Problem::Value, why.clone()));
            }
        }
    }

    /// Only events whose computed key has a value; the others are set aside.
    fn with_keys(&self, decoded: Decoded, parts: &[RawPart], aside: &mut Vec<SetAside>) -> Result<Decoded> {
        let pipeline = &self.program.pipeline;
        for (name, _) in pipeline.events.columns.iter().filter(|(name, _)| pipeline.entity_key.contains(name)) {
            let column = named(&decoded.batch, name).clone();
            if column.null_count() == 0 {
                continue;
            }
            let times = micros(&decoded.batch, "event_timestamp");
            for row in (0..column.len()).filter(|row| column.is_null(*row)) {
                let (part, index) = place(parts, decoded.raw.value(row) as usize);
                if !self.is_silent(part.partition, part.offsets[index]) {
                    let message = format!("the event has no `{name}`");
                    aside.push(taken(part, index, Some(times.value(row)), Problem::Key, message));
                }
            }
            let wanted: BooleanArray = (0..column.len()).map(|row| Some(column.is_valid(row))).collect();
            return self.with_keys(decoded.keep(&wanted)?, parts, aside);
        }
        Ok(decoded)
    }
}

impl Decoded {
    /// Only some events.
    pub fn keep(self, wanted: &BooleanArray) -> Result<Self> {
        if wanted.true_count() == wanted.len() {
            return Ok(self);
        }
        let batch = filter_record_batch(&self.batch, wanted).map_err(misfit)?;
        let raw = filter(&self.raw, wanted).map_err(misfit)?;
        let mut start = 0;
        let ranges = self.ranges.iter().map(|(partition, rows)| {
            let count = wanted.slice(rows.start, rows.len()).true_count();
            start += count;
            (*partition, start - count..start)
        });
        let ranges = ranges.collect();
        Ok(Self { batch, raw: raw.as_primitive::<UInt32Type>().clone(), ranges })
    }
}
