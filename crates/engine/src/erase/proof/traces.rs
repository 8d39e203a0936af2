//! What a key looks like in bytes, and which files have such bytes.

use std::io::Read;

use bytes::Bytes;

use super::avro::Container;
use super::columns;
use super::files::Files;

/// Shorter texts are found everywhere.
const SHORTEST: usize = 4;
/// Smaller numbers are found everywhere.
const SMALLEST: i64 = 1 << 16;

/// The forms of one part of a key.
pub struct Traces {
    /// As they are, whatever stands around them.
    exact: Vec<Vec<u8>>,
    /// As a word.
    word: Option<Vec<u8>>,
}

/// What a scan found.
#[derive(Debug, Default)]
pub struct Scan {
    pub files: u64,
    pub bytes: u64,
    pub unpacked_bytes: u64,
    pub holding: Vec<String>,
    pub unreadable: Vec<String>,
}

impl Traces {
    /// The traces of a value; `None` where it is too short to be told from
    /// other bytes.
    pub fn new(value: &str) -> Option<Self> {
        let text = value.as_bytes();
        let mut exact = Vec::new();
        let length = u32::try_from(text.len()).ok()?;
        if text.len() >= SHORTEST {
            // Parquet's plain encoding; the engine's keys.
            exact.push([&length.to_le_bytes(), text].concat());
            exact.push([&length.to_be_bytes(), text].concat());
            // Thrift's and Avro's: a short length is one byte.
            if text.len() < 64 {
                exact.push([&[length as u8], text].concat());
                exact.push([&[(2 * length) as u8], text].concat());
            }
        }
        if let Some(number) = value.parse::<i64>().ok().filter(|number| number.unsigned_abs() >= SMALLEST as u64) {
            exact.push(number.to_le_bytes().to_vec());
            exact.push(((number as u64) ^ (1 << 63)).to_be_bytes().to_vec());
        }
        let word = (text.len() >= SHORTEST).then(|| text.to_vec());
        (!exact.is_empty()).then_some(Self { exact, word })
    }

    /// Whether bytes have one of them.
    pub fn are_in(&self, bytes: &[u8]) -> bool {
        let places = |wanted: &[u8]| {
            let wanted = wanted.to_vec();
            (0..bytes.len().saturating_sub(wanted.len() - 1)).filter(move |at| bytes[*at..].starts_with(&wanted))
        };
        let edge = |byte: Option<&u8>| byte.is_none_or(|byte| !byte.is_ascii_alphanumeric());
        let as_word = self.word.as_ref().is_some_and(|word| {
            places(word)
                .any(|at| edge(at.checked_sub(1).and_then(|at| bytes.get(at))) && edge(bytes.get(at + word.len())))
        });
        as_word || self.exact.iter().any(|form| places(form).next().is_some())
    }
}

/// Looks at every file below the folders, as it is and unpacked. A file holds a
/// key that has traces of all of its parts.
pub fn scan(files: Files<'_>, folders: &[String], parts: &[Traces], shown: &dyn Fn(&str) -> String) -> Scan {
    let mut scan = Scan::default();
    for folder in folders {
        let mut unlisted = |path: &str, error: String| scan.unreadable.push(format!("{}: {error}", shown(path)));
        for location in files.below(folder, &mut unlisted) {
            look_at(files, &location, parts, shown, &mut scan);
        }
    }
    scan.holding.sort();
    scan.unreadable.sort();
    scan
}

fn look_at(files: Files<'_>, location: &str, parts: &[Traces], shown: &dyn Fn(&str) -> String, scan: &mut Scan) {
    let bytes = match files.read(location) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return,
        Err(error) => return scan.unreadable.push(format!("{}: {error}", shown(location))),
    };
    scan.files += 1;
    scan.bytes += bytes.len() as u64;
    let mut seen: Vec<bool> = parts.iter().map(|part| part.are_in(&bytes)).collect();
    let mut look = |unpacked: &[u8]| {
        scan.unpacked_bytes += unpacked.len() as u64;
        for (seen, part) in seen.iter_mut().zip(parts) {
            *seen = *seen || part.are_in(unpacked);
        }
    };
    if let Err(error) = unpack(location, bytes, &mut look) {
        scan.unreadable.push(format!("{}: {error}", shown(location)));
    }
    let named = parts.iter().all(|part| part.word.is_some() && part.are_in(location.as_bytes()));
    if seen.iter().all(|seen| *seen) || named {
        scan.holding.push(shown(location));
    }
}

fn unpack(location: &str, bytes: Bytes, look: &mut dyn FnMut(&[u8])) -> Result<(), String> {
    if bytes.starts_with(b"PAR1") {
        columns::pages(bytes, look)
    } else if bytes.starts_with(b"Obj\x01") {
        Container::read(&bytes)?.blocks().for_each(look);
        Ok(())
    } else if bytes.starts_with(&[0x1f, 0x8b]) {
        // Of a file that was cut off, what is there.
        let mut text = Vec::new();
        let _ = flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut text);
        look(&text);
        Ok(())
    } else if location.ends_with(".parquet") || location.ends_with(".avro") {
        Err("it is damaged, or being written".into())
    } else {
        Ok(())
    }
}

/// Unpacks a gzip file.
pub fn gunzip(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut text).map_err(|e| e.to_string())?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_every_encoding_and_not_within_others() {
        let traces = Traces::new("1919599262").unwrap();
        for bytes in [
            &b"{\"nim\":\"1919599262\"}"[..],
            b"\x0a\x00\x00\x001919599262\x0a\x00\x00\x001919599263",
            b"7\x00\x00\x00\x0a1919599262x",
            b"\x141919599262",
            &1_919_599_262_i64.to_le_bytes(),
        ] {
            assert!(traces.are_in(bytes), "{bytes:?}");
        }
        for bytes in [&b"11919599262"[..], b"x1919599262x", b"191959926"] {
            assert!(!traces.are_in(bytes), "{bytes:?}");
        }
        assert!(Traces::new("7").is_none());
    }
}
