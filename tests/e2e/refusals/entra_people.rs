//! Whom a good token of Entra ID names: no guest, app, foreign address or group that could be made up gets further.

use reqwest::Method;
use serde_json::{Value, json};
use toml::Table;

use super::{Attempt, FINANCE_ID, No, Wall, invalid, jane_in_entra, with_token};
use crate::harness::{
    entra::{HOME, PARTNER, User, minted::Minted},
    gateway::Setup,
    openwebui::JANE_EMAIL,
};

const OID: &str = "aaaaaaaa-0000-4000-8000-000000000002";
const NOT_GRANTED: No = No(403, "not_granted", "");

/// A call of a server that Jane may not use, so that only what a token adds could let her in.
fn to_finance(token: &str) -> Attempt {
    Attempt::to("POST", "/finance/search").bearer(token)
}

/// Believes a partner's tenant too, within its own domain.
fn with_partner(setup: Setup) -> Setup {
    let tenant = Table::from_iter([("email_domains".to_owned(), vec!["partner.example"].into())]);
    setup
        .set("auth.entra.email_domains", vec!["example.com"])
        .set(&format!("auth.entra.tenants.{PARTNER}"), tenant)
}

#[tokio::test]
async fn an_application_that_acts_for_nobody_is_refused_unless_applications_may_come() {
    let wall = Wall::start().await;
    let no = invalid("app_not_allowed");
    let app = wall.idp.app_token(OID, &["MCP-Admin"]);
    wall.refuses("an app", with_token(&app.sign()), no).await;
    wall.refuses("an app that does not say so", with_token(&app.clone().without(&["idtyp"]).sign()), no)
        .await;
    let named = app
        .clone()
        .claim("preferred_username", JANE_EMAIL)
        .claim("email", JANE_EMAIL)
        .claim("upn", JANE_EMAIL);
    wall.refuses("an app called like a user", with_token(&named.sign()), no).await;
    let scoped = app.claim("scp", "Tools.Call");
    wall.refuses("an app with a user's scopes", with_token(&scoped.sign()), invalid("malformed")).await;
    wall.stands().await;

    let wall = Wall::with(|setup| setup.set("auth.entra.apps", true)).await;
    let app = wall.idp.app_token(OID, &["Nothing-Of-Ours"]);
    let named = app.clone().claim("preferred_username", JANE_EMAIL).claim("email", JANE_EMAIL);
    wall.refuses("an app called like Jane", with_token(&named.sign()), NOT_GRANTED).await;
    wall.refuses("an app without a role", with_token(&app.sign()), NOT_GRANTED).await;
    let finance = wall.idp.app_token(OID, &["MCP-Finance"]);
    wall.lets_in("an app with a role", to_finance(&finance.sign())).await;
    wall.stands().await;
}

#[tokio::test]
async fn a_guest_is_refused_unless_guests_may_come_and_then_known_by_a_proven_address() {
    let wall = Wall::start().await;
    let no = invalid("guest_not_allowed");
    wall.refuses("a guest", with_token(&wall.idp.guest_token(OID, "jane@elsewhere.example").sign()), no)
        .await;
    wall.refuses("a guest called Jane", with_token(&wall.idp.guest_token(OID, JANE_EMAIL).sign()), no).await;
    let jane = jane_in_entra();
    for (name, value) in [
        ("acct", json!(1)),
        ("acct", json!("1")),
        ("upn", json!("jane.doe_example.com#EXT#@home.onmicrosoft.com")),
        ("upn", json!("jane.doe_example.com#ext#@home.onmicrosoft.com")),
        ("idp", json!(format!("https://sts.windows.net/{PARTNER}/"))),
        ("idp", json!("live.com")),
        ("idp", json!("mail")),
    ] {
        for minted in [wall.idp.token(&jane), wall.idp.token_v1(&jane)] {
            wall.refuses(
                &format!("{name} {value}"),
                with_token(&minted.claim(name, value.clone()).sign()),
                no,
            )
            .await;
        }
    }
    wall.stands().await;

    let wall = Wall::with(|setup| with_partner(setup).set("auth.entra.guests", true)).await;
    let guest = |email: &str| wall.idp.guest_token(OID, email);
    // Whoever runs the guest's own directory can call them anything; how they were invited is the home tenant's word.
    let pretender =
        guest("eve@elsewhere.example").claim("preferred_username", JANE_EMAIL).claim("email", JANE_EMAIL);
    wall.refuses("a guest who calls himself Jane", with_token(&pretender.sign()), NOT_GRANTED).await;
    let nameless = guest("eve@elsewhere.example").without(&["upn"]).claim("email", JANE_EMAIL);
    wall.refuses("a guest without a proven address", with_token(&nameless.sign()), invalid("no_email")).await;
    let unproven = nameless.claim("xms_edov", false);
    wall.refuses("a guest with an unproven address", with_token(&unproven.sign()), invalid("no_email")).await;
    let foreign = invalid("email_outside_domains");
    wall.refuses("a guest invited as a member", with_token(&guest(JANE_EMAIL).sign()), foreign).await;
    wall.refuses("a guest invited as a partner", with_token(&guest("x@partner.example").sign()), foreign)
        .await;
    let of_partner = wall.idp.token_of(PARTNER, &User::new("x@partner.example", OID)).claim("acct", 1);
    wall.refuses("a guest of a partner", with_token(&of_partner.sign()), no).await;
    wall.stands().await;
}

#[tokio::test]
async fn a_tenant_speaks_for_its_own_domains_and_its_own_groups_alone() {
    let wall = Wall::with(with_partner).await;
    let of_partner = |email: &str| wall.idp.token_of(PARTNER, &User::new(email, OID));
    let foreign = invalid("email_outside_domains");
    for email in [
        JANE_EMAIL,
        "Jane.Doe@EXAMPLE.com",
        "x@sub.partner.example",
        "x@partner.example.evil",
        "x@partner.exampl",
        "x@evilpartner.example",
    ] {
        wall.refuses(email, with_token(&of_partner(email).sign()), foreign).await;
    }
    for (name, email) in [("email", JANE_EMAIL), ("upn", JANE_EMAIL), ("unique_name", JANE_EMAIL)] {
        let minted = of_partner("x").claim(name, email);
        wall.refuses(name, with_token(&minted.sign()), foreign).await;
        let beside = of_partner("x@partner.example").claim(name, email);
        wall.refuses(name, with_token(&beside.sign()), NOT_GRANTED).await;
    }
    let of_home = wall.idp.token(&User::new("x@partner.example", OID));
    wall.refuses("the home tenant for a partner's domain", with_token(&of_home.sign()), foreign).await;
    let ours = of_partner("x@partner.example").claim("roles", json!(["MCP-Admin", "MCP-Finance"]));
    wall.refuses("roles of a partner's admins", to_finance(&ours.sign()), NOT_GRANTED).await;
    let mixed = of_partner("x@partner.example").claim("iss", wall.idp.issuer(HOME));
    wall.refuses(
        "a partner under the home tenant's name",
        with_token(&mixed.sign()),
        invalid("wrong_issuer"),
    )
    .await;
    let mixed = wall.idp.token(&jane_in_entra()).claim("iss", wall.idp.issuer(PARTNER));
    wall.refuses("Jane under a partner's name", with_token(&mixed.sign()), invalid("wrong_issuer")).await;
    wall.lets_in("Jane herself", with_token(&wall.idp.token(&jane_in_entra()).sign())).await;
    wall.stands().await;
}

#[tokio::test]
async fn an_address_that_is_none_is_nobody() {
    let wall = Wall::start().await;
    let no_names = |minted: Minted| minted.without(&["preferred_username", "email", "upn", "unique_name"]);
    let jane = jane_in_entra();
    for minted in [wall.idp.token(&jane), wall.idp.token_v1(&jane)] {
        wall.refuses("nothing", with_token(&no_names(minted.clone()).sign()), invalid("no_email")).await;
        for name in [
            "",
            "jane",
            "+48 123 456 789",
            "live.com#jane.doe@example.com",
            "@example.com",
            "jane.doe@",
            "a@b@c",
        ] {
            let token = no_names(minted.clone()).claim("preferred_username", name).claim("upn", name).sign();
            wall.refuses(name, with_token(&token), invalid("no_email")).await;
        }
        for odd in [json!([JANE_EMAIL]), json!({"email": JANE_EMAIL}), json!(1), json!(true)] {
            let token = no_names(minted.clone()).claim("preferred_username", odd.clone()).sign();
            wall.refuses(&odd.to_string(), with_token(&token), invalid("malformed")).await;
        }
    }
    wall.stands().await;
}

#[tokio::test]
async fn an_address_that_only_looks_like_anothers_is_another() {
    let wall = Wall::start().await;
    for email in [
        "jane.doe@example.com\u{200b}",
        "jane.doe@example.com.",
        "jane.doe@example\u{3002}com",
        "jane.doe\u{ff20}example.com",
        "j\u{e1}ne.doe@example.com",
        "jane.d\u{43e}e@example.com",
        "jane.doe+x@example.com",
        "janedoe@example.com",
        "jane.doe@EXAMPLE.COM.evil.example",
        "jane.doe%40example.com@evil.example",
        "jane.doe@xn--example.com",
    ] {
        for minted in [wall.idp.token(&User::new(email, OID)), wall.idp.token_v1(&User::new(email, OID))] {
            let answer = wall.answer(&with_token(&minted.sign())).await;
            assert!(matches!(answer.status, 401 | 403), "{email}: {} {}", answer.status, answer.text());
            assert_eq!(wall.heard(), 0, "{email}");
        }
    }
    let upper = User::new("JANE.DOE@Example.COM", OID);
    wall.lets_in("capitals", with_token(&wall.idp.token(&upper).sign())).await;
    wall.stands().await;
}

#[tokio::test]
async fn a_user_named_beside_a_token_must_be_its_own() {
    let wall = Wall::start().await;
    let token = wall.idp.token(&jane_in_entra()).sign();
    let named = |email: &str| with_token(&token).line(format!("X-OpenWebUI-User-Email: {email}"));
    for email in ["eve@example.com", "", "jane.doe@example.com,eve@example.com"] {
        wall.refuses(email, named(email), No(403, "identity_mismatch", "user_mismatch")).await;
    }
    wall.lets_in("her own", named("Jane.Doe@example.com")).await;
    wall.stands().await;
}

#[tokio::test]
async fn a_group_counts_by_its_id_and_never_by_a_name_that_somebody_chose() {
    let wall = Wall::start().await;
    let jane = wall.idp.token(&jane_in_entra());
    let nobody_made = "cccccccc-0000-4000-8000-000000000001";
    for (name, value) in [
        ("groups", json!(["MCP-Admin"])),
        ("groups", json!(["MCP-Finance"])),
        ("groups", json!([nobody_made, "MCP-Finance", "HOME\\MCP-Admin"])),
        (
            "groups",
            json!([FINANCE_ID.replace('-', ""), format!("{{{FINANCE_ID}}}"), format!(" {FINANCE_ID}")]),
        ),
        ("groups", json!([])),
        ("wids", json!(["62e90394-69f5-4237-9190-012177145e10", FINANCE_ID, "MCP-Admin"])),
        ("group", json!(["MCP-Admin", FINANCE_ID])),
        ("Groups", json!([FINANCE_ID])),
        ("scp", json!("Tools.Call MCP-Admin MCP-Finance")),
        ("name", json!("MCP-Admin")),
        ("admin", json!(true)),
        ("role", json!("MCP-Admin")),
        ("is_admin", json!("true")),
        ("extension_groups", json!(["MCP-Admin"])),
    ] {
        let token = jane.clone().claim(name, value.clone()).sign();
        wall.refuses(&format!("{name} {value}"), to_finance(&token), NOT_GRANTED).await;
    }
    for (name, value) in [
        ("groups", json!(FINANCE_ID)),
        ("groups", json!({"0": FINANCE_ID})),
        ("groups", json!([1])),
        ("groups", json!([[FINANCE_ID]])),
        ("roles", json!("MCP-Finance")),
        ("roles", json!([{"value": "MCP-Admin"}])),
    ] {
        let token = jane.clone().claim(name, value.clone()).sign();
        wall.refuses(&format!("{name} {value}"), to_finance(&token), invalid("malformed")).await;
    }
    for id in [FINANCE_ID.to_owned(), FINANCE_ID.to_uppercase()] {
        wall.lets_in(&id, to_finance(&jane.clone().claim("groups", json!([id])).sign())).await;
    }
    wall.stands().await;
}

#[tokio::test]
async fn groups_that_a_token_leaves_out_are_not_taken_for_none() {
    let wall = Wall::start().await;
    let jane = wall.idp.token(&jane_in_entra());
    let source = json!({"src1": {"endpoint": format!("{}/elsewhere", wall.finance.url())}});
    for (what, token) in [
        (
            "_claim_names",
            jane.clone().claim("_claim_names", json!({"groups": "src1"})).claim("_claim_sources", source),
        ),
        ("_claim_names alone", jane.clone().claim("_claim_names", json!({"groups": "src1"}))),
        ("hasgroups", jane.clone().claim("hasgroups", true)),
        ("hasgroups as text", jane.clone().claim("hasgroups", "true")),
        ("groups:src1", jane.clone().claim("groups:src1", "x")),
        ("some, and more elsewhere", jane.claim("groups", json!([FINANCE_ID])).claim("hasgroups", true)),
    ] {
        wall.refuses(what, to_finance(&token.sign()), invalid("groups_overage")).await;
        wall.refuses(what, with_token(&token.sign()), invalid("groups_overage")).await;
    }
    wall.stands().await;
}

#[tokio::test]
async fn a_token_without_the_scope_that_is_needed_is_told_which_one_is() {
    let wall = Wall::with(|setup| setup.set("auth.entra.scopes", vec!["Tools.Call"])).await;
    let jane = wall.idp.token(&jane_in_entra());
    let no = No(403, "insufficient_scope", "insufficient_scope");
    for scopes in
        ["Files.Read", "tools.call", "Tools.Call.All", "Tools.CallTools.Call", "Tools.Call,Files.Read"]
    {
        let token = jane.clone().claim("scp", scopes).sign();
        let answer =
            wall.gateway.send(wall.gateway.request(Method::POST, "/github/mcp").bearer_auth(&token)).await;
        assert_eq!(answer.status, 403, "{scopes}: {}", answer.text());
        wall.reasons
            .lock()
            .unwrap()
            .entry("insufficient_scope".to_owned())
            .and_modify(|count| *count += 1)
            .or_insert(1);
        wall.refuses(scopes, with_token(&token), no).await;
    }
    let list: Value = json!(["Tools.Call"]);
    wall.refuses("a list", with_token(&jane.clone().claim("scp", list).sign()), invalid("malformed")).await;
    for scopes in ["Tools.Call", "Files.Read Tools.Call", "Tools.Call openid"] {
        wall.lets_in(scopes, with_token(&jane.clone().claim("scp", scopes).sign())).await;
    }
    wall.stands().await;
}
