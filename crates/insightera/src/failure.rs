//! How errors reach the user: printed once, the causes after colons, a hint
//! where one is known, and the exit status by kind.

use insightera_core::ErrorKind;

use crate::printer::Printer;

/// Prints an error to standard error.
pub fn report(printer: &Printer, error: &anyhow::Error) {
    printer.error(&message(error));
    if let Some(hint) = hint(error) {
        printer.hint(&hint);
    }
}

/// The error and its causes; a cause that the text before it already tells is
/// left out.
pub fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        let cause = cause.trim_end();
        if text.is_empty() {
            text.push_str(cause);
        } else if !text.contains(cause) {
            text.push_str(": ");
            text.push_str(cause);
        }
    }
    text
}

/// The next step for the user, where one is known.
pub fn hint(error: &anyhow::Error) -> Option<String> {
    let hint = error.chain().find_map(|cause| {
        let engine = cause.downcast_ref::<insightera_engine::Error>().and_then(insightera_engine::Error::get_hint);
        engine.or_else(|| cause.downcast_ref::<insightera_infer::Error>().and_then(|e| e.hint()))
    });
    hint.filter(|hint| !hint.is_empty()).map(str::to_owned)
}

/// 1 is the user's to fix, 2 is ours; an error without a kind is ours.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let kind = error.chain().find_map(|cause| {
        let engine = cause.downcast_ref::<insightera_engine::Error>().map(insightera_engine::Error::kind);
        engine.or_else(|| cause.downcast_ref::<insightera_infer::Error>().map(|e| e.kind()))
    });
    kind.unwrap_or(ErrorKind::Internal).exit_code()
}

/// The error as an object, for reports on several pipelines.
pub fn object(pipeline: &str, error: &anyhow::Error) -> serde_json::Value {
    serde_json::json!({
        "pipeline": pipeline,
        "status": "failed",
        "error": message(error),
        "hint": hint(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use insightera_engine::Error;

    #[test]
    fn a_cause_stands_once() {
        let error = Error::unavailable("cannot read `a`: denied").cause("denied").hint("ask");
        let error = anyhow::Error::from(error).context("while checking");
        assert_eq!(message(&error), "while checking: cannot read `a`: denied");
        assert_eq!(hint(&error).as_deref(), Some("ask"));
    }

    #[test]
    fn only_our_own_defects_exit_with_two() {
        assert_eq!(exit_code(&Error::invalid("x").into()), 1);
        assert_eq!(exit_code(&Error::unavailable("x").into()), 1);
        assert_eq!(exit_code(&Error::internal("x").into()), 2);
        assert_eq!(exit_code(&anyhow::anyhow!("x")), 2);
    }
}
