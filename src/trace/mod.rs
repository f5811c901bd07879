//! What is noted of a request so that others can follow it: whose trace it belongs to, its steps and its tries.
//!
//! Decides which trace context of a client counts, which is passed on, and whether a request is traced. Never refuses
//! one: what is malformed was never said. Never reads a body, names a caller or sends anything: `mcp` finds what
//! messages say, `record` makes spans of it once the request has ended.

mod context;
mod notes;
mod sampling;
mod state;

pub use context::{Carried, Context, LENGTH, SpanId, TraceId};
pub use notes::{Leg, Noted, Outgoing, Taken, Trace, Try};
pub use sampling::{Follow, Sampler, Settings};
pub use state::baggage;
