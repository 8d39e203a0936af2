//! The types of Parquet's headers.
//!
//! The Parquet reader goes by the numbers of fields and never looks at the
//! types that the bytes give them: a number where it expects a list is read as
//! the list's length. So headers whose known fields have other types are
//! refused before it sees them, and what it reads is what was checked here.

use super::sizes::{LIST, Reader, STRUCT, damaged};
use crate::error::Result;

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// A truth value.
    Bool,
    /// One byte.
    Byte,
    /// A whole number of any width: all are written alike.
    Int,
    /// Eight bytes.
    Double,
    /// Bytes or text.
    Binary,
    /// A structure with these known fields.
    Struct(&'static [(i64, Shape)]),
    /// A list of these.
    List(&'static Shape),
}

use Shape::{Binary, Bool, Byte, Double, Int, List, Struct};

const TEXTS: Shape = Struct(&[(1, Binary), (2, Binary)]);
const STATISTICS: Shape =
    Struct(&[(1, Binary), (2, Binary), (3, Int), (4, Int), (5, Binary), (6, Binary), (7, Bool), (8, Bool)]);
const UNIT: Shape = Struct(&[(1, Struct(&[])), (2, Struct(&[])), (3, Struct(&[]))]);
const TIME: Shape = Struct(&[(1, Bool), (2, UNIT)]);
const LOGICAL: Shape = Struct(&[
    (1, Struct(&[])),
    (2, Struct(&[])),
    (3, Struct(&[])),
    (4, Struct(&[])),
    (5, Struct(&[(1, Int), (2, Int)])),
    (6, Struct(&[])),
    (7, TIME),
    (8, TIME),
    (10, Struct(&[(1, Byte), (2, Bool)])),
    (11, Struct(&[])),
    (12, Struct(&[])),
    (13, Struct(&[])),
    (14, Struct(&[])),
    (15, Struct(&[])),
    (16, Struct(&[(1, Byte)])),
    (17, Struct(&[(1, Binary)])),
    (18, Struct(&[(1, Binary), (2, Int)])),
]);
const ELEMENT: Shape = Struct(&[
    (1, Int),
    (2, Int),
    (3, Int),
    (4, Binary),
    (5, Int),
    (6, Int),
    (7, Int),
    (8, Int),
    (9, Int),
    (10, LOGICAL),
]);
const BOX: Shape =
    Struct(&[(1, Double), (2, Double), (3, Double), (4, Double), (5, Double), (6, Double), (7, Double), (8, Double)]);
const COLUMN: Shape = Struct(&[
    (1, Int),
    (2, List(&Int)),
    (3, List(&Binary)),
    (4, Int),
    (5, Int),
    (6, Int),
    (7, Int),
    (8, List(&TEXTS)),
    (9, Int),
    (10, Int),
    (11, Int),
    (12, STATISTICS),
    (13, List(&Struct(&[(1, Int), (2, Int), (3, Int)]))),
    (14, Int),
    (15, Int),
    (16, Struct(&[(1, Int), (2, List(&Int)), (3, List(&Int))])),
    (17, Struct(&[(1, BOX), (2, List(&Int))])),
]);
const CHUNK: Shape = Struct(&[
    (1, Binary),
    (2, Int),
    (3, COLUMN),
    (4, Int),
    (5, Int),
    (6, Int),
    (7, Int),
    (8, Struct(&[(1, Struct(&[])), (2, Struct(&[(1, List(&Binary)), (2, Binary)]))])),
    (9, Binary),
]);
const GROUP: Shape = Struct(&[
    (1, List(&CHUNK)),
    (2, Int),
    (3, Int),
    (4, List(&Struct(&[(1, Int), (2, Bool), (3, Bool)]))),
    (5, Int),
    (6, Int),
    (7, Int),
]);
const CIPHER: Shape = Struct(&[(1, Binary), (2, Binary), (3, Bool)]);
/// The footer of a file.
pub const FOOTER: Shape = Struct(&[
    (1, Int),
    (2, List(&ELEMENT)),
    (3, Int),
    (4, List(&GROUP)),
    (5, List(&TEXTS)),
    (6, Binary),
    (7, List(&Struct(&[(1, Struct(&[])), (2, Struct(&[]))]))),
    (8, Struct(&[(1, CIPHER), (2, CIPHER)])),
    (9, Binary),
]);
/// The header of a page.
pub const PAGE: Shape = Struct(&[
    (1, Int),
    (2, Int),
    (3, Int),
    (4, Int),
    (5, Struct(&[(1, Int), (2, Int), (3, Int), (4, Int), (5, STATISTICS)])),
    (6, Struct(&[])),
    (7, Struct(&[(1, Int), (2, Int), (3, Bool)])),
    (8, Struct(&[(1, Int), (2, Int), (3, Int), (4, Int), (5, Int), (6, Int), (7, Bool), (8, STATISTICS)])),
]);

impl Shape {
    /// Whether the type that the bytes give is its own.
    fn is(self, kind: u8) -> bool {
        match self {
            Bool => matches!(kind, 1 | 2),
            Byte => kind == 3,
            Int => matches!(kind, 4..=6),
            Double => kind == 7,
            Binary => kind == 8,
            List(_) => kind == LIST,
            Struct(_) => kind == STRUCT,
        }
    }

    /// Reads a value of this shape; shapes are not nested deeper than headers are.
    ///
    /// # Errors
    /// When a known field has another type, or the bytes end.
    pub fn check(self, reader: &mut Reader<'_>, kind: u8) -> Result<()> {
        if !self.is(kind) {
            return Err(damaged());
        }
        match self {
            Struct(known) => {
                reader.fields(|reader, field, kind| match known.iter().find(|(number, _)| *number == field) {
                    Some((_, shape)) => shape.check(reader, kind),
                    None => reader.skip(kind),
                })
            }
            List(shape) => {
                let element = reader.peek() & 15;
                for _ in 0..reader.list()? {
                    match shape {
                        Bool => return Err(damaged()),
                        shape => shape.check(reader, element)?,
                    }
                }
                Ok(())
            }
            _ => reader.skip(kind),
        }
    }
}
