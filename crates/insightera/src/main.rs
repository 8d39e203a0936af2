//! `insightera`: the command line.
//!
//! Flow: arguments ([`cli`]) → [`resolve`] → a command ([`commands`]) → an
//! [`Answer`](commands::Answer), printed once when the command is done.
//!
//! Guarantees: standard output is data and stays empty when a command fails;
//! an error is printed once to standard error; the exit status is 0 when done,
//! 1 when there is something for the user to correct, 2 for a defect of ours.

mod cli;
mod commands;
mod failure;
mod memory;
mod printer;
mod progress;
mod resolve;
mod text;
mod university;

use std::io::{self, IsTerminal};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::Parser;
use insightera_engine::Error;

use crate::cli::Arguments;
use crate::printer::Printer;

fn main() -> ExitCode {
    memory::few_arenas();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no mistakes; clap says which stream.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    let printer = Printer::new();
    match panic::catch_unwind(AssertUnwindSafe(|| execute(arguments, &printer))) {
        Ok(Ok(code)) => ExitCode::from(code),
        Ok(Err(error)) => {
            failure::report(&printer, &error);
            ExitCode::from(failure::exit_code(&error))
        }
        // The panic has told its message already.
        Err(_) => {
            printer.hint("this is a defect of insightera; committed data is not affected");
            ExitCode::from(2)
        }
    }
}

fn execute(arguments: Arguments, printer: &Printer) -> anyhow::Result<u8> {
    let invocation = resolve::resolve(arguments, io::stdin().is_terminal())?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|e| Error::unavailable("the worker threads cannot be started").cause(e))?;
    let answer = runtime.block_on(commands::dispatch(invocation, printer))?;
    printer.data(&answer.text)?;
    Ok(answer.exit_code)
}
