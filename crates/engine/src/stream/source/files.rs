//! A file of lines of JSON, or a folder of such files, read as they grow.
//!
//! Every file is a partition, every line an event; an offset is the byte at
//! which a line starts. A line counts once its line end is there. Files are
//! numbered as they are found, by name; a file is known by its name, the hash
//! of its first line and that of the last bytes that were read, so one that was
//! replaced or cut is told. One that was read to its end may go.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
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

/// A line longer than this is no event; a dead letter has its beginning.
const LINE_LIMIT: usize = 16 << 20;
const BEGINNING: usize = 64 << 10;
/// Bytes by which it is known what was read last.
const TAIL: usize = 256;
/// Bytes that are read at once to find the end of a line that is too long.
const CHUNK: usize = 1 << 20;
/// How long to sleep before looking for new lines again.
const PAUSE: Duration = Duration::from_millis(2);

/// What a partition is: written down beside the positions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Description {
    file: String,
    head: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tail: Option<Tail>,
}

/// The last bytes before a position, and whether the file ended there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Tail {
    at: i64,
    bytes: usize,
    hash: String,
    end: bool,
}

/// Files that are followed.
#[derive(Debug)]
pub struct Files {
    identity: String,
    root: PathBuf,
    clock: Arc<dyn Clock>,
    known: BTreeMap<u32, Description>,
    /// Files that were read to their end and are not there any more.
    gone: BTreeSet<u32>,
    open: BTreeMap<u32, OpenFile>,
    next: u32,
    remarks: Vec<String>,
}

#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    file: File,
    /// Where the next line begins.
    position: i64,
    /// The last bytes before it.
    tail: Vec<u8>,
    /// How many bytes of a line were seen whose end was not among them. They are
    /// read again: a writer may have taken them back.
    unfinished: usize,
}

impl Files {
    /// The file or folder `path`, from the project's folder.
    pub fn new(project: &Path, path: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        let root = project.join(path);
        if !root.exists() {
            return Err(Error::not_found(format!("there is no file or folder of events `{}`", root.display()))
                .hint("make it, or correct `files` in [source]; an empty folder is waited on"));
        }
        if !root.is_dir() && !root.is_file() {
            return Err(Error::invalid(format!("`{}` is no file and no folder", root.display()))
                .hint("let `files` in [source] name a file of lines of JSON, or a folder of such files"));
        }
        let (known, gone, open, remarks) = Default::default();
        Ok(Self { identity: format!("files:{path}"), root, clock, known, gone, open, next: 0, remarks })
    }

    fn path_of(&self, name: &str) -> PathBuf {
        if self.root.is_dir() { self.root.join(name) } else { self.root.clone() }
    }

    fn path_of_number(&self, number: u32) -> Result<PathBuf> {
        let known = self.known.get(&number);
        known
            .map(|known| self.path_of(&known.file))
            .ok_or_else(|| Error::internal(format!("partition {number} is no file")))
    }

    /// Whether a file that is not there any more was read to its end.
    fn is_finished(&self, number: u32, description: &Description) -> Result<bool> {
        match self.open.get(&number) {
            Some(open) => Ok(open.length()? == open.position + open.unfinished as i64),
            None => Ok(description.tail.as_ref().is_some_and(|tail| tail.end)),
        }
    }

    /// The last bytes before a position that was committed are those that were
    /// there then.
    fn check_tail(&self, number: u32, path: &Path, file: &mut File, position: i64) -> Result<()> {
        let tail = self.known.get(&number).and_then(|known| known.tail.as_ref());
        let Some(tail) = tail.filter(|tail| tail.at == position) else { return Ok(()) };
        let found = before(path, file, position, tail.bytes)?;
        if format!("{:016x}", xxh3_64(&found)) == tail.hash {
            Ok(())
        } else {
            Err(another(path, "is another file now"))
        }
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
            return Ok(Some(format!("{:016x}", xxh3_64(&head[..LINE_LIMIT]))));
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
            self.next = self.next.max(number + 1);
            let path = self.path_of(&description.file);
            let is = listed.remove(&description.file);
            if is.as_ref().is_some_and(|head| *head != description.head) {
                return Err(another(&path, "is another file now"));
            }
            let is_there = is.is_some();
            if !is_there && self.gone.contains(number) {
                continue;
            }
            if !is_there && !self.is_finished(*number, &description)? {
                return Err(another(&path, "is gone"));
            }
            if !is_there {
                self.open.remove(number);
                self.gone.insert(*number);
                self.remarks.push(format!("the file `{}` is gone; it was read to its end", path.display()));
                continue;
            }
            self.known.insert(*number, description);
            partitions.insert(*number, Partition { description: value.clone(), start: 0 });
        }
        for (number, open) in &mut self.open {
            open.check()?;
            if partitions.contains_key(number) && !open.is_at_its_path()? {
                return Err(another(&open.path, "is another file now"));
            }
        }
        for (file, head) in listed {
            let number = match self.known.iter().find(|(_, known)| known.file == file) {
                Some((number, _)) => *number,
                None => {
                    self.next += 1;
                    self.next - 1
                }
            };
            let description = Description { file, head, tail: None };
            let value = serde_json::to_value(&description)
                .map_err(|e| Error::internal(format!("a file's description: {e}")))?;
            self.known.insert(number, description);
            partitions.insert(number, Partition { description: value, start: 0 });
        }
        Ok(partitions)
    }

    fn is_still(&mut self) -> Result<()> {
        self.open.values_mut().try_for_each(OpenFile::check)
    }

    fn describe(&mut self, partition: u32, position: i64) -> Option<Value> {
        let open = self.open.get(&partition).filter(|open| open.position == position)?;
        let description = self.known.get_mut(&partition)?;
        let (bytes, hash) = (open.tail.len(), format!("{:016x}", xxh3_64(&open.tail)));
        let end = open.length().is_ok_and(|length| length == position);
        description.tail = Some(Tail { at: position, bytes, hash, end });
        serde_json::to_value(&*description).ok()
    }

    fn assign(&mut self, positions: &BTreeMap<u32, i64>) -> Result<()> {
        self.open.clear();
        for (number, position) in positions.iter().filter(|(number, _)| !self.gone.contains(number)) {
            let path = self.path_of_number(*number)?;
            let mut file = File::open(&path).map_err(|e| unreadable(&path, e))?;
            whole(&path, &file.metadata().map_err(|e| unreadable(&path, e))?, *position)?;
            self.check_tail(*number, &path, &mut file, *position)?;
            let tail = before(&path, &mut file, *position, TAIL)?;
            self.open.insert(*number, OpenFile { path, file, position: *position, tail, unfinished: 0 });
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
                if !part.is_empty() {
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

    fn ends(&mut self, positions: &BTreeMap<u32, i64>) -> Result<BTreeMap<u32, i64>> {
        let end = |(number, position): (&u32, &i64)| {
            if self.gone.contains(number) {
                return Ok((*number, *position));
            }
            let path = self.path_of_number(*number)?;
            let mut file = File::open(&path).map_err(|e| unreadable(&path, e))?;
            let length = whole(&path, &file.metadata().map_err(|e| unreadable(&path, e))?, *position)?;
            self.check_tail(*number, &path, &mut file, *position)?;
            Ok((*number, length))
        };
        positions.iter().map(end).collect()
    }

    fn remarks(&mut self, at_last: bool) -> Vec<String> {
        let mut remarks = std::mem::take(&mut self.remarks);
        if !at_last {
            return remarks;
        }
        for open in self.open.values().filter(|open| open.unfinished > 0) {
            remarks.push(format!(
                "the last {} bytes of `{}` are no event yet: their line has no end",
                open.unfinished,
                open.path.display()
            ));
        }
        let names: BTreeSet<&String> = self.known.values().map(|known| &known.file).collect();
        let others = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut others: Vec<String> = others
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| !name.starts_with('.') && !names.contains(name))
            .collect();
        others.sort();
        if let Some(first) = others.first() {
            remarks.push(format!(
                "{} entries of the folder `{}` are not read, `{first}` for example: a file of events ends in .ndjson, \
                 .jsonl or .json, is in no folder of its own, and has at least one whole line",
                others.len(),
                self.root.display()
            ));
        }
        remarks
    }

    fn at_end(&mut self) -> Result<bool> {
        for open in self.open.values() {
            if open.length()? > open.position + open.unfinished as i64 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn another(path: &Path, what: &str) -> Error {
    Error::data(format!("the file of events `{}` {what}", path.display()))
        .hint("put the file back as it was; events that were read are known by their place in it")
}

/// So many bytes before a position, or all from the file's beginning.
fn before(path: &Path, file: &mut File, position: i64, count: usize) -> Result<Vec<u8>> {
    let count = count.min(position as usize);
    read_at(path, file, position - count as i64, count)
}

/// So many bytes from a position on; fewer where the file ends.
fn read_at(path: &Path, file: &mut File, position: i64, count: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(count);
    file.seek(SeekFrom::Start(position as u64))
        .and_then(|_| file.take(count as u64).read_to_end(&mut bytes))
        .map_err(|e| unreadable(path, e))?;
    Ok(bytes)
}

/// The length of a file that has all that was read of it.
fn whole(path: &Path, metadata: &Metadata, position: i64) -> Result<i64> {
    let length = metadata.len() as i64;
    if length >= position {
        return Ok(length);
    }
    Err(Error::data(format!(
        "the file of events `{}` has {length} bytes, and was read up to byte {position}: it was cut",
        path.display()
    ))
    .hint("put the file back as it was, or give the pipeline a new file"))
}

impl OpenFile {
    fn length(&self) -> Result<i64> {
        let metadata = self.file.metadata().map_err(|e| unreadable(&self.path, e))?;
        whole(&self.path, &metadata, self.position)
    }

    /// What was read last is still there.
    fn check(&mut self) -> Result<()> {
        let found = before(&self.path, &mut self.file, self.position, self.tail.len())?;
        if found == self.tail { Ok(()) } else { Err(another(&self.path, "is another file now")) }
    }

    /// Whether the open file is the one of that name.
    fn is_at_its_path(&self) -> Result<bool> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let of = |metadata: Metadata| (metadata.dev(), metadata.ino());
            let open = self.file.metadata().map_err(|e| unreadable(&self.path, e))?;
            let named = std::fs::metadata(&self.path).map_err(|e| unreadable(&self.path, e))?;
            Ok(of(open) == of(named))
        }
        #[cfg(not(unix))]
        Ok(true)
    }

    /// The complete lines among the next bytes, about `share` of them.
    fn read(&mut self, partition: u32, share: usize, now: i64) -> Result<RawPart> {
        let mut part = RawPart { partition, next_offset: self.position, ..RawPart::default() };
        let length = self.length()? - self.position;
        if length == self.unfinished as i64 {
            return Ok(part);
        }
        let bytes = read_at(&self.path, &mut self.file, self.position, share.max(2 * self.unfinished))?;
        let Some(last) = bytes.iter().rposition(|byte| *byte == b'\n') else {
            self.unfinished = bytes.len();
            if bytes.len() > LINE_LIMIT {
                self.read_too_long(&bytes, &mut part, now)?;
            }
            return Ok(part);
        };
        let mut from = 0;
        while from <= last {
            let end = from + bytes[from..=last].iter().position(|byte| *byte == b'\n').unwrap_or(last - from);
            let line = bytes[from..end].strip_suffix(b"\r").unwrap_or(&bytes[from..end]);
            // A blank line is no event.
            if !line.iter().all(u8::is_ascii_whitespace) {
                push(&mut part, self.position + from as i64, line, line.len(), now);
            }
            from = end + 1;
        }
        self.advance(&bytes[..=last], bytes.len() - last - 1, &mut part);
        Ok(part)
    }

    /// A line that is too long, once its end is there.
    fn read_too_long(&mut self, beginning: &[u8], part: &mut RawPart, now: i64) -> Result<()> {
        let mut length = beginning.len();
        loop {
            let chunk = read_at(&self.path, &mut self.file, self.position + length as i64, CHUNK)?;
            let Some(end) = chunk.iter().position(|byte| *byte == b'\n') else {
                length += chunk.len();
                if chunk.is_empty() {
                    self.unfinished = length;
                    return Ok(());
                }
                continue;
            };
            push(part, self.position, beginning, length + end, now);
            self.position += length as i64;
            self.advance(&chunk[..=end], 0, part);
            return Ok(());
        }
    }

    /// Goes on behind bytes that were read.
    fn advance(&mut self, bytes: &[u8], unfinished: usize, part: &mut RawPart) {
        self.tail = bytes[bytes.len().saturating_sub(TAIL)..].to_vec();
        self.position += bytes.len() as i64;
        self.unfinished = unfinished;
        part.next_offset = self.position;
    }
}

/// An event; of a line that is too long its beginning.
fn push(part: &mut RawPart, offset: i64, line: &[u8], length: usize, now: i64) {
    if length > LINE_LIMIT {
        part.cut.push((part.offsets.len(), length));
    }
    part.payload.extend_from_slice(if length > LINE_LIMIT { &line[..BEGINNING] } else { line });
    part.ends.push(part.payload.len());
    part.offsets.push(offset);
    part.arrivals.push(now);
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
        assert!(source.ends(&BTreeMap::from([(0, 4)])).unwrap_err().to_string().contains("it was cut"));
        std::fs::remove_file(folder.join("m.ndjson")).unwrap();
        assert!(files(temp.path()).partitions(&known).unwrap_err().to_string().contains("is gone"));
    }
}
