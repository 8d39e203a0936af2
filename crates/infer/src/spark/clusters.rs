//! The nearest of several centres: k-means and bisecting k-means.
//!
//! Distances are those of Spark: between dense vectors the sum of squares,
//! with a sparse one the product of norms unless that is too imprecise. Near
//! ties depend on it.

use std::collections::HashMap;

use arrow::array::AsArray;
use serde_json::Value;

use super::head::{Function, Output};
use super::stage::Source;
use super::store::{self, Vector};
use super::sums::{Library, norm, sparse_dot};
use super::vectors::Vectors;
use crate::error::{Error, Result};

type Loaded = (Box<dyn Function>, Output);

#[derive(Debug)]
struct Centre {
    vector: Vector,
    norm: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    Euclidean,
    Cosine,
}

/// A row of features.
struct Point<'a> {
    values: &'a [f64],
    sparse: bool,
    norm: f64,
    library: Library,
}

impl Measure {
    fn of(source: &Source<'_>) -> Result<Self> {
        match source.parameters.text("distanceMeasure").unwrap_or("euclidean") {
            "euclidean" => Ok(Self::Euclidean),
            "cosine" => Ok(Self::Cosine),
            other => Err(Error::invalid(format!("{} has the distanceMeasure `{other}`", source.class))),
        }
    }

    /// Squared, if Euclidean.
    fn distance(self, centre: &Centre, point: &Point<'_>) -> f64 {
        let product = || {
            if centre.vector.sparse || point.sparse {
                sparse_dot(&centre.vector.values, point.values)
            } else {
                point.library.dot(&centre.vector.values, point.values)
            }
        };
        match self {
            Self::Cosine => 1.0 - product() / centre.norm / point.norm,
            Self::Euclidean => {
                let exact = || {
                    let pairs = centre.vector.values.iter().zip(point.values);
                    pairs.fold(0.0, |sum, (a, b)| sum + (a - b) * (a - b))
                };
                if !centre.vector.sparse && !point.sparse {
                    return exact();
                }
                const EPSILON: f64 = f64::EPSILON;
                let squares = centre.norm * centre.norm + point.norm * point.norm;
                let difference = centre.norm - point.norm;
                if 2.0 * EPSILON * squares / (difference * difference + EPSILON) < 1e-6 {
                    return squares - 2.0 * product();
                }
                let product = product();
                let difference = squares - 2.0 * product;
                // NaN stays.
                let distance = if difference < 0.0 { 0.0 } else { difference };
                let bound = EPSILON * (squares + 2.0 * product.abs()) / (distance + EPSILON);
                if bound > 1e-6 { exact() } else { distance }
            }
        }
    }
}

/// Each row of features with its norm; Spark refuses NaN, and zero for angles.
fn each(
    features: &Vectors,
    measure: Measure,
    library: Library,
    mut visit: impl FnMut(&Point<'_>) -> f64,
) -> Result<Vec<f64>> {
    let mut values = Vec::new();
    let mut out = Vec::with_capacity(features.rows);
    for row in 0..features.rows {
        features.row(row, &mut values);
        let point = Point { values: &values, sparse: features.sparse.at(row), norm: norm(&values), library };
        if point.norm.is_nan() || (measure == Measure::Cosine && point.norm == 0.0) {
            return Err(Error::data("a row has features without a distance: NaN, or all 0 for cosine distances")
                .with_hint("Spark refuses such rows too: filter or fill them in the feature SQL"));
        }
        out.push(visit(&point));
    }
    Ok(out)
}

/// k-means.
#[derive(Debug)]
struct Means {
    centres: Vec<Centre>,
    measure: Measure,
    library: Library,
}

impl Function for Means {
    fn width(&self) -> Option<usize> {
        self.centres.first().map(|centre| centre.vector.values.len())
    }

    fn score(&self, features: &Vectors, _offset: Option<&[f64]>) -> Result<Vec<Vec<f64>>> {
        let nearest = |point: &Point<'_>| {
            let (mut best, mut least) = (0, f64::INFINITY);
            for (place, centre) in self.centres.iter().enumerate() {
                let bound = centre.norm - point.norm;
                if self.measure == Measure::Euclidean && bound * bound >= least {
                    continue;
                }
                let distance = self.measure.distance(centre, point);
                if distance < least {
                    (best, least) = (place, distance);
                }
            }
            best as f64
        };
        Ok(vec![each(features, self.measure, self.library, nearest)?])
    }
}

/// KMeans.
pub fn means(source: &Source<'_>) -> Result<Loaded> {
    let rows = source.folder.rows("data")?;
    let column = store::column(&rows, "clusterCenter")?;
    let numbers = store::integers(store::column(&rows, "clusterIdx")?)?;
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by_key(|row| numbers[*row]);
    let centre = |row: &usize| {
        let vector = store::stored_vector(column, *row)?;
        Ok(Centre { norm: norm(&vector.values), vector })
    };
    let centres = order.iter().map(centre).collect::<Result<Vec<Centre>>>()?;
    same_width(source.class, centres.iter())?;
    Ok((Box::new(Means { centres, measure: Measure::of(source)?, library: source.library() }), Output::Value))
}

fn same_width<'a>(class: &str, mut centres: impl Iterator<Item = &'a Centre>) -> Result<()> {
    let first = centres.next().ok_or_else(|| Error::data(format!("{class} has no centres")))?;
    if centres.any(|centre| centre.vector.values.len() != first.vector.values.len()) {
        return Err(Error::data(format!("{class} has centres of different widths")));
    }
    Ok(())
}

/// A tree of centres; the root is the first.
#[derive(Debug)]
struct Bisecting {
    nodes: Vec<Node>,
    measure: Measure,
    library: Library,
    /// From Spark 4 on any distance is less than one that is NaN, which comes
    /// of infinite features.
    nan_last: bool,
}

#[derive(Debug)]
struct Node {
    /// The cluster, where it ends.
    index: f64,
    centre: Centre,
    children: Vec<usize>,
}

impl Function for Bisecting {
    fn width(&self) -> Option<usize> {
        self.nodes.first().map(|node| node.centre.vector.values.len())
    }

    fn score(&self, features: &Vectors, _offset: Option<&[f64]>) -> Result<Vec<Vec<f64>>> {
        let walk = |point: &Point<'_>| {
            let mut node = &self.nodes[0];
            while let Some(first) = node.children.first() {
                let mut best = *first;
                let mut least = self.measure.distance(&self.nodes[best].centre, point);
                for child in &node.children[1..] {
                    let distance = self.measure.distance(&self.nodes[*child].centre, point);
                    if distance < least || (self.nan_last && least.is_nan() && !distance.is_nan()) {
                        (best, least) = (*child, distance);
                    }
                }
                node = &self.nodes[best];
            }
            node.index
        };
        Ok(vec![each(features, self.measure, self.library, walk)?])
    }
}

/// BisectingKMeans: its data is a folder of the older library.
pub fn bisecting(source: &Source<'_>) -> Result<Loaded> {
    let class = source.class;
    let folder = source.folder.inner("data");
    let metadata = folder.metadata()?;
    let root = metadata.get("rootId").and_then(Value::as_i64);
    let root = root.ok_or_else(|| Error::data(format!("{class} does not say its rootId")))?;
    let rows = folder.rows("data")?;
    let numbers = store::integers(store::column(&rows, "index")?)?;
    let norms = store::numbers(store::column(&rows, "norm")?)?;
    let centres = store::column(&rows, "center")?;
    let children = store::column(&rows, "children")?;
    if children.as_list_opt::<i32>().is_none() {
        return Err(Error::data(format!("{class} has no lists of children")));
    }
    let known: HashMap<i64, usize> = numbers.iter().enumerate().map(|(row, number)| (*number, row)).collect();
    // From the root on, each node once.
    let mut places: HashMap<i64, usize> = HashMap::from([(root, 0)]);
    let mut queue = vec![root];
    let mut nodes = Vec::new();
    while let Some(number) = queue.get(nodes.len()).copied() {
        let row = *known.get(&number).ok_or_else(|| Error::data(format!("{class} lacks node {number}")))?;
        let mut own = Vec::new();
        for child in store::list(children, row)? {
            let child = child as i64;
            if places.insert(child, queue.len()).is_some() {
                return Err(Error::data(format!("{class} has node {child} twice in its tree")));
            }
            own.push(queue.len());
            queue.push(child);
        }
        let vector = store::stored_vector(centres, row)?;
        nodes.push(Node { index: number as f64, centre: Centre { vector, norm: norms[row] }, children: own });
    }
    same_width(class, nodes.iter().map(|node| &node.centre))?;
    let (measure, library) = (Measure::of(source)?, source.library());
    Ok((Box::new(Bisecting { nodes, measure, library, nan_last: source.since_4() }), Output::Value))
}
