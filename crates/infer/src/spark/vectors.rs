//! Vectors of a block of rows, column by column.
//!
//! Spark's vectors are dense or sparse, row by row, and its sums take another
//! order for each: [`Sparsity`] remembers which row is which, so that sums can
//! follow. A column of zeros takes no room.

use std::rc::Rc;

/// One place of the vectors of a block.
#[derive(Debug, Clone)]
pub enum Column {
    /// 0 in every row.
    Zero,
    /// A value a row.
    Values(Rc<Vec<f64>>),
}

impl Column {
    /// Of values.
    pub fn new(values: Vec<f64>) -> Self {
        Self::Values(Rc::new(values))
    }

    /// The value of a row.
    pub fn at(&self, row: usize) -> f64 {
        match self {
            Self::Zero => 0.0,
            Self::Values(values) => values[row],
        }
    }

    /// The values, unless all are 0.
    pub fn values(&self) -> Option<&[f64]> {
        match self {
            Self::Zero => None,
            Self::Values(values) => Some(values),
        }
    }
}

/// Which rows hold sparse vectors.
#[derive(Debug, Clone)]
pub enum Sparsity {
    /// All or none.
    All(bool),
    /// Some.
    Rows(Rc<Vec<bool>>),
}

impl Sparsity {
    /// Whether the vector of a row is sparse.
    pub fn at(&self, row: usize) -> bool {
        match self {
            Self::All(all) => *all,
            Self::Rows(rows) => rows[row],
        }
    }

    /// Whether there are sparse rows, and dense ones.
    pub fn kinds(&self) -> (bool, bool) {
        match self {
            Self::All(all) => (*all, !*all),
            Self::Rows(rows) => (rows.contains(&true), rows.contains(&false)),
        }
    }
}

/// The vectors of a block.
#[derive(Debug, Clone)]
pub struct Vectors {
    /// Rows.
    pub rows: usize,
    /// Place by place.
    pub columns: Vec<Column>,
    /// Row by row.
    pub sparse: Sparsity,
    /// Rows without a vector; their values are NaN.
    pub nulls: Option<Rc<Vec<bool>>>,
}

impl Vectors {
    /// Dense vectors.
    pub fn dense(rows: usize, columns: Vec<Vec<f64>>) -> Self {
        let columns = columns.into_iter().map(Column::new).collect();
        Self { rows, columns, sparse: Sparsity::All(false), nulls: None }
    }

    /// Vectors in the form that takes less room, as Spark counts it. Sparse
    /// or not, a stored zero loses its sign.
    pub fn compressed(rows: usize, columns: Vec<Column>, since_4: bool) -> Self {
        let mut filled = vec![0usize; rows];
        let count = |column: Column| match column {
            Column::Zero => Column::Zero,
            Column::Values(values) => {
                filled.iter_mut().zip(values.iter()).for_each(|(n, v)| *n += usize::from(*v != 0.0));
                if values.iter().any(|v| *v == 0.0 && v.is_sign_negative()) {
                    Column::new(values.iter().map(|v| if *v == 0.0 { 0.0 } else { *v }).collect())
                } else {
                    Column::Values(values)
                }
            }
        };
        let columns: Vec<Column> = columns.into_iter().map(count).collect();
        let width = columns.len() as f64;
        // 12 bytes a value and 20 against 8 and 8; since Spark 4, 28 against 12.
        let more = if since_4 { 2.0 } else { 1.5 };
        let sparse: Vec<bool> = filled.into_iter().map(|n| 1.5 * n as f64 + more < width).collect();
        Self { rows, columns, sparse: Sparsity::Rows(Rc::new(sparse)), nulls: None }
    }

    /// Values of a vector.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// The same vectors with other values at each place; zeros that take no
    /// room are handed over too.
    pub fn map(&self, mut change: impl FnMut(usize, f64) -> f64) -> Self {
        let column = |(place, column): (usize, &Column)| match column {
            Column::Zero if change(place, 0.0).to_bits() == 0 => Column::Zero,
            _ => Column::new((0..self.rows).map(|row| change(place, column.at(row))).collect()),
        };
        Self { columns: self.columns.iter().enumerate().map(column).collect(), ..self.clone() }
    }

    /// The vector of a row.
    pub fn row(&self, row: usize, into: &mut Vec<f64>) {
        into.clear();
        into.extend(self.columns.iter().map(|column| column.at(row)));
    }
}

/// Numbers of a block.
#[derive(Debug, Clone)]
pub struct Numbers {
    /// A value a row, NaN for null.
    pub values: Rc<Vec<f64>>,
    /// Rows that have none.
    pub nulls: Option<Rc<Vec<bool>>>,
}

impl Numbers {
    /// Numbers of which none is null.
    pub fn new(values: Vec<f64>) -> Self {
        Self { values: Rc::new(values), nulls: None }
    }

    /// The number of a row, none for null.
    pub fn get(&self, row: usize) -> Option<f64> {
        let null = self.nulls.as_ref().is_some_and(|nulls| nulls[row]);
        (!null).then(|| self.values[row])
    }

    /// Row by row, none for null.
    pub fn iter(&self) -> impl Iterator<Item = Option<f64>> + '_ {
        (0..self.values.len()).map(|row| self.get(row))
    }
}

impl FromIterator<Option<f64>> for Numbers {
    fn from_iter<I: IntoIterator<Item = Option<f64>>>(values: I) -> Self {
        let values: Vec<Option<f64>> = values.into_iter().collect();
        let nulls: Vec<bool> = values.iter().map(Option::is_none).collect();
        let nulls = nulls.contains(&true).then(|| Rc::new(nulls));
        Self { values: Rc::new(values.into_iter().map(|v| v.unwrap_or(f64::NAN)).collect()), nulls }
    }
}
