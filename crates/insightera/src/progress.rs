//! Progress on standard error: a bar on a terminal, nothing elsewhere.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use insightera_engine::score::Reporter;

use crate::printer::Printer;
use crate::text;

/// The bars of a command.
#[derive(Debug, Clone)]
pub struct Bars {
    bars: Option<MultiProgress>,
    colors: bool,
}

impl Bars {
    /// Bars if standard error is a terminal.
    pub fn new(printer: &Printer) -> Self {
        Self { bars: printer.bars().then(MultiProgress::new), colors: printer.bar_colors() }
    }

    /// A bar for one thing that is done; it disappears at the end.
    pub fn bar(&self, what: &str) -> Bar {
        let Some(bars) = &self.bars else { return Bar { bar: None, counting: String::new() } };
        let bar = bars.add(ProgressBar::new_spinner());
        let color = if self.colors { ".cyan" } else { "" };
        let waiting = format!("{{spinner{color}}} {{prefix}} {{msg}} {{elapsed}}");
        let counting = format!(
            "{{spinner{color}}} {{prefix}} {{msg}} [{{bar:24{color}}}] {{human_pos}}/{{human_len}} rows {{per_sec}}"
        );
        bar.set_style(style(&waiting));
        bar.set_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Bar { bar: Some(bar), counting }
    }
}

/// The templates are constants of this file; a wrong one only costs its looks.
fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
    style.progress_chars("=> ").with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
        let _ = write!(out, "{}/s", text::count(state.per_sec() as u64));
    })
}

/// One bar.
#[derive(Debug, Clone)]
pub struct Bar {
    bar: Option<ProgressBar>,
    counting: String,
}

impl Bar {
    /// What is done now; with a number of rows where it is known.
    pub fn stage(&self, name: &str, rows: Option<u64>) {
        let Some(bar) = &self.bar else { return };
        bar.set_message(name.to_owned());
        if let Some(rows) = rows {
            bar.set_style(style(&self.counting));
            bar.set_length(rows);
            bar.set_position(0);
        }
    }

    /// Rows that are done.
    pub fn rows(&self, rows: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(rows);
        }
    }

    /// For a run.
    pub fn reporter(&self) -> Reporter {
        if self.bar.is_none() {
            return Reporter::silent();
        }
        let (stage, rows) = (self.clone(), self.clone());
        Reporter {
            stage: Arc::new(move |name, total| stage.stage(name, total)),
            rows: Arc::new(move |count| rows.rows(count)),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
