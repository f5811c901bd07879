//! What a client says in a query or a form, each parameter once (RFC 6749 section 3.1).
//!
//! Decides what was said, without an opinion on it. A parameter without a value counts as not said, as the RFC wants.

use super::{OAuthError, Word};

/// Parameters in the order they were sent.
pub struct Parameters(Vec<(String, String)>);

/// The one parameter that may stand several times (RFC 8707 section 2).
const MAY_REPEAT: &str = "resource";

impl Parameters {
    /// Takes a query or a form apart.
    pub fn read(text: &[u8]) -> Self {
        let pairs = form_urlencoded::parse(text).filter(|(_, value)| !value.is_empty());
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that is there once; none where it is absent or repeated.
    pub fn only<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let mut values = self.all(name);
        let value = values.next()?;
        values.next().is_none().then_some(value)
    }

    /// The value of a parameter that must be there.
    pub fn required<'a>(&'a self, name: &'static str, sentence: &'static str) -> Result<&'a str, OAuthError> {
        self.only(name).ok_or(OAuthError { word: Word::InvalidRequest, sentence })
    }

    /// Refuses a request that says anything twice: another parser might hear the other.
    pub fn refuse_repeated(&self) -> Result<(), OAuthError> {
        let mut names: Vec<_> =
            self.0.iter().map(|(name, _)| name).filter(|name| *name != MAY_REPEAT).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            let sentence = "a parameter is there more than once";
            return Err(OAuthError { word: Word::InvalidRequest, sentence });
        }
        Ok(())
    }
}

/// Whether a value is of the characters that RFC 6749 appendix A allows in a state or code: `VSCHAR`.
pub fn is_visible(value: &str) -> bool {
    value.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_said_once_or_not_at_all() {
        let said = Parameters::read(b"a=1&b=2&b=3&c=&d=x%20y%2Bz+w&resource=r&resource=s&e");
        assert_eq!(said.only("a"), Some("1"));
        assert_eq!(said.only("b"), None);
        assert_eq!(said.only("c"), None);
        assert_eq!(said.only("d"), Some("x y+z w"));
        assert_eq!(said.only("e"), None);
        assert_eq!(said.all("resource").collect::<Vec<_>>(), ["r", "s"]);
        for (text, is_refused) in [
            ("a=1&b=2", false),
            ("a=1&a=1", true),
            ("a=1&%61=2", true),
            ("a=1&a=", false),
            ("resource=1&resource=2", false),
        ] {
            assert_eq!(Parameters::read(text.as_bytes()).refuse_repeated().is_err(), is_refused, "{text}");
        }
    }
}
