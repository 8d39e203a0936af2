//! Drift: events that are no longer what they were, or what was declared.
//!
//! A [`Drift`] watches what a decoder reads and has [`News`] of it, each told
//! once in the life of a process. It never changes what is decoded: it walks
//! the payloads of a few events a second time, and counts values in columns
//! that are there anyway.
//!
//! - **Looking** is done at the first events, all of them, and at one of many
//!   later ones ([`Drift::choose`], [`Drift::look`]). A name that is not
//!   declared is usual when it came with the first events: most pipelines read
//!   a part of theirs. It is news when it comes later, or when it is close to a
//!   declared name that no event has. A value of a kind that is not read is
//!   news: of an object at once, of a field when the first events had none such.
//! - **Counting** is done of all decoded events ([`Drift::count`]): a field is
//!   gone when it was in most events of a span and is in none of a later one,
//!   and has come when it is the other way round.
//!
//! Names that are data, as in a map by key, are no news: an object that still
//! brings new ones when the first events end is left alone. What is kept of
//! events is bounded by the declaration.

mod look;
mod news;

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef};
use arrow::buffer::NullBuffer;
use insightera_core::closest;

use self::look::{Kind, Look, Seen};
pub use self::news::{Change, News, Origin};
use super::cells::Layout;
use super::decode::Decoder;

/// The first events are all looked at, and what they have is usual.
const FIRST: u64 = 1_000;
/// Of later events one in so many is looked at. No usual period of a producer
/// divides it.
const EVERY: u64 = 127;
/// Events after which it is asked which names are misspelt.
const JUDGED: [u64; 2] = [100, FIRST];
/// Events of which it is counted in how many a field has a value.
const SPAN: u64 = 1_000;
/// How often an object was looked at before a name in it can be new.
const KNOWN: u64 = 100;
/// Names that come new in the later half of the first events, and make an
/// object one whose names are data.
const UNSETTLED: u32 = 10;
/// Names that are kept of an object, and that are told in all.
const MOST_NAMES: usize = 1_000;
const MOST_TOLD: usize = 50;
/// Letters of a name before it is close to another one.
const SHORTEST: usize = 3;

/// Watches events.
#[derive(Debug)]
pub struct Drift {
    places: Vec<Place>,
    fields: Vec<Field>,
    /// Events so far.
    events: u64,
    /// Decoded events of the span at hand.
    counted: u64,
    /// How often it was asked which names are misspelt.
    judged: usize,
    names_told: usize,
    examples: bool,
    noticed: Vec<News>,
    /// How many of those were handed out.
    handed: usize,
}

/// A place in the payload of which something is declared.
#[derive(Debug, Default)]
struct Place {
    /// Its names from the outside in, with dots; empty of the event itself.
    path: String,
    name: String,
    parent: usize,
    children: Vec<usize>,
    /// Numbers of the fields that are read there.
    fields: Vec<usize>,
    /// Looked-at events that have a value there.
    values: u64,
    /// Whether values of another kind are usual, or were told.
    is_mixed: bool,
    /// Names in it that are not declared.
    names: BTreeMap<String, Undeclared>,
    /// How many of those came late among the first events.
    late_names: u32,
}

#[derive(Debug)]
struct Undeclared {
    origin: Origin,
    example: Option<String>,
    is_told: bool,
}

/// A column, and in how many events it has a value.
#[derive(Debug, Default)]
struct Field {
    /// Of the span at hand.
    values: u64,
    usual: Option<Usual>,
    /// The first event without a value since the last one with it; of a field
    /// that never has one, the first with it.
    since: Option<Origin>,
    told_gone: bool,
    told_came: bool,
}

/// In how many events of a span a field has a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Usual {
    /// In most.
    There,
    /// In none.
    Missing,
}

impl Drift {
    /// Watches what `decoder` reads; nothing of formats other than JSON, whose
    /// schemas say what events are.
    pub fn of(decoder: &Decoder) -> Option<Self> {
        let layout = decoder.json_layout()?;
        Some(Self {
            places: places(layout),
            fields: (0..layout.count).map(|_| Field::default()).collect(),
            events: 0,
            counted: 0,
            judged: 0,
            names_told: 0,
            examples: true,
            noticed: Vec::new(),
            handed: 0,
        })
    }

    /// Keeps no values of events from now on, and forgets those it has.
    pub fn without_examples(&mut self) {
        self.examples = false;
        let kept = self.places.iter_mut().flat_map(|place| place.names.values_mut());
        kept.for_each(|name| name.example = None);
        self.noticed.iter_mut().for_each(|news| news.example = None);
    }

    /// Which of the next `count` events are to be looked at: the number of each
    /// among all, and its index among these.
    pub fn choose(&mut self, count: usize) -> impl Iterator<Item = (u64, usize)> + use<> {
        let first = self.events;
        self.events += count as u64;
        let numbered = (0..count).map(move |index| (first + index as u64, index));
        numbered.filter(|(number, _)| *number < FIRST || number.is_multiple_of(EVERY))
    }

    /// Looks at event `number`. A payload that is not JSON says nothing.
    pub fn look(&mut self, decoder: &Decoder, number: u64, payload: &[u8], origin: Origin) {
        while JUDGED.get(self.judged).is_some_and(|events| *events <= number) {
            self.judged += 1;
            self.judge();
        }
        let Some(layout) = decoder.json_layout() else { return };
        let Ok(text) = std::str::from_utf8(payload) else { return };
        let knows = |at: usize, name: &str| {
            let names = &self.places[at].names;
            names.contains_key(name) || names.len() >= MOST_NAMES
        };
        let Some(Seen { there, names, others }) = Look::at(layout, &knows, text) else { return };
        let example = |text: String| self.examples.then_some(text);
        let names: Vec<_> = names.into_iter().map(|(at, name, text)| (at, name, example(text))).collect();
        let others: Vec<_> = others.into_iter().map(|(at, kind, text)| (at, kind, example(text))).collect();
        for (at, name, example) in names {
            self.name(number, at, name, Undeclared { origin, example, is_told: false }, &there);
        }
        for (at, kind, example) in others {
            self.other_kind(layout, number, at, kind, (origin, example));
        }
        for (place, there) in self.places.iter_mut().zip(there) {
            place.values += u64::from(there);
        }
    }

    /// A name that came for the first time.
    fn name(&mut self, number: u64, at: usize, name: String, mut found: Undeclared, there: &[bool]) {
        let place = &mut self.places[at];
        if (FIRST / 2..FIRST).contains(&number) {
            place.late_names += 1;
        }
        let is_new = number >= FIRST && place.values >= KNOWN && place.late_names <= UNSETTLED;
        if is_new && self.names_told < MOST_TOLD {
            found.is_told = true;
            self.names_told += 1;
            let near = self.near(at, &name, &|place| !there[place]).map(|near| self.places[near].path.clone());
            let field = news::path(&self.places[at].path, &name);
            self.noticed.push(News::new_field(field, near, found.origin, found.example.take()));
        }
        self.places[at].names.entry(name).or_insert(found);
    }

    /// A value of a kind that is not read there.
    fn other_kind(
        &mut self,
        layout: &Layout,
        number: u64,
        at: usize,
        kind: Kind,
        (origin, example): (Origin, Option<String>),
    ) {
        let place = &mut self.places[at];
        if std::mem::replace(&mut place.is_mixed, true) {
            return;
        }
        let wanted = place.fields.first().map(|field| &layout.wanted[*field].kind);
        // A field that always had such values always made dead letters of them.
        if wanted.is_some() && number < FIRST {
            return;
        }
        self.noticed.push(News::other_kind(&place.path, kind, wanted, origin, example));
    }

    /// Names that are not declared and close to declared ones that no event has
    /// had.
    fn judge(&mut self) {
        for at in 0..self.places.len() {
            let untold = self.places[at].names.iter().filter(|(_, found)| !found.is_told);
            let untold: Vec<String> = untold.map(|(name, _)| name.clone()).collect();
            for name in untold {
                let Some(near) = self.near(at, &name, &|place| self.places[place].values == 0) else { continue };
                if self.names_told == MOST_TOLD {
                    return;
                }
                let near = self.places[near].path.clone();
                let place = &mut self.places[at];
                let Some(found) = place.names.get_mut(&name) else { continue };
                found.is_told = true;
                let field = news::path(&place.path, &name);
                self.noticed.push(News::misspelt(field, near, found.origin, found.example.take()));
                self.names_told += 1;
            }
        }
    }

    /// The place that a name is likely to mean: a missing one beside it that is
    /// called nearly so, or one elsewhere that is called so.
    fn near(&self, at: usize, name: &str, is_missing: &dyn Fn(usize) -> bool) -> Option<usize> {
        if name.chars().count() < SHORTEST {
            return None;
        }
        let beside: Vec<usize> = self.places[at].children.iter().copied().filter(|place| is_missing(*place)).collect();
        if let Some(near) = closest(name, beside.iter().map(|place| self.places[*place].name.as_str())) {
            return beside.into_iter().find(|place| self.places[*place].name == near);
        }
        let called = |place: &Place| !place.fields.is_empty() && place.name.eq_ignore_ascii_case(name);
        let mut elsewhere = (0..self.places.len()).filter(|place| called(&self.places[*place]));
        let first = elsewhere.next()?;
        (is_missing(first) && elsewhere.all(is_missing)).then_some(first)
    }

    /// Counts the values of decoded events: all columns of the decoder, and
    /// where each row comes from.
    pub fn count(&mut self, columns: &[ArrayRef], origin: &dyn Fn(usize) -> Origin) {
        let rows = columns.first().map_or(0, |column| column.len());
        let mut from = 0;
        while from < rows {
            let to = rows.min(from + (SPAN - self.counted) as usize);
            for (field, column) in self.fields.iter_mut().zip(columns) {
                field.count(column.nulls(), (from, to), origin);
            }
            self.counted += (to - from) as u64;
            from = to;
            if self.counted == SPAN {
                self.counted = 0;
                self.end_span();
            }
        }
    }

    fn end_span(&mut self) {
        for number in 0..self.fields.len() {
            let Some((now, since)) = self.fields[number].end_span() else { continue };
            let Some(at) = self.places.iter().position(|place| place.fields.contains(&number)) else { continue };
            let field = &self.places[at].path;
            self.noticed.push(match now {
                Usual::There => News::came(field, since),
                Usual::Missing => News::gone(field, self.undeclared_near(number), since, SPAN),
            });
        }
    }

    /// A name that is not declared and close to that of a field.
    fn undeclared_near(&self, field: usize) -> Option<String> {
        let near = |place: &Place| {
            let (parent, long) = (&self.places[place.parent], place.name.chars().count() >= SHORTEST);
            let names = parent.names.keys().map(String::as_str).filter(|_| long);
            closest(&place.name, names).map(|name| news::path(&parent.path, name))
        };
        self.places.iter().filter(|place| place.fields.contains(&field)).find_map(near)
    }

    /// There are no more events: what was to be judged later is judged now.
    pub fn end(&mut self) {
        if self.judged < JUDGED.len() {
            self.judged = JUDGED.len();
            self.judge();
        }
    }

    /// What is new since it was asked last.
    pub fn news(&mut self) -> Vec<News> {
        let news = self.noticed[self.handed..].to_vec();
        self.handed = self.noticed.len();
        news
    }

    /// All it has noticed.
    pub fn noticed(&self) -> &[News] {
        &self.noticed
    }
}

impl Field {
    /// Counts the rows from `from` on and before `to`.
    fn count(&mut self, nulls: Option<&NullBuffer>, (from, to): (usize, usize), origin: &dyn Fn(usize) -> Origin) {
        let missing = nulls.map_or(0, |nulls| nulls.slice(from, to - from).null_count());
        self.values += (to - from - missing) as u64;
        let has_value = |row: &usize| nulls.is_none_or(|nulls| nulls.is_valid(*row));
        match self.usual {
            Some(Usual::Missing) if self.since.is_none() && missing < to - from => {
                self.since = (from..to).find(has_value).map(origin);
            }
            Some(Usual::Missing) => {}
            _ if missing == 0 => self.since = None,
            _ => match (from..to).rev().find(has_value) {
                Some(last) => self.since = (last + 1 < to).then(|| origin(last + 1)),
                None if self.since.is_none() => self.since = Some(origin(from)),
                None => {}
            },
        }
    }

    /// What is usual now and was not, and since when.
    fn end_span(&mut self) -> Option<(Usual, Origin)> {
        let now = match std::mem::take(&mut self.values) {
            0 => Usual::Missing,
            values if values > SPAN / 2 => Usual::There,
            _ => return None,
        };
        let before = self.usual.replace(now).filter(|before| *before != now);
        let since = match (before, now) {
            (None, Usual::There) => return None,
            _ => self.since.take(),
        };
        let told = match (before?, now) {
            (_, Usual::There) => &mut self.told_came,
            (_, Usual::Missing) => &mut self.told_gone,
        };
        let is_told = std::mem::replace(told, true);
        since.filter(|_| !is_told).map(|since| (now, since))
    }
}

/// The places of a layout, in its order: each is behind the one it is in.
fn places(layout: &Layout) -> Vec<Place> {
    let mut places: Vec<Place> = layout.nodes.iter().map(|_| Place::default()).collect();
    for (at, node) in layout.nodes.iter().enumerate() {
        places[at].fields.clone_from(&node.fields);
        for (name, child) in &node.children {
            let path = news::path(&places[at].path, name);
            places[at].children.push(*child);
            places[*child] = Place { path, name: name.clone(), parent: at, ..Place::default() };
        }
    }
    places
}

#[cfg(test)]
mod tests;
