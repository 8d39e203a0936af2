//! `CALL [catalog.]system.procedure(name => value, …)`: the procedures of
//! Iceberg's Spark extensions, with their arguments by name or in order.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::tokenizer::Token;

use super::words::{Read, Words, is_catalog, table_name};
use super::{Problem, Statement};
use crate::lake::TableName;
use crate::{Error, Result};

/// A call with checked arguments.
#[derive(Debug)]
pub(crate) struct Call {
    /// The procedure's name.
    pub procedure: &'static str,
    arguments: BTreeMap<&'static str, Argument>,
}

/// The value of an argument.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Argument {
    Text(String),
    Number(i64),
    Flag(bool),
    /// An expression of a time, as written.
    Time(String),
    Map(BTreeMap<String, String>),
    Numbers(Vec<i64>),
}

impl Call {
    /// The table that the call is about.
    pub fn table(&self) -> Result<TableName> {
        let text = self.text("table").unwrap_or_default();
        table_name(&text.split('.').map(|part| part.trim_matches('`').to_owned()).collect::<Vec<_>>())
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        match self.arguments.get(name) {
            Some(Argument::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub fn number(&self, name: &str) -> Option<i64> {
        match self.arguments.get(name) {
            Some(Argument::Number(number)) => Some(*number),
            _ => None,
        }
    }

    pub fn flag(&self, name: &str) -> Option<bool> {
        match self.arguments.get(name) {
            Some(Argument::Flag(flag)) => Some(*flag),
            _ => None,
        }
    }

    pub fn time(&self, name: &str) -> Option<&str> {
        match self.arguments.get(name) {
            Some(Argument::Time(text)) => Some(text),
            _ => None,
        }
    }

    pub fn map(&self, name: &str) -> BTreeMap<String, String> {
        match self.arguments.get(name) {
            Some(Argument::Map(map)) => map.clone(),
            _ => BTreeMap::new(),
        }
    }

    pub fn numbers(&self, name: &str) -> Vec<i64> {
        match self.arguments.get(name) {
            Some(Argument::Numbers(numbers)) => numbers.clone(),
            _ => Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Flag,
    Time,
    Map,
    Numbers,
}

struct Parameter(&'static str, Kind, Need);

#[derive(PartialEq, Eq)]
enum Need {
    Required,
    Optional,
    /// Spark has it, it has no meaning here.
    Ignorable,
    /// Spark has it, it is refused here.
    Refused,
}

struct Procedure {
    name: &'static str,
    parameters: &'static [Parameter],
}

use Kind::{Flag, Map, Number, Numbers, Text, Time};
use Need::{Ignorable, Optional, Refused, Required};

const PROCEDURES: &[Procedure] = &[
    Procedure {
        name: "ancestors_of",
        parameters: &[Parameter("table", Text, Required), Parameter("snapshot_id", Number, Optional)],
    },
    Procedure {
        name: "expire_snapshots",
        parameters: &[
            Parameter("table", Text, Required),
            Parameter("older_than", Time, Optional),
            Parameter("retain_last", Number, Optional),
            Parameter("max_concurrent_deletes", Number, Ignorable),
            Parameter("stream_results", Flag, Ignorable),
            Parameter("snapshot_ids", Numbers, Optional),
            Parameter("clean_expired_metadata", Flag, Refused),
        ],
    },
    Procedure {
        name: "remove_orphan_files",
        parameters: &[
            Parameter("table", Text, Required),
            Parameter("older_than", Time, Optional),
            Parameter("location", Text, Refused),
            Parameter("dry_run", Flag, Optional),
            Parameter("max_concurrent_deletes", Number, Ignorable),
            Parameter("file_list_view", Text, Refused),
            Parameter("equal_schemes", Map, Refused),
            Parameter("equal_authorities", Map, Refused),
            Parameter("prefix_mismatch_mode", Text, Refused),
            Parameter("prefix_listing", Flag, Ignorable),
        ],
    },
    Procedure {
        name: "rewrite_data_files",
        parameters: &[
            Parameter("table", Text, Required),
            Parameter("strategy", Text, Optional),
            Parameter("sort_order", Text, Optional),
            Parameter("options", Map, Optional),
            Parameter("where", Text, Optional),
            Parameter("branch", Text, Refused),
        ],
    },
    Procedure {
        name: "rewrite_manifests",
        parameters: &[
            Parameter("table", Text, Required),
            Parameter("use_caching", Flag, Ignorable),
            Parameter("spec_id", Number, Optional),
        ],
    },
    Procedure {
        name: "rollback_to_snapshot",
        parameters: &[Parameter("table", Text, Required), Parameter("snapshot_id", Number, Required)],
    },
    Procedure {
        name: "rollback_to_timestamp",
        parameters: &[Parameter("table", Text, Required), Parameter("timestamp", Time, Required)],
    },
    Procedure {
        name: "set_current_snapshot",
        parameters: &[
            Parameter("table", Text, Required),
            Parameter("snapshot_id", Number, Optional),
            Parameter("ref", Text, Optional),
        ],
    },
];

/// After `CALL`.
pub(super) fn call(words: &mut Words<'_>) -> Read<Statement> {
    let mut parts = vec![words.name()?];
    while words.sign(&Token::Period) {
        parts.push(words.name()?);
    }
    let name = match parts.as_slice() {
        [catalog, system, name] if is_catalog(catalog) && system.eq_ignore_ascii_case("system") => name,
        [system, name] if system.eq_ignore_ascii_case("system") => name,
        _ => {
            return Err(Error::not_found(format!("there is no procedure `{}`", parts.join(".")))
                .hint("procedures are in `system`: CALL insightera.system.expire_snapshots(table => 'namespace.table')")
                .into());
        }
    };
    let known = PROCEDURES.iter().find(|procedure| procedure.name.eq_ignore_ascii_case(name));
    let Some(procedure) = known else {
        let names: Vec<&str> = PROCEDURES.iter().map(|procedure| procedure.name).collect();
        let error = Error::not_found(format!("there is no procedure `{name}`"));
        return Err(match insightera_core::closest(name, names.iter().copied()) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint(format!("there are {}", names.join(", "))),
        }
        .into());
    };
    let mut arguments = BTreeMap::new();
    words.expect_sign(&Token::LParen)?;
    let mut named = false;
    while words.peek() != Token::RParen {
        let parameter = if words.second_is(&Token::RArrow) {
            named = true;
            let name = words.name()?;
            words.expect_sign(&Token::RArrow)?;
            named_parameter(procedure, &name)?
        } else if named {
            return Err(wrong(procedure, "an argument without a name stands after one with a name"));
        } else {
            match procedure.parameters.get(arguments.len()) {
                Some(parameter) => parameter,
                None => return Err(wrong(procedure, "there are too many arguments")),
            }
        };
        let Parameter(name, kind, need) = parameter;
        if *need == Refused {
            return Err(wrong(procedure, &format!("argument `{name}` is not supported")));
        }
        let value = argument(words, procedure, name, *kind)?;
        if arguments.insert(*name, value).is_some() {
            return Err(wrong(procedure, &format!("argument `{name}` stands twice")));
        }
        if !words.sign(&Token::Comma) {
            break;
        }
    }
    words.expect_sign(&Token::RParen)?;
    words.end()?;
    for Parameter(name, _, need) in procedure.parameters {
        if *need == Required && !arguments.contains_key(name) {
            return Err(wrong(procedure, &format!("argument `{name}` is missing")));
        }
    }
    Ok(Statement::Call(Call { procedure: procedure.name, arguments }))
}

fn named_parameter(procedure: &'static Procedure, name: &str) -> Read<&'static Parameter> {
    let found = procedure.parameters.iter().find(|parameter| parameter.0.eq_ignore_ascii_case(name));
    found.ok_or_else(|| {
        let names: Vec<&str> = procedure.parameters.iter().map(|p| p.0).collect();
        let error = Error::invalid(format!("procedure `{}` has no argument `{name}`", procedure.name));
        match insightera_core::closest(name, names.iter().copied()) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint(format!("its arguments are {}", names.join(", "))),
        }
        .into()
    })
}

fn wrong(procedure: &Procedure, why: &str) -> Problem {
    let forms: Vec<String> = procedure
        .parameters
        .iter()
        .filter(|p| p.2 != Refused)
        .map(|p| if p.2 == Required { p.0.to_owned() } else { format!("[{}]", p.0) })
        .collect();
    Error::invalid(format!("procedure `{}`: {why}", procedure.name))
        .hint(format!("its arguments are {}", forms.join(", ")))
        .into()
}

fn argument(words: &mut Words<'_>, procedure: &Procedure, name: &str, kind: Kind) -> Read<Argument> {
    let start = words.peek();
    let bad = |wanted: &str| wrong(procedure, &format!("argument `{name}` is `{start}`, not {wanted}"));
    match kind {
        Kind::Text => match words.next() {
            Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) => Ok(Argument::Text(text)),
            Token::Word(word) if word.quote_style == Some('"') => Ok(Argument::Text(word.value)),
            _ => Err(bad("a text in single quotes")),
        },
        Kind::Number => number(words).map(Argument::Number).ok_or_else(|| bad("a whole number")),
        Kind::Flag => match words.next() {
            Token::Word(word) if word.value.eq_ignore_ascii_case("true") => Ok(Argument::Flag(true)),
            Token::Word(word) if word.value.eq_ignore_ascii_case("false") => Ok(Argument::Flag(false)),
            _ => Err(bad("true or false")),
        },
        Kind::Time => Ok(Argument::Time(words.expression()?.to_string())),
        Kind::Map => {
            if !words.take("MAP") {
                return Err(bad("a map('key', 'value', …)"));
            }
            let items = words.list(Words::text)?;
            if items.len() % 2 == 1 {
                return Err(wrong(procedure, &format!("the map of argument `{name}` has a key without a value")));
            }
            let mut map = BTreeMap::new();
            for pair in items.chunks_exact(2) {
                if map.insert(pair[0].clone(), pair[1].clone()).is_some() {
                    return Err(wrong(procedure, &format!("key `{}` stands twice in argument `{name}`", pair[0])));
                }
            }
            Ok(Argument::Map(map))
        }
        Kind::Numbers => {
            if !words.take("ARRAY") {
                return Err(bad("an array(1, 2, …)"));
            }
            let items = words.list(|words| number(words).ok_or_else(|| bad("an array of whole numbers")))?;
            Ok(Argument::Numbers(items))
        }
    }
}

fn number(words: &mut Words<'_>) -> Option<i64> {
    let negative = words.sign(&Token::Minus);
    match words.next() {
        Token::Number(digits, _) => format!("{}{digits}", if negative { "-" } else { "" }).parse().ok(),
        _ => None,
    }
}
