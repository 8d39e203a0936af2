//! Mutations that know the format: most results still parse, so that what they
//! reach is the checking of a model and not only the parser.

use libfuzzer_sys::fuzzer_mutate;

use crate::archive;
use crate::formats::Format;
use crate::node::{self, Node};
use crate::random::Random;

/// A mutation of `data[..size]` in place; answers the new size.
pub fn mutate(format: Format, data: &mut [u8], size: usize, max: usize, seed: u32) -> usize {
    let random = &mut Random::new(seed);
    if random.one_in(5) {
        return fuzzer_mutate(data, size, max);
    }
    let input = &data[..size];
    let changed = match format {
        Format::Spark | Format::Mlflow => Some(folder(input, random)),
        Format::XgboostJson => json(input, random),
        Format::XgboostUbj => ubj(input, random),
        Format::Lightgbm => Some(text(input, random)),
        Format::Onnx | Format::Catboost => None,
    };
    match changed {
        Some(changed) if changed.len() <= max && changed != input => {
            data[..changed.len()].copy_from_slice(&changed);
            changed.len()
        }
        _ => fuzzer_mutate(data, size, max),
    }
}

fn json(input: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    let mut tree = node::from_json(input)?;
    change_tree(&mut tree, random);
    let mut out = Vec::new();
    node::to_json(&tree, &mut out);
    Some(out)
}

fn ubj(input: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    let mut tree = node::from_ubj(input)?;
    change_tree(&mut tree, random);
    let mut out = Vec::new();
    node::to_ubj(&tree, &mut out);
    Some(out)
}

fn change_tree(tree: &mut Node, random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        let spare = if random.one_in(6) { Some(walk(tree, random).clone()) } else { None };
        let target = walk(tree, random);
        match spare {
            Some(spare) => *target = spare,
            None => change(target, random),
        }
    }
}

/// Some node, each container left as likely as entered at the next level.
fn walk<'a>(node: &'a mut Node, random: &mut Random) -> &'a mut Node {
    let items = match node {
        Node::List(list) => list.len(),
        Node::Map(map) => map.len(),
        _ => 0,
    };
    if items == 0 || random.one_in(6) {
        return node;
    }
    let at = random.below(items);
    match node {
        Node::List(list) => walk(&mut list[at], random),
        Node::Map(map) => walk(&mut map[at].1, random),
        _ => node,
    }
}

fn change(node: &mut Node, random: &mut Random) {
    match node {
        Node::Atom(atom) if random.one_in(8) => *node = Node::Text(atom.clone()),
        Node::Atom(atom) => *atom = random.number(atom),
        Node::Text(text) => match random.below(4) {
            0 => text.clear(),
            1 => text.push_str("0"),
            2 => *text = format!("{text}{text}"),
            _ => *text = random.number(text),
        },
        Node::List(list) => match random.below(7) {
            0 => list.clear(),
            1 => list.push(Node::List(Vec::new())),
            _ => change_list(list, random, &mut |item, random| change(item, random)),
        },
        Node::Typed(_, list) if list.is_empty() => list.push(0.0),
        Node::Typed(_, list) => {
            let set = &mut |item: &mut f64, random: &mut Random| {
                *item = random.number(&item.to_string()).parse().unwrap_or(*item);
            };
            // Most often a number: a length that fits no more is refused at once.
            match random.below(3) {
                0 => change_list(list, random, set),
                _ => {
                    let at = random.below(list.len());
                    set(&mut list[at], random);
                }
            }
        }
        Node::Map(map) if map.is_empty() => map.push(("a".into(), Node::Atom("1".into()))),
        Node::Map(map) => match random.below(5) {
            0 => together(map, random),
            1 => {
                let (a, b) = (random.below(map.len()), random.below(map.len()));
                let value = map[a].1.clone();
                map[b].1 = value;
            }
            2 => {
                let at = random.below(map.len());
                map.remove(at);
            }
            3 => {
                let at = random.below(map.len());
                map[at].1 = Node::List(Vec::new());
            }
            _ => together(map, random),
        },
    }
}

/// The lists of one map that are equally long become longer or shorter together.
fn together(map: &mut [(String, Node)], random: &mut Random) {
    let length = |node: &Node| match node {
        Node::List(list) => list.len(),
        Node::Typed(_, list) => list.len(),
        _ => 0,
    };
    let longest = map.iter().map(|(_, node)| length(node)).filter(|n| *n > 0).collect::<Vec<_>>();
    if longest.is_empty() {
        return;
    }
    let wanted = *random.pick(&longest);
    let (at, shorter) = (random.below(wanted), random.one_in(2));
    for (_, node) in map.iter_mut().filter(|(_, node)| length(node) == wanted) {
        match node {
            Node::List(list) if shorter => drop(list.remove(at)),
            Node::List(list) => list.push(list[at].clone()),
            Node::Typed(_, list) if shorter => drop(list.remove(at)),
            Node::Typed(_, list) => list.push(list[at]),
            _ => {}
        }
    }
}

fn change_list<T: Clone>(list: &mut Vec<T>, random: &mut Random, set: &mut dyn FnMut(&mut T, &mut Random)) {
    if list.is_empty() {
        return;
    }
    let (a, b) = (random.below(list.len()), random.below(list.len()));
    match random.below(7) {
        0 => drop(list.remove(a)),
        1 => list.insert(b, list[a].clone()),
        2 => list.swap(a, b),
        3 => list.truncate(a),
        4 => {
            let again = 1 << random.below(9);
            list.extend(std::iter::repeat_n(list[a].clone(), again));
        }
        5 => list[b] = list[a].clone(),
        _ => set(&mut list[a], random),
    }
}

/// LightGBM: lines of `key=value value ...`.
fn text(input: &[u8], random: &mut Random) -> Vec<u8> {
    let input = String::from_utf8_lossy(input);
    let mut lines: Vec<String> = input.lines().map(str::to_owned).collect();
    if lines.is_empty() {
        return b"tree\nversion=v4\n".to_vec();
    }
    for _ in 0..1 + random.below(3) {
        if random.one_in(6) {
            change_list(&mut lines, random, &mut |line, _| line.push('0'));
        }
        if random.one_in(8) {
            repeat_tree(&mut lines);
        }
        if lines.is_empty() {
            break;
        }
        let other = random.pick(&lines).clone();
        let at = random.below(lines.len());
        let Some((key, value)) = lines[at].split_once('=') else { continue };
        let mut values: Vec<String> = value.split(' ').map(str::to_owned).collect();
        match random.below(8) {
            0 => change_list(&mut values, random, &mut |value, random| *value = random.number(value)),
            1 => values = other.split_once('=').map_or(Vec::new(), |(_, value)| vec![value.to_owned()]),
            _ => {
                let place = random.below(values.len());
                values[place] = match values[place].split_once(':') {
                    Some((name, number)) => format!("{name}:{}", random.number(number)),
                    None => random.number(&values[place]),
                };
            }
        }
        lines[at] = format!("{key}={}", values.join(" "));
    }
    lines.join("\n").into_bytes()
}

/// The last tree once more.
fn repeat_tree(lines: &mut Vec<String>) {
    let Some(end) = lines.iter().position(|line| line == "end of trees") else { return };
    let Some(start) = lines[..end].iter().rposition(|line| line.starts_with("Tree=")) else { return };
    let count = lines[..end].iter().filter(|line| line.starts_with("Tree=")).count();
    let mut tree = lines[start..end].to_vec();
    tree[0] = format!("Tree={count}");
    lines.splice(end..end, tree);
}

fn folder(input: &[u8], random: &mut Random) -> Vec<u8> {
    let mut files = archive::read(input);
    if files.is_empty() {
        return b"@file metadata/part-00000 2\n{}\n".to_vec();
    }
    if random.one_in(25) {
        change_list(&mut files, random, &mut |file, _| file.0.push('0'));
    }
    if files.is_empty() {
        return Vec::new();
    }
    let spare = random.pick(&files).1.clone();
    let (path, content) = {
        let at = random.below(files.len());
        &mut files[at]
    };
    let changed = if random.one_in(25) {
        Some(spare)
    } else if path.ends_with(".rows") {
        Some(rows(content, random))
    } else if path.contains("metadata/part-") || path.ends_with(".json") {
        json(content, random)
    } else if path.ends_with(".ubj") {
        ubj(content, random)
    } else if path.ends_with(".lgb") || path.ends_with("MLmodel") {
        Some(text(content, random))
    } else {
        None
    };
    *content = changed.unwrap_or_else(|| {
        let size = content.len();
        let mut room = std::mem::take(content);
        room.resize(size + 64, 0);
        let max = room.len();
        let size = fuzzer_mutate(&mut room, size, max);
        room.truncate(size);
        room
    });
    archive::write(&files)
}

/// Lines of JSON.
fn rows(content: &[u8], random: &mut Random) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> =
        content.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(<[u8]>::to_vec).collect();
    if random.one_in(8) {
        change_list(&mut lines, random, &mut |line, _| line.extend_from_slice(b" "));
    } else if !lines.is_empty() {
        let at = random.below(lines.len());
        if let Some(changed) = json(&lines[at], random) {
            lines[at] = changed;
        }
    }
    lines.push(Vec::new());
    lines.join(&b'\n')
}
