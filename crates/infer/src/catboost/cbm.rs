//! The binary format: `CBM1`, the length of the core, the core as a
//! FlatBuffer, then the model's other parts, of which the tables of category
//! statistics are known.

use std::collections::HashMap;

use super::flat::{Buffer, Table};
use super::parts::{
    CategoryPart, ElementPart, NodePart, NumberPart, OneHotPart, Parts, StatisticKind, StatisticPart, TablePart,
    TreePart,
};
use crate::error::{Error, Result};

/// Reads a model.
pub fn parse(bytes: &[u8]) -> Result<Parts> {
    let mut rest = &bytes[super::MAGIC.len().min(bytes.len())..];
    let core = Buffer::new(sized(&mut rest)?);
    let core = core.root()?;
    let version = core.text(0)?;
    // Their spelling.
    if version != "FlabuffersModel_v1" {
        return Err(Error::invalid(format!("its format `{version}` is not supported")));
    }
    let mut parts = trees(core.needed(1, "trees")?)?;
    for entry in core.tables(2)? {
        parts.notes.insert(entry.text(0)?, entry.text(1)?);
    }
    for part in core.texts(3)? {
        if part != "static_provider_v1" {
            return Err(Error::invalid(format!("its part `{part}` is not supported"))
                .with_hint("text and embedding features are not supported: train without them"));
        }
        let count = length(&mut rest)?;
        for _ in 0..count {
            let buffer = Buffer::new(sized(&mut rest)?);
            let (key, table) = table(buffer.root()?)?;
            parts.tables.insert(key, table);
        }
    }
    if !rest.is_empty() {
        return Err(Error::data(format!("{} bytes follow its end", rest.len())));
    }
    Ok(parts)
}

fn length(rest: &mut &[u8]) -> Result<usize> {
    let (head, tail) = rest.split_first_chunk::<4>().ok_or_else(|| Error::data("it ends too early"))?;
    *rest = tail;
    Ok(u32::from_le_bytes(*head) as usize)
}

fn sized<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8]> {
    let size = length(rest)?;
    let (part, tail) = rest.split_at_checked(size).ok_or_else(|| Error::data("it ends too early"))?;
    *rest = tail;
    Ok(part)
}

fn trees(source: Table<'_, '_>) -> Result<Parts> {
    if !source.tables(12)?.is_empty() {
        return Err(Error::invalid("it has text features, which are not supported").with_hint("train without them"));
    }
    if !source.tables(18)?.is_empty() || !source.tables(13)?.is_empty() {
        return Err(
            Error::invalid("it has embedding features, which are not supported").with_hint("train without them")
        );
    }
    let outputs = usize::try_from(source.integer(0, 0)?).ok().filter(|n| (1..1 << 16).contains(n));
    let outputs = outputs.ok_or_else(|| Error::data("its number of outputs is impossible"))?;
    let several: Vec<f64> = source.list(16, f64::from_le_bytes)?;
    let one = source.double(15, 0.0)?;
    let bias = if several.is_empty() { vec![one; outputs] } else { several };
    let numbers = source.tables(5)?.into_iter().map(|feature| {
        Ok(NumberPart {
            index: feature.integer(1, -1)?.into(),
            flat: feature.integer(2, -1)?.into(),
            name: feature.text(4)?,
            borders: feature.list(3, f32::from_le_bytes)?,
            missing_high: match (feature.byte(0, 0)?, feature.byte(5, 0)?) {
                (0, 0..=2) | (_, 0 | 1) => false,
                (_, 2) => true,
                (_, other) => {
                    return Err(Error::invalid(format!("the treatment {other} of missing values is unknown")));
                }
            },
        })
    });
    let categories = source.tables(4)?.into_iter().map(|feature| {
        Ok(CategoryPart {
            index: feature.integer(0, -1)?.into(),
            flat: feature.integer(1, -1)?.into(),
            name: feature.text(2)?,
        })
    });
    let one_hot = source.tables(6)?.into_iter().map(|feature| {
        Ok(OneHotPart { category: feature.integer(0, -1)?.into(), values: feature.list(1, u32::from_le_bytes)? })
    });
    let statistics = source.tables(7)?.into_iter().map(|feature| {
        let of = feature.needed(0, "statistic")?;
        let (elements, kind, table) = base(of.needed(0, "statistic's base")?)?;
        Ok(StatisticPart {
            elements,
            kind,
            target: of.integer(1, 0)?.into(),
            prior: (of.single(2, 0.0)?, of.single(3, 1.0)?),
            shift: of.single(4, 0.0)?,
            scale: of.single(5, 1.0)?,
            borders: feature.list(1, f32::from_le_bytes)?,
            table,
        })
    });
    Ok(Parts {
        numbers: numbers.collect::<Result<_>>()?,
        categories: categories.collect::<Result<_>>()?,
        one_hot: one_hot.collect::<Result<_>>()?,
        statistics: statistics.collect::<Result<_>>()?,
        trees: cut(source, outputs)?,
        outputs,
        scale: source.double(14, 1.0)?,
        bias,
        ..Parts::default()
    })
}

/// The trees, which are stored one behind the other.
fn cut(source: Table<'_, '_>, outputs: usize) -> Result<Vec<TreePart>> {
    let splits: Vec<i64> = source.list(1, |b| i64::from(i32::from_le_bytes(b)))?;
    let sizes: Vec<usize> = source.list(2, |b| u32::from_le_bytes(b) as usize)?;
    let values: Vec<f64> = source.list(8, f64::from_le_bytes)?;
    let steps: Vec<(usize, usize)> =
        source.list(10, |[a, b, c, d]| (u16::from_le_bytes([a, b]).into(), u16::from_le_bytes([c, d]).into()))?;
    let places: Vec<usize> = source.list(11, |b| u32::from_le_bytes(b) as usize)?;
    // How much of the training data reached every leaf.
    let weights: Vec<f64> = source.list(9, f64::from_le_bytes)?;
    if !weights.is_empty() && weights.len() != values.len() / outputs {
        return Err(Error::data(format!("it has {} weights for {} leaves", weights.len(), values.len() / outputs)));
    }
    let short = || Error::data("its trees are longer than its lists");
    let (mut split, mut leaf) = (0usize, 0usize);
    let mut trees = Vec::with_capacity(sizes.len());
    for size in sizes {
        let end = split.checked_add(size).ok_or_else(short)?;
        if steps.is_empty() {
            let last = 1usize.checked_shl(size.min(31) as u32).and_then(|leaves| leaves.checked_mul(outputs));
            let last = last.and_then(|count| count.checked_add(leaf)).ok_or_else(short)?;
            trees.push(TreePart::Levels {
                splits: splits.get(split..end).ok_or_else(short)?.to_vec(),
                leaves: values.get(leaf..last).ok_or_else(short)?.to_vec(),
                weights: weights.get(leaf / outputs..last / outputs).unwrap_or_default().to_vec(),
            });
            leaf = last;
        } else {
            let parts = splits.get(split..end).zip(steps.get(split..end)).zip(places.get(split..end));
            let ((splits, steps), places) = parts.ok_or_else(short)?;
            trees.push(nodes(splits, steps, places, (&values, &weights), outputs)?);
        }
        split = end;
    }
    if split != splits.len() || (steps.is_empty() && leaf != values.len()) {
        return Err(Error::data("its lists are longer than its trees"));
    }
    Ok(trees)
}

/// A tree of any form: a node's children are so many nodes behind it, and a
/// child that is none is the node's own leaf.
fn nodes(
    splits: &[i64],
    steps: &[(usize, usize)],
    places: &[usize],
    (values, weights): (&[f64], &[f64]),
    outputs: usize,
) -> Result<TreePart> {
    let (mut nodes, mut leaves, mut own_weights) = (Vec::with_capacity(splits.len()), Vec::new(), Vec::new());
    for (at, step) in steps.iter().enumerate() {
        let leaf = leaves.len() / outputs;
        if step.0 == 0 || step.1 == 0 {
            let found = places[at].checked_add(outputs).and_then(|end| values.get(places[at]..end));
            leaves.extend_from_slice(found.ok_or_else(|| Error::data("a leaf has no value"))?);
            own_weights.extend(weights.get(places[at] / outputs));
        }
        nodes.push(match step {
            (0, 0) => NodePart::Leaf(leaf),
            // An own leaf stands behind all nodes, see below.
            (0, right) => NodePart::Split(splits[at], usize::MAX - leaf, at + right),
            (left, 0) => NodePart::Split(splits[at], at + left, usize::MAX - leaf),
            (left, right) => NodePart::Split(splits[at], at + left, at + right),
        });
    }
    for at in 0..nodes.len() {
        let NodePart::Split(split, left, right) = nodes[at] else { continue };
        let mut child = |child: usize| {
            if child < splits.len() + usize::from(u16::MAX) {
                return child;
            }
            nodes.push(NodePart::Leaf(usize::MAX - child));
            nodes.len() - 1
        };
        let children = (child(left), child(right));
        nodes[at] = NodePart::Split(split, children.0, children.1);
    }
    Ok(TreePart::Nodes { nodes, leaves, weights: own_weights })
}

/// What a statistic is looked up by, its kind, and the key of its table.
fn base(source: Table<'_, '_>) -> Result<(Vec<ElementPart>, StatisticKind, String)> {
    let of = source.needed(0, "statistic's features")?;
    let mut elements: Vec<ElementPart> = of.list(0, |b| ElementPart::Category(i32::from_le_bytes(b).into()))?;
    let halves = |b: [u8; 8]| {
        let (first, second) = (u64::from_le_bytes(b) as u32, (u64::from_le_bytes(b) >> 32) as u32);
        (i64::from(first as i32), second)
    };
    elements.extend(of.list(1, halves)?.into_iter().map(|(at, bits)| ElementPart::Above(at, f32::from_bits(bits))));
    elements.extend(of.list(2, halves)?.into_iter().map(|(at, value)| ElementPart::Is(at, value)));
    let number = source.byte(1, 0)?;
    let kind = match number {
        0 => StatisticKind::Borders,
        1 => StatisticKind::Buckets,
        2 | 3 => StatisticKind::Mean,
        4 | 5 => StatisticKind::Counter,
        other => return Err(Error::invalid(format!("the kind {other} of category statistics (CTR) is unknown"))),
    };
    let key = format!("{number} {elements:?}");
    Ok((elements, kind, key))
}

/// A table of counts: hashes with the numbers of their rows, and the rows.
fn table(source: Table<'_, '_>) -> Result<(String, TablePart)> {
    let (_, kind, key) = base(source.needed(0, "table's base")?)?;
    let classes = usize::try_from(source.integer(4, 0)?).unwrap_or(0);
    let (items, _) = source.bytes(2, 1)?.as_chunks::<4>();
    let number = |item: &[u8; 4]| f64::from(i32::from_le_bytes(*item));
    let (width, counts) = match kind {
        StatisticKind::Mean => {
            let pair = |(at, item): (usize, &[u8; 4])| {
                if at % 2 == 0 { f64::from(f32::from_le_bytes(*item)) } else { number(item) }
            };
            (2, items.iter().enumerate().map(pair).collect::<Vec<f64>>())
        }
        StatisticKind::Counter => (1, items.iter().map(number).collect()),
        StatisticKind::Borders | StatisticKind::Buckets => (classes, items.iter().map(number).collect()),
    };
    let mut rows = HashMap::new();
    for bucket in source.list(1, |byte: [u8; 1]| byte[0])?.chunks_exact(12) {
        let (Some(hash), Some(row)) = (bucket.first_chunk(), bucket.last_chunk()) else { continue };
        let (hash, row) = (u64::from_le_bytes(*hash), u32::from_le_bytes(*row) as usize);
        if hash != u64::MAX {
            rows.insert(hash, row);
        }
    }
    Ok((key, TablePart { rows, counts, width, total: source.integer(3, 0)?.into() }))
}
