//! The files that `insightera init` writes.

/// A commented `insightera.toml` with the built-in defaults.
pub fn render_default_project() -> &'static str {
    include_str!("templates/insightera.toml")
}

/// A commented pipeline that shows every key.
pub fn render_example_pipeline() -> &'static str {
    include_str!("templates/pipeline.toml")
}
