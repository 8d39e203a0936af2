//! Runs the binary in a temporary folder.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A folder and the binary.
pub struct Shell {
    temp: TempDir,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Shell {
    pub fn new() -> Self {
        Self { temp: tempfile::tempdir().unwrap() }
    }

    /// A shell in a folder with a project `p` that has the rule `numbers`.
    pub fn with_project() -> Self {
        let shell = Self::new();
        shell.run(&["init", "p"]).done();
        std::fs::remove_file(shell.dir().join("p/pipelines/example.toml")).unwrap();
        shell.write("p/pipelines/numbers.toml", NUMBERS);
        shell
    }

    pub fn dir(&self) -> &Path {
        self.temp.path()
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.dir().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_insightera"));
        command.args(arguments).current_dir(self.dir()).stdin(Stdio::null());
        for name in ["INSIGHTERA_WAREHOUSE", "INSIGHTERA_THREADS", "INSIGHTERA_MEMORY"] {
            command.env_remove(name);
        }
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Said {
        Said::of(self.command(arguments).output().unwrap())
    }

    /// In the project `p`.
    pub fn project(&self, arguments: &[&str]) -> Said {
        self.run(&[&["--project", "p"], arguments].concat())
    }
}

impl Said {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Exit status 0.
    #[track_caller]
    pub fn done(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// Exit status 1, nothing on standard output, one error that holds `text`.
    #[track_caller]
    pub fn refused(self, text: &str) -> Self {
        assert_eq!((self.code, self.out.as_str()), (1, ""), "{self:?}");
        assert!(self.err.contains(text), "{text}\nin\n{}", self.err);
        assert_eq!(self.err.lines().filter(|line| line.starts_with("error:")).count(), 1, "{}", self.err);
        self
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// A rule over a Parquet folder.
const NUMBERS: &str = r#"
kind = "batch"
[entity]
key = ["id"]
[features]
sql = "SELECT id, value FROM files.numbers"
[output]
table = "predictions.numbers"
[output.columns]
id = "id"
large = "value > 10"
"#;
