//! Avro's rule for names, checked without regular expressions.
//!
//! Every manifest and manifest list brings its schema, a hundred names, and a
//! question to a table of many commits reads many of them.

use std::sync::Once;

use apache_avro::AvroResult;
use apache_avro::error::Details;
use apache_avro::schema::Namespace;
use apache_avro::validator::{
    EnumSymbolNameValidator, RecordFieldNameValidator, SchemaNameValidator, SchemaNamespaceValidator,
    set_enum_symbol_name_validator, set_record_field_name_validator, set_schema_name_validator,
    set_schema_namespace_validator,
};

/// Lets the Avro reader of this process check names so.
pub fn use_plain_names() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Who has read Avro before keeps its own check, which says the same.
        let _ = set_schema_name_validator(Box::new(PlainNames));
        let _ = set_schema_namespace_validator(Box::new(PlainNames));
        let _ = set_enum_symbol_name_validator(Box::new(PlainNames));
        let _ = set_record_field_name_validator(Box::new(PlainNames));
    });
}

/// A letter or `_`, then letters, digits and `_`.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !text.is_empty() && text.bytes().all(plain) && !text.as_bytes()[0].is_ascii_digit()
}

/// Nothing, or names with dots between them.
fn is_namespace(text: &str) -> bool {
    text.is_empty() || text.split('.').all(is_name)
}

struct PlainNames;

impl SchemaNameValidator for PlainNames {
    fn validate(&self, full: &str) -> AvroResult<(String, Namespace)> {
        let (namespace, name) = match full.rsplit_once('.') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, full),
        };
        if is_name(name) && namespace.is_none_or(is_namespace) {
            return Ok((name.to_owned(), namespace.map(str::to_owned)));
        }
        Err(Details::InvalidSchemaName(full.to_owned(), SchemaNameValidator::regex(self).as_str()).into())
    }
}

impl SchemaNamespaceValidator for PlainNames {
    fn validate(&self, namespace: &str) -> AvroResult<()> {
        if is_namespace(namespace) {
            return Ok(());
        }
        Err(Details::InvalidNamespace(namespace.to_owned(), SchemaNamespaceValidator::regex(self).as_str()).into())
    }
}

impl EnumSymbolNameValidator for PlainNames {
    fn validate(&self, symbol: &str) -> AvroResult<()> {
        if is_name(symbol) { Ok(()) } else { Err(Details::EnumSymbolName(symbol.to_owned()).into()) }
    }
}

impl RecordFieldNameValidator for PlainNames {
    fn validate(&self, name: &str) -> AvroResult<()> {
        if is_name(name) { Ok(()) } else { Err(Details::FieldName(name.to_owned()).into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each rule against the regular expression that the Avro crate has for it.
    #[test]
    fn names_are_those_of_the_specification() {
        let texts = [
            "",
            "a",
            "_",
            "r102",
            "manifest_entry",
            "9a",
            "a9",
            "a-b",
            "a b",
            "ä",
            "a.b",
            "a.b.c",
            ".a",
            "a.",
            "a..b",
            "..a",
            "ns.0.record",
            "a\n",
            "\na",
            "org.apache.iceberg.r2",
            ".",
            "a.b-",
            "A_Z09.z",
            "a\u{0}",
        ];
        for text in texts {
            let regex = RecordFieldNameValidator::regex(&PlainNames);
            assert_eq!(RecordFieldNameValidator::validate(&PlainNames, text).is_ok(), regex.is_match(text), "{text:?}");
            let regex = EnumSymbolNameValidator::regex(&PlainNames);
            assert_eq!(EnumSymbolNameValidator::validate(&PlainNames, text).is_ok(), regex.is_match(text), "{text:?}");
            let regex = SchemaNamespaceValidator::regex(&PlainNames);
            assert_eq!(SchemaNamespaceValidator::validate(&PlainNames, text).is_ok(), regex.is_match(text), "{text:?}");
            let found = SchemaNameValidator::validate(&PlainNames, text).ok();
            let wanted = SchemaNameValidator::regex(&PlainNames).captures(text).map(|parts| {
                (parts["name"].to_owned(), parts.name("namespace").map(|namespace| namespace.as_str().to_owned()))
            });
            assert_eq!(found, wanted, "{text:?}");
        }
    }
}
