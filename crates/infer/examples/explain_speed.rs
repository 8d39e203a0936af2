//! Prints how many rows a model explains per second on one thread.
//!
//!     cargo run --release -p insightera-infer --example explain_speed -- MODEL ROWS.parquet [ROWS]
//!
//! The rows of the file are repeated up to ROWS (50,000), explained in batches
//! of 8,192, five times over; the median is printed. The first batch, which
//! builds the tables, is timed alone. Time is the processor's (Linux), so that
//! other work on the machine counts little, else the wall's.

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::compute::concat_batches;
use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use insightera_core::{Clock, SystemClock};
use insightera_infer::{Artifact, load};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

const BATCH: usize = 8192;
const REPEAT: usize = 5;

#[expect(clippy::print_stdout, reason = "its output is the figure")]
fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, rows, rest @ ..] = arguments.as_slice() else {
        return Err("usage: explain_speed MODEL ROWS.parquet [ROWS]".into());
    };
    let wanted: usize = rest.first().map_or(Ok(50_000), |n| n.parse())?;
    let model = load(&Artifact::read(Path::new(model))?)?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(rows)?)?.build()?;
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    let one = concat_batches(&batches.first().ok_or("the file holds no rows")?.schema(), &batches)?;
    let one = named(&one, &model.signature().inputs.iter().map(|i| i.name.as_str()).collect::<Vec<_>>())?;
    let all =
        concat_batches(&one.schema(), &vec![one.clone(); wanted.div_ceil(one.num_rows().max(1))])?.slice(0, wanted);

    let clock = SystemClock::new();
    let start = seconds(&clock);
    std::hint::black_box(model.contributions(&all.slice(0, 1))?);
    let first = seconds(&clock) - start;
    let start = seconds(&clock);
    for row in 0..100.min(wanted) {
        std::hint::black_box(model.contributions(&all.slice(row, 1))?);
    }
    let single = (seconds(&clock) - start) / 100.min(wanted) as f64;
    let mut speeds = Vec::new();
    for _ in 0..REPEAT {
        let start = seconds(&clock);
        for from in (0..wanted).step_by(BATCH) {
            std::hint::black_box(model.contributions(&all.slice(from, BATCH.min(wanted - from)))?);
        }
        speeds.push(wanted as f64 / (seconds(&clock) - start));
    }
    speeds.sort_by(f64::total_cmp);
    let about = model.description();
    println!(
        "{} {}: {} trees, depth {}, {} columns: {:.0} rows explained per second ({:.0} to {:.0}); \
         the first row {:.0} ms, another alone {:.0} us",
        about.flavor,
        about.objective,
        about.trees,
        about.max_depth,
        model.signature().inputs.len(),
        speeds[REPEAT / 2],
        speeds[0],
        speeds[REPEAT - 1],
        first * 1e3,
        single * 1e6,
    );
    Ok(())
}

/// The rows under the model's names, where they have others but as many.
fn named(rows: &RecordBatch, names: &[&str]) -> Result<RecordBatch, Box<dyn Error>> {
    if names.len() != rows.num_columns() || names.iter().all(|name| rows.column_by_name(name).is_some()) {
        return Ok(rows.clone());
    }
    let schema = rows.schema();
    let fields = schema.fields().iter().zip(names).map(|(field, name)| field.as_ref().clone().with_name(*name));
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), rows.columns().to_vec())?)
}

/// Seconds that this thread has run.
fn seconds(clock: &SystemClock) -> f64 {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let spent = spent.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    spent.map_or_else(|| clock.monotonic_seconds(), |nanoseconds| nanoseconds / 1e9)
}
