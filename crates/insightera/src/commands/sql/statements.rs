//! Where a statement ends: at a `;` that is in no text, name or comment.

/// What the scanner is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    Nothing,
    Text,
    Name,
    Line,
    /// Comments nest; how deep.
    Block(u32),
}

/// The complete statements of a text and what follows the last `;`.
pub fn take_complete(text: &str) -> (Vec<String>, &str) {
    let mut complete = Vec::new();
    let mut inside = Inside::Nothing;
    let mut start = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map(|(_, c)| *c);
        let (now, two) = step(inside, c, next);
        inside = now;
        if two {
            chars.next();
        } else if c == ';' && inside == Inside::Nothing {
            complete.push(text[start..at].to_owned());
            start = at + 1;
        }
    }
    (complete, &text[start..])
}

/// The state after `c`, and whether `next` belongs to the same sign. A doubled
/// quote ends a text and starts it again, which comes to the same.
fn step(inside: Inside, c: char, next: Option<char>) -> (Inside, bool) {
    match (inside, c, next) {
        (Inside::Nothing, '\'', _) => (Inside::Text, false),
        (Inside::Nothing, '"', _) => (Inside::Name, false),
        (Inside::Nothing, '-', Some('-')) => (Inside::Line, true),
        (Inside::Nothing, '/', Some('*')) => (Inside::Block(1), true),
        (Inside::Text, '\'', _) | (Inside::Name, '"', _) | (Inside::Line, '\n', _) => (Inside::Nothing, false),
        (Inside::Block(depth), '/', Some('*')) => (Inside::Block(depth + 1), true),
        (Inside::Block(1), '*', Some('/')) => (Inside::Nothing, true),
        (Inside::Block(depth), '*', Some('/')) => (Inside::Block(depth - 1), true),
        _ => (inside, false),
    }
}

/// All statements of a text; the last needs no `;`. Those of blanks and
/// comments alone are left out.
pub fn split(text: &str) -> Vec<String> {
    let (mut statements, rest) = take_complete(text);
    statements.push(rest.to_owned());
    statements.retain(|statement| !is_blank(statement));
    statements
}

/// Whether there is nothing but blanks and comments.
pub fn is_blank(text: &str) -> bool {
    let mut inside = Inside::Nothing;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let before = inside;
        let (now, two) = step(inside, c, chars.peek().copied());
        inside = now;
        if two {
            chars.next();
        } else if !c.is_whitespace() && matches!(before, Inside::Nothing | Inside::Text | Inside::Name) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_semicolon_in_a_text_a_name_or_a_comment_ends_nothing() {
        let text = "SELECT ';', \"a;b\", 'it''s;' -- no; \n/* nor; /* here; */ ; */ FROM t; SELECT 2";
        let (complete, rest) = take_complete(text);
        assert_eq!(complete.len(), 1);
        assert!(complete[0].ends_with("FROM t"));
        assert_eq!(rest, " SELECT 2");
    }

    #[test]
    fn blanks_and_comments_are_no_statements() {
        assert_eq!(split(" ; -- nothing\n;; /* x */ "), Vec::<String>::new());
        assert_eq!(split("SELECT 1;\nSELECT 2;\n").len(), 2);
    }

    #[test]
    fn an_open_text_is_not_complete() {
        let (complete, rest) = take_complete("SELECT 'a;");
        assert!(complete.is_empty());
        assert_eq!(rest, "SELECT 'a;");
    }
}
