//! A reader of Spark's commands, word by word, over the SQL parser.

use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::Problem;
use crate::Error;
use crate::lake::TableName;

pub(super) type Read<T> = Result<T, Problem>;

/// The tokens that are left.
pub(super) struct Words<'a> {
    parser: Parser<'a>,
}

impl<'a> Words<'a> {
    pub fn new(dialect: &'a dyn Dialect, tokens: &[TokenWithSpan]) -> Self {
        Self { parser: Parser::new(dialect).with_tokens_with_locations(tokens.to_vec()) }
    }

    /// Takes the next word if it is this one, whatever its case.
    pub fn take(&mut self, word: &str) -> bool {
        let found = self.next_is(0, word);
        if found {
            self.parser.next_token();
        }
        found
    }

    /// Takes these words if all of them follow.
    pub fn take_all(&mut self, words: &[&str]) -> bool {
        let found = words.iter().enumerate().all(|(i, word)| self.next_is(i, word));
        if found {
            words.iter().for_each(|_| drop(self.parser.next_token()));
        }
        found
    }

    fn next_is(&self, ahead: usize, word: &str) -> bool {
        let token = self.parser.peek_nth_token(ahead).token;
        matches!(token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
    }

    /// The next word must be this one.
    pub fn expect(&mut self, word: &str) -> Read<()> {
        if self.take(word) { Ok(()) } else { self.unexpected(word) }
    }

    /// Takes a sign, for example a comma.
    pub fn sign(&mut self, sign: &Token) -> bool {
        self.parser.consume_token(sign)
    }

    /// A sign must follow.
    pub fn expect_sign(&mut self, sign: &Token) -> Read<()> {
        self.parser.expect_token(sign).map(drop).map_err(Problem::from)
    }

    /// The error that something else was expected here.
    pub fn unexpected<T>(&self, wanted: &str) -> Read<T> {
        self.parser.expected(wanted, self.parser.peek_token()).map_err(Problem::from)
    }

    /// The next token, without taking it.
    pub fn peek(&self) -> Token {
        self.parser.peek_token().token
    }

    /// Whether the token after the next is this sign.
    pub fn second_is(&self, sign: &Token) -> bool {
        self.parser.peek_nth_token(1).token == *sign
    }

    /// Takes the next token.
    pub fn next(&mut self) -> Token {
        self.parser.next_token().token
    }

    /// Nothing but a semicolon may follow.
    pub fn end(&mut self) -> Read<()> {
        while self.sign(&Token::SemiColon) {}
        match self.peek() {
            Token::EOF => Ok(()),
            _ => self.unexpected("the end of the statement"),
        }
    }

    /// An identifier, quoted or not.
    pub fn name(&mut self) -> Read<String> {
        match self.peek() {
            Token::Word(word) => {
                self.next();
                Ok(word.value)
            }
            _ => self.unexpected("a name"),
        }
    }

    /// A column: nested fields are not changed here.
    pub fn column(&mut self) -> Read<String> {
        let name = self.name()?;
        if self.sign(&Token::Period) {
            let rest = self.name()?;
            return Err(Error::invalid(format!(
                "`{name}.{rest}` is inside a nested column, which cannot be changed yet"
            ))
            .into());
        }
        Ok(name)
    }

    /// `[catalog.]namespace.table`.
    pub fn table(&mut self) -> Read<TableName> {
        let mut parts = vec![self.name()?];
        while self.sign(&Token::Period) {
            parts.push(self.name()?);
        }
        Ok(table_name(&parts)?)
    }

    /// A string in single quotes.
    pub fn text(&mut self) -> Read<String> {
        match self.peek() {
            Token::SingleQuotedString(text) => {
                self.next();
                Ok(text)
            }
            _ => self.unexpected("a text in single quotes"),
        }
    }

    /// A string or a bare word.
    pub fn text_or_word(&mut self) -> Read<String> {
        match self.peek() {
            Token::Word(_) => self.name(),
            _ => self.text(),
        }
    }

    /// A whole number without a sign.
    pub fn number<N: std::str::FromStr>(&mut self) -> Read<N> {
        if let Token::Number(digits, _) = self.peek()
            && let Ok(number) = digits.parse()
        {
            self.next();
            return Ok(number);
        }
        self.unexpected("a whole number")
    }

    /// Any expression of the query engine.
    pub fn expression(&mut self) -> Read<Expr> {
        self.parser.parse_expr().map_err(Problem::from)
    }

    /// The query that is left, as a parser leaves it.
    pub fn index(&self) -> usize {
        self.parser.index()
    }

    /// `( item, item )`.
    pub fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        self.expect_sign(&Token::LParen)?;
        let mut items = vec![item(self)?];
        while self.sign(&Token::Comma) {
            items.push(item(self)?);
        }
        self.expect_sign(&Token::RParen)?;
        Ok(items)
    }

    /// `item, item`.
    pub fn items<T>(&mut self, mut item: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        let mut items = vec![item(self)?];
        while self.sign(&Token::Comma) {
            items.push(item(self)?);
        }
        Ok(items)
    }
}

/// `namespace.table`; a catalog before it must be ours or Spark's own name.
pub(in crate::sql) fn table_name(parts: &[String]) -> crate::Result<TableName> {
    let (namespace, name) = match parts {
        [catalog, namespace, name] if is_catalog(catalog) => (namespace, name),
        [namespace, name] => (namespace, name),
        [name] => {
            return Err(Error::invalid(format!("`{name}` has no namespace")).hint("write it as `namespace.table`"));
        }
        other => {
            return Err(Error::invalid(format!("`{}` is not a table name", other.join(".")))
                .hint("write it as `namespace.table`; the catalog is called `insightera`"));
        }
    };
    insightera_core::validate_name("namespace", namespace)?;
    insightera_core::validate_name("table", name)?;
    Ok(TableName { namespace: namespace.clone(), name: name.clone() })
}

/// The names under which statements know this catalog.
pub(super) fn is_catalog(name: &str) -> bool {
    ["insightera", "spark_catalog"].iter().any(|known| known.eq_ignore_ascii_case(name))
}
