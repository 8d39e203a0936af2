//! A file of lines of JSON, or a folder of such files, read as they grow.
//!
//! Every file is a partition, every line an event; an offset is the byte at
//! which a line starts. A line counts once its line end is there. Files are
//! numbered as they are found, by name; a file is known by its name and the
//! hash of its first line, so one that was replaced or cut is told.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use insightera_core::Clock;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::{Partition, RawPart, Source};
use crate::{Error, Result};

/// A line longer than this is no event.
const LINE_LIMIT: usize = 16 << 20;
/// How long to sleep before looking for new lines again.
const PAUSE: Duration = Duration::from_millis(2);

/// What a partition is: written down beside the positions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Description {
    file: String,
    head: String,
}

/// Files that are followed.
#[derive(Debug)]
pub struct Files {
    identity: String,
    root: PathBuf,
    clock: Arc<dyn Clock>,
    names: BTreeMap<u32, String>,
    open: BTreeMap<u32, OpenFile>,
    next: u32,
}

#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    file: File,
    /// The offset of the first byte of `rest`.
    position: i64,
    /// The beginning of a line whose end has not come.
    rest: Vec<u8>,
}

impl Files {
    /// The file or folder `path`, from the project's folder.
    pub fn new(project: &Path, path: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        let root = project.join(path);
        if !root.exists() {
            return Err(Error::not_found(format!("there is no file or folder of events `{}`", root.display()))
                .hint("make it, or correct `files` in [source]; an empty folder is waited on"));
        }
        let (names, open) = Default::default();
        Ok(Self { identity: format!("files:{path}"), root, clock, names, open, next: 0 })
    }

    fn path_of(&self, name: &str) -> PathBuf {
        if self.root.is_dir() { self.root.join(name) } else { self.root.clone() }
    }

    /// The files whose first line is complete, with the hash of that line.
    fn listed(&self) -> Result<BTreeMap<String, String>> {
        let mut found = BTreeMap::new();
        let mut paths = Vec::new();
        if self.root.is_dir() {
            let entries = std::fs::read_dir(&self.root).map_err(|e| unreadable(&self.root, e))?;
            for entry in entries {
                let path = entry.map_err(|e| unreadable(&self.root, e))?.path();
                let wanted = path.extension().is_some_and(|end| end == "ndjson" || end == "jsonl" || end == "json");
                if wanted && path.is_file() {
                    paths.push(path);
                }
            }
        } else {
            paths.push(self.root.clone());
        }
        for path in paths {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if let Some(head) = head_of(&path)? {
                found.insert(name.to_owned(), head);
            }
        }
        Ok(found)
    }
}

/// The hash of a file's first line, once that is complete.
fn head_of(path: &Path) -> Result<Option<String>> {
    let mut file = File::open(path).map_err(|e| unreadable(path, e))?;
    let mut head = Vec::new();
    let mut chunk = [0u8; 4096];
    loop {
        let count = file.read(&mut chunk).map_err(|e| unreadable(path, e))?;
        if count == 0 {
            return Ok(None);
        }
        if head.len() > LINE_LIMIT {
            return Err(Error::data(format!(
                "the first line of `{}` is longer than {} MiB",
                path.display(),
                LINE_LIMIT >> 20
            ))
            .hint("an event is one line; take the file away, or write its events as lines"));
        }
        match chunk[..count].iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                head.extend_from_slice(&chunk[..end]);
                return Ok(Some(format!("{:016x}", xxh3_64(&head))));
            }
            None => head.extend_from_slice(&chunk[..count]),
        }
    }
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        ErrorKind::NotFound => insightera_core::ErrorKind::Data,
        ErrorKind::PermissionDenied => insightera_core::ErrorKind::Invalid,
        _ => insightera_core::ErrorKind::Unavailable,
    };
    Error::new(kind, format!("the events in `{}` cannot be read: {error}", path.display())).cause(error)
}

impl Source for Files {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn partitions(&mut self, known: &BTreeMap<u32, Value>) -> Result<BTreeMap<u32, Partition>> {
        let mut listed = self.listed()?;
        let mut partitions = BTreeMap::new();
        for (number, value) in known {
            let description: Description = serde_json::from_value(value.clone()).map_err(|e| {
                Error::data(format!("partition {number} of `{}` is described as `{value}`", self.identity)).cause(e)
            })?;
            let path = self.path_of(&description.file);
            let what = |what: &str| {
                Error::data(format!("the file of events `{}` {what}", path.display()))
                    .hint("put the file back as it was; events that were read are known by their place in it")
            };
            match listed.remove(&description.file) {
                None => return Err(what("is gone")),
                Some(head) if head != description.head => return Err(what("is another file now")),
                Some(_) => {}
            }
            self.names.insert(*number, description.file);
            self.next = self.next.max(number + 1);
            partitions.insert(*number, Partition { description: value.clone(), start: 0 });
        }
        for (file, head) in listed {
            let number = match self.names.iter().find(|(_, name)| **name == file) {
                Some((number, _)) => *number,
                None => {
                    self.next += 1;
                    self.next - 1
                }
            };
            self.names.insert(number, file.clone());
            let description = serde_json::to_value(Description { file, head })
                .map_err(|e| Error::internal(format!("a file's description: {e}")))?;
            partitions.insert(number, Partition { description, start: 0 });
        }
        Ok(partitions)
    }

    fn assign(&mut self, positions: &BTreeMap<u32, i64>) -> Result<()> {
        self.open.clear();
        for (number, position) in positions {
            let Some(name) = self.names.get(number) else {
                return Err(Error::internal(format!("partition {number} is no file")));
            };
            let path = self.path_of(name);
            let mut file = File::open(&path).map_err(|e| unreadable(&path, e))?;
            let length = file.metadata().map_err(|e| unreadable(&path, e))?.len();
            if (length as i64) < *position {
                return Err(cut(&path, length as i64, *position));
            }
            file.seek(SeekFrom::Start(*position as u64)).map_err(|e| unreadable(&path, e))?;
            self.open.insert(*number, OpenFile { path, file, position: *position, rest: Vec::new() });
        }
        Ok(())
    }

    fn poll(&mut self, max_bytes: usize, wait: Duration) -> Result<Vec<RawPart>> {
        let share = (max_bytes / self.open.len().max(1)).max(1 << 10);
        let mut waited = Duration::ZERO;
        loop {
            let mut parts = Vec::new();
            let now = self.clock.now_micros();
            for (number, open) in &mut self.open {
                let part = open.read(*number, share, now)?;
                if part.len() > 0 {
                    parts.push(part);
                }
            }
            if !parts.is_empty() || waited >= wait {
                return Ok(parts);
            }
            std::thread::sleep(PAUSE);
            waited += PAUSE;
        }
    }

    fn ends(&mut self) -> Result<BTreeMap<u32, i64>> {
        let mut ends = BTreeMap::new();
        for (number, open) in &self.open {
            let length = open.file.metadata().map_err(|e| unreadable(&open.path, e))?.len() as i64;
            if length < open.position {
                return Err(cut(&open.path, length, open.position));
            }
            ends.insert(*number, length);
        }
        Ok(ends)
    }

    fn at_end(&mut self) -> Result<bool> {
        let ends = self.ends()?;
        Ok(self.open.iter().all(|(number, open)| ends[number] <= open.position + open.rest.len() as i64))
    }
}

fn cut(path: &Path, length: i64, position: i64) -> Error {
    Error::data(format!(
        "the file of events `{}` has {length} bytes, and was read up to byte {position}: it was cut",
        path.display()
    ))
    .hint("put the file back as it was, or give the pipeline a new file")
}

impl OpenFile {
    /// The complete lines among the next bytes.
    fn read(&mut self, partition: u32, share: usize, now: i64) -> Result<RawPart> {
        let mut part = RawPart { partition, next_offset: self.position, ..RawPart::default() };
        let before = self.rest.len();
        let mut limited = (&mut self.file).take(share as u64);
        let count = limited.read_to_end(&mut self.rest).map_err(|e| unreadable(&self.path, e))?;
        if count == 0 {
            return Ok(part);
        }
        let Some(last) = self.rest[before..].iter().rposition(|byte| *byte == b'\n').map(|at| before + at) else {
            if self.rest.len() > LINE_LIMIT {
                return Err(Error::data(format!(
                    "the line at byte {} of `{}` is longer than {} MiB",
                    self.position,
                    self.path.display(),
                    LINE_LIMIT >> 20
                )));
            }
            return Ok(part);
        };
        let rest = self.rest.split_off(last + 1);
        let lines = std::mem::replace(&mut self.rest, rest);
        let mut from = 0;
        while from <= last {
            let end = from + lines[from..=last].iter().position(|byte| *byte == b'\n').unwrap_or(last - from);
            let line = lines[from..end].strip_suffix(b"\r").unwrap_or(&lines[from..end]);
            // A blank line is no event.
            if !line.iter().all(u8::is_ascii_whitespace) {
                part.payload.extend_from_slice(line);
                part.ends.push(part.payload.len());
                part.offsets.push(self.position + from as i64);
                part.arrivals.push(now);
            }
            from = end + 1;
        }
        self.position += last as i64 + 1;
        part.next_offset = self.position;
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use insightera_core::ManualClock;
    use std::io::Write;

    fn files(folder: &Path) -> Files {
        Files::new(folder, "events", Arc::new(ManualClock::new(7))).unwrap()
    }

    fn add(path: &Path, text: &str) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn lines(parts: &[RawPart]) -> Vec<(u32, i64, String)> {
        let text = |part: &RawPart, at: usize| String::from_utf8(part.payload(at).to_vec()).unwrap();
        parts.iter().flat_map(|p| (0..p.len()).map(|at| (p.partition, p.offsets[at], text(p, at)))).collect()
    }

    #[test]
    fn a_line_counts_when_its_end_is_there_and_offsets_are_bytes() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("events");
        std::fs::create_dir(&folder).unwrap();
        add(&folder.join("a.ndjson"), "{1}\r\n\n{2}\n{3");
        add(&folder.join("b.ndjson"), "{no end");
        let mut source = files(temp.path());
        let found = source.partitions(&BTreeMap::new()).unwrap();
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [0], "`b` has no complete line yet");
        source.assign(&BTreeMap::from([(0, 0)])).unwrap();
        let parts = source.poll(1 << 20, Duration::ZERO).unwrap();
        assert_eq!(lines(&parts), [(0, 0, "{1}".into()), (0, 6, "{2}".into())]);
        assert_eq!(parts[0].next_offset, 10);
        assert!(source.poll(1 << 20, Duration::ZERO).unwrap().is_empty());
        add(&folder.join("a.ndjson"), "}\n");
        let parts = source.poll(1 << 20, Duration::ZERO).unwrap();
        assert_eq!(lines(&parts), [(0, 10, "{3}".into())]);
        source.assign(&BTreeMap::from([(0, 6)])).unwrap();
        assert_eq!(lines(&source.poll(1 << 20, Duration::ZERO).unwrap()).len(), 2, "it can be read again");
    }

    #[test]
    fn numbers_stay_with_their_files_and_another_file_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("events");
        std::fs::create_dir(&folder).unwrap();
        add(&folder.join("m.ndjson"), "{1}\n");
        let first = files(temp.path()).partitions(&BTreeMap::new()).unwrap();
        let known: BTreeMap<u32, Value> = first.into_iter().map(|(n, p)| (n, p.description)).collect();
        add(&folder.join("a.ndjson"), "{2}\n");
        let mut source = files(temp.path());
        let now = source.partitions(&known).unwrap();
        assert_eq!(now[&1].description["file"], "a.ndjson");
        assert_eq!(now[&0].description, known[&0]);
        source.assign(&BTreeMap::from([(0, 4), (1, 0)])).unwrap();
        std::fs::write(folder.join("m.ndjson"), "{9}\n").unwrap();
        let error = files(temp.path()).partitions(&known).unwrap_err();
        assert!(error.to_string().contains("is another file now"), "{error}");
        std::fs::write(folder.join("m.ndjson"), "{").unwrap();
        assert!(source.ends().unwrap_err().to_string().contains("it was cut"));
        std::fs::remove_file(folder.join("m.ndjson")).unwrap();
        assert!(files(temp.path()).partitions(&known).unwrap_err().to_string().contains("is gone"));
    }
}
