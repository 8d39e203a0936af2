//! Prints how many rows a model scores per second on one thread.
//!
//!     cargo run --release -p insightera-infer --example score_speed -- MODEL ROWS.parquet [ROWS]
//!
//! The rows of the file are repeated up to ROWS (200,000), scored in batches
//! of 8,192, five times over; the median is printed. Time is the processor's
//! (Linux), so that other work on the machine counts little, else the wall's.

use std::error::Error;
use std::fs::File;
use std::path::Path;

use arrow::compute::concat_batches;
use insightera_core::{Clock, SystemClock};
use insightera_infer::{Artifact, load};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

const BATCH: usize = 8192;
const REPEAT: usize = 5;

#[expect(clippy::print_stdout, reason = "its output is the figure")]
fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, rows, rest @ ..] = arguments.as_slice() else {
        return Err("usage: score_speed MODEL ROWS.parquet [ROWS]".into());
    };
    let wanted: usize = rest.first().map_or(Ok(200_000), |n| n.parse())?;
    let model = load(&Artifact::read(Path::new(model))?)?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(rows)?)?.build()?;
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    let one = concat_batches(&batches.first().ok_or("the file holds no rows")?.schema(), &batches)?;
    let all =
        concat_batches(&one.schema(), &vec![one.clone(); wanted.div_ceil(one.num_rows().max(1))])?.slice(0, wanted);

    let clock = SystemClock::new();
    let mut speeds = Vec::new();
    for _ in 0..REPEAT {
        let start = seconds(&clock);
        for from in (0..wanted).step_by(BATCH) {
            std::hint::black_box(model.score(&all.slice(from, BATCH.min(wanted - from)))?);
        }
        speeds.push(wanted as f64 / (seconds(&clock) - start));
    }
    speeds.sort_by(f64::total_cmp);
    let about = model.description();
    println!(
        "{} {}: {} trees, depth {}, {} nodes, {} columns: {:.0} rows per second ({:.0} to {:.0})",
        about.flavor,
        about.objective,
        about.trees,
        about.max_depth,
        about.nodes,
        model.signature().inputs.len(),
        speeds[REPEAT / 2],
        speeds[0],
        speeds[REPEAT - 1]
    );
    Ok(())
}

/// Seconds that this thread has run.
fn seconds(clock: &SystemClock) -> f64 {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let spent = spent.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    spent.map_or_else(|| clock.monotonic_seconds(), |nanoseconds| nanoseconds / 1e9)
}
