//! Bytes of checkpoints: numbers, and the frame around them.
//!
//! A frame is `ISWS`, version, mode, kind, a zero byte, the fingerprint of the
//! settings, the hash of the checkpoint that it follows (0 for a full one), its
//! number (0 for a full one), the length of the body, the body, and the hash of
//! all before it; fixed-size numbers are little-endian. The hash finds torn and rotten
//! bytes. It does not stop a forger, so a reader takes no length on trust:
//! whatever the body says, it reads within the bytes that are there.

use super::error::CheckpointError;
use super::hash::hash_bytes;

const MAGIC: [u8; 4] = *b"ISWS";
const VERSION: u8 = 1;
const HEAD: usize = 8 + 4 * 8;

/// Which operator wrote a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    EachEvent = 1,
    OnClose = 2,
}

/// The last checkpoint of a state: its hash, and how many increments it is
/// behind a full one. The next increment names both, so that one of another
/// base, or of another process that went on from the same base, does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub hash: u64,
    pub number: u64,
}

/// What the head of a frame says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    /// Hash of the checkpoint that it follows.
    follows: u64,
    number: u64,
    /// Its own hash.
    hash: u64,
}

impl Head {
    /// The link of a full checkpoint.
    pub fn full(self) -> Result<Link, CheckpointError> {
        if self.number != 0 {
            return Err(CheckpointError::OtherKind { found: "an increment", wanted: "a full checkpoint" });
        }
        Ok(Link { hash: self.hash, number: 0 })
    }

    /// The link of the increment after `last`.
    pub fn after(self, last: Option<Link>) -> Result<Link, CheckpointError> {
        if self.number == 0 {
            return Err(CheckpointError::OtherKind { found: "a full checkpoint", wanted: "an increment" });
        }
        let last = last.ok_or(CheckpointError::NoBase)?;
        let expected = last.number + 1;
        if self.number != expected || self.follows != last.hash {
            let found = if self.number == expected { 0 } else { self.number };
            return Err(CheckpointError::OutOfSequence { expected, found });
        }
        Ok(Link { hash: self.hash, number: self.number })
    }
}

/// Bytes being written.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    /// A number in 7 bits per byte.
    pub fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    /// A number that may be negative, small around zero.
    pub fn signed(&mut self, number: i64) {
        self.number((number << 1 ^ number >> 63) as u64);
    }

    pub fn optional(&mut self, number: Option<i64>) {
        self.byte(u8::from(number.is_some()));
        self.signed(number.unwrap_or(0));
    }

    pub fn fixed(&mut self, number: u64) {
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.raw(bytes);
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// A writer of a body, with room for the head of its frame.
    pub fn framed() -> Self {
        Self { bytes: vec![0; HEAD] }
    }

    /// Writes head and hash around the body, of a full checkpoint or of the
    /// increment after `last`, and gives its link.
    pub fn into_frame(mut self, mode: Mode, fingerprint: u64, last: Option<Link>) -> (Link, Vec<u8>) {
        let number = last.map_or(0, |last| last.number + 1);
        let follows = last.map_or(0, |last| last.hash);
        let length = (self.bytes.len() - HEAD) as u64;
        self.bytes[..4].copy_from_slice(&MAGIC);
        self.bytes[4..8].copy_from_slice(&[VERSION, mode as u8, u8::from(last.is_some()), 0]);
        for (index, number) in [fingerprint, follows, number, length].into_iter().enumerate() {
            self.bytes[8 + 8 * index..16 + 8 * index].copy_from_slice(&number.to_le_bytes());
        }
        let hash = hash_bytes(&self.bytes);
        self.fixed(hash);
        (Link { hash, number }, self.bytes)
    }
}

/// Checks a frame and gives its head and body.
pub(crate) fn open_frame(bytes: &[u8], mode: Mode, fingerprint: u64) -> Result<(Head, Reader<'_>), CheckpointError> {
    let torn = |want: u64| Err(CheckpointError::Torn { have: bytes.len() as u64, want });
    if bytes.len() < 8 {
        return if MAGIC.starts_with(&bytes[..bytes.len().min(4)]) {
            torn(HEAD as u64)
        } else {
            Err(CheckpointError::Foreign)
        };
    }
    if bytes[..4] != MAGIC {
        return Err(CheckpointError::Foreign);
    }
    if bytes[4] != VERSION {
        return Err(CheckpointError::Version { found: bytes[4], known: VERSION });
    }
    if bytes.len() < HEAD + 8 {
        return torn(HEAD as u64 + 8);
    }
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let want = number(32).saturating_add(HEAD as u64 + 8);
    if want != bytes.len() as u64 {
        return torn(want);
    }
    let end = bytes.len() - 8;
    if hash_bytes(&bytes[..end]) != number(end) {
        return Err(CheckpointError::Checksum);
    }
    if bytes[5] != mode as u8 {
        return Err(CheckpointError::OtherMode);
    }
    if number(8) != fingerprint {
        return Err(CheckpointError::OtherSettings);
    }
    let head = Head { follows: number(16), number: number(24), hash: number(end) };
    if bytes[6] != u8::from(head.number > 0) {
        return Err(CheckpointError::Corrupt("its kind and its number differ"));
    }
    Ok((head, Reader { bytes: &bytes[HEAD..end] }))
}

/// Bytes being read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn byte(&mut self) -> Result<u8, CheckpointError> {
        Ok(self.raw(1)?[0])
    }

    pub fn number(&mut self) -> Result<u64, CheckpointError> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            number |= part << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(CheckpointError::Corrupt("a number is too long"))
    }

    pub fn signed(&mut self) -> Result<i64, CheckpointError> {
        let number = self.number()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    pub fn optional(&mut self) -> Result<Option<i64>, CheckpointError> {
        let there = match self.byte()? {
            0 => false,
            1 => true,
            _ => return Err(CheckpointError::Corrupt("a flag is neither 0 nor 1")),
        };
        let number = self.signed()?;
        Ok(there.then_some(number))
    }

    /// A time that arithmetic can bear.
    pub fn time(&mut self) -> Result<Option<i64>, CheckpointError> {
        let time = self.optional()?;
        match time {
            Some(time) if time.unsigned_abs() > super::tiles::TIME_LIMIT as u64 && time != super::tiles::BEGINNING => {
                Err(CheckpointError::Corrupt("a time is out of range"))
            }
            _ => Ok(time),
        }
    }

    pub fn fixed(&mut self) -> Result<u64, CheckpointError> {
        Ok(u64::from_le_bytes(self.raw(8)?.try_into().expect("8 bytes")))
    }

    pub fn raw(&mut self, length: usize) -> Result<&'a [u8], CheckpointError> {
        let (head, tail) =
            self.bytes.split_at_checked(length).ok_or(CheckpointError::Corrupt("it ends within a value"))?;
        self.bytes = tail;
        Ok(head)
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], CheckpointError> {
        let length = self.count(1)?;
        self.raw(length)
    }

    /// A number of things that take at least `least` bytes each: more than
    /// the bytes left can hold is refused before anything is allocated.
    pub fn count(&mut self, least: usize) -> Result<usize, CheckpointError> {
        let count = self.number()?;
        let most = self.bytes.len() / least;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= most)
            .ok_or(CheckpointError::Corrupt("a count is larger than what follows"))
    }

    pub fn finish(self) -> Result<(), CheckpointError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(CheckpointError::Corrupt("bytes are left over")) }
    }
}
