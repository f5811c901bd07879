//! How much of one server may be used: what its table says beyond what all servers have in common.

use crate::names::{Rate, ToolPattern};

/// Limits of one server; of rates that are not said here, all servers have the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerLimits {
    /// Calls by all callers; `Some(None)`: as many as they like.
    pub rate: Option<Option<Rate>>,
    /// Calls of one tool by one caller. The first pattern that matches counts.
    tools: Vec<(ToolPattern, Option<Rate>)>,
    /// Calls that may run at once; 0: as many as there are.
    pub running: usize,
}

impl ServerLimits {
    /// Limits of which a longer pattern goes before a shorter one, so that a tool's own name goes before all.
    pub fn new(
        rate: Option<Option<Rate>>,
        mut tools: Vec<(ToolPattern, Option<Rate>)>,
        running: usize,
    ) -> Self {
        tools.sort_by_key(|(pattern, _)| {
            let text = pattern.as_str();
            (text.contains('*'), std::cmp::Reverse(text.len()))
        });
        Self { rate, tools, running }
    }

    /// What this server says of one caller's calls of a tool, if anything.
    pub fn of_tool(&self, tool: &str) -> Option<Option<Rate>> {
        self.tools.iter().find(|(pattern, _)| pattern.matches(tool)).map(|(_, rate)| *rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_pattern_counts_and_a_name_is_nearer_than_any() {
        let rate = |text: &str| Rate::parse(text).unwrap();
        let table = [("*", "5/s"), ("delete_*", "1/s"), ("delete_repo", "off"), ("*_a_long_pattern*", "2/s")];
        let table = table.map(|(pattern, text)| (ToolPattern::parse(pattern).unwrap(), rate(text)));
        let limits = ServerLimits::new(None, table.into(), 0);
        assert_eq!(limits.of_tool("delete_repo"), Some(None));
        assert_eq!(limits.of_tool("delete_file"), Some(rate("1/s")));
        assert_eq!(limits.of_tool("search"), Some(rate("5/s")));
        assert_eq!(ServerLimits::default().of_tool("search"), None);
    }
}
