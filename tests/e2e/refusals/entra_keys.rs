//! Which key proves a token of Entra ID: one that its issuer publishes for signing, by its exact name, and no other.

use std::sync::Arc;

use futures_util::future::join_all;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::{No, Wall, invalid, jane_in_entra, with_token};
use crate::harness::{
    entra::{
        CONSUMERS, Idp, PARTNER, Page,
        keys::{self, Padding, SigningKey, base64url},
        minted::{Minted, Signed},
    },
    fake_peer::FakePeer,
};

const UNKNOWN: No = invalid("unknown_key");

/// Each of these tokens is refused; all at once, because each may wait for one early refresh.
async fn check_all(wall: &Wall, tokens: Vec<(String, String)>, no: No) {
    join_all(tokens.iter().map(|(what, token)| wall.refuses(what, with_token(token), no))).await;
}

#[tokio::test]
async fn only_rs256_is_believed_even_of_a_good_key() {
    let wall = Wall::start().await;
    let key = wall.idp.signing_key();
    let jane = wall.idp.token(&jane_in_entra());
    let no = invalid("wrong_algorithm");
    for (alg, padding) in [
        ("RS384", Padding::Rs384),
        ("RS512", Padding::Rs512),
        ("PS256", Padding::Ps256),
        ("none", Padding::Rs256),
        ("NONE", Padding::Rs256),
        ("nOnE", Padding::Rs256),
        ("", Padding::Rs256),
        ("rs256", Padding::Rs256),
        ("RS256 ", Padding::Rs256),
        ("RSA", Padding::Rs256),
        ("RS1", Padding::Rs256),
        ("ES256", Padding::Rs256),
        ("EdDSA", Padding::Rs256),
        ("dir", Padding::Rs256),
        ("RSA-OAEP", Padding::Rs256),
        ("PBES2-HS256+A128KW", Padding::Rs256),
    ] {
        let minted = jane.clone().header("alg", alg);
        wall.refuses(alg, with_token(&minted.sign_as(&Signed::Rsa(&key, padding))), no).await;
        wall.refuses(alg, with_token(&minted.sign_as(&Signed::Bytes(b""))), no).await;
        wall.refuses(alg, with_token(&minted.sign_as(&Signed::Bytes(&[0; 256]))), no).await;
    }
    let padded = jane.sign_as(&Signed::Rsa(&key, Padding::Ps256));
    wall.refuses("RS256 that is PS256", with_token(&padded), invalid("wrong_signature")).await;
    let unnamed = jane.clone().header("alg", Value::Null).sign();
    wall.refuses("no algorithm", with_token(&unnamed), invalid("unrecognised")).await;
    let listed = jane.header("alg", json!(["RS256"])).sign();
    wall.refuses("a list of algorithms", with_token(&listed), invalid("unrecognised")).await;
    wall.stands().await;
}

#[tokio::test]
async fn a_public_key_is_no_shared_secret() {
    let wall = Wall::start().await;
    let key = wall.idp.signing_key();
    let jane = wall.idp.token(&jane_in_entra());
    let as_session = jane.clone().claim("id", crate::harness::openwebui::JANE);
    let as_session = as_session.claim("session_stamp", crate::harness::openwebui::JANE_STAMP);
    let mut secrets = key.public_spellings();
    secrets.extend([Vec::new(), vec![0], b"null".to_vec(), wall.idp.url().into_bytes()]);
    for secret in secrets {
        let what = format!("HMAC with {}", String::from_utf8_lossy(&secret));
        for minted in [&jane, &as_session] {
            let sign = |algorithm| minted.sign_as(&Signed::Hmac(algorithm, &secret));
            wall.refuses(&what, with_token(&sign(Algorithm::HS256)), invalid("wrong_signature")).await;
            wall.refuses(&what, with_token(&sign(Algorithm::HS384)), invalid("wrong_algorithm")).await;
            wall.refuses(&what, with_token(&sign(Algorithm::HS512)), invalid("wrong_algorithm")).await;
        }
    }
    wall.stands().await;
}

#[tokio::test]
async fn a_key_that_a_token_brings_along_proves_nothing() {
    let wall = Wall::start().await;
    let forger = keys::spare(1);
    let elsewhere = FakePeer::start().await;
    let keys = format!("{}/keys", elsewhere.url());
    let good = wall.idp.signing_key();
    let jane = wall.idp.token(&jane_in_entra());
    let certificate = forger.jwk()["x5c"].clone();
    let brought: [(&str, Value); 7] = [
        ("jwk", forger.jwk()),
        ("jku", json!(keys)),
        ("x5u", json!(keys)),
        ("x5c", certificate),
        ("x5t", json!(forger.kid)),
        ("x5t#S256", json!(forger.kid)),
        ("iss", json!(elsewhere.url())),
    ];
    let all = brought.iter().fold(jane.clone(), |minted, (name, value)| minted.header(name, value.clone()));
    let mut unknown = Vec::new();
    for (name, value) in &brought {
        let minted = jane.clone().header(name, value.clone());
        let under_good_name = minted.sign_as(&Signed::Rsa(&forger, Padding::Rs256));
        wall.refuses(name, with_token(&under_good_name), invalid("wrong_signature")).await;
        let nameless =
            minted.clone().header("kid", Value::Null).sign_as(&Signed::Rsa(&forger, Padding::Rs256));
        wall.refuses(name, with_token(&nameless), UNKNOWN).await;
        unknown.push(((*name).to_owned(), minted.by(&forger).sign()));
    }
    let under_good_name = all.sign_as(&Signed::Rsa(&forger, Padding::Rs256));
    wall.refuses("all of them", with_token(&under_good_name), invalid("wrong_signature")).await;
    unknown.push(("all of them".to_owned(), all.clone().by(&forger).sign()));
    check_all(&wall, unknown, UNKNOWN).await;
    // What a good token says beside is not looked at either.
    wall.lets_in("a good token that tells more", with_token(&all.by(&good).sign())).await;
    assert_eq!(elsewhere.connections(), (0, 0), "the gateway went where a token told it to");
    wall.stands().await;
}

#[tokio::test]
async fn a_key_is_looked_up_by_its_exact_name_and_nowhere_else() {
    let wall = Wall::start().await;
    let good = wall.idp.signing_key();
    let jane = wall.idp.token(&jane_in_entra());
    for kid in [json!(""), json!(null), json!(0), json!([good.kid]), json!({"kid": good.kid}), json!(true)] {
        let token = jane.clone().header("kid", kid.clone()).sign();
        wall.refuses(&format!("kid {kid}"), with_token(&token), UNKNOWN).await;
    }
    let mut swapped = good.kid.clone();
    // Names are told apart by case.
    swapped = swapped
        .chars()
        .map(|c| if c.is_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
        .collect();
    let names = [
        "/dev/null".to_owned(),
        "../../../../../../etc/hostname".to_owned(),
        format!("../{}", good.kid),
        format!("{}/", good.kid),
        format!("{}\u{0}", good.kid),
        format!("{} ", good.kid),
        format!(" {}", good.kid),
        format!("{}\n", good.kid),
        swapped,
        good.kid[..good.kid.len() - 1].to_owned(),
        "0".to_owned(),
        "*".to_owned(),
        "%".to_owned(),
        "' OR '1'='1".to_owned(),
        "x' UNION SELECT 'key".to_owned(),
        "|/bin/true".to_owned(),
        "$(id)".to_owned(),
        "${jndi:ldap://127.0.0.1/a}".to_owned(),
        format!("{}/common/discovery/v2.0/keys", wall.idp.url()),
        "__proto__".to_owned(),
        "\u{1F511}".to_owned(),
        "k".repeat(256),
        "k".repeat(257),
        "k".repeat(8000),
    ];
    let tokens =
        names.into_iter().map(|kid| (format!("kid `{kid}`"), jane.clone().header("kid", kid).sign()));
    check_all(&wall, tokens.collect(), UNKNOWN).await;
    wall.stands().await;
}

/// Tokens that this key signed under each of these names.
fn under(minted: &Minted, key: &Arc<SigningKey>, names: &[&str]) -> Vec<(String, String)> {
    let sign = |name: &&str| {
        let minted = minted.clone().header("kid", *name);
        ((*name).to_owned(), minted.sign_as(&Signed::Rsa(key, Padding::Rs256)))
    };
    names.iter().map(sign).collect()
}

#[tokio::test]
async fn a_published_key_that_does_not_fit_proves_nothing() {
    let idp = Idp::start().await;
    let (good, other, third) = (idp.signing_key(), keys::spare(1), keys::spare(2));
    let unfit = |kid: &str, members: &[(&str, Value)]| {
        let members: Vec<_> = members.iter().cloned().chain([("kid", json!(kid))]).collect();
        other.jwk_with(&members)
    };
    let shared = base64url("a-shared-secret-that-is-published");
    idp.publish(vec![
        good.jwk(),
        unfit("encrypts", &[("use", json!("enc"))]),
        unfit("for-rs512", &[("alg", json!("RS512"))]),
        unfit("for-none", &[("alg", json!("none"))]),
        unfit("for-hmac", &[("alg", json!("HS256"))]),
        unfit(
            "elliptic",
            &[("kty", json!("EC")), ("crv", json!("P-256")), ("x", json!("AA")), ("y", json!("AA"))],
        ),
        unfit("odd", &[("kty", json!("rsa"))]),
        unfit("wraps", &[("key_ops", json!(["wrapKey", "encrypt"]))]),
        unfit("of-private-accounts", &[("issuer", json!(idp.issuer(CONSUMERS)))]),
        unfit("of-a-partner", &[("issuer", json!(idp.issuer(PARTNER)))]),
        unfit("without-exponent", &[("e", Value::Null)]),
        unfit("with-exponent-one", &[("e", json!("AQ"))]),
        unfit("with-short-modulus", &[("n", json!(base64url([0xff; 64])))]),
        json!({"kty": "oct", "kid": "shared", "use": "sig", "alg": "HS256", "k": shared}),
        unfit("twice", &[]),
        third.jwk_with(&[("kid", json!("twice"))]),
        json!("nonsense"),
        json!({}),
        Value::Null,
    ]);
    let wall = Wall::beside(idp, |setup| setup).await;
    let jane = wall.idp.token(&jane_in_entra());
    wall.lets_in("by the key that fits", with_token(&jane.sign())).await;
    let names = [
        "encrypts",
        "for-rs512",
        "for-none",
        "for-hmac",
        "elliptic",
        "odd",
        "wraps",
        "of-private-accounts",
        "of-a-partner",
        "without-exponent",
        "with-exponent-one",
        "with-short-modulus",
        "shared",
        "twice",
    ];
    check_all(&wall, under(&jane, &other, &names), UNKNOWN).await;
    let shared = jane.clone().header("kid", "shared");
    let hmac = shared.sign_as(&Signed::Hmac(Algorithm::HS256, b"a-shared-secret-that-is-published"));
    wall.refuses("a published shared secret", with_token(&hmac), invalid("wrong_signature")).await;
    wall.stands().await;
}

#[tokio::test]
async fn keys_that_nobody_has_cost_the_provider_one_question() {
    let wall = Wall::start().await;
    let jane = wall.idp.token(&jane_in_entra());
    wall.lets_in("a good one", with_token(&jane.sign())).await;
    let before = wall.idp.hits(Page::Keys);
    let names: Vec<_> = (0..100).map(|number| format!("made-up-{number}")).collect();
    let tokens = names.iter().map(|kid| (kid.clone(), jane.clone().header("kid", kid.as_str()).sign()));
    check_all(&wall, tokens.collect(), UNKNOWN).await;
    let asked = wall.idp.hits(Page::Keys) - before;
    assert!((1..=4).contains(&asked), "{asked} questions for 100 keys that are not there");
    // What is known not to exist is not asked for again, and what would be refused anyway never.
    let before = wall.idp.hits(Page::Keys);
    let again = jane.clone().header("kid", "made-up-1").sign();
    wall.refuses("again", with_token(&again), UNKNOWN).await;
    let fresh = jane.header("kid", "made-up-too");
    wall.refuses(
        "expired",
        with_token(&fresh.clone().dated(-9000, -8000).sign()),
        No(401, "expired_credential", "expired"),
    )
    .await;
    wall.refuses(
        "for others",
        with_token(&fresh.clone().claim("aud", "x").sign()),
        invalid("wrong_audience"),
    )
    .await;
    wall.refuses("of others", with_token(&fresh.clone().claim("iss", "x").sign()), invalid("wrong_issuer"))
        .await;
    wall.refuses(
        "of another tenant",
        with_token(&fresh.claim("tid", PARTNER).sign()),
        invalid("wrong_tenant"),
    )
    .await;
    assert_eq!(wall.idp.hits(Page::Keys), before);
    wall.stands().await;
}

#[tokio::test]
async fn a_key_that_was_withdrawn_proves_nothing_any_more() {
    let wall = Wall::start().await;
    let old = wall.idp.token(&jane_in_entra()).sign();
    wall.lets_in("before", with_token(&old)).await;
    let new = wall.idp.rotate();
    wall.idp.publish(vec![new.jwk()]);
    // The first token of the new key makes the gateway look, and so notice that the old one is gone.
    wall.lets_in("by the new key", with_token(&wall.idp.token(&jane_in_entra()).sign())).await;
    wall.refuses("by the old key", with_token(&old), UNKNOWN).await;
    wall.stands().await;
}
