//! Fuzzes `insightera_infer::load`, and `score` of what it loads.
//!
//! One program for all formats: INSIGHTERA_FUZZ_FORMAT names the one, which is
//! also the name of its folder of seeds. A finding is a panic, wherever it
//! happens; memory over INSIGHTERA_FUZZ_MEGABYTES; an input that takes longer
//! than the engine's `-timeout`; predictions whose parts do not go together or
//! that change with the cutting of rows into batches.
//!
//! With INSIGHTERA_FUZZ_TELL every input says on standard error what became of it.

#![no_main]

mod archive;
mod formats;
mod memory;
mod mutate;
mod node;
mod random;
mod rows;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use formats::Format;
use libfuzzer_sys::{Corpus, fuzz_mutator, fuzz_target};

#[global_allocator]
static MEMORY: memory::Counting = memory::Counting;

struct Settings {
    format: Format,
    bytes: usize,
    tell: bool,
}

fn settings() -> &'static Settings {
    static SETTINGS: OnceLock<Settings> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        let variable = |name: &str| std::env::var(name).ok();
        let name = variable("INSIGHTERA_FUZZ_FORMAT").unwrap_or_default();
        let format = Format::named(&name).unwrap_or_else(|| panic!("INSIGHTERA_FUZZ_FORMAT is `{name}`, no format"));
        let megabytes =
            variable("INSIGHTERA_FUZZ_MEGABYTES").map_or(512, |m| m.parse().expect("a number of megabytes"));
        Settings { format, bytes: megabytes << 20, tell: variable("INSIGHTERA_FUZZ_TELL").is_some() }
    })
}

/// One input of eight, by its bytes, and any that is looked at by itself.
fn thorough(input: &[u8]) -> bool {
    let hash = input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    settings().tell || hash >> 32 & 7 == 0
}

fn try_one(input: &[u8]) -> Result<String, String> {
    let Some(artifact) = settings().format.artifact(input) else { return Err("no artifact".into()) };
    let model = insightera_infer::load(&artifact).map_err(|e| format!("{e}"))?;
    // Most inputs are scored on a few rows, the others on rows of every kind.
    if thorough(input) {
        rows::score(&*model);
    } else {
        rows::glance(&*model);
    }
    let description = model.description();
    Ok(format!("{} {}, {} trees", description.flavor, description.objective, description.trees))
}

fuzz_target!(
    init: {
        settings();
        // A panic that the product itself catches is no finding.
        std::panic::set_hook(Box::new(|_| {}));
    },
    |input: &[u8]| -> Corpus {
        if settings().tell {
            // Also what a caught panic was.
            std::panic::set_hook(Box::new(|panic| eprintln!("panic: {panic}")));
        }
        memory::limit(settings().bytes);
        let outcome = catch_unwind(AssertUnwindSafe(|| try_one(input)));
        memory::unlimited();
        match outcome {
            Ok(outcome) => {
                let (verdict, text) = match outcome {
                    Ok(text) => ("loaded", text),
                    Err(text) => ("refused", text),
                };
                if settings().tell {
                    eprintln!("{verdict}: {text}");
                }
                Corpus::Keep
            }
            Err(_) => {
                // Once more, with the place and the way to it.
                std::panic::set_hook(Box::new(|panic| {
                    eprintln!("FOUND: {panic}\n{}", std::backtrace::Backtrace::force_capture());
                }));
                let _ = catch_unwind(AssertUnwindSafe(|| try_one(input)));
                std::process::abort()
            }
        }
    }
);

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate::mutate(settings().format, data, size, max_size, seed)
});
