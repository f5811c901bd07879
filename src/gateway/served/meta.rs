//! The meta tools as tools of MCP: find, describe and call what the caller may use.
//!
//! Decides which of them is meant; `endpoints::meta` answers, and a call goes on as the tool's own would.

use bytes::Bytes;

use super::{Speaker, Visit, asking::Addressed};
use crate::{
    client::OwnedRewrite,
    endpoints::meta::{self, MetaTool},
    gateway::{Gateway, decide::Step},
    mcp::{
        era, outgoing,
        question::Question,
        result,
        splice::{Splice, quoted},
    },
    refusal::Refusal,
    upstream::Wanted,
};

impl Gateway {
    /// Which meta tool is called, if one is.
    pub(super) fn meta_tool(&self, visit: &Visit, question: &Question<'_>) -> Option<MetaTool> {
        // Whether or not lists show them: no tool of a server has such a name.
        let name = question.name().filter(|_| visit.only.is_none() && question.method == "tools/call")?;
        MetaTool::named(&name)
    }

    /// The answer of a meta tool that answers itself.
    pub(super) fn meta_answer(
        &self,
        visit: &Visit,
        speaker: &Speaker,
        question: &Question<'_>,
    ) -> Result<Option<Step>, Refusal> {
        let run = match self.meta_tool(visit, question) {
            Some(MetaTool::Search) => meta::search_tools,
            Some(MetaTool::Describe) => meta::describe_tools,
            Some(MetaTool::Call) | None => return Ok(None),
        };
        let arguments = question.arguments().unwrap_or("{}");
        let answered = run(arguments.as_bytes(), &self.visible(visit)?, &visit.snapshot.tools);
        match answered {
            Ok(body) => Ok(Some(wrapped(question, speaker, 200, &body))),
            Err(refusal) => Ok(Some(refused(question, speaker, &refusal))),
        }
    }

    /// The tool that `call_tool` calls.
    pub(super) fn call_asked(&self, visit: &Visit, question: &Question<'_>) -> Result<Addressed, Refusal> {
        let arguments = question.arguments().unwrap_or("{}");
        let body = Bytes::copy_from_slice(arguments.as_bytes());
        let called = meta::resolve_call(&body, &self.visible(visit)?, &visit.snapshot.tools)?;
        let permit = self.permit_for(visit, called.server.as_str())?;
        let name = called.tool.name.as_str().to_owned();
        let inner = String::from_utf8_lossy(&called.arguments).into_owned();
        let params = match question.params.filter(|_| question.arguments().is_some()) {
            Some(params) => Splice::new(params).replace(arguments, inner).finish(),
            None => outgoing::call(&name, "{}"),
        };
        let rewrite = OwnedRewrite { name: Some(name.clone()), ..OwnedRewrite::default() };
        let params = Some((params, called.arguments));
        Ok(Addressed { permit, name: Some(name), wanted: Wanted::Tool(called.tool), rewrite, params })
    }
}

/// A refusal that the model is to mend (MCP 2025-11-25, Tools, Error Handling).
pub(super) fn refused(question: &Question<'_>, speaker: &Speaker, refusal: &Refusal) -> Step {
    wrapped(question, speaker, 422, quoted(refusal.sentence()).as_bytes())
}

fn wrapped(question: &Question<'_>, speaker: &Speaker, status: u16, body: &[u8]) -> Step {
    let result = result::wrap(status, Some("application/json"), body, speaker.is_modern);
    let result = if speaker.is_modern { era::to_modern(&result, None) } else { result };
    super::answered(question.id.unwrap_or("null"), &result)
}
