//! Objects of JSON-RPC read member by member, without copying them.
//!
//! Decides which key is which member, and that no member stands twice or in a spelling that only some parsers take
//! for it. Never decides what a member means.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};

/// Where a member of the protocol stands.
enum Key {
    At(usize),
    Other,
}

/// Reads a key of an object whose members with meaning are `known`.
///
/// A key that is one of them in another spelling is refused: some parsers match names without regard
/// to case (Go's encoding/json does, by Unicode's simple folding).
struct KeyOf(&'static [&'static str]);

impl<'de> de::DeserializeSeed<'de> for KeyOf {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyOf {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<Key, E> {
        if let Some(at) = self.0.iter().position(|known| *known == key) {
            return Ok(Key::At(at));
        }
        if self.0.iter().any(|known| folds_to(key, known)) {
            return Err(E::custom("a member in another spelling"));
        }
        Ok(Key::Other)
    }
}

/// Whether two keys are equal for parsers that do not look at case.
fn folds_to(key: &str, known: &str) -> bool {
    // For some a text ends at a NUL, and some take blanks away.
    let key = key.split('\0').next().unwrap_or_default().trim();
    // U+017F and U+212A are the two characters outside ASCII that fold into it.
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    key.chars().map(fold).eq(known.chars().map(fold))
}

/// Reads an object whose `known` members are handed to `member`, each at most once; all others are read as `Other`
/// and forgotten.
pub(super) fn object<'de, Other: Deserialize<'de>, A: MapAccess<'de>>(
    mut map: A,
    known: &'static [&'static str],
    mut member: impl FnMut(&mut A, usize) -> Result<(), A::Error>,
) -> Result<(), A::Error> {
    let mut seen = 0_u32;
    while let Some(key) = map.next_key_seed(KeyOf(known))? {
        match key {
            Key::At(at) if seen & (1 << at) != 0 => return Err(de::Error::duplicate_field(known[at])),
            Key::At(at) => {
                seen |= 1 << at;
                member(&mut map, at)?;
            }
            Key::Other => {
                map.next_value::<Other>()?;
            }
        }
    }
    Ok(())
}

/// Makes a type readable from an object by a function of its map.
macro_rules! reads_object {
    ($type:ident, $read:expr) => {
        impl<'de: 'a, 'a> serde::Deserialize<'de> for $type<'a> {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Members;
                impl<'de> serde::de::Visitor<'de> for Members {
                    type Value = $type<'de>;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }
                    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<$type<'de>, A::Error> {
                        $read(map)
                    }
                }
                deserializer.deserialize_map(Members)
            }
        }
    };
}

pub(super) use reads_object;

/// A string, borrowed where the body has it without escapes.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);
