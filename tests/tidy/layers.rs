//! Who may import whom: the table to edit when a module is new or an arrow between two modules is.
//!
//! A row names a module of `src/` and the modules it may reach as `crate::…`. A row may name only rows above it, so
//! imports cannot run in a circle. The order is the journey's: what a request meets first stands higher. `lib.rs` and
//! `main.rs` are free.

/// A module of `src/` and what it may import.
pub type Row = (&'static str, &'static [&'static str]);

/// In the order of the journey.
pub const MAY_IMPORT: &[Row] = &[
    // The words, and the tool server that knows nothing of us.
    ("names", &[]),
    ("sample", &[]),
    ("refusal", &["names"]),
    // What is noted of a request on its way; whoever carries it on notes what it does.
    ("trace", &["names"]),
    // The protocol, which needs nothing but bytes.
    ("mcp", &["names", "refusal", "trace"]),
    // What there is, and how we reach outside ourselves.
    ("catalog", &["names", "mcp"]),
    ("store", &["names"]),
    ("dial", &["names", "trace"]),
    // The journey.
    ("route", &["names", "refusal", "catalog"]),
    ("identity", &["names", "refusal", "store", "dial"]),
    ("access", &["names", "refusal", "store", "catalog", "identity"]),
    ("limit", &["names", "refusal", "catalog", "identity", "access"]),
    ("credentials", &["names", "refusal", "store", "catalog", "access"]),
    ("upstream", &["names", "refusal", "catalog", "dial", "mcp", "route", "access", "credentials"]),
    // Its own words to servers that speak MCP.
    ("client", &["names", "refusal", "trace", "catalog", "dial", "mcp", "upstream"]),
    // What the gateway believes, and what it writes down.
    ("record", &["names", "refusal", "trace", "catalog", "store", "dial", "route", "identity", "access"]),
    (
        "snapshot",
        &[
            "names", "refusal", "mcp", "catalog", "store", "dial", "identity", "access", "upstream",
            "client", "record",
        ],
    ),
    (
        "endpoints",
        &[
            "names",
            "refusal",
            "catalog",
            "store",
            "mcp",
            "route",
            "identity",
            "access",
            "limit",
            "credentials",
            "upstream",
            "client",
            "record",
            "snapshot",
        ],
    ),
    (
        "gateway",
        &[
            "names",
            "refusal",
            "trace",
            "catalog",
            "store",
            "dial",
            "mcp",
            "route",
            "identity",
            "access",
            "limit",
            "credentials",
            "upstream",
            "client",
            "record",
            "snapshot",
            "endpoints",
        ],
    ),
    // Each module owns its `Settings`; `config` gathers them, so none of them may see it.
    (
        "config",
        &[
            "names",
            "trace",
            "catalog",
            "store",
            "dial",
            "mcp",
            "identity",
            "access",
            "limit",
            "credentials",
            "upstream",
            "client",
            "record",
            "endpoints",
            "gateway",
        ],
    ),
    // The composition root and the command line see everything above them.
    (
        "app",
        &[
            "names",
            "sample",
            "refusal",
            "catalog",
            "store",
            "dial",
            "mcp",
            "route",
            "identity",
            "access",
            "limit",
            "credentials",
            "upstream",
            "client",
            "record",
            "snapshot",
            "endpoints",
            "gateway",
            "config",
        ],
    ),
    (
        "cli",
        &[
            "names",
            "sample",
            "refusal",
            "catalog",
            "store",
            "dial",
            "mcp",
            "route",
            "identity",
            "access",
            "limit",
            "credentials",
            "upstream",
            "client",
            "record",
            "snapshot",
            "endpoints",
            "gateway",
            "config",
            "app",
        ],
    ),
];

/// A crate (or a module of std) and the only places that may name it: files, or folders with everything in them.
pub const NAMED_ONLY_IN: &[(&str, &[&str])] = &[
    (
        "pingora",
        &[
            "src/gateway/",
            "src/gateway.rs",
            "src/app/",
            "src/app.rs",
            "src/dial.rs",
            "src/dial/",
            "src/upstream/peer.rs",
        ],
    ),
    ("sqlx", &["src/store/", "src/store.rs"]),
    ("redis", &["src/store/", "src/store.rs"]),
    ("prometheus", &["src/record/", "src/record.rs"]),
    ("opentelemetry_proto", &["src/record/trace/"]),
    ("prost", &["src/record/trace/"]),
    ("std::env", &["src/config/env.rs"]),
];

/// Names that say nothing about what is inside.
pub const SAYS_NOTHING: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "type", "types", "manager", "service", "services",
    "data", "info", "misc",
];

/// The wall for a file, its tests not counted.
pub const MAX_FILE_LINES: usize = 400;

/// The wall for a function.
pub const MAX_FUNCTION_LINES: usize = 60;
