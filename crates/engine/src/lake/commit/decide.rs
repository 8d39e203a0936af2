//! The decision of a commit, pure: facts of the base in, what to do out.

use std::fmt;

/// What one snapshot of the base's ancestry says about who committed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AncestorFacts {
    /// The snapshot.
    pub snapshot_id: i64,
    /// `insightera.intent-id`.
    pub intent_id: Option<String>,
    /// `insightera.pipeline`.
    pub pipeline: Option<String>,
}

/// What a commit must know of the base that its swap will compare with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseFacts {
    /// The table's uuid.
    pub uuid: String,
    /// The ancestry of the current snapshot, newest first.
    pub ancestry: Vec<AncestorFacts>,
    /// Where the ancestry ends at an expired parent: this pipeline's mirrored
    /// progress.
    pub mirrored: Option<i64>,
}

/// What a commit claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Its idempotency key.
    pub id: String,
    /// The uuid of the table that it was prepared for.
    pub uuid: String,
    /// The pipeline whose progress it moves, and the snapshot of that
    /// pipeline's last commit that the run planned on.
    pub fence: Option<Fence>,
}

/// The pipeline's own order of commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The pipeline.
    pub pipeline: String,
    /// Its newest commit when the run planned; `None` before the first.
    pub previous: Option<i64>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The base holds this very commit already, as this snapshot.
    AlreadyDone(i64),
    /// The table was dropped and made again since the run planned.
    TableReplaced,
    /// Another run of the same pipeline committed first, as this snapshot.
    Stale(i64),
    /// Commit on this base.
    Proceed,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Decides on the very base that the swap will compare with. Commits of other
/// pipelines and of maintenance do not matter; a newer commit of the same
/// pipeline makes the plan stale.
pub fn decide(base: &BaseFacts, intent: &Intent) -> Decision {
    if let Some(done) = base.ancestry.iter().find(|a| a.intent_id.as_deref() == Some(intent.id.as_str())) {
        return Decision::AlreadyDone(done.snapshot_id);
    }
    if base.uuid != intent.uuid {
        return Decision::TableReplaced;
    }
    let Some(fence) = &intent.fence else { return Decision::Proceed };
    let newest = base
        .ancestry
        .iter()
        .find(|a| a.pipeline.as_deref() == Some(fence.pipeline.as_str()))
        .map(|a| a.snapshot_id)
        .or(base.mirrored);
    match newest {
        Some(newest) if Some(newest) != fence.previous => Decision::Stale(newest),
        _ => Decision::Proceed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(ancestry: &[(i64, &str, &str)]) -> BaseFacts {
        let ancestry = ancestry
            .iter()
            .map(|(id, intent, pipeline)| AncestorFacts {
                snapshot_id: *id,
                intent_id: Some((*intent).to_owned()),
                pipeline: Some((*pipeline).to_owned()),
            })
            .collect();
        BaseFacts { uuid: "u".into(), ancestry, mirrored: None }
    }

    fn intent(previous: Option<i64>) -> Intent {
        let fence = Fence { pipeline: "three".into(), previous };
        Intent { id: "mine".into(), uuid: "u".into(), fence: Some(fence) }
    }

    #[test]
    fn a_commit_found_in_the_ancestry_is_done_even_when_it_is_not_the_newest() {
        let facts = base(&[(3, "x", "three"), (2, "mine", "three")]);
        assert_eq!(decide(&facts, &intent(Some(1))), Decision::AlreadyDone(2));
    }

    #[test]
    fn a_newer_commit_of_the_same_pipeline_makes_the_plan_stale() {
        assert_eq!(decide(&base(&[(2, "x", "three")]), &intent(Some(1))), Decision::Stale(2));
        assert_eq!(decide(&base(&[(2, "x", "three")]), &intent(None)), Decision::Stale(2));
    }

    #[test]
    fn commits_of_other_pipelines_only_rebase() {
        let facts = base(&[(5, "y", "six"), (4, "z", "maintenance"), (2, "x", "three")]);
        assert_eq!(decide(&facts, &intent(Some(2))), Decision::Proceed);
    }

    #[test]
    fn a_replaced_table_is_never_written() {
        let facts = BaseFacts { uuid: "other".into(), ..base(&[]) };
        assert_eq!(decide(&facts, &intent(None)), Decision::TableReplaced);
    }

    #[test]
    fn behind_an_expired_parent_the_mirrored_progress_decides() {
        let facts = BaseFacts { mirrored: Some(9), ..base(&[(12, "y", "six")]) };
        assert_eq!(decide(&facts, &intent(Some(9))), Decision::Proceed);
        assert_eq!(decide(&facts, &intent(Some(8))), Decision::Stale(9));
    }
}
