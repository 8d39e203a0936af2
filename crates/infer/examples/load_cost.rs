//! What loading a model takes: time, memory held afterwards and at the most.
//!
//!     load_cost MODEL...
//!
//! A model is a file or folder. Every one is loaded seven times; the time is
//! the median's, reading the files not included. Memory is what the allocator
//! was asked for beyond the files' own bytes.

#[path = "../tests/it/counting.rs"]
mod counting;

use std::error::Error;
use std::path::Path;

use insightera_core::{Clock, SystemClock};
use insightera_infer::{Artifact, load};

const ROUNDS: usize = 7;

#[expect(clippy::print_stdout, reason = "its output is the figures")]
fn main() -> Result<(), Box<dyn Error>> {
    let models: Vec<String> = std::env::args().skip(1).collect();
    if models.is_empty() {
        return Err("usage: load_cost MODEL...".into());
    }
    let clock = SystemClock::new();
    println!(
        "{:<28} {:>10} {:>8} {:>11} {:>6} {:>11} {:>6}",
        "model", "file bytes", "ms", "held bytes", "times", "peak bytes", "times"
    );
    for path in &models {
        let artifact = Artifact::read(Path::new(path))?;
        let file = artifact.total_bytes() as f64;
        let mut rounds = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let start = clock.monotonic_seconds();
            let (model, held, peak) = counting::counted(|| load(&artifact));
            rounds.push(((clock.monotonic_seconds() - start) * 1e3, held, peak));
            model?;
        }
        rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (time, held, peak) = rounds[ROUNDS / 2];
        let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or(path);
        let (of_held, of_peak) = (held as f64 / file, peak as f64 / file);
        println!("{name:<28} {file:>10} {time:>8.2} {held:>11} {of_held:>6.2} {peak:>11} {of_peak:>6.2}");
    }
    Ok(())
}
