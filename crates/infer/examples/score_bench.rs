//! Scores on command, for `bench/inference.py`.
//!
//!     score_bench MODEL ROWS.parquet THREADS [portable|avx2|avx512|avx512vbmi]
//!
//! Loads the model, reads the rows, uses at most these vector instructions, prints `{"load_seconds", "bytes"}` and then
//! answers each line of its input by one line of JSON:
//!
//!     rows N      scores N rows in batches of 8,192; wall and processor seconds
//!     single N    scores N rows one by one as records of names; p50 and p99 in microseconds
//!     explain N   contributions of N rows in batches of 8,192; wall and processor seconds
//!     spin N      N million steps of arithmetic in every thread
//!     write PATH  the scores of all rows, as little-endian doubles

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type};
use insightera_core::{Clock, SystemClock};
use insightera_infer::{Artifact, Model, RowScorer, Vectors, load};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

const BATCH: usize = 8192;

#[expect(clippy::print_stdout, reason = "its output is the figures")]
fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (model, rows, threads) = match arguments.as_slice() {
        [model, rows, threads] => (model, rows, threads),
        [model, rows, threads, vectors] => {
            Vectors::named(vectors).ok_or(format!("this processor has no {vectors}"))?.use_at_most();
            (model, rows, threads)
        }
        _ => return Err("usage: score_bench MODEL ROWS.parquet THREADS [VECTORS]".into()),
    };
    let threads: usize = threads.parse()?;
    let clock = SystemClock::new();
    let before = resident();
    let start = clock.monotonic_seconds();
    let model = load(&Artifact::read(Path::new(model))?)?;
    let load_seconds = clock.monotonic_seconds() - start;
    let bytes = resident().saturating_sub(before);
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(rows)?)?.build()?;
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    let all = concat_batches(&batches.first().ok_or("the file holds no rows")?.schema(), &batches)?;
    drop(batches);
    println!("{{\"load_seconds\": {load_seconds}, \"bytes\": {bytes}}}");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (command, argument) = line.split_once(' ').unwrap_or((line.as_str(), ""));
        let (wall, cpu) = (clock.monotonic_seconds(), cpu_seconds());
        match command {
            "rows" => score(&model, &all.slice(0, argument.parse::<usize>()?.min(all.num_rows())), threads)?,
            "explain" => explain(&model, &all.slice(0, argument.parse::<usize>()?.min(all.num_rows())))?,
            "spin" => spin(argument.parse::<u64>()? * 1_000_000, threads),
            "single" => {
                let (p50, p99) = single(&model, &all, argument.parse()?, &clock)?;
                println!("{{\"p50\": {p50}, \"p99\": {p99}}}");
                continue;
            }
            "write" => write(&model, &all, argument)?,
            other => return Err(format!("no command `{other}`").into()),
        }
        println!("{{\"wall\": {}, \"cpu\": {}}}", clock.monotonic_seconds() - wall, cpu_seconds() - cpu);
    }
    Ok(())
}

/// Every thread scores the batches from its own part of the rows.
fn score(model: &Arc<dyn Model>, rows: &RecordBatch, threads: usize) -> Result<(), Box<dyn Error>> {
    let part = |from: usize, to: usize| -> insightera_infer::Result<()> {
        for start in (from..to).step_by(BATCH) {
            std::hint::black_box(model.score(&rows.slice(start, BATCH.min(to - start)))?);
        }
        Ok(())
    };
    let step = rows.num_rows().div_ceil(threads);
    if threads == 1 {
        return Ok(part(0, rows.num_rows())?);
    }
    std::thread::scope(|scope| {
        let parts = (0..threads).map(|n| (n * step, ((n + 1) * step).min(rows.num_rows())));
        let running: Vec<_> = parts.map(|(from, to)| scope.spawn(move || part(from, to))).collect();
        for one in running {
            one.join().map_err(|_| "a thread panicked")??;
        }
        Ok(())
    })
}

/// What every column added to every row's score.
fn explain(model: &Arc<dyn Model>, rows: &RecordBatch) -> Result<(), Box<dyn Error>> {
    for start in (0..rows.num_rows()).step_by(BATCH) {
        std::hint::black_box(model.contributions(&rows.slice(start, BATCH.min(rows.num_rows() - start)))?);
    }
    Ok(())
}

/// Arithmetic that stays in registers: what a second thread brings at best.
fn spin(steps: u64, threads: usize) {
    std::thread::scope(|scope| {
        for thread in 0..threads as u64 {
            scope.spawn(move || {
                let mut state = thread + 1;
                for _ in 0..steps {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                }
                std::hint::black_box(state)
            });
        }
    });
}

/// Half and 99% of the rows take at most this many microseconds.
fn single(
    model: &Arc<dyn Model>,
    rows: &RecordBatch,
    count: usize,
    clock: &SystemClock,
) -> Result<(f64, f64), Box<dyn Error>> {
    let schema = rows.schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let mut scorer = RowScorer::new(model.clone(), &names)?;
    let columns = rows.columns().iter().map(|c| cast(c, &DataType::Float64)).collect::<Result<Vec<_>, _>>()?;
    let mut row: Vec<(&str, f64)> = names.iter().map(|name| (*name, 0.0)).collect();
    let mut times = Vec::with_capacity(count);
    for at in 0..count {
        let at = at % rows.num_rows();
        for ((_, value), column) in row.iter_mut().zip(&columns) {
            *value = if column.is_null(at) { f64::NAN } else { column.as_primitive::<Float64Type>().value(at) };
        }
        let start = clock.monotonic_seconds();
        std::hint::black_box(scorer.score_record(&row)?);
        times.push((clock.monotonic_seconds() - start) * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok((times[count / 2], times[count * 99 / 100]))
}

/// The probability where there is one, else the prediction.
fn write(model: &Arc<dyn Model>, rows: &RecordBatch, path: &str) -> Result<(), Box<dyn Error>> {
    let scored = model.score(rows)?;
    let scores = scored.probability.unwrap_or(scored.prediction);
    let bytes: Vec<u8> = scores.values().iter().flat_map(|value| value.to_le_bytes()).collect();
    Ok(File::create(path)?.write_all(&bytes)?)
}

/// Seconds that this process has run on all processors (Linux).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(f64::NAN);
    (ticks(11) + ticks(12)) / 100.0
}

/// Bytes of memory in use (Linux).
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<usize>().ok()).unwrap_or(0) * 4096
}
