//! Tokens of Entra ID: whole, in their time, for this gateway, of an issuer that is believed, and access tokens.

use serde_json::json;

use super::{Attempt, No, Wall, every_face, invalid, jane_in_entra, with_token};
use crate::harness::{
    entra::{
        API, CLIENT, HOME, PARTNER, STRANGER,
        keys::{self, Padding, base64url},
        minted::{Minted, Signed, issuer_v1},
    },
    openwebui::{JANE, JANE_STAMP},
    tokens::{now, session_token},
};

const EXPIRED: No = No(401, "expired_credential", "expired");

type Change = fn(Minted) -> Minted;

/// Both versions of Jane's token, each changed like this, are refused.
async fn check(wall: &Wall, what: &str, no: No, change: impl Fn(Minted) -> Minted) {
    let jane = jane_in_entra();
    for (version, minted) in [("v2", wall.idp.token(&jane)), ("v1", wall.idp.token_v1(&jane))] {
        wall.refuses(&format!("{version}: {what}"), with_token(&change(minted).sign()), no).await;
    }
}

#[tokio::test]
async fn a_token_out_of_its_time_is_refused() {
    let wall = Wall::start().await;
    let times: [(&str, No, Change); 12] = [
        ("expired", EXPIRED, |minted| minted.dated(-3700, -100)),
        ("expired long ago", EXPIRED, |minted| minted.dated(1 - now(0), 3600 - now(0))),
        ("not yet valid", invalid("not_yet_valid"), |minted| minted.claim("nbf", now(200))),
        ("issued in the future", invalid("issued_in_future"), |minted| minted.claim("iat", now(200))),
        ("without an end", invalid("no_expiry"), |minted| minted.without(&["exp"])),
        ("without a beginning", invalid("malformed"), |minted| minted.without(&["nbf"])),
        ("with its end as text", invalid("no_expiry"), |minted| minted.claim("exp", now(3600).to_string())),
        ("with an end in fractions", invalid("no_expiry"), |minted| minted.claim("exp", 1e300)),
        ("with a list of ends", invalid("no_expiry"), |minted| minted.claim("exp", json!([now(3600)]))),
        ("ending before time began", EXPIRED, |minted| minted.claim("exp", -1)),
        ("beginning in text", invalid("malformed"), |minted| minted.claim("nbf", "0")),
        ("issued in text", invalid("malformed"), |minted| minted.claim("iat", "0")),
    ];
    for (what, no, change) in times {
        check(&wall, what, no, change).await;
    }
    // A clock that is a little off is forgiven.
    let jane = jane_in_entra();
    wall.lets_in("just expired", with_token(&wall.idp.token(&jane).dated(-3600, -20).sign())).await;
    wall.lets_in("just issued", with_token(&wall.idp.token(&jane).dated(20, 3600).sign())).await;
    wall.stands().await;
}

#[tokio::test]
async fn a_token_for_somebody_else_is_refused() {
    let wall = Wall::start().await;
    let graph = "00000003-0000-0000-c000-000000000000";
    for audience in [
        json!(graph),
        json!("https://graph.microsoft.com"),
        json!(CLIENT),
        json!(format!("api://{CLIENT}")),
        json!(format!("api://{API}/")),
        json!(format!("api://{API}/Tools.Call")),
        json!(format!("https://{API}")),
        json!(format!("API://{API}")),
        json!(format!("spn:{API}")),
        json!(format!("{API} ")),
        json!(format!("{{{API}}}")),
        json!(API.replace('-', "")),
        json!([API]),
        json!([API, graph]),
        json!([graph, API]),
        json!({"0": API}),
        json!(""),
        json!(null),
        json!(0),
        json!(true),
    ] {
        check(&wall, &format!("for {audience}"), invalid("wrong_audience"), |minted| {
            minted.claim("aud", audience.clone())
        })
        .await;
    }
    let jane = jane_in_entra();
    for audience in [API.to_owned(), format!("api://{API}"), API.to_uppercase()] {
        for minted in [wall.idp.token(&jane), wall.idp.token_v1(&jane)] {
            wall.lets_in(&audience, with_token(&minted.claim("aud", audience.as_str()).sign())).await;
        }
    }
    wall.stands().await;
}

#[tokio::test]
async fn a_token_of_another_issuer_is_refused_though_a_good_key_signed_it() {
    let wall = Wall::start().await;
    let url = wall.idp.url();
    for issuer in [
        json!(wall.idp.issuer(PARTNER)),
        json!(wall.idp.issuer(STRANGER)),
        json!(wall.idp.issuer("common")),
        json!(wall.idp.issuer("{tenantid}")),
        json!(issuer_v1(PARTNER)),
        json!(format!("{url}/{HOME}/v2.0/")),
        json!(format!("{url}/{HOME}")),
        json!(format!("{url}/{HOME}/V2.0")),
        json!(format!("{url}/{}/v2.0", HOME.to_uppercase())),
        json!(format!("{url}//{HOME}/v2.0")),
        json!(format!("{url}/x/../{HOME}/v2.0")),
        json!(url.replace("http://", "https://") + "/" + HOME + "/v2.0"),
        json!(format!("https://login.microsoftonline.com/{HOME}/v2.0")),
        json!(format!("https://evil.example/{HOME}/v2.0")),
        json!(issuer_v1(HOME).trim_end_matches('/')),
        json!(format!("{}#", wall.idp.issuer(HOME))),
        json!(""),
        json!(null),
    ] {
        check(&wall, &format!("of {issuer}"), invalid("wrong_issuer"), |minted| {
            minted.claim("iss", issuer.clone())
        })
        .await;
    }
    let list = json!([wall.idp.issuer(HOME)]);
    check(&wall, "of a list", invalid("malformed"), |minted| minted.claim("iss", list.clone())).await;
    // Each version has an issuer of its own.
    let jane = jane_in_entra();
    let crossed = [
        wall.idp.token(&jane).claim("iss", issuer_v1(HOME)),
        wall.idp.token_v1(&jane).claim("iss", wall.idp.issuer(HOME)),
        wall.idp.token(&jane).claim("ver", "1.0"),
        wall.idp.token_v1(&jane).claim("ver", "2.0"),
        wall.idp.token(&jane).claim("ver", "3.0"),
        wall.idp.token(&jane).without(&["ver"]),
    ];
    for minted in crossed {
        wall.refuses("an issuer of the other version", with_token(&minted.sign()), invalid("wrong_issuer"))
            .await;
    }
    wall.stands().await;
}

#[tokio::test]
async fn a_token_of_a_tenant_that_is_not_let_in_is_refused() {
    let wall = Wall::start().await;
    let jane = jane_in_entra();
    let no = invalid("wrong_tenant");
    for tenant in [PARTNER, STRANGER] {
        wall.refuses("v2", with_token(&wall.idp.token_of(tenant, &jane).sign()), no).await;
        wall.refuses("v1", with_token(&wall.idp.token_v1_of(tenant, &jane).sign()), no).await;
        let homely = wall.idp.token_of(tenant, &jane).claim("iss", wall.idp.issuer(HOME));
        wall.refuses("under the home tenant's name", with_token(&homely.sign()), no).await;
        let homely = wall.idp.token_of(tenant, &jane).claim("tid", HOME);
        wall.refuses("under the home tenant's id", with_token(&homely.sign()), invalid("wrong_issuer")).await;
    }
    for tenant in
        [json!(""), json!("common"), json!(format!("{HOME} ")), json!(null), json!(HOME.replace('-', ""))]
    {
        check(&wall, &format!("of tenant {tenant}"), no, |minted| minted.claim("tid", tenant.clone())).await;
    }
    check(&wall, "of two tenants", invalid("malformed"), |minted| minted.claim("tid", json!([HOME]))).await;
    assert!(
        wall.idp.asked().iter().all(|asked| !asked.path.contains(PARTNER) && !asked.path.contains(STRANGER)),
        "a token made the gateway ask for a tenant's documents"
    );
    wall.stands().await;
}

#[tokio::test]
async fn what_is_no_access_token_of_a_user_is_refused() {
    let wall = Wall::start().await;
    let jane = jane_in_entra();
    let no = invalid("not_an_access_token");
    wall.refuses("an ID token for the gateway", with_token(&wall.idp.id_token(&jane).sign()), no).await;
    let for_client = wall.idp.id_token(&jane).claim("aud", CLIENT);
    wall.refuses("an ID token for a client", with_token(&for_client.sign()), invalid("wrong_audience")).await;
    check(&wall, "without scopes", no, |minted| minted.without(&["scp"])).await;
    check(&wall, "with empty scopes", no, |minted| minted.claim("scp", "")).await;
    check(&wall, "for no client", no, |minted| minted.without(&["azp", "appid"])).await;
    check(&wall, "of nobody", no, |minted| minted.without(&["oid"])).await;
    check(&wall, "of somebody by name", no, |minted| minted.claim("oid", "jane")).await;
    for typ in ["logout+jwt", "JWE", "dpop+jwt", "secevent+jwt", "id_token", "", "JWT "] {
        check(&wall, &format!("labelled `{typ}`"), invalid("wrong_label"), |minted| {
            minted.header("typ", typ)
        })
        .await;
    }
    check(&wall, "with content of its own", invalid("wrong_label"), |minted| minted.header("cty", "JWT"))
        .await;
    for crit in [json!(["b64"]), json!(["exp"]), json!([]), json!("b64"), json!({"b64": 1})] {
        check(&wall, &format!("critical {crit}"), invalid("wrong_label"), |minted| {
            minted.header("crit", crit.clone()).header("b64", false)
        })
        .await;
    }
    wall.stands().await;
}

#[tokio::test]
async fn a_token_that_was_changed_on_its_way_is_refused() {
    let wall = Wall::start().await;
    let jane = jane_in_entra();
    let good = wall.idp.token(&jane).sign();
    wall.lets_in("as it is", with_token(&good)).await;
    let parts: Vec<_> = good.split('.').collect();
    let [header, payload, signature] = parts[..] else { panic!("three parts") };
    let eve = wall.idp.token(&crate::harness::entra::User::new("eve@example.com", &jane.oid)).sign();
    let eve = eve.split('.').nth(1).unwrap();
    let wrong = invalid("wrong_signature");
    for (what, token, no) in [
        ("another's claims", format!("{header}.{eve}.{signature}"), wrong),
        ("no signature", format!("{header}.{payload}."), wrong),
        ("half a signature", format!("{header}.{payload}.{}", &signature[..171]), wrong),
        ("zeros", format!("{header}.{payload}.{}", base64url([0; 256])), wrong),
        ("a longer signature", format!("{header}.{payload}.{signature}AAAA"), wrong),
        ("a padded signature", format!("{header}.{payload}.{signature}=="), wrong),
        ("no claims", format!("{header}..{signature}"), invalid("malformed")),
        (
            "claims that are no JSON",
            format!("{header}.{}.{signature}", base64url("jane")),
            invalid("malformed"),
        ),
        ("claims in a list", format!("{header}.{}.{signature}", base64url("[{}]")), invalid("malformed")),
        ("five parts", format!("{header}..{payload}.{signature}.{signature}"), invalid("unrecognised")),
        ("four parts", format!("{good}.{signature}"), invalid("unrecognised")),
        ("two parts", format!("{header}.{payload}"), invalid("unrecognised")),
        ("spelt for URLs", good.replace('.', "%2E"), invalid("unrecognised")),
    ] {
        wall.refuses(what, with_token(&token), no).await;
    }
    let forger = keys::spare(1);
    let mut forged = wall.idp.token(&jane).claim("preferred_username", "eve@example.com");
    forged = forged.header("kid", wall.idp.signing_key().kid.as_str());
    let forged = forged.sign_as(&Signed::Rsa(&forger, Padding::Rs256));
    wall.refuses("by a forger under a good key's name", with_token(&forged), wrong).await;
    wall.stands().await;
}

#[tokio::test]
async fn a_refused_token_is_refused_on_every_face_and_nothing_weaker_is_tried() {
    let wall = Wall::start().await;
    let expired = wall.idp.token(&jane_in_entra()).dated(-3700, -100).sign();
    let good = session_token(JANE, JANE_STAMP);
    for face in every_face() {
        let what = format!("{} {}", face.method, face.path);
        wall.refuses(&what, face.clone().bearer(&expired), EXPIRED).await;
        let beside = face.bearer(&expired).line(format!("Cookie: token={good}"));
        wall.refuses(&what, beside.line("X-User-Email: jane.doe@example.com"), EXPIRED).await;
    }
    let cookie = Attempt::to("GET", "/servers").line(format!("Cookie: token={expired}"));
    wall.refuses("in a cookie", cookie, EXPIRED).await;
    let query = Attempt::to("GET", format!("/openapi.json?key={expired}"));
    wall.refuses("in a query", query, invalid("unrecognised")).await;
    wall.stands().await;
}
