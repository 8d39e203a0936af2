//! The tokens of a statement, time travel brought into one form.
//!
//! Spark writes `[FOR] (SYSTEM_VERSION | VERSION) AS OF v` and
//! `[FOR] (SYSTEM_TIME | TIMESTAMP) AS OF t`, where `v` is a number or a string
//! that names a tag or branch. The parser knows `VERSION AS OF number` and
//! `TIMESTAMP AS OF expression`; the other forms are turned into these, token
//! by token, so that an error still names its place in the text.

use datafusion::common::DataFusionError;
use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Whitespace, Word};

use super::plan_error;
use crate::Result;

/// The column that stands for all of them in `MERGE … UPDATE SET *`.
pub(super) const STAR: &str = "*";

/// The tokens of `sql` with their places.
pub(super) fn tokens(what: &str, sql: &str, dialect: &dyn Dialect) -> Result<Vec<TokenWithSpan>> {
    let mut tokens = Tokenizer::new(dialect, sql)
        .tokenize_with_location()
        .map_err(|e| plan_error(what, sql, DataFusionError::SQL(Box::new(e.into()), None)))?;
    let solid: Vec<usize> = (0..tokens.len()).filter(|i| !matches!(tokens[*i].token, Token::Whitespace(_))).collect();
    for window in 0..solid.len() {
        let at = |offset: usize| solid.get(window + offset).map(|i| &tokens[*i].token);
        let (Some(word), true, true) = (at(0), is(at(1), "AS"), is(at(2), "OF")) else { continue };
        let version = is(Some(word), "VERSION") || is(Some(word), "SYSTEM_VERSION");
        let time = is(Some(word), "TIMESTAMP") || is(Some(word), "SYSTEM_TIME");
        if !version && !time {
            continue;
        }
        let name = match at(3) {
            Some(Token::SingleQuotedString(text)) if version => Some(format!("'{text}'")),
            _ => None,
        };
        let first = solid[window];
        let preceded = window.checked_sub(1).map(|w| solid[w]).filter(|i| is(Some(&tokens[*i].token), "FOR"));
        if let Some(at) = preceded {
            tokens[at].token = Token::Whitespace(Whitespace::Space);
        }
        let (value, keyword) = if version { ("VERSION", Keyword::VERSION) } else { ("TIMESTAMP", Keyword::TIMESTAMP) };
        tokens[first].token = Token::Word(Word { value: value.into(), quote_style: None, keyword });
        // The parser takes a number after VERSION AS OF: a name travels as one.
        if let Some(name) = name {
            tokens[solid[window + 3]].token = Token::Number(name, false);
        }
    }
    let first = solid.first().map(|i| &tokens[*i].token);
    Ok(if is(first, "MERGE") { stars(tokens, &solid) } else { tokens })
}

/// Spark's `UPDATE SET *` and `INSERT *`, which the parser does not know: the
/// first becomes `UPDATE SET "*" = 1`, the second `INSERT ROW`.
fn stars(tokens: Vec<TokenWithSpan>, solid: &[usize]) -> Vec<TokenWithSpan> {
    let (mut sets, mut inserts) = (Vec::new(), Vec::new());
    for window in solid.windows(3) {
        let at = |index: usize| &tokens[window[index]].token;
        if *at(2) != Token::Mul {
            continue;
        }
        if is(Some(at(0)), "UPDATE") && is(Some(at(1)), "SET") {
            sets.push(window[2]);
        } else if is(Some(at(0)), "THEN") && is(Some(at(1)), "INSERT") {
            inserts.push(window[2]);
        }
    }
    let mut out = Vec::with_capacity(tokens.len() + 2 * sets.len());
    for (index, mut token) in tokens.into_iter().enumerate() {
        if sets.contains(&index) {
            let word = Word { value: STAR.into(), quote_style: Some('"'), keyword: Keyword::NoKeyword };
            for part in [Token::Word(word), Token::Eq, Token::Number("1".into(), false)] {
                out.push(TokenWithSpan { token: part, span: token.span });
            }
            continue;
        }
        if inserts.contains(&index) {
            token.token = Token::Word(Word { value: "ROW".into(), quote_style: None, keyword: Keyword::ROW });
        }
        out.push(token);
    }
    out
}

/// Whether a token is this unquoted word.
fn is(token: Option<&Token>, word: &str) -> bool {
    matches!(token, Some(Token::Word(w)) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}
