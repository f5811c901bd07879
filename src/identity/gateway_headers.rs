//! A trusted gateway in front that knows the user, and says who in `X-User-*` headers.
//!
//! Decides from whom such headers are believed and whom they name. Never believes them from anywhere else: there they
//! are claims of a client, and this scheme has nothing to say. Asked first, because such a gateway has already decided.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{
    Verdict,
    caller::{Caller, Person, Proof, Scheme},
    reason::Reason,
};
use crate::{
    names::{Email, GroupName, Network, Secret},
    refusal::Refusal,
};

/// Which gateway is believed, and how it writes groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Addresses that such a gateway calls from.
    pub trusted_proxies: Vec<Network>,
    /// What it also has to send in `X-Gateway-Secret`.
    pub shared_secret: Option<Secret<String>>,
    /// How `X-User-Groups` is written.
    pub groups_format: GroupsFormat,
}

/// How `X-User-Groups` is written.
///
/// In neither form is anything decoded further (no `%2C`, no quotes within a comma list): a group whose name can be
/// chosen must not turn into another one, or into two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GroupsFormat {
    /// Names between commas, so none of them may have one.
    #[default]
    Comma,
    /// A JSON array of strings.
    Json,
}

/// The scheme.
pub struct GatewayHeaders {
    trusted: Vec<Network>,
    secret_sha256: Option<[u8; 32]>,
    groups_format: GroupsFormat,
}

impl GatewayHeaders {
    /// The scheme of these settings.
    pub fn new(settings: &Settings) -> Self {
        Self {
            trusted: settings.trusted_proxies.clone(),
            secret_sha256: settings
                .shared_secret
                .as_ref()
                .map(|secret| Sha256::digest(secret.expose()).into()),
            groups_format: settings.groups_format,
        }
    }

    /// Whether a secret has to be sent besides.
    pub fn has_secret(&self) -> bool {
        self.secret_sha256.is_some()
    }

    /// Whether what was said there, with this secret, is believed still.
    pub fn still_believes(&self, (from, secret_sha256): (IpAddr, Option<[u8; 32]>)) -> bool {
        self.trusts(from) && (self.secret_sha256.is_none() || self.secret_sha256 == secret_sha256)
    }

    fn trusts(&self, from: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(from))
    }

    /// What a request with these headers says about its user; `from` is the address it came from.
    ///
    /// That each header stands once, in one spelling, has been looked at before (`presented`).
    pub fn judge(&self, headers: &HeaderMap, from: Option<IpAddr>) -> Verdict {
        if !from.is_some_and(|from| self.trusts(from)) {
            return Verdict::NotMine;
        }
        if let Some(secret) = &self.secret_sha256 {
            let Some(sent) = headers.get("x-gateway-secret") else {
                // Somebody else on the gateway's machine, who has a credential of their own or none.
                return Verdict::NotMine;
            };
            let sent: [u8; 32] = Sha256::digest(sent.as_bytes()).into();
            if !bool::from(sent.ct_eq(secret)) {
                return Verdict::Failed(Reason::GatewaySecretWrong.refuse());
            }
        }
        let Some(email) = headers.get("x-user-email") else {
            return Verdict::NotMine;
        };
        match self.person(email, headers) {
            Ok(person) => {
                let gateway = from.map(|from| (from, self.secret_sha256));
                let proof = Proof { gateway, ..Proof::default() };
                Verdict::Known(Caller::new(person, Scheme::GatewayHeaders, proof))
            }
            Err(refusal) => Verdict::Failed(refusal),
        }
    }

    fn person(&self, email: &HeaderValue, headers: &HeaderMap) -> Result<Person, Refusal> {
        let bad = |what| move || Reason::BadGatewayHeader.because(format!("`{what}` is malformed"));
        // An empty one too: a gateway that names nobody has to leave the header out.
        let email = text(email).and_then(|text| Email::parse(text).ok()).ok_or_else(bad("X-User-Email"))?;
        let groups = match headers.get("x-user-groups") {
            Some(groups) => self.groups(groups).ok_or_else(bad("X-User-Groups"))?,
            None => Vec::new(),
        };
        let person = Person::user(email, groups);
        let is_admin =
            headers.get("x-user-admin").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"));
        Ok(if is_admin { person.admin() } else { person })
    }

    fn groups(&self, value: &HeaderValue) -> Option<Vec<GroupName>> {
        let text = text(value)?;
        match self.groups_format {
            GroupsFormat::Comma => {
                let parts = text.split(',').map(|part| part.trim_matches([' ', '\t']));
                // Whoever quotes or escapes has commas within names: split there, a name would give another.
                if parts.clone().any(|part| part.starts_with('"') || part.ends_with('\\')) {
                    return None;
                }
                // One that is no name refuses all: what else it may have been is not for guessing.
                parts.filter(|part| !part.is_empty()).map(|part| GroupName::parse(part).ok()).collect()
            }
            GroupsFormat::Json => {
                let names: Vec<String> = serde_json::from_str(text).ok()?;
                names.iter().map(|name| GroupName::parse(name).ok()).collect()
            }
        }
    }
}

/// A header's bytes as UTF-8, which is what every gateway writes that writes more than ASCII.
fn text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use proptest::prelude::*;

    use super::*;

    const GATEWAY: &str = "10.0.0.1";

    fn scheme(secret: Option<&str>, groups_format: GroupsFormat) -> GatewayHeaders {
        let trusted_proxies = vec![Network::parse("10.0.0.0/8").unwrap(), Network::parse("::1").unwrap()];
        let shared_secret = secret.map(|secret| Secret::new(secret.to_owned()));
        GatewayHeaders::new(&Settings { trusted_proxies, shared_secret, groups_format })
    }

    fn headers<'h>(lines: impl IntoIterator<Item = (&'h str, &'h [u8])>) -> HeaderMap {
        let lines = lines.into_iter().map(|(name, value)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value).unwrap())
        });
        lines.collect()
    }

    /// What the scheme says, in a word or the caller it knows.
    fn said(scheme: &GatewayHeaders, from: &str, lines: &[(&str, &str)]) -> String {
        let lines = headers(lines.iter().map(|(name, value)| (*name, value.as_bytes())));
        told(scheme.judge(&lines, Some(from.parse().unwrap())))
    }

    fn told(verdict: Verdict) -> String {
        match verdict {
            Verdict::Off => "off".to_owned(),
            Verdict::NotMine => "not mine".to_owned(),
            Verdict::Failed(refusal) => refusal.why().unwrap_or_default().to_owned(),
            Verdict::Known(caller) => {
                let star = if caller.is_admin() { "*" } else { "" };
                let groups: Vec<_> = caller.groups().iter().map(|group| group.as_str()).collect();
                format!("{}{star} {}", caller.name(), groups.join("|")).trim_end().to_owned()
            }
        }
    }

    #[track_caller]
    fn check(from: &str, lines: &[(&str, &str)], expected: &str) {
        assert_eq!(said(&scheme(None, GroupsFormat::Comma), from, lines), expected, "{from} {lines:?}");
    }

    #[test]
    fn only_a_trusted_address_is_believed() {
        let jane = &[("x-user-email", "Jane@Example.com")];
        for trusted in [GATEWAY, "10.255.0.1", "::ffff:10.0.0.1", "::1"] {
            check(trusted, jane, "jane@example.com");
        }
        for other in ["11.0.0.1", "192.0.2.1", "::2", "::10.0.0.1", "::ffff:11.0.0.1", "fd00::1"] {
            check(other, jane, "not mine");
        }
        let lines = headers([("x-user-email", &b"jane@example.com"[..])]);
        assert_eq!(
            told(scheme(None, GroupsFormat::Comma).judge(&lines, None)),
            "not mine",
            "nobody knows from where"
        );
    }

    #[test]
    fn a_gateway_that_names_nobody_leaves_the_request_to_other_schemes() {
        check(GATEWAY, &[], "not mine");
        check(
            GATEWAY,
            &[("x-user-groups", "MCP-Admin"), ("x-user-admin", "true"), ("x-user-name", "J")],
            "not mine",
        );
        check(GATEWAY, &[("x_user_email", "jane@example.com")], "not mine");
    }

    #[test]
    fn a_name_that_cannot_be_read_is_refused_and_not_passed_by() {
        for bad in ["", "jane", "jane@", "a@b, c@d", "a@b@c", "a b@c", "Jane <jane@example.com>"] {
            check(GATEWAY, &[("x-user-email", bad)], "bad_gateway_header");
        }
        let latin1 = headers([("x-user-email", &b"jos\xe9@example.com"[..])]);
        let from = Some(GATEWAY.parse().unwrap());
        assert_eq!(told(scheme(None, GroupsFormat::Comma).judge(&latin1, from)), "bad_gateway_header");
    }

    #[test]
    fn groups_are_what_stands_between_commas_and_nothing_else_parts_them() {
        let check = |groups: &str, expected: &str| {
            let lines = [("x-user-email", "a@x"), ("x-user-groups", groups)];
            check(GATEWAY, &lines, format!("a@x {expected}").trim_end());
        };
        check("", "");
        check(" , ,", "");
        check("B, A,\tC ,B", "A|B|C");
        check("A;MCP-Admin", "A;MCP-Admin");
        check("A MCP-Admin", "A MCP-Admin");
        check("A%2CMCP-Admin", "A%2CMCP-Admin");
        check("MCP%2DAdmin", "MCP%2DAdmin");
        check("Team \"A\",DOMAIN\\B", "DOMAIN\\B|Team \"A\"");
        check("[\"A\"]", "[\"A\"]");
        for comma in ['\u{ff0c}', '\u{3001}', '\u{201a}', '\u{fe50}', '\u{a0}'] {
            let group = format!("A{comma}MCP-Admin");
            check(&group, &group);
        }
        check("mcp-admin", "mcp-admin");
    }

    #[test]
    fn one_group_that_is_no_name_refuses_them_all() {
        let quoted = ["\"A\"", "\"A,MCP-Admin\"", "A,\"B\"", "A\\,MCP-Admin", "[\"A\",\"B\"]"];
        let unfit = ["A,\u{a0}B", "A,\u{2003}", "A\u{85}B", &"g".repeat(256)];
        for bad in quoted.into_iter().chain(unfit) {
            check(GATEWAY, &[("x-user-email", "a@x"), ("x-user-groups", bad)], "bad_gateway_header");
        }
        let latin1 = headers([("x-user-email", &b"a@x"[..]), ("x-user-groups", b"A,Zesp\xf3")]);
        let from = Some(GATEWAY.parse().unwrap());
        assert_eq!(told(scheme(None, GroupsFormat::Comma).judge(&latin1, from)), "bad_gateway_header");
    }

    #[test]
    fn groups_in_json_may_have_commas_and_must_be_an_array_of_names() {
        let said = |groups: &str| {
            let lines = [("x-user-email", "a@x"), ("x-user-groups", groups)];
            said(&scheme(None, GroupsFormat::Json), GATEWAY, &lines)
        };
        assert_eq!(said(r#"["Zespół, QA", "B"]"#), "a@x B|Zespół, QA");
        assert_eq!(said(r#"["MCP%2DAdmin"]"#), "a@x MCP%2DAdmin");
        assert_eq!(said("[]"), "a@x");
        for bad in [
            "",
            "A,B",
            r#""A""#,
            r#"{"a":1}"#,
            "null",
            r#"["A",1]"#,
            r#"["A",["B"]]"#,
            r#"[""]"#,
            r#"[" A"]"#,
            r#"["A\n"]"#,
            r#"["A"] x"#,
        ] {
            assert_eq!(said(bad), "bad_gateway_header", "{bad}");
        }
    }

    #[test]
    fn an_admin_is_who_is_called_exactly_that() {
        for (value, star) in [
            ("true", "*"),
            ("True", "*"),
            ("TRUE", "*"),
            ("1", ""),
            ("yes", ""),
            ("false", ""),
            ("", ""),
            ("true,false", ""),
            ("\"true\"", ""),
        ] {
            check(GATEWAY, &[("x-user-email", "a@x"), ("x-user-admin", value)], &format!("a@x{star}"));
        }
    }

    #[test]
    fn where_a_secret_is_set_an_address_alone_proves_nothing() {
        let scheme = scheme(Some("a-secret-of-the-gateway"), GroupsFormat::Comma);
        let with = |secret| [("x-user-email", "a@x"), ("x-gateway-secret", secret)];
        assert_eq!(said(&scheme, GATEWAY, &with("a-secret-of-the-gateway")), "a@x");
        assert_eq!(said(&scheme, GATEWAY, &[("x-user-email", "a@x")]), "not mine");
        assert_eq!(said(&scheme, "11.0.0.1", &with("a-secret-of-the-gateway")), "not mine");
        for wrong in ["", "a", "a-secret-of-the-gatewaY", "a-secret-of-the-gateway "] {
            assert_eq!(said(&scheme, GATEWAY, &with(wrong)), "gateway_secret_wrong", "{wrong:?}");
        }
        let nobody = [("x-gateway-secret", "a-secret-of-the-gateway")];
        assert_eq!(said(&scheme, GATEWAY, &nobody), "not mine");
    }

    fn value() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            "[ -~]{0,40}".prop_map(String::into_bytes),
            r#"\[?("?[A-Za-z,;\\ "-]{0,12}"?,?){0,4}\]?"#.prop_map(String::into_bytes),
        ]
    }

    proptest! {
        #[test]
        fn no_group_comes_out_that_did_not_stand_there_alone(groups in value(), is_json: bool) {
            let format = if is_json { GroupsFormat::Json } else { GroupsFormat::Comma };
            let Ok(value) = HeaderValue::from_bytes(&groups) else { return Ok(()) };
            let Some(names) = scheme(None, format).groups(&value) else { return Ok(()) };
            let text = std::str::from_utf8(&groups).unwrap();
            for name in names {
                let name = name.as_str();
                let stands = match format {
                    GroupsFormat::Comma => text.split(',').any(|part| part.trim() == name),
                    GroupsFormat::Json => serde_json::from_str::<Vec<String>>(text).unwrap().iter().any(|it| it == name),
                };
                prop_assert!(stands, "{} of {:?}", name, text);
            }
        }

        #[test]
        fn nobody_comes_out_of_headers_without_trust_and_the_right_secret(
            email in value(), groups in value(), admin in value(), secret in value(), from: IpAddr
        ) {
            let scheme = scheme(Some("a-secret-of-the-gateway"), GroupsFormat::Comma);
            let lines = [("x-user-email", email), ("x-user-groups", groups), ("x-user-admin", admin), ("x-gateway-secret", secret)];
            let lines: HeaderMap = lines.into_iter().filter_map(|(name, value)| {
                Some((HeaderName::from_static(name), HeaderValue::from_bytes(&value).ok()?))
            }).collect();
            for from in [from, GATEWAY.parse().unwrap()] {
                prop_assert!(!matches!(scheme.judge(&lines, Some(from)), Verdict::Known(_)));
            }
        }
    }
}
