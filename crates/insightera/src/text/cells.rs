//! Rows of text cells, as aligned columns or CSV.

/// Aligned columns under a header; columns of numbers stand to the right. A
/// control character in a cell is escaped, so that a row stays a row.
pub fn columns<S: AsRef<str>>(header: &[S], right: &[bool], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = header.iter().map(|name| printable(name.as_ref())).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let mut widths: Vec<usize> = header.iter().map(|name| width(name)).collect();
    for row in &rows {
        for (index, cell) in row.iter().enumerate() {
            widths[index] = widths[index].max(width(cell));
        }
    }
    let mut text = String::new();
    push_row(&mut text, &header, &widths, right);
    let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    push_row(&mut text, &rules, &widths, right);
    for row in &rows {
        push_row(&mut text, row, &widths, right);
    }
    text
}

fn push_row(text: &mut String, row: &[String], widths: &[usize], right: &[bool]) {
    let mut line = String::new();
    for (index, cell) in row.iter().enumerate() {
        if index > 0 {
            line.push_str("  ");
        }
        let padding = " ".repeat(widths[index].saturating_sub(width(cell)));
        let (before, after) = if right.get(index) == Some(&true) { (&*padding, "") } else { ("", &*padding) };
        line.push_str(before);
        line.push_str(cell);
        line.push_str(after);
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn printable(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// RFC 4180 with `\n` line ends: `None` is empty, an empty text is `""`.
pub fn csv<S: AsRef<str>>(header: &[S], rows: impl Iterator<Item = Vec<Option<String>>>) -> String {
    let mut text = String::new();
    let names: Vec<String> = header.iter().map(|name| quoted(name.as_ref())).collect();
    text.push_str(&names.join(","));
    text.push('\n');
    for row in rows {
        for (index, cell) in row.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            text.push_str(&cell.as_deref().map(quoted).unwrap_or_default());
        }
        text.push('\n');
    }
    text
}

fn quoted(text: &str) -> String {
    let plain = !text.is_empty() && !text.contains([',', '"', '\n', '\r']) && text.trim() == text;
    if plain { text.to_owned() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right_and_lines_have_no_trailing_blanks() {
        let rows = vec![vec!["a".into(), "1".into(), "x".into()], vec!["longer".into(), "23".into(), String::new()]];
        let text = columns(&["name", "n", "note"], &[false, true, false], &rows);
        assert_eq!(text, "name     n  note\n------  --  ----\na        1  x\nlonger  23\n");
    }

    #[test]
    fn a_control_character_cannot_break_a_row_or_the_terminal() {
        let text = columns(&["v"], &[false], &[vec!["a\nb\u{1b}[31m".into()]]);
        assert_eq!(text.lines().count(), 3);
        assert!(text.contains("a\\nb\\u{1b}[31m"), "{text}");
    }

    #[test]
    fn csv_tells_null_from_an_empty_text() {
        let rows = vec![vec![None, Some(String::new())], vec![Some("a,\"b\"".into()), Some("c".into())]];
        assert_eq!(csv(&["x", "y"], rows.into_iter()), "x,y\n,\"\"\n\"a,\"\"b\"\"\",c\n");
    }
}
