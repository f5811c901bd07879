//! Where a client may be sent back to with its code: the URIs that the operator listed, and no others.
//!
//! Decides by text alone: nothing is decoded or made equal first, because a browser that reads a URI otherwise would
//! take the code elsewhere. One thing may differ, the port of a loopback address (RFC 8252 section 7.3).

use url::Url;

/// A redirect URI as the operator lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedirectUri {
    text: String,
    /// What stands before and after the port, where any port will do.
    around_port: Option<(String, String)>,
}

/// Hosts that are the client's own machine, as they are written in a URI.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];
/// Schemes by which a browser runs or shows what it is given.
const NOT_A_PLACE: [&str; 7] = ["javascript", "data", "vbscript", "about", "blob", "file", "view-source"];

impl RedirectUri {
    /// Parses `https://…`, `http://localhost…` or an app's own `scheme:…`; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}#".contains(&byte));
        let url = Url::parse(text).ok().filter(|_| plain && !text.contains('*'));
        let Some(url) = url else {
            return Err("must hold whole URIs without `#` and `*`, for example `http://localhost/callback`");
        };
        if NOT_A_PLACE.contains(&url.scheme()) {
            return Err("holds a URI with a scheme that leads to no client");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("holds a URI with a user name or password");
        }
        // Another reading of the same text would be another place.
        let is_as_read = url.as_str() == text || url.as_str().strip_suffix('/') == Some(text);
        if matches!(url.scheme(), "http" | "https") && !is_as_read {
            return Err(
                "holds a URI that is not in its plain form: lower case, without its scheme's own port or `..`",
            );
        }
        let around_port = around_port(text);
        if url.scheme() == "http" && around_port.is_none() {
            return Err(
                "holds an `http://` URI of another machine, where anybody on the way could read the code",
            );
        }
        Ok(Self { text: text.to_owned(), around_port })
    }

    /// Whether this is the URI that a client asked for.
    pub fn admits(&self, asked: &str) -> bool {
        if asked == self.text {
            return true;
        }
        let Some((before, after)) = &self.around_port else { return false };
        let port = asked.strip_prefix(before.as_str()).and_then(|rest| rest.strip_suffix(after.as_str()));
        match port {
            Some("") => true,
            Some(port) => {
                let digits = port.strip_prefix(':').filter(|port| port.bytes().all(|b| b.is_ascii_digit()));
                digits.and_then(|digits| digits.parse::<u16>().ok()).is_some_and(|number| number != 0)
            }
            None => false,
        }
    }
}

/// `http://localhost:1234/callback` as `http://localhost` and `/callback`.
fn around_port(text: &str) -> Option<(String, String)> {
    let rest = text.strip_prefix("http://")?;
    let (authority, after) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let host = LOOPBACK.into_iter().find(|host| {
        let port = authority.strip_prefix(host);
        port.is_some_and(|port| port.is_empty() || port.starts_with(':'))
    })?;
    Some((format!("http://{host}"), after.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(listed: &str, admitted: &[&str], others: &[&str]) {
        let uri = RedirectUri::parse(listed).unwrap();
        for asked in admitted {
            assert!(uri.admits(asked), "{listed} is {asked}");
        }
        for asked in others {
            assert!(!uri.admits(asked), "{listed} is not {asked}");
        }
    }

    #[test]
    fn a_client_is_sent_back_to_what_is_listed_and_nowhere_else() {
        check(
            "https://app.example.com/callback",
            &["https://app.example.com/callback"],
            &[
                "https://app.example.com/callback/",
                "https://app.example.com/callback?x=1",
                "https://app.example.com/callback#x",
                "https://app.example.com/callback/../evil",
                "https://app.example.com/Callback",
                "https://app.example.com:443/callback",
                "https://app.example.com:8443/callback",
                "https://APP.example.com/callback",
                "https://app.example.com@evil.org/callback",
                "https://app.example.com.evil.org/callback",
                "http://app.example.com/callback",
                "https://evil.org/?https://app.example.com/callback",
                "",
            ],
        );
        check("cursor://anysphere.cursor/oauth", &["cursor://anysphere.cursor/oauth"], &["cursor://x/oauth"]);
        check("com.example.app:/callback", &["com.example.app:/callback"], &["com.example.app:/other"]);
    }

    #[test]
    fn a_client_on_the_users_own_machine_may_listen_on_any_port() {
        check(
            "http://localhost:3000/callback",
            &["http://localhost/callback", "http://localhost:1/callback", "http://localhost:65535/callback"],
            &[
                "http://localhost:0/callback",
                "http://localhost:65536/callback",
                "http://localhost:+80/callback",
                "http://localhost:/callback",
                "http://localhost:80:80/callback",
                "http://localhost:80@evil.org/callback",
                "http://localhost.evil.org/callback",
                "http://localhost:80/callback/",
                "http://localhost:80/",
                "http://127.0.0.1/callback",
                "https://localhost/callback",
                "http://localhost/evil/callback",
                "http://localhost:3000/callback?a=b",
            ],
        );
        check(
            "http://127.0.0.1",
            &["http://127.0.0.1:8080"],
            &["http://127.0.0.1.evil.org", "http://127.0.0.1:8080/x"],
        );
        check("http://[::1]/c?a=b", &["http://[::1]:7/c?a=b"], &["http://[::1]:7/c", "http://[::2]:7/c?a=b"]);
        check("https://localhost:9/c", &["https://localhost:9/c"], &["https://localhost:8/c"]);
    }

    #[test]
    fn what_leads_to_no_client_cannot_be_listed() {
        for text in [
            "",
            "callback",
            "/callback",
            "http://app.example.com/callback",
            "http://localhost.evil.org/callback",
            "http://10.0.0.1/callback",
            "https://app.example.com/*",
            "https://*.example.com/callback",
            "https://app.example.com/callback#fragment",
            "https://user@app.example.com/callback",
            "https://user:password@app.example.com/callback",
            "https://APP.example.com/callback",
            "https://app.example.com:443/callback",
            "https://app.example.com/a/../b",
            "https://app.example.com\\@evil.org/callback",
            "https://caf\u{e9}.example.com/",
            "https://app.example.com/a b",
            "javascript:alert(1)",
            "JavaScript:alert(1)",
            "data:text/html,x",
            "file:///etc/passwd",
            "about:blank",
        ] {
            assert!(RedirectUri::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_admitted_uri_leads_where_the_listed_one_does(asked in "(http://(localhost|127.0.0.1)|https://localhost)(:[0-9@:]{0,6}|[.@/][a-z.]{0,6})?(/callback)?.{0,3}") {
            let listed = RedirectUri::parse("http://localhost/callback").unwrap();
            if listed.admits(&asked) {
                let url = Url::parse(&asked).unwrap();
                prop_assert_eq!((url.scheme(), url.host_str(), url.path()), ("http", Some("localhost"), "/callback"));
                prop_assert!(url.query().is_none() && url.fragment().is_none() && url.username().is_empty());
            }
        }
    }
}
