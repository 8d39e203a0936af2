//! The topics of a source, and the numbers of their partitions: those of the
//! first topic are numbered as they are, those of the next from 65,536 on. So a
//! source of one topic has the topic's own numbers.

use crate::config::PARTITIONS_OF_A_TOPIC;
use crate::{Error, Result};

/// Topics in the order of the pipeline's file; mostly one.
#[derive(Debug, Clone)]
pub struct Topics(Vec<String>);

impl Topics {
    /// At least one.
    pub fn new(names: &[String]) -> Self {
        Self(names.to_vec())
    }

    /// Their names.
    pub fn names(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }

    /// Whether there is one: a partition has its number, whatever the topic.
    pub fn is_one(&self) -> bool {
        self.0.len() == 1
    }

    /// The topic's place in the list; it is looked at `guess` first.
    pub fn find(&self, topic: &str, guess: usize) -> Option<usize> {
        match self.0.get(guess) {
            Some(name) if name == topic => Some(guess),
            _ => self.0.iter().position(|name| name == topic),
        }
    }

    /// The number of a partition of the topic at this place.
    pub fn number(place: usize, partition: i32) -> u32 {
        place as u32 * PARTITIONS_OF_A_TOPIC + partition as u32
    }

    /// The place of the topic of a partition.
    pub fn place(number: u32) -> usize {
        (number / PARTITIONS_OF_A_TOPIC) as usize
    }

    /// The topic of a partition, and the partition's number there.
    ///
    /// # Errors
    /// When there is no such topic.
    pub fn of(&self, number: u32) -> Result<(&str, i32)> {
        let topic = self.0.get(Self::place(number)).ok_or_else(|| {
            Error::data(format!("partition {number} is of a topic that is not among {}", self.quoted()))
                .hint("name the topics in [source] as they were when its events were read")
        })?;
        Ok((topic, (number % PARTITIONS_OF_A_TOPIC) as i32))
    }

    /// The numbers that a partition may have of which the topic is not known.
    pub fn all(&self, partition: i32) -> impl Iterator<Item = u32> {
        (0..self.0.len()).map(move |place| Self::number(place, partition))
    }

    /// ``the topic `a` `` or ``the topics `a`, `b` ``.
    pub fn shown(&self) -> String {
        format!("the topic{} {}", if self.is_one() { "" } else { "s" }, self.quoted())
    }

    fn quoted(&self) -> String {
        self.0.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    }

    /// What positions of their partitions are positions of. A topic's name has
    /// no comma, so a list that is longer by some topics at its end is seen to
    /// be that.
    pub fn identity(&self, cluster: &str) -> String {
        format!("kafka:{cluster}/{}", self.0.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_numbered_topic_after_topic() {
        let topics = Topics::new(&["a".to_owned(), "b".to_owned()]);
        assert_eq!((Topics::number(0, 7), Topics::number(1, 0), Topics::number(1, 65_535)), (7, 65_536, 131_071));
        assert_eq!(topics.of(7).unwrap(), ("a", 7));
        assert_eq!(topics.of(131_071).unwrap(), ("b", 65_535));
        let error = topics.of(131_072).unwrap_err().to_string();
        assert!(error.contains("partition 131072 is of a topic that is not among `a`, `b`"), "{error}");
        assert_eq!((topics.find("b", 0), topics.find("b", 1), topics.find("c", 9)), (Some(1), Some(1), None));
        assert_eq!(topics.all(3).collect::<Vec<_>>(), [3, 65_539]);
        assert_eq!(topics.shown(), "the topics `a`, `b`");
        assert_eq!((topics.identity("X"), topics.is_one()), ("kafka:X/a,b".to_owned(), false));
    }

    #[test]
    fn one_topic_is_what_it_was() {
        let topic = Topics::new(&["a".to_owned()]);
        assert_eq!((topic.identity("X"), topic.shown()), ("kafka:X/a".to_owned(), "the topic `a`".to_owned()));
        assert!(topic.is_one() && topic.of(65_536).is_err());
    }
}
