//! Numbers of a file: whole ones within a range, and fractions.
//!
//! Decides what a number is, as TOML's own or in a string. Never decides what it counts: callers bring the range.

use std::{ops::RangeInclusive, time::Duration};

use toml::de::DeValue;

use super::{Read, Reader};
use crate::config::problems::Complaint;

impl Reader<'_> {
    /// A whole number within a range, as TOML's own or in a string.
    pub(in crate::config) fn integer(
        &mut self,
        key: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Read<u64> {
        let Some(value) = self.take(key) else { return Ok(default) };
        let number = match value.get_ref() {
            DeValue::Integer(integer) => u64::from_str_radix(integer.as_str(), integer.radix()).ok(),
            DeValue::String(_) => self.text_of(key, &value)?.parse().ok(),
            _ => None,
        };
        number.filter(|number| range.contains(number)).ok_or_else(|| {
            let sentence = format!("must be a whole number from {} to {}", range.start(), range.end());
            let complaint = Complaint::new(sentence).with_hint(format!("the default is {default}"));
            self.complain(key, value.span().start, complaint)
        })
    }

    /// A whole number that counts or measures something in memory.
    pub(in crate::config) fn size(
        &mut self,
        key: &'static str,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> Read<usize> {
        let range = u64::from(*range.start())..=u64::from(*range.end());
        // The range ends within 32 bits, so nothing is lost.
        Ok(self.integer(key, u64::from(default), range)? as usize)
    }

    /// A number from 0 to 1, as TOML's own or in a string; `default` is read as if the file had it.
    pub(in crate::config) fn fraction(&mut self, key: &'static str, default: &str) -> Read<f64> {
        let parse = |text: &str| {
            let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
            number.ok_or_else(|| {
                Complaint::new("must be a number from 0 to 1").with_hint("`0.1` is one in ten")
            })
        };
        let Some(value) = self.take(key) else { return self.by_default(key, default, parse) };
        let text = match value.get_ref() {
            DeValue::Integer(integer) => integer.as_str().to_owned(),
            DeValue::Float(float) => float.as_str().to_owned(),
            DeValue::String(_) => self.text_of(key, &value)?,
            other => return Err(self.mismatch(key, value.span().start, "a number", other)),
        };
        parse(&text).map_err(|complaint| self.complain(key, value.span().start, complaint))
    }

    /// A time in whole seconds.
    pub(in crate::config) fn seconds(
        &mut self,
        key: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Read<Duration> {
        self.integer(key, default, range).map(Duration::from_secs)
    }
}
