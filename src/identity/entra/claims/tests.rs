//! Claims as Entra ID writes them, and every way they can be wrong.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::identity::entra::tests::{API, APP, HOME, OID, PARTNER, settings};

const NOW: i64 = 1_800_000_000;

fn claims(base: Value, changes: &Value) -> Claims {
    let mut claims = base;
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    Claims::read(claims.to_string().as_bytes()).unwrap()
}

/// What a user's token of version 2 says.
fn delegated() -> Value {
    json!({"aud": API, "iss": format!("https://login.test/{HOME}/v2.0"), "iat": NOW, "nbf": NOW, "exp": NOW + 3600,
        "azp": APP, "name": "Jane", "oid": OID, "preferred_username": "Jane@Example.com", "scp": "Tools.Call Other",
        "sub": "pairwise", "tid": HOME, "ver": "2.0"})
}

/// What an application's token says.
fn of_app() -> Value {
    json!({"aud": API, "iss": "i", "iat": NOW, "nbf": NOW, "exp": NOW + 3600, "azp": APP, "oid": OID, "sub": OID,
        "roles": ["Jobs"], "tid": HOME, "ver": "2.0"})
}

#[track_caller]
fn check_meant(changes: Value, expected: Result<(usize, Version), &'static str>) {
    let meant = claims(delegated(), &changes).meant_for(&settings());
    let meant = meant.map(|meant| (meant.tenant, meant.version)).map_err(|refusal| refusal.why().unwrap());
    assert_eq!(meant, expected, "{changes}");
}

#[test]
fn a_token_is_meant_for_us_by_id_or_address_and_comes_from_an_allowed_tenant() {
    check_meant(json!({}), Ok((0, Version::V2)));
    check_meant(json!({"aud": format!("api://{API}")}), Ok((0, Version::V2)));
    check_meant(json!({"aud": API.to_uppercase()}), Ok((0, Version::V2)));
    check_meant(json!({"aud": "api://named/tools"}), Ok((0, Version::V2)));
    check_meant(json!({"tid": PARTNER, "ver": "1.0"}), Ok((1, Version::V1)));
    let audiences = [
        json!(APP),
        json!(format!("api://{APP}")),
        json!(format!("api://{API}/")),
        json!(format!("api://api://{API}")),
        json!(format!("https://{API}")),
        json!("api://named/Tools"),
        json!("named/tools"),
        json!(""),
        json!([API]),
        json!([API, APP]),
        json!({}),
        json!(null),
    ];
    for audience in audiences {
        check_meant(json!({"aud": audience}), Err("wrong_audience"));
    }
    for tenant in [json!("99999999-0000-0000-0000-000000000000"), json!("common"), json!(null), json!("")] {
        check_meant(json!({"tid": tenant}), Err("wrong_tenant"));
    }
    check_meant(json!({"tid": [HOME]}), Err("malformed"));
    for version in [json!(null), json!("3.0"), json!("")] {
        check_meant(json!({"ver": version}), Err("wrong_issuer"));
    }
    check_meant(json!({"ver": 2.0}), Err("malformed"));
}

#[track_caller]
fn check_dated(changes: Value, expected: Result<i64, &'static str>) {
    let dated = claims(delegated(), &changes).dated(NOW);
    assert_eq!(dated.map_err(|refusal| refusal.why().unwrap()), expected, "{changes}");
}

#[test]
fn a_token_holds_between_its_dates_with_a_minute_forgiven() {
    check_dated(json!({}), Ok(NOW + 3600));
    check_dated(json!({"exp": NOW - 60}), Ok(NOW - 60));
    check_dated(json!({"exp": NOW - 61}), Err("expired"));
    check_dated(json!({"exp": i64::MIN}), Err("expired"));
    check_dated(json!({"nbf": NOW + 60}), Ok(NOW + 3600));
    check_dated(json!({"nbf": NOW + 61}), Err("not_yet_valid"));
    check_dated(json!({"nbf": i64::MAX}), Err("not_yet_valid"));
    check_dated(json!({"iat": NOW + 61}), Err("issued_in_future"));
    check_dated(json!({"iat": null}), Err("malformed"));
    for expiry in [json!(null), json!("1900000000"), json!(1.9e9), json!([1]), json!(u64::MAX)] {
        check_dated(json!({"exp": expiry}), Err("no_expiry"));
    }
    for begin in [json!(null), json!("0"), json!(0.5)] {
        check_dated(json!({"nbf": begin}), Err("malformed"));
    }
}

#[track_caller]
fn check_in(settings: &Settings, tenant: usize, base: Value, changes: Value, expected: Result<&str, &str>) {
    let proven = claims(base, &changes).proven(settings, tenant);
    let told = proven.map(|proven| {
        let who = match proven.who {
            Who::User(email) => email.to_string(),
            Who::App(id) => format!("app:{id}"),
        };
        let groups: Vec<_> = proven.groups.iter().map(GroupName::as_str).collect();
        let more = if proven.needs_groups { " and more" } else { "" };
        format!("{who} {}{more}", groups.join(",")).trim_end().to_owned()
    });
    let told = told.map_err(|refusal| refusal.why().unwrap().to_owned());
    assert_eq!(told.as_deref().map_err(String::as_str), expected, "{changes}");
}

#[track_caller]
fn check(changes: Value, expected: Result<&str, &str>) {
    check_in(&settings(), 0, delegated(), changes, expected);
}

#[test]
fn a_user_is_known_by_the_first_claim_that_is_an_email_of_their_tenant() {
    check(json!({}), Ok("jane@example.com"));
    check(
        json!({"preferred_username": null, "email": "e@example.com", "upn": "u@example.com"}),
        Ok("u@example.com"),
    );
    check(json!({"preferred_username": "+49 170 1", "upn": "u@example.com"}), Ok("u@example.com"));
    check(json!({"preferred_username": null, "unique_name": "n@example.com"}), Ok("n@example.com"));
    check(json!({"preferred_username": null, "email": "e@example.com"}), Ok("e@example.com"));
    check(json!({"preferred_username": null}), Err("no_email"));
    check(json!({"preferred_username": ["jane@example.com"]}), Err("malformed"));
    check(json!({"preferred_username": "x#jane@example.com"}), Err("no_email"));
    // One of another domain ends the search, whatever stands beside it.
    for outside in
        ["jane@partner.test", "jane@sub.example.com", "jane@example.com.evil.test", "jane@xexample.com"]
    {
        check(
            json!({"preferred_username": outside, "upn": "jane@example.com"}),
            Err("email_outside_domains"),
        );
    }
    check_in(&settings(), 1, delegated(), json!({"tid": PARTNER}), Err("email_outside_domains"));
    let partner = json!({"tid": PARTNER, "preferred_username": "joe@partner.test"});
    check_in(&settings(), 1, delegated(), partner, Ok("joe@partner.test"));
}

#[test]
fn only_access_tokens_of_users_with_a_scope_name_users() {
    check(json!({"azp": null, "appid": APP}), Ok("jane@example.com"));
    check(json!({"azp": null}), Err("not_an_access_token"));
    check(json!({"cnf": {"jwk": {}}}), Err("not_an_access_token"));
    check(json!({"cnf": null}), Ok("jane@example.com"));
    check(json!({"azp": "an-app"}), Err("not_an_access_token"));
    check(json!({"scp": null}), Err("not_an_access_token"));
    check(json!({"scp": ""}), Err("not_an_access_token"));
    check(json!({"scp": ["Tools.Call"]}), Err("malformed"));
    check(json!({"oid": null}), Err("not_an_access_token"));
    check(json!({"oid": "jane"}), Err("not_an_access_token"));
    check(json!({"idtyp": "app"}), Err("malformed"));
    check(json!({"sub": OID}), Err("malformed"));
    check(json!({"idtyp": "user"}), Ok("jane@example.com"));
    let narrow = Settings { scopes: vec!["Tools.Call".into(), "Tools.Admin".into()], ..settings() };
    for (scopes, expected) in [
        ("Tools.Call", Ok("jane@example.com")),
        ("openid Tools.Admin", Ok("jane@example.com")),
        ("Tools.Callx", Err("insufficient_scope")),
        ("tools.call", Err("insufficient_scope")),
        ("openid profile", Err("insufficient_scope")),
    ] {
        check_in(&narrow, 0, delegated(), json!({"scp": scopes}), expected);
    }
}

#[test]
fn groups_are_object_ids_and_roles_of_whom_we_trust_to_give_them() {
    let named = "0a0a0a0a-0000-0000-0000-000000000001";
    let other = "0B0B0B0B-0000-0000-0000-000000000002";
    let groups = json!([named.to_uppercase(), other, "MCP-Admin", "", "S-1-5-21"]);
    check(
        json!({"groups": groups, "roles": ["MCP-Time", " bad ", ""], "wids": [named]}),
        Ok("jane@example.com MCP-Time,MCP-GitHub,0b0b0b0b-0000-0000-0000-000000000002"),
    );
    for odd in [json!("x"), json!({}), json!([1]), json!(true)] {
        check(json!({"groups": odd}), Err("malformed"));
        check(json!({"roles": odd}), Err("malformed"));
    }
    check(json!({"groups": vec![named; 2001]}), Err("malformed"));
    // Who gives out roles in another tenant is not ours to trust, unless the operator says so.
    let partner = json!({"tid": PARTNER, "preferred_username": "joe@partner.test", "roles": ["MCP-Admin"]});
    check_in(&settings(), 1, delegated(), partner.clone(), Ok("joe@partner.test"));
    let mut trusting = settings();
    trusting.tenants[1].are_roles_groups = true;
    check_in(&trusting, 1, delegated(), partner, Ok("joe@partner.test MCP-Admin"));
}

#[test]
fn groups_left_out_are_noticed_however_the_token_says_so() {
    let asking = Settings {
        overage: Overage::App(crate::identity::entra::Client {
            id: APP.into(),
            secret: crate::names::Secret::new("s".into()),
        }),
        ..settings()
    };
    for sign in [
        json!({"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://evil.test"}}}),
        json!({"hasgroups": true}),
        json!({"hasgroups": "true"}),
        json!({"groups:src1": "https://graph.test"}),
    ] {
        check(sign.clone(), Err("groups_overage"));
        check_in(&asking, 0, delegated(), sign, Ok("jane@example.com  and more"));
    }
    for sign in
        [json!({"hasgroups": false}), json!({"_claim_names": {"photo": "src1"}}), json!({"hasgroups": null})]
    {
        check(sign, Ok("jane@example.com"));
    }
    check(json!({"_claim_names": "groups"}), Err("malformed"));
    check(json!({"hasgroups": []}), Err("malformed"));
}

#[test]
fn guests_are_refused_unless_they_are_let_in_and_then_known_by_the_address_they_were_invited_with() {
    let upn = "jane_doe_partner.org#EXT#@home.onmicrosoft.com";
    let elsewhere = format!("https://sts.windows.net/{PARTNER}/");
    let guest = |changes: Value| {
        let mut guest = json!({"acct": 1, "idp": elsewhere, "upn": upn, "preferred_username": "ceo@example.com",
            "email": "ceo@example.com"});
        for (name, value) in changes.as_object().unwrap() {
            guest[name] = value.clone();
        }
        guest
    };
    check(guest(json!({})), Err("guest_not_allowed"));
    // Each sign alone is enough.
    for sign in [
        json!({"acct": 1}),
        json!({"acct": "1"}),
        json!({"idp": elsewhere}),
        json!({"idp": "live.com"}),
        json!({"idp": format!("https://sts.windows.net/{PARTNER}/{HOME}/")}),
        json!({"upn": upn}),
        json!({"unique_name": upn.to_lowercase()}),
        json!({"preferred_username": upn}),
    ] {
        check(sign, Err("guest_not_allowed"));
    }
    check(json!({"acct": 0, "idp": format!("https://sts.windows.net/{HOME}/")}), Ok("jane@example.com"));
    check(json!({"acct": true}), Err("malformed"));

    let welcome = Settings { guests: true, ..settings() };
    let check = |changes: Value, expected| check_in(&welcome, 0, delegated(), guest(changes), expected);
    check(json!({}), Ok("jane_doe@partner.org"));
    check(json!({"upn": "x_partner.org#ext#@home.test"}), Ok("x@partner.org"));
    check(json!({"upn": null}), Err("no_email"));
    check(json!({"upn": null, "preferred_username": upn}), Err("no_email"));
    check(json!({"upn": null, "email": "j@partner.org", "xms_edov": true}), Ok("j@partner.org"));
    check(json!({"upn": null, "email": "j@partner.org", "xms_edov": "1"}), Ok("j@partner.org"));
    for unverified in [json!(false), json!(0), json!("0"), json!(null), json!([])] {
        check(json!({"upn": null, "email": "j@partner.org", "xms_edov": unverified}), Err("no_email"));
    }
    for odd in
        ["#EXT#@home.test", "partner.org#EXT#@h", "a@b_c.org#EXT#@h", "a_local#EXT#@h", "_x.org#EXT#@h"]
    {
        check(json!({"upn": odd}), Err("no_email"));
    }
    // A member's address is a member's alone.
    check(json!({"upn": "ceo_example.com#EXT#@home.test"}), Err("email_outside_domains"));
    check(json!({"upn": "ceo_partner.test#EXT#@home.test"}), Err("email_outside_domains"));
    check(json!({"upn": null, "email": "ceo@example.com", "xms_edov": true}), Err("email_outside_domains"));
    check_in(&welcome, 1, delegated(), guest(json!({"tid": PARTNER})), Err("guest_not_allowed"));
}

#[test]
fn applications_of_the_home_tenant_are_let_in_where_they_may_and_have_no_email() {
    check_in(&settings(), 0, of_app(), json!({}), Err("app_not_allowed"));
    let welcome = Settings { apps: true, ..settings() };
    let named = format!("app:{APP} Jobs");
    check_in(&welcome, 0, of_app(), json!({}), Ok(&named));
    check_in(&welcome, 0, of_app(), json!({"idtyp": "app", "sub": "x"}), Ok(&named));
    check_in(
        &welcome,
        0,
        of_app(),
        json!({"preferred_username": "ceo@example.com", "hasgroups": true}),
        Ok(&named),
    );
    check_in(&welcome, 0, of_app(), json!({"sub": "x"}), Err("not_an_access_token"));
    check_in(&welcome, 0, of_app(), json!({"azp": null}), Err("not_an_access_token"));
    check_in(&welcome, 1, of_app(), json!({"tid": PARTNER}), Err("app_not_allowed"));
}

#[test]
fn claims_are_a_json_object() {
    for odd in ["", "[]", "null", "1", "\"x\"", "{", "{}x"] {
        assert!(Claims::read(odd.as_bytes()).is_err(), "{odd}");
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~]{0,40}".prop_map(Value::from),
        Just(json!(HOME)),
        Just(json!("a_b.c#EXT#@d")),
        "\\PC{0,20}#(EXT|ext)#\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map("[a-z]{1,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_claims_make_it_panic(
        name in proptest::sample::select(vec!["aud", "tid", "ver", "iss", "exp", "nbf", "iat", "azp", "appid", "oid",
            "sub", "scp", "idtyp", "acct", "idp", "upn", "preferred_username", "email", "unique_name", "xms_edov",
            "roles", "groups", "hasgroups", "_claim_names"]),
        value in json_value(),
        is_app in any::<bool>(),
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        drop(Claims::read(&bytes));
        let open = Settings { guests: true, apps: true, ..settings() };
        let claims = claims(if is_app { of_app() } else { delegated() }, &json!({name: value}));
        drop(claims.meant_for(&open));
        drop(claims.dated(NOW));
        drop(claims.issuer());
        for tenant in 0..2 {
            drop(claims.proven(&open, tenant));
        }
    }

    #[test]
    fn no_guest_is_taken_for_a_member(upn in "[ -~]{0,40}(_example.com)?#EXT#[ -~]{0,20}", edov in any::<bool>()) {
        let open = Settings { guests: true, ..settings() };
        let changes = json!({"upn": upn, "email": "ceo@example.com", "xms_edov": edov});
        if let Ok(Proven { who: Who::User(email), .. }) = claims(delegated(), &changes).proven(&open, 0) {
            prop_assert!(!email.as_str().ends_with("@example.com"), "{}", email);
        }
    }
}
