//! record (being written)

/// What is written down.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Filter of diagnostic log lines, in the syntax of `RUST_LOG`: `info,pingora_core=warn`.
    pub filter: String,
    /// Whether each request writes one JSON line to stdout.
    pub is_access_log_on: bool,
}
