//! Partition transforms in Iceberg's words: `days(ts)`, `bucket(16, nim)`, ...

use std::fmt;

use serde::Serialize;

/// How a column becomes a partition value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "transform", rename_all = "snake_case")]
pub enum PartitionTransform {
    /// The value itself.
    Identity {
        /// The source column.
        column: String,
    },
    /// Years since 1970.
    Years {
        /// The source column.
        column: String,
    },
    /// Months since 1970-01.
    Months {
        /// The source column.
        column: String,
    },
    /// Days since 1970-01-01.
    Days {
        /// The source column.
        column: String,
    },
    /// Hours since 1970-01-01T00.
    Hours {
        /// The source column.
        column: String,
    },
    /// A hash of the value, modulo `buckets`.
    Bucket {
        /// The number of buckets, at least 1.
        buckets: u32,
        /// The source column.
        column: String,
    },
    /// The value cut to `width` (characters of a string, multiples of a number).
    Truncate {
        /// The width, at least 1.
        width: u32,
        /// The source column.
        column: String,
    },
}

/// How a transform is written; shown when one cannot be read.
const FORMS: &str = "write `column`, `years(column)`, `months(column)`, `days(column)`, `hours(column)`, \
                     `bucket(n, column)` or `truncate(n, column)`";

impl PartitionTransform {
    /// The source column.
    pub fn column(&self) -> &str {
        match self {
            Self::Identity { column }
            | Self::Years { column }
            | Self::Months { column }
            | Self::Days { column }
            | Self::Hours { column }
            | Self::Bucket { column, .. }
            | Self::Truncate { column, .. } => column,
        }
    }

    /// Reads a transform.
    ///
    /// # Errors
    /// What is wrong, and how transforms are written.
    pub fn parse(text: &str) -> Result<Self, (String, String)> {
        let text = text.trim();
        let Some((function, rest)) = text.split_once('(') else {
            return Ok(Self::Identity { column: column_name(text)? });
        };
        let Some(inside) = rest.strip_suffix(')') else {
            return Err((format!("`{text}` has no closing parenthesis"), FORMS.to_owned()));
        };
        let arguments: Vec<&str> = inside.split(',').map(str::trim).collect();
        let function = function.trim().to_ascii_lowercase();
        match (function.as_str(), arguments.as_slice()) {
            ("identity", [column]) => Ok(Self::Identity { column: column_name(column)? }),
            ("years" | "year", [column]) => Ok(Self::Years { column: column_name(column)? }),
            ("months" | "month", [column]) => Ok(Self::Months { column: column_name(column)? }),
            ("days" | "day", [column]) => Ok(Self::Days { column: column_name(column)? }),
            ("hours" | "hour", [column]) => Ok(Self::Hours { column: column_name(column)? }),
            ("bucket", [count, column]) => {
                Ok(Self::Bucket { buckets: positive(text, count)?, column: column_name(column)? })
            }
            ("truncate", [width, column]) => {
                Ok(Self::Truncate { width: positive(text, width)?, column: column_name(column)? })
            }
            _ => Err((format!("`{}` is not a partition transform", text.escape_debug()), FORMS.to_owned())),
        }
    }
}

impl fmt::Display for PartitionTransform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity { column } => f.write_str(column),
            Self::Years { column } => write!(f, "years({column})"),
            Self::Months { column } => write!(f, "months({column})"),
            Self::Days { column } => write!(f, "days({column})"),
            Self::Hours { column } => write!(f, "hours({column})"),
            Self::Bucket { buckets, column } => write!(f, "bucket({buckets}, {column})"),
            Self::Truncate { width, column } => write!(f, "truncate({width}, {column})"),
        }
    }
}

fn column_name(text: &str) -> Result<String, (String, String)> {
    match insightera_core::validate_name("partition column", text) {
        Ok(()) => Ok(text.to_owned()),
        Err(error) => Err((error.to_string(), FORMS.to_owned())),
    }
}

/// Iceberg's buckets and widths are positive 32-bit signed integers.
fn positive(text: &str, number: &str) -> Result<u32, (String, String)> {
    match number.parse::<u32>() {
        Ok(value) if (1..=i32::MAX as u32).contains(&value) => Ok(value),
        _ => Err((
            format!("the first argument of `{}` must be an integer of 1 or more", text.escape_debug()),
            FORMS.to_owned(),
        )),
    }
}
