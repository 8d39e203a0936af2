//! Changes of a table's columns, partition fields and properties, decided on
//! the base that the swap compares with.
//!
//! Only what old data files can still be read with is allowed: types widen,
//! ids are never used again, a required column cannot be added.

use std::collections::HashMap;

use arrow::datatypes::DataType;
use iceberg::TableUpdate;
use iceberg::spec::{
    NestedField, NestedFieldRef, PrimitiveType, Schema, Transform, Type, UnboundPartitionField, UnboundPartitionSpec,
};

use super::schema::{Column, iceberg_type};
use super::table::Table;
use super::{Lake, TableName, commit};
use crate::score::TableShape;
use crate::{Error, Result};

/// One change of a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Alteration {
    /// A new column, which old rows read as null.
    AddColumn {
        /// The column; it may be null.
        column: Column,
        /// Where it stands; at the end by default.
        place: Option<Place>,
    },
    /// A column leaves the schema; the data files keep it.
    DropColumn {
        /// Its name.
        column: String,
        /// Whether a missing one is no error.
        if_exists: bool,
    },
    /// A column gets another name, its rows stay.
    RenameColumn {
        /// The name now.
        from: String,
        /// The new name.
        to: String,
    },
    /// A wider type: int to bigint, float to double, a decimal of more digits.
    WidenColumn {
        /// Its name.
        column: String,
        /// The new type.
        to: DataType,
    },
    /// The comment of a column.
    CommentColumn {
        /// Its name.
        column: String,
        /// The text.
        comment: String,
    },
    /// A column moves.
    MoveColumn {
        /// Its name.
        column: String,
        /// Where to.
        place: Place,
    },
    /// A required column may be null from now on.
    AllowNull {
        /// Its name.
        column: String,
    },
    /// New files are split by this as well.
    AddPartitionField {
        /// The source column.
        column: String,
        /// The transform.
        transform: Transform,
        /// The field's name, else the usual one.
        name: Option<String>,
    },
    /// New files are no longer split by this.
    DropPartitionField(PartitionField),
    /// Drop and add; the new field stands last.
    ReplacePartitionField {
        /// What goes.
        old: PartitionField,
        /// The new source column.
        column: String,
        /// The new transform.
        transform: Transform,
        /// The new field's name.
        name: Option<String>,
    },
    /// The columns that identify a row, for engines that use them.
    SetIdentifierFields(Vec<String>),
    /// Columns that identify a row no longer.
    DropIdentifierFields(Vec<String>),
    /// Properties to set.
    SetProperties(HashMap<String, String>),
    /// Properties to remove.
    UnsetProperties {
        /// Their keys.
        keys: Vec<String>,
        /// Whether a missing one is no error.
        if_exists: bool,
    },
}

/// Where a column stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Before all others.
    First,
    /// After this one.
    After(String),
}

/// A partition field, by its name or by what it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartitionField {
    /// The field's name, or the column of an identity field.
    Named(String),
    /// Transform and source column.
    Made(Transform, String),
}

/// Applies `changes` in one commit.
///
/// # Errors
/// When a column or field is missing or there already, a change would make old
/// files unreadable, or a pipeline needs the column as it is.
pub fn alter(lake: &Lake, name: &TableName, changes: &[Alteration]) -> Result<Table> {
    commit::alter(lake, name, |base| updates(base, changes))
}

fn updates(base: &Table, changes: &[Alteration]) -> Result<Vec<TableUpdate>> {
    let mut draft = Draft::new(base);
    for change in changes {
        draft.apply(change)?;
    }
    draft.updates()
}

struct Draft<'a> {
    base: &'a Table,
    fields: Vec<NestedFieldRef>,
    identifiers: Vec<i32>,
    last_column_id: i32,
    partition: Vec<UnboundPartitionField>,
    set: HashMap<String, String>,
    unset: Vec<String>,
}

impl<'a> Draft<'a> {
    fn new(base: &'a Table) -> Self {
        let metadata = base.metadata();
        let partition = metadata.default_partition_spec().fields().iter().map(|field| UnboundPartitionField {
            source_id: field.source_id,
            field_id: Some(field.field_id),
            name: field.name.clone(),
            transform: field.transform,
        });
        Self {
            base,
            fields: base.schema().as_struct().fields().to_vec(),
            identifiers: base.schema().identifier_field_ids().collect(),
            last_column_id: metadata.last_column_id(),
            partition: partition.collect(),
            set: HashMap::new(),
            unset: Vec::new(),
        }
    }

    fn updates(self) -> Result<Vec<TableUpdate>> {
        let invalid = |e: iceberg::Error| {
            Error::invalid(format!("table `{}` cannot be changed like that: {e}", self.base.name())).cause(e)
        };
        let mut updates = Vec::new();
        if self.fields != self.base.schema().as_struct().fields()
            || self.identifiers != self.base.schema().identifier_field_ids().collect::<Vec<_>>()
        {
            let schema = Schema::builder()
                .with_schema_id(self.base.schema().schema_id())
                .with_fields(self.fields)
                .with_identifier_field_ids(self.identifiers)
                .build()
                .map_err(invalid)?;
            updates.push(TableUpdate::AddSchema { schema });
            updates.push(TableUpdate::SetCurrentSchema { schema_id: -1 });
        }
        let spec = self.base.metadata().default_partition_spec();
        let same = spec.fields().len() == self.partition.len()
            && spec.fields().iter().zip(&self.partition).all(|(old, new)| Some(old.field_id) == new.field_id);
        if !same {
            let spec = UnboundPartitionSpec::builder().add_partition_fields(self.partition).map_err(invalid)?.build();
            updates.push(TableUpdate::AddSpec { spec });
            updates.push(TableUpdate::SetDefaultSpec { spec_id: -1 });
        }
        if !self.set.is_empty() {
            updates.push(TableUpdate::SetProperties { updates: self.set });
        }
        if !self.unset.is_empty() {
            updates.push(TableUpdate::RemoveProperties { removals: self.unset });
        }
        Ok(updates)
    }

    fn apply(&mut self, change: &Alteration) -> Result<()> {
        match change {
            Alteration::AddColumn { column, place } => self.add_column(column, place.as_ref()),
            Alteration::DropColumn { column, if_exists } => {
                if *if_exists && self.position(column).is_err() {
                    return Ok(());
                }
                let index = self.position(column)?;
                self.not_needed(column, "dropped")?;
                let id = self.fields[index].id;
                if let Some(field) = self.partition.iter().find(|field| field.source_id == id) {
                    return Err(Error::invalid(format!(
                        "column `{column}` of table `{}` cannot be dropped: partition field `{}` is made of it",
                        self.base.name(),
                        field.name
                    ))
                    .hint(format!(
                        "first `ALTER TABLE {} DROP PARTITION FIELD {}`",
                        self.base.name(),
                        field.name
                    )));
                }
                if self.identifiers.contains(&id) {
                    return Err(Error::invalid(format!(
                        "column `{column}` of table `{}` cannot be dropped: it is an identifier field",
                        self.base.name()
                    ))
                    .hint(format!("first `ALTER TABLE {} DROP IDENTIFIER FIELDS {column}`", self.base.name())));
                }
                if self.fields.len() == 1 {
                    return Err(Error::invalid(format!(
                        "`{column}` is the only column of table `{}`",
                        self.base.name()
                    )));
                }
                self.fields.remove(index);
                Ok(())
            }
            Alteration::RenameColumn { from, to } => {
                let index = self.position(from)?;
                self.not_needed(from, "renamed")?;
                if !from.eq_ignore_ascii_case(to) {
                    self.absent(to)?;
                }
                self.edit(index, |field| field.name.clone_from(to));
                Ok(())
            }
            Alteration::WidenColumn { column, to } => self.widen(column, to),
            Alteration::CommentColumn { column, comment } => {
                let index = self.position(column)?;
                self.edit(index, |field| field.doc = Some(comment.clone()));
                Ok(())
            }
            Alteration::MoveColumn { column, place } => {
                let index = self.position(column)?;
                let field = self.fields.remove(index);
                let to = match place {
                    Place::After(other) if other == column => Err(Error::invalid(format!(
                        "column `{column}` of table `{}` cannot stand after itself",
                        self.base.name()
                    ))),
                    place => self.insertion(Some(place)),
                };
                self.fields.insert(to.as_ref().copied().unwrap_or(index), field);
                to.map(|_| ())
            }
            Alteration::AllowNull { column } => {
                let index = self.position(column)?;
                if self.identifiers.contains(&self.fields[index].id) {
                    return Err(Error::invalid(format!(
                        "column `{column}` is an identifier field, which is never null"
                    )));
                }
                self.edit(index, |field| field.required = false);
                Ok(())
            }
            Alteration::AddPartitionField { column, transform, name } => {
                let field = self.partition_field(column, *transform, name.as_deref())?;
                self.partition.push(field);
                Ok(())
            }
            Alteration::DropPartitionField(field) => {
                let index = self.partition_position(field)?;
                self.partition.remove(index);
                Ok(())
            }
            Alteration::ReplacePartitionField { old, column, transform, name } => {
                let index = self.partition_position(old)?;
                self.partition.remove(index);
                let field = self.partition_field(column, *transform, name.as_deref())?;
                self.partition.push(field);
                Ok(())
            }
            Alteration::SetIdentifierFields(columns) => {
                self.identifiers = columns.iter().map(|c| self.identifier(c)).collect::<Result<_>>()?;
                Ok(())
            }
            Alteration::DropIdentifierFields(columns) => {
                for column in columns {
                    let id = self.fields[self.position(column)?].id;
                    if !self.identifiers.contains(&id) {
                        return Err(Error::invalid(format!(
                            "column `{column}` of table `{}` is not an identifier field",
                            self.base.name()
                        )));
                    }
                    self.identifiers.retain(|other| *other != id);
                }
                Ok(())
            }
            Alteration::SetProperties(properties) => {
                for key in properties.keys() {
                    self.settable(key)?;
                }
                self.unset.retain(|key| !properties.contains_key(key));
                self.set.extend(properties.clone());
                Ok(())
            }
            Alteration::UnsetProperties { keys, if_exists } => {
                for key in keys {
                    self.settable(key)?;
                    self.set.remove(key);
                    if self.base.metadata().properties().contains_key(key) {
                        self.unset.push(key.clone());
                    } else if !if_exists {
                        return Err(Error::not_found(format!("table `{}` has no property `{key}`", self.base.name()))
                            .hint("write UNSET TBLPROPERTIES IF EXISTS if that is no error"));
                    }
                }
                Ok(())
            }
        }
    }

    fn add_column(&mut self, column: &Column, place: Option<&Place>) -> Result<()> {
        self.absent(&column.name)?;
        if !column.nullable {
            return Err(Error::invalid(format!(
                "column `{}` cannot be added to table `{}` as NOT NULL: the rows that are there have no value for it",
                column.name,
                self.base.name()
            ))
            .hint("add it without NOT NULL"));
        }
        let at = self.insertion(place)?;
        self.last_column_id += 1;
        let id = self.last_column_id;
        let of = iceberg_type(&column.name, &column.data_type, &mut self.last_column_id)?;
        let mut field = NestedField::optional(id, &column.name, of);
        field.doc.clone_from(&column.doc);
        self.fields.insert(at, field.into());
        Ok(())
    }

    fn widen(&mut self, column: &str, to: &DataType) -> Result<()> {
        let index = self.position(column)?;
        let wanted = iceberg_type(column, to, &mut 0)?;
        let now = self.fields[index].field_type.as_ref().clone();
        if now == wanted {
            return Ok(());
        }
        if !promotes(&now, &wanted) {
            return Err(Error::invalid(format!(
                "column `{column}` of table `{}` has type `{now}`, which cannot become `{wanted}`",
                self.base.name()
            ))
            .hint("a type can widen: int to bigint, float to double, a decimal to more digits of the same scale"));
        }
        let used = self.partition.iter().find(|field| field.source_id == self.fields[index].id);
        if let Some(field) = used.filter(|field| !matches!(field.transform, Transform::Identity | Transform::Void)) {
            // Buckets of an int and of a long agree by the specification, the
            // others read the old type.
            if !matches!(field.transform, Transform::Bucket(_)) {
                return Err(Error::invalid(format!(
                    "column `{column}` of table `{}` cannot change its type: partition field `{}` is made of it",
                    self.base.name(),
                    field.name
                )));
            }
        }
        self.edit(index, |field| *field.field_type = wanted.clone());
        Ok(())
    }

    fn edit(&mut self, index: usize, change: impl FnOnce(&mut NestedField)) {
        let mut field = (*self.fields[index]).clone();
        change(&mut field);
        self.fields[index] = field.into();
    }

    fn position(&self, column: &str) -> Result<usize> {
        if let Some(index) = self.fields.iter().position(|field| field.name == column) {
            return Ok(index);
        }
        let mut alike = (0..self.fields.len()).filter(|i| self.fields[*i].name.eq_ignore_ascii_case(column));
        if let (Some(index), None) = (alike.next(), alike.next()) {
            return Ok(index);
        }
        let error = Error::not_found(format!("table `{}` has no column `{column}`", self.base.name()));
        let names = self.fields.iter().map(|field| field.name.as_str());
        Err(match insightera_core::closest(column, names) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint(format!(
                "it has {}",
                self.fields.iter().map(|f| format!("`{}`", f.name)).collect::<Vec<_>>().join(", ")
            )),
        })
    }

    fn absent(&self, column: &str) -> Result<()> {
        match self.fields.iter().find(|field| field.name.eq_ignore_ascii_case(column)) {
            None => Ok(()),
            Some(field) => {
                Err(Error::conflict(format!("table `{}` has a column `{}` already", self.base.name(), field.name)))
            }
        }
    }

    fn insertion(&self, place: Option<&Place>) -> Result<usize> {
        Ok(match place {
            None => self.fields.len(),
            Some(Place::First) => 0,
            Some(Place::After(column)) => self.position(column)? + 1,
        })
    }

    /// Pipelines know these columns by name.
    fn not_needed(&self, column: &str, what: &str) -> Result<()> {
        let Some(shape) = TableShape::read(self.base.metadata().properties()) else { return Ok(()) };
        let index = self.position(column)?;
        let name = &self.fields[index].name;
        let own = ["pipeline", "model_name", "run_id", "score_reason", "feature_hash", "definition_hash"];
        let role = if shape.key.contains(name) {
            "the entity key"
        } else if *name == shape.timestamp {
            "the time of the prediction"
        } else if *name == shape.inference_type {
            "the kind of inference"
        } else if own.contains(&name.as_str()) {
            "needed to find what was scored"
        } else {
            return Ok(());
        };
        Err(Error::invalid(format!(
            "column `{name}` of prediction table `{}` cannot be {what}: it is {role}",
            self.base.name()
        ))
        .hint("the pipelines that write this table read the column by its name"))
    }

    fn partition_field(&self, column: &str, transform: Transform, name: Option<&str>) -> Result<UnboundPartitionField> {
        let source = self.fields[self.position(column)?].clone();
        let wrong = |why: String| {
            Error::invalid(format!(
                "table `{}` cannot be partitioned by {transform}({column}): {why}",
                self.base.name()
            ))
        };
        transform.result_type(&source.field_type).map_err(|e| wrong(e.to_string()))?;
        let same = |field: &&UnboundPartitionField| field.source_id == source.id && field.transform == transform;
        if let Some(field) = self.partition.iter().find(same) {
            return Err(wrong(format!("it is already, as `{}`", field.name)));
        }
        // Spark's names for fields added later.
        let name = name.map_or_else(
            || match transform {
                Transform::Identity => source.name.clone(),
                Transform::Bucket(n) => format!("{}_bucket_{n}", source.name),
                Transform::Truncate(n) => format!("{}_trunc_{n}", source.name),
                other => format!("{}_{other}", source.name),
            },
            str::to_owned,
        );
        if self.partition.iter().any(|field| field.name == name) {
            return Err(wrong(format!("there is a partition field `{name}` already")));
        }
        Ok(UnboundPartitionField { source_id: source.id, field_id: None, name, transform })
    }

    fn partition_position(&self, field: &PartitionField) -> Result<usize> {
        let found = match field {
            PartitionField::Named(name) => {
                let column = self.fields.iter().find(|f| f.name == *name).map(|f| f.id);
                self.partition.iter().position(|f| {
                    f.name == *name || (Some(f.source_id) == column && f.transform == Transform::Identity)
                })
            }
            PartitionField::Made(transform, column) => {
                let id = self.fields[self.position(column)?].id;
                self.partition.iter().position(|f| f.source_id == id && f.transform == *transform)
            }
        };
        found.ok_or_else(|| {
            let wanted = match field {
                PartitionField::Named(name) => name.clone(),
                PartitionField::Made(transform, column) => format!("{transform}({column})"),
            };
            let names: Vec<String> = self.partition.iter().map(|f| format!("`{}`", f.name)).collect();
            Error::not_found(format!("table `{}` has no partition field `{wanted}`", self.base.name()))
                .hint(if names.is_empty() { "it has none".to_owned() } else { format!("it has {}", names.join(", ")) })
        })
    }

    fn identifier(&self, column: &str) -> Result<i32> {
        let field = &self.fields[self.position(column)?];
        let float =
            matches!(field.field_type.as_primitive_type(), None | Some(PrimitiveType::Float | PrimitiveType::Double));
        if !field.required || float {
            return Err(Error::invalid(format!(
                "column `{column}` of table `{}` cannot be an identifier field: it {}",
                self.base.name(),
                if float { "is a floating point number or nested" } else { "may be null" }
            )));
        }
        Ok(field.id)
    }

    fn settable(&self, key: &str) -> Result<()> {
        if key == "format-version" {
            return Err(Error::invalid(format!(
                "the format version of table `{}` cannot be changed",
                self.base.name()
            ))
            .hint("tables here have format version 2"));
        }
        if key.starts_with("insightera.") {
            return Err(Error::invalid(format!(
                "property `{key}` of table `{}` is kept by Insightera itself",
                self.base.name()
            ))
            .hint("it holds what pipelines have consumed and which columns they know"));
        }
        Ok(())
    }
}

/// Iceberg's promotions.
fn promotes(from: &Type, to: &Type) -> bool {
    use PrimitiveType::{Decimal, Double, Float, Int, Long};
    match (from.as_primitive_type(), to.as_primitive_type()) {
        (Some(Int), Some(Long)) | (Some(Float), Some(Double)) => true,
        (Some(Decimal { precision, scale }), Some(Decimal { precision: wide, scale: same })) => {
            wide > precision && scale == same
        }
        _ => false,
    }
}
