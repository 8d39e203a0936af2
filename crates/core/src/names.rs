//! Names of pipelines, models, tables and aliases, and help with wrong ones.

use std::fmt;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidName {
    what: &'static str,
    name: String,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not a name for a {}: use 1 to 64 of the characters A-Z a-z 0-9 _ . -, not starting with a dot or a dash",
            self.name.escape_debug(),
            self.what
        )
    }
}

impl std::error::Error for InvalidName {}

/// Checks `name` against `[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}`.
///
/// # Errors
/// When it is empty, longer than 64 characters, or holds another character.
pub fn validate_name(what: &'static str, name: &str) -> Result<(), InvalidName> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let good = !name.is_empty() && name.len() <= 64 && name.chars().all(allowed) && !name.starts_with(['.', '-']);
    if good { Ok(()) } else { Err(InvalidName { what, name: name.to_owned() }) }
}

/// The candidate nearest to `wanted` by edit distance, if one is near enough
/// to be what the user meant: at most a third of the letters differ.
pub fn closest<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (wanted.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(&wanted.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance: insert, delete, replace, swap neighbours.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_slash_or_a_leading_dot_is_refused() {
        assert!(validate_name("model", "dropout_v1.2-a").is_ok());
        for bad in ["", "a/b", "..", ".hidden", "-x", "a b", "é", &"x".repeat(65)] {
            assert!(validate_name("model", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_nearest_name_is_offered_only_when_it_is_near() {
        let names = ["strategy", "feature_time", "unhashed"];
        assert_eq!(closest("stratgey", names), Some("strategy"));
        assert_eq!(closest("featuretime", names), Some("feature_time"));
        assert_eq!(closest("password", names), None);
    }
}
