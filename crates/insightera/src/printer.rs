//! Standard output for data, standard error for everything else.

use std::io::{self, IsTerminal, Write};

use insightera_engine::{Error, Result};

/// Writes to the two streams, with colours where they are wanted.
#[derive(Debug, Clone)]
pub struct Printer {
    color_out: bool,
    color_err: bool,
    bars: bool,
}

impl Printer {
    /// Colours on terminals unless `NO_COLOR` is set (to anything but nothing,
    /// as no-color.org has it) or the terminal is dumb.
    pub fn new() -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let wanted = !set("NO_COLOR") && !dumb;
        let err = io::stderr().is_terminal();
        Self { color_out: wanted && io::stdout().is_terminal(), color_err: wanted && err, bars: err && !dumb }
    }

    /// Without colours and bars.
    #[cfg(test)]
    pub fn plain() -> Self {
        Self { color_out: false, color_err: false, bars: false }
    }

    /// Whether progress bars are shown.
    pub fn bars(&self) -> bool {
        self.bars
    }

    /// Whether bars may have colours.
    pub fn bar_colors(&self) -> bool {
        self.color_err
    }

    /// Writes data to standard output. A reader that has gone away (`| head`)
    /// is not an error.
    pub fn data(&self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Error::unavailable("standard output cannot be written").cause(error))
            }
            _ => Ok(()),
        }
    }

    /// A heading for standard output.
    pub fn heading(&self, text: &str) -> String {
        paint(self.color_out, "1", text)
    }

    /// Less important text for standard output.
    pub fn dim(&self, text: &str) -> String {
        paint(self.color_out, "2", text)
    }

    /// A message to standard error.
    pub fn message(&self, text: &str) {
        self.line(text);
    }

    /// A warning to standard error.
    pub fn warning(&self, text: &str) {
        self.line(&format!("{} {text}", paint(self.color_err, "1;33", "warning:")));
    }

    /// An error to standard error.
    pub fn error(&self, text: &str) {
        self.line(&format!("{} {text}", paint(self.color_err, "1;31", "error:")));
    }

    /// A hint to standard error.
    pub fn hint(&self, text: &str) {
        self.line(&format!("{} {text}", paint(self.color_err, "1;36", "hint:")));
    }

    /// Nothing can be done when standard error is closed.
    fn line(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}

fn paint(color: bool, code: &str, text: &str) -> String {
    if color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}
