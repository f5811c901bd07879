//! What MCP clients are told of something a server offers: its own words, under a name of the gateway's.
//!
//! Decides where the name stands in an object of MCP and what of its annotations the gateway goes by. Every other byte
//! stays as the server wrote it, so unknown members and the spelling of numbers survive. Never decides which name.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};

/// An object of MCP (a tool, a prompt, a resource, a template), split around the text that clients call it by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Definition {
    before: Box<str>,
    after: Box<str>,
}

impl Definition {
    /// Splits an object around one of its values, a part of the same text; none when it is not.
    pub(in crate::catalog) fn around(object: &str, key: &str) -> Option<Self> {
        let start = (key.as_ptr() as usize).checked_sub(object.as_ptr() as usize)?;
        let before = object.get(..start)?;
        let after = object.get(start..)?.strip_prefix(key)?;
        Some(Self { before: before.into(), after: after.into() })
    }

    /// An object of these members, written out, behind its `name`; `members` is an object itself.
    pub(super) fn of_members(members: &str) -> Option<Self> {
        let inner = members.strip_prefix('{')?.strip_suffix('}')?;
        let comma = if inner.trim().is_empty() { "" } else { "," };
        Some(Self { before: r#"{"name":"#.into(), after: format!("{comma}{inner}}}").into() })
    }

    /// Writes the object with this name (or address) in place of the server's own.
    pub fn write(&self, name: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(self.before.as_bytes());
        serde_json::to_writer(&mut *out, name).expect("a text is always JSON, and memory takes it");
        out.extend_from_slice(self.after.as_bytes());
    }

    /// The names of a tool's arguments, as its input schema has them.
    pub(super) fn parameters(&self) -> Vec<String> {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Told {
            input_schema: Schema,
        }
        #[derive(Default, Deserialize)]
        struct Schema {
            #[serde(default)]
            properties: BTreeMap<String, IgnoredAny>,
        }
        let mut object = Vec::with_capacity(self.size());
        self.write("", &mut object);
        let told: Told = serde_json::from_slice(&object).unwrap_or_default();
        told.input_schema.properties.into_keys().collect()
    }

    /// About how many bytes [`Self::write`] writes.
    pub fn size(&self) -> usize {
        self.before.len() + self.after.len() + 64
    }
}

/// What a server says of a tool's effects. Its word alone: nothing about access follows from it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hints {
    /// It changes nothing.
    pub is_read_only: bool,
    /// A second call with the same arguments changes nothing further.
    pub is_idempotent: bool,
}

impl Hints {
    /// Reads `annotations` of a tool; what is no annotation says nothing.
    pub(super) fn read(annotations: &str) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Annotations {
            read_only_hint: Option<bool>,
            idempotent_hint: Option<bool>,
        }
        let read: Annotations = serde_json::from_str(annotations).unwrap_or_default();
        Self {
            is_read_only: read.read_only_hint.unwrap_or_default(),
            is_idempotent: read.idempotent_hint.unwrap_or_default(),
        }
    }

    /// Whether a call may be sent again although the first may have been run.
    pub fn is_repeatable(self) -> bool {
        self.is_read_only || self.is_idempotent
    }
}
