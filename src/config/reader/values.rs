//! Values of further kinds: times with fractions, and whole tables as JSON.

use std::{ops::RangeInclusive, time::Duration};

use toml::{Spanned, de::DeValue};

use super::{Complaint, Read, Reader};

impl Reader<'_> {
    /// A time in seconds, of which there may be a fraction, as TOML's own number or in a string.
    pub(in crate::config) fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Read<Duration> {
        let Some(value) = self.take(key) else { return Ok(default) };
        let secs: Option<f64> = match value.get_ref() {
            DeValue::Integer(integer) => {
                u32::from_str_radix(integer.as_str(), integer.radix()).ok().map(f64::from)
            }
            DeValue::Float(float) => float.as_str().parse().ok(),
            DeValue::String(_) => self.text_of(key, &value)?.parse().ok(),
            _ => None,
        };
        let time = secs.and_then(|secs| Duration::try_from_secs_f64(secs).ok());
        time.filter(|time| range.contains(time)).ok_or_else(|| {
            let (least, most) = (range.start().as_secs_f64(), range.end().as_secs_f64());
            let complaint = Complaint::new(format!("must be a number of seconds from {least} to {most}"))
                .with_hint(format!("the default is {}", default.as_secs_f64()));
            self.complain(key, value.span().start, complaint)
        })
    }

    /// Whether the file has the key.
    pub(in crate::config) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// A table as JSON, none where the file does not have it.
    pub(in crate::config) fn json(&mut self, key: &'static str) -> Read<Option<String>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.get_ref() {
            DeValue::Table(_) => self.json_of(key, &value).map(|json| Some(json.to_string())),
            other => Err(self.mismatch(key, value.span().start, "a table", other)),
        }
    }

    fn json_of(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Read<serde_json::Value> {
        let unlike = || {
            let complaint = Complaint::new("holds what JSON has no word for");
            self.complain(key, value.span().start, complaint)
        };
        Ok(match value.get_ref() {
            DeValue::String(_) => self.text_of(key, value)?.into(),
            DeValue::Integer(integer) => {
                i64::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| unlike())?.into()
            }
            DeValue::Float(float) => {
                let number: f64 = float.as_str().parse().map_err(|_| unlike())?;
                serde_json::Number::from_f64(number).ok_or_else(unlike)?.into()
            }
            DeValue::Boolean(truth) => (*truth).into(),
            DeValue::Datetime(time) => time.to_string().into(),
            DeValue::Array(entries) => {
                let entries: Read<Vec<_>> = entries.iter().map(|entry| self.json_of(key, entry)).collect();
                entries?.into()
            }
            DeValue::Table(members) => {
                let members: Read<serde_json::Map<_, _>> = members
                    .iter()
                    .map(|(name, member)| Ok((name.get_ref().to_string(), self.json_of(key, member)?)))
                    .collect();
                members?.into()
            }
        })
    }
}
