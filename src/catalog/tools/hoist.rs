//! What references in a document, or in the schemas of a list, point at.
//!
//! Decides which references are followed and which schemas come along, under names of the server's own.
//! Follows nothing that leaves the document, and writes no more than a fixed multiple of the document's size,
//! however its parts refer to each other.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use anyhow::{Result, bail};
use serde_json::Value;

use super::{
    Fragment,
    schemas::{COMPONENTS, References, schema},
};

/// How many times the document's own size its schemas may take once they no longer share parts.
const EXPANSION: usize = 8;
/// Room for small documents, whose parts repeat more.
const EXPANSION_BASE: usize = 64 * 1024;
/// Longest chain of references followed to find a parameter, body or answer.
const MAX_CHAIN: usize = 8;
/// Longest reference followed, in bytes.
const MAX_POINTER: usize = 1_024;
/// The schema that takes every value.
pub(super) const ANYTHING: Value = Value::Bool(true);

/// Gathers the schemas that tools refer to, under names of their own.
pub(super) struct Hoist<'d> {
    pub(super) document: &'d Value,
    /// Where in `document` the schema stands that references are relative to; empty: they are so to the document.
    base: String,
    /// Name by JSON pointer.
    names: HashMap<String, String>,
    /// Names that are taken.
    taken: HashSet<String>,
    /// How often a name was wanted, so that many equal ones need no search.
    wanted: HashMap<String, usize>,
    /// Base and pointer of what is still to be written.
    pending: VecDeque<(String, String)>,
    budget: usize,
}

impl<'d> Hoist<'d> {
    /// Begins with a document that took this many bytes.
    pub(super) fn new(document: &'d Value, bytes: usize) -> Self {
        Self {
            document,
            base: String::new(),
            names: HashMap::new(),
            taken: HashSet::new(),
            wanted: HashMap::new(),
            pending: VecDeque::new(),
            budget: EXPANSION * bytes + EXPANSION_BASE,
        }
    }

    /// A schema of the document, rewritten.
    pub(super) fn fragment(&mut self, value: &Value) -> Result<Fragment> {
        Ok(Fragment::new(&schema(value, self)?))
    }

    /// Takes the schema at this place for one that stands alone: from now on references are relative to it.
    pub(super) fn enter(&mut self, place: String) -> &'d Value {
        let schema = self.document.pointer(&place).unwrap_or(&ANYTHING);
        self.base = place;
        schema
    }

    /// The schemas referred to, by name, and those they refer to in turn.
    pub(super) fn finish(mut self) -> Result<BTreeMap<String, Fragment>> {
        let document = self.document;
        let mut components = BTreeMap::new();
        while let Some((base, pointer)) = self.pending.pop_front() {
            self.base = base;
            let target = document.pointer(&pointer).unwrap_or(&ANYTHING);
            components.insert(self.names[&pointer].clone(), self.fragment(target)?);
        }
        Ok(components)
    }

    /// Whether an object that fits this schema may have a property named `arguments`.
    pub(super) fn takes_arguments_key(&mut self, input: &Value) -> Result<bool> {
        let mut seen = HashSet::new();
        let mut pending = vec![input];
        while let Some(schema) = pending.pop() {
            self.charge(1)?;
            if !seen.insert(std::ptr::from_ref(schema)) {
                continue;
            }
            if schema.get("properties").is_some_and(|properties| properties.get("arguments").is_some()) {
                return Ok(true);
            }
            let reference = schema.get("$ref").and_then(Value::as_str);
            let place = reference.and_then(|reference| self.place(reference));
            pending.extend(place.and_then(|place| self.document.pointer(&place)));
            pending.extend(["then", "else"].into_iter().filter_map(|keyword| schema.get(keyword)));
            let lists = ["allOf", "anyOf", "oneOf"].into_iter();
            pending.extend(lists.filter_map(|keyword| schema.get(keyword)?.as_array()).flatten());
        }
        Ok(false)
    }

    /// Where in the document a reference points.
    fn place(&self, reference: &str) -> Option<String> {
        if reference == "#" && !self.base.is_empty() {
            return Some(self.base.clone());
        }
        Some(format!("{}{}", self.base, pointer(reference)?))
    }

    /// A text of the document, unless it is missing or empty.
    pub(super) fn text(&mut self, value: &Value, member: &str) -> Result<Option<String>> {
        let text = value.get(member).and_then(Value::as_str).filter(|text| !text.is_empty());
        self.charge(text.map_or(0, str::len))?;
        Ok(text.map(str::to_owned))
    }

    /// A name for the schema at this pointer that no other has: `Pet`, then `Pet_2`.
    fn name(&mut self, pointer: &str) -> String {
        let keep = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') { c } else { '_' };
        let last = pointer.rsplit('/').next().filter(|last| !last.is_empty()).unwrap_or("schema");
        let base: String = last.chars().take(100).map(keep).collect();
        loop {
            let count = self.wanted.entry(base.clone()).or_default();
            *count += 1;
            let name = if *count == 1 { base.clone() } else { format!("{base}_{count}") };
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }
}

impl References for Hoist<'_> {
    fn replace(&mut self, reference: &str) -> Option<String> {
        let pointer = self.place(reference)?;
        // Only schemas become components: not operations, nor anything with servers or security in it.
        let is_schema = !self.base.is_empty()
            || pointer.starts_with("/components/schemas/")
            || pointer.split('/').any(|token| token == "schema");
        let target = self.document.pointer(&pointer)?;
        if !is_schema || !(target.is_object() || target.is_boolean()) {
            return None;
        }
        if !self.names.contains_key(&pointer) {
            let name = self.name(&pointer);
            self.names.insert(pointer.clone(), name);
            self.pending.push_back((self.base.clone(), pointer.clone()));
        }
        Some(format!("{COMPONENTS}{}", self.names[&pointer]))
    }

    fn charge(&mut self, bytes: usize) -> Result<()> {
        let Some(left) = self.budget.checked_sub(bytes) else {
            bail!("the schemas of the tool list take more than {EXPANSION} times its size once written out")
        };
        self.budget = left;
        Ok(())
    }
}

/// What a value is once its `$ref`s within the document are followed.
pub(super) fn follow<'d>(document: &'d Value, value: &'d Value) -> Option<&'d Value> {
    let mut value = value;
    for _ in 0..MAX_CHAIN {
        let Some(reference) = value.get("$ref").and_then(Value::as_str) else {
            return Some(value);
        };
        value = document.pointer(&pointer(reference)?)?;
    }
    None
}

/// The JSON pointer in a reference to the same document (RFC 6901, section 6).
pub(super) fn pointer(reference: &str) -> Option<String> {
    let fragment = reference.strip_prefix('#').filter(|fragment| fragment.len() <= MAX_POINTER)?;
    percent_decoded(fragment).filter(|pointer| pointer.starts_with('/'))
}

/// Undoes percent-encoding (RFC 3986, section 2.1); none when it is malformed or not UTF-8.
pub(super) fn percent_decoded(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        decoded.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(decoded).ok()
}
