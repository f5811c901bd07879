//! What is answered from memory: what the gateway is, and the lists of what this caller may use.
//!
//! Decides which pages there are (`endpoints::mcp` writes them) and seals where the next one begins. Waits for no
//! server: one that is slow or dead has what it was last seen to have, or nothing.

use std::time::{Duration, SystemTime};

use super::{Speaker, Visit, speaker::binding};
use crate::{
    endpoints::{
        Visible,
        mcp::{self, Shelf},
        openapi::Scope,
    },
    gateway::{Gateway, native::exchange::now},
    mcp::{question::Question, session::Purpose},
    refusal::{Code, Refusal},
};

/// How long a cursor may be used.
const CURSOR_TTL: Duration = Duration::from_secs(3600);

impl Gateway {
    /// What this caller's lists are made of.
    pub(super) fn shelf<'a>(&self, visit: &'a Visit, is_modern: bool, visible: &'a [Visible]) -> Shelf<'a> {
        Shelf {
            scope: visit.scope().map_or(Scope::All, Scope::One),
            visible,
            snapshot: &visit.snapshot,
            is_modern,
            page_size: self.settings.mcp.page_size,
            has_meta_tools_only: self.settings.shows_meta_tools_only && visit.only.is_none(),
            now: SystemTime::now(),
            refresh: self.settings.mcp.list_refresh,
        }
    }

    /// What the gateway is to a modern client (MCP 2026-07-28, Discovery).
    pub(super) fn discover(&self, visit: &Visit) -> Result<String, Refusal> {
        Ok(mcp::discover(&self.shelf(visit, true, &self.visible(visit)?)))
    }

    /// One page of a list.
    pub(super) fn list(
        &self,
        visit: &Visit,
        speaker: &Speaker,
        question: &Question<'_>,
    ) -> Result<String, Refusal> {
        let visible = self.visible(visit)?;
        let shelf = self.shelf(visit, speaker.is_modern, &visible);
        let write = match &*question.method {
            "tools/list" => mcp::tools,
            "prompts/list" => mcp::prompts,
            "resources/list" => mcp::resources,
            _ => mcp::templates,
        };
        let binding = binding(visit, Purpose::Cursor);
        let begins = match question.cursor() {
            None => None,
            Some(cursor) => {
                let opened = self.session_keys.open_text(&binding, &cursor, now());
                // A list's cursor says nothing about another one.
                let place = opened
                    .as_deref()
                    .and_then(|text| text.strip_prefix(&*question.method)?.strip_prefix('\n'));
                let place =
                    place.ok_or_else(|| Refusal::new(Code::BadCursor, "no list gave out this cursor"))?;
                Some(place.to_owned())
            }
        };
        let page = write(&shelf, begins.as_deref());
        let Some(next) = &page.next else { return Ok(page.result) };
        let text = format!("{}\n{next}", question.method);
        let sealed = self.session_keys.seal_text(&binding, &text, now() + CURSOR_TTL.as_secs());
        let sealed = sealed.ok_or_else(|| Refusal::internal("a cursor cannot be sealed"))?;
        Ok(page.with_cursor(&sealed))
    }
}
