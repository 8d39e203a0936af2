//! Predictions on their way to a webhook: those of a poll go in together, those
//! of a request come out.
//!
//! A request is `{"pipeline":"live","predictions":[{"id":"live/0/17","row":{…}},
//! …]}`, with as many predictions as are there, up to a bound. It is never cut
//! anew: tried again it has the same bytes and the same key.

use std::collections::VecDeque;
use std::io::Write as _;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use insightera_events::Lines;

use super::receiver::Way;

/// Predictions of a request, and its bytes; one prediction may be larger.
const ROWS: usize = 1000;
const BYTES: usize = 1_000_000;
/// Bytes that may wait, about; a poll may be larger.
const QUEUE: usize = 16 << 20;

/// Predictions of one poll.
#[derive(Debug)]
pub struct Block {
    /// Each as the element of an array of JSON.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    places: Vec<(u32, i64)>,
    way: Arc<Way>,
    /// How many of them are in requests.
    from: usize,
}

/// What a request sends.
#[derive(Debug)]
pub struct Batch {
    /// The body.
    pub body: Bytes,
    /// The same for this request alone.
    pub key: String,
    /// The ids of the first and the last prediction.
    pub ids: (String, String),
    /// Which predictions those are: how many of which way.
    of: Vec<(Arc<Way>, usize)>,
}

/// The predictions that wait, in their order.
#[derive(Debug, Default)]
pub struct Batches {
    blocks: VecDeque<Block>,
    bytes: usize,
}

impl Block {
    /// Rows as lines of JSON, each made of the event at its place.
    pub fn new(pipeline: &str, lines: &Lines, places: &[(u32, i64)], way: Arc<Way>) -> Self {
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(places.len()));
        for (line, (partition, offset)) in lines.iter().zip(places) {
            // Writing to memory cannot fail; the name of a pipeline has nothing that JSON escapes.
            let _ = write!(bytes, "{{\"id\":\"{pipeline}/{partition}/{offset}\",\"row\":");
            bytes.extend_from_slice(line);
            bytes.push(b'}');
            ends.push(bytes.len());
        }
        Self { bytes, ends, places: places.to_vec(), way, from: 0 }
    }

    /// Bytes of all its predictions.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    fn range(&self, row: usize) -> Range<usize> {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        start..self.ends[row]
    }
}

impl Batches {
    /// Whether so many bytes more may wait.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.bytes == 0 || self.bytes + bytes <= QUEUE
    }

    /// The last ones from now on.
    pub fn push(&mut self, block: Block) {
        if !block.places.is_empty() {
            self.bytes += block.size();
            self.blocks.push_back(block);
        }
    }

    /// The first ones, as a request; none when nothing waits.
    pub fn next(&mut self, pipeline: &str, run_id: &str) -> Option<Batch> {
        let first = self.blocks.front().map(|block| block.places[block.from])?;
        let mut body = format!("{{\"pipeline\":\"{pipeline}\",\"predictions\":[").into_bytes();
        let (mut last, mut of, mut left) = (first, Vec::new(), ROWS);
        while let Some(block) = self.blocks.front_mut() {
            let from = block.from;
            while block.from < block.places.len() && left > 0 {
                let element = block.range(block.from);
                let is_first = left == ROWS;
                if !is_first && body.len() + element.len() + 3 > BYTES {
                    left = 0;
                    break;
                }
                if !is_first {
                    body.push(b',');
                }
                body.extend_from_slice(&block.bytes[element.clone()]);
                self.bytes -= element.len();
                last = block.places[block.from];
                block.from += 1;
                left -= 1;
            }
            if block.from > from {
                of.push((block.way.clone(), block.from - from));
            }
            if block.from < block.places.len() {
                break;
            }
            self.blocks.pop_front();
        }
        body.extend_from_slice(b"]}");
        let ids = [first, last].map(|(partition, offset)| format!("{pipeline}/{partition}/{offset}"));
        let [first, last] = ids;
        Some(Batch { body: body.into(), key: format!("{first}-{last}-{run_id}"), ids: (first, last), of })
    }
}

impl Batch {
    /// Takes note that its predictions were taken.
    pub fn taken(&self) {
        for (way, count) in &self.of {
            way.taken(*count);
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    use insightera_core::ManualClock;
    use serde_json::{Value, json};

    use super::super::receiver::tests::watch;
    use super::super::receiver::{Receiver, Sent};
    use super::*;

    /// Predictions with a text of so many bytes each, from an offset on.
    fn block(sent: &Sent, from: i64, count: usize, bytes: usize) -> Block {
        let nim = StringArray::from_iter_values((0..count).map(|_| "a\"".to_owned() + &"x".repeat(bytes)));
        let rows = RecordBatch::try_from_iter([("nim", Arc::new(nim) as ArrayRef)]).unwrap();
        let places: Vec<(u32, i64)> = (0..count).map(|row| (3, from + row as i64)).collect();
        sent.add(count);
        Block::new("live", &insightera_events::lines(&rows).unwrap(), &places, sent.way())
    }

    fn sent() -> (Arc<Receiver>, Sent, Sent) {
        let (watch, _) = watch(Arc::new(ManualClock::new(0)));
        let receiver = Receiver::new("the webhook".to_owned(), watch);
        (receiver.clone(), Sent::new(&receiver), Sent::new(&receiver))
    }

    fn offsets(batch: &Batch) -> Vec<i64> {
        let body: Value = serde_json::from_slice(&batch.body).unwrap();
        let id = |prediction: &Value| prediction["id"].as_str().unwrap().rsplit('/').next().unwrap().parse().unwrap();
        body["predictions"].as_array().unwrap().iter().map(id).collect()
    }

    #[test]
    fn a_request_has_what_is_there_and_its_key_names_it() {
        let (receiver, first, second) = sent();
        let mut batches = Batches::default();
        assert!(batches.next("live", "run-1").is_none());
        batches.push(block(&first, 7, 2, 1));
        batches.push(block(&second, 9, 1, 1));
        batches.push(block(&second, 10, 0, 1));
        let batch = batches.next("live", "run-1").unwrap();
        let wanted = json!({ "pipeline": "live", "predictions": [
            { "id": "live/3/7", "row": { "nim": "a\"x" } },
            { "id": "live/3/8", "row": { "nim": "a\"x" } },
            { "id": "live/3/9", "row": { "nim": "a\"x" } },
        ] });
        assert_eq!(serde_json::from_slice::<Value>(&batch.body).unwrap(), wanted);
        assert_eq!(batch.key, "live/3/7-live/3/9-run-1");
        assert!(batches.next("live", "run-1").is_none() && batches.bytes == 0);
        assert_eq!(receiver.waiting(), 3);
        batch.taken();
        assert_eq!(receiver.waiting(), 0);
        first.wait().unwrap();
        second.wait().unwrap();
    }

    #[test]
    fn requests_are_bounded_and_in_order() {
        let (receiver, first, second) = sent();
        let mut batches = Batches::default();
        batches.push(block(&first, 0, 700, 1));
        batches.push(block(&second, 700, 700, 1));
        batches.push(block(&second, 1400, 10, 300_000));
        batches.push(block(&second, 1410, 2, 2_000_000));
        let mut sizes = Vec::new();
        let mut seen = Vec::new();
        while let Some(batch) = batches.next("live", "run-1") {
            let offsets = offsets(&batch);
            assert!(batch.body.len() <= BYTES || offsets.len() == 1, "{}", batch.body.len());
            sizes.push(offsets.len());
            seen.extend(offsets);
            batch.taken();
        }
        assert_eq!(seen, (0..1412).collect::<Vec<i64>>());
        // 400 small ones leave room for three of 300 kB.
        assert_eq!(sizes, [1000, 403, 3, 3, 1, 1, 1]);
        assert_eq!((batches.bytes, receiver.waiting()), (0, 0));
    }

    #[test]
    fn what_waits_is_bounded_but_something_may_always_wait() {
        let (_, first, _) = sent();
        let mut batches = Batches::default();
        assert!(batches.has_room(10 * QUEUE));
        batches.push(block(&first, 0, 1, 100));
        assert!(batches.has_room(QUEUE - 1000) && !batches.has_room(QUEUE));
    }
}
