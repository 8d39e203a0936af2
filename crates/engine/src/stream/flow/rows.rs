//! Events, or windows that closed, to rows: features, model, output, alerts.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow::compute::{filter, filter_record_batch};
use insightera_core::ErrorKind;
use insightera_entities::hash::FeatureHasher;

use super::super::program::AlertPlan;
use super::super::set_aside::SetAside;
use super::super::source::RawPart;
use super::{Flow, PollOutput, SideRows, batch_offsets, batch_partitions, micros, misfit};
use crate::key::Keys;
use crate::score::{RowFacts, Scored, output_batch, text};
use crate::{Error, Result};

impl Flow {
    /// Rows for events; those of which none can be made are set aside.
    pub(super) fn score_events(
        &mut self,
        batch: RecordBatch,
        windows: Vec<ArrayRef>,
        parts: &[RawPart],
        aside: &mut Vec<SetAside>,
        output: &mut PollOutput,
    ) -> Result<()> {
        let reason = self.kind.reason;
        let (batch, windows) = self.without_refused(batch, windows)?;
        self.advance();
        let (batch, made) = match self.made(&batch, &windows, reason) {
            Ok(made) => (batch, made),
            Err(error) => {
                let made = |rows: Range<usize>| {
                    let part = |array: &ArrayRef| array.slice(rows.start, rows.len());
                    let windows: Vec<_> = windows.iter().map(part).collect();
                    self.made(&batch.slice(rows.start, rows.len()), &windows, reason).map(drop)
                };
                let refused = refused_rows(error, batch.num_rows(), &made)?;
                self.set_aside(&batch, &refused, parts, aside);
                let (batch, windows) = kept(&batch, &windows, &others(&refused, batch.num_rows()))?;
                let made = self.made(&batch, &windows, reason)?;
                (batch, made)
            }
        };
        let (partitions, offsets) = (batch_partitions(&batch), batch_offsets(&batch));
        let place = |row: usize| (partitions.value(row) as u32, offsets.value(row));
        if self.placed {
            output.places = (0..batch.num_rows()).map(place).collect();
        }
        self.take(&batch, made, &place, output)
    }

    /// Without events that are dead letters already.
    fn without_refused(&mut self, batch: RecordBatch, windows: Vec<ArrayRef>) -> Result<(RecordBatch, Vec<ArrayRef>)> {
        if self.refused.is_empty() {
            return Ok((batch, windows));
        }
        let (partitions, offsets) = (batch_partitions(&batch), batch_offsets(&batch));
        let place = |row: usize| (partitions.value(row) as u32, offsets.value(row));
        let wanted: BooleanArray = (0..batch.num_rows()).map(|row| Some(!self.refused.remove(&place(row)))).collect();
        kept(&batch, &windows, &wanted)
    }

    /// The time of the next predictions: never before others.
    pub(super) fn advance(&mut self) {
        self.timestamp = self.then.unwrap_or_else(|| self.clock.now_micros().max(self.timestamp));
    }

    /// Features, model, output, conditions of alerts. `reason` is why there is a
    /// row. Nothing is changed by it.
    pub(super) fn made(&self, events: &RecordBatch, windows: &[ArrayRef], reason: &str) -> Result<Made> {
        let program = &self.program;
        let mut columns = events.columns().to_vec();
        columns.extend_from_slice(windows);
        if let Some(join) = &self.join {
            columns.extend(join.look_up(events)?);
        }
        let base = RecordBatch::try_new(program.base_schema.clone(), columns).map_err(misfit)?;
        let features = if program.features.is_empty() {
            base
        } else {
            let mut columns = base.columns().to_vec();
            for feature in &program.features {
                columns.push(feature.evaluate(&base)?);
            }
            RecordBatch::try_new(program.feature_schema.clone(), columns).map_err(misfit)?
        };
        let scorer = &self.scorer;
        let predictions = match &scorer.model {
            None => None,
            Some(model) => Some(model.score(&features).map_err(|e| {
                let new = Error::new(e.kind(), format!("{}: {e}", program.pipeline.file.display()));
                match e.hint() {
                    Some(hint) => new.hint(hint),
                    None => new,
                }
            })?),
        };
        let hashes = FeatureHasher::new(&features, &scorer.hashed)?.hashes();
        let facts = RowFacts {
            pipeline: &program.pipeline.name,
            model_name: scorer.resolved.as_ref().map(|model| model.name.as_str()),
            model_version: &scorer.version,
            run_id: &self.run_id,
            definition_hash: scorer.definition_hash,
            timestamp: self.timestamp,
            inference_type: self.kind.inference_type,
        };
        let scored = Scored {
            predictions,
            explained: None,
            reasons: text(Some(reason), features.num_rows()),
            feature_hashes: hashes.into_iter().map(|hash| hash as i64).collect(),
        };
        let rows = output_batch(facts, &program.output, &program.row_schema, &features, scored)?;
        let alerts = program.alerts.iter().map(|alert| alert.when.is_true(&rows)).collect::<Result<_>>()?;
        Ok(Made { features, rows, alerts })
    }

    /// Takes rows of `events` into the output, with their alerts; `place` says
    /// where each comes from.
    pub(super) fn take(
        &mut self,
        events: &RecordBatch,
        made: Made,
        place: &dyn Fn(usize) -> (u32, i64),
        output: &mut PollOutput,
    ) -> Result<()> {
        let program = self.program.clone();
        let Made { features, rows, alerts } = made;
        if rows.num_rows() == 0 {
            return Ok(());
        }
        for arrival in micros(events, "arrival_timestamp").values() {
            self.latency.insert((self.timestamp - arrival).max(0) as f64 / 1000.0);
            output.times.push((*arrival, self.timestamp));
        }
        output.counts.rows = rows.num_rows() as u64;
        let entities = match program.remembers() {
            true => Keys::new(&features, &program.pipeline.entity_key)?.hashes(),
            false => Vec::new(),
        };
        for (alert, mut when) in program.alerts.iter().zip(alerts) {
            if let Some(number) = alert.on_change {
                let begins = entities.iter().enumerate().map(|(row, entity)| {
                    let (partition, _) = place(row);
                    Some(self.remembered.begins(number, partition, *entity, when.is_valid(row) && when.value(row)))
                });
                when = begins.collect();
                let (held, limit) = (self.remembered.bytes(), program.pipeline.stream.max_state_bytes);
                if held > limit {
                    return Err(Error::invalid(format!(
                        "{}: the entities for which alerts with `on_change` were told take {held} bytes, more than \
                         `max_state`, {limit}",
                        program.pipeline.file.display()
                    ))
                    .hint("raise [stream] max_state; an entity that comes once needs no `on_change`"));
                }
            }
            alert_rows(alert, &when, place, &rows, output)?;
        }
        output.rows = Some(rows);
        Ok(())
    }
}

/// Rows of events, and where each alert's condition is true.
pub(super) struct Made {
    features: RecordBatch,
    rows: RecordBatch,
    alerts: Vec<BooleanArray>,
}

/// The rows for whose own values `work` fails, with why: found by halves, after
/// it failed for all with `error`.
///
/// # Errors
/// The error, when it says nothing of values.
pub(super) fn refused_rows(
    error: Error,
    count: usize,
    work: &dyn Fn(Range<usize>) -> Result<()>,
) -> Result<Vec<(usize, String)>> {
    let mut refused = Vec::new();
    let mut left = vec![(0..count, error)];
    while let Some((rows, error)) = left.pop() {
        if error.kind() != ErrorKind::Data {
            return Err(error);
        }
        if rows.len() <= 1 {
            refused.push((rows.start, error.to_string()));
            continue;
        }
        let middle = rows.start + rows.len() / 2;
        for half in [middle..rows.end, rows.start..middle] {
            if let Err(error) = work(half.clone()) {
                left.push((half, error));
            }
        }
    }
    Ok(refused)
}

/// All rows but those.
pub(super) fn others(refused: &[(usize, String)], count: usize) -> BooleanArray {
    let mut wanted = vec![true; count];
    refused.iter().for_each(|(row, _)| wanted[*row] = false);
    wanted.into()
}

/// Only some rows, of events and of columns beside them.
pub(super) fn kept(
    batch: &RecordBatch,
    beside: &[ArrayRef],
    wanted: &BooleanArray,
) -> Result<(RecordBatch, Vec<ArrayRef>)> {
    let beside = beside.iter().map(|column| filter(column, wanted)).collect::<std::result::Result<_, _>>();
    Ok((filter_record_batch(batch, wanted).map_err(misfit)?, beside.map_err(misfit)?))
}

/// The rows of an alert, for whoever is told and for its table.
fn alert_rows(
    alert: &AlertPlan,
    when: &BooleanArray,
    place: &dyn Fn(usize) -> (u32, i64),
    rows: &RecordBatch,
    output: &mut PollOutput,
) -> Result<()> {
    if when.true_count() == 0 {
        return Ok(());
    }
    let chosen = filter_record_batch(rows, when).map_err(misfit)?;
    let places = (0..when.len()).filter(|row| when.value(*row)).map(place).collect();
    let mut fields: Vec<_> = chosen.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(arrow::datatypes::Field::new("alert", arrow::datatypes::DataType::Utf8, false)));
    let mut columns = chosen.columns().to_vec();
    let names = StringArray::from_iter_values(std::iter::repeat_n(&alert.name, chosen.num_rows()));
    columns.push(Arc::new(names));
    let schema = Arc::new(arrow::datatypes::Schema::new(fields));
    let rows = RecordBatch::try_new(schema, columns).map_err(misfit)?;
    output.counts.alerts += rows.num_rows() as u64;
    output.alerts.push((alert.name.clone(), rows.clone()));
    output.sides.push(SideRows { side: alert.side, rows, places });
    Ok(())
}
