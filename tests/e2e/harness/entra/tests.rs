use serde_json::{Value, json};

use super::{keys::base64url, *};
use crate::harness::gateway::{Answer, client};

const OID: &str = "aaaaaaaa-0000-4000-8000-000000000001";

async fn get(url: &str) -> Answer {
    Answer::read(client().get(url).send().await.unwrap()).await
}

async fn post(url: &str, form: &[(&str, &str)]) -> Answer {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let request = client().post(url).header("content-type", "application/x-www-form-urlencoded").body(body);
    Answer::read(request.send().await.unwrap()).await
}

async fn with_jane() -> Idp {
    let idp = Idp::start().await;
    idp.add_user(&User::new("jane@example.com", OID).in_groups(&["g1", "g2", "g3"]));
    idp
}

fn authorize_url(idp: &Idp, challenge: &str, more: &str) -> String {
    format!(
        "{}/{HOME}/oauth2/v2.0/authorize?client_id={CLIENT}&response_type=code&state=s%201\
         &redirect_uri=http%3A%2F%2Flocalhost%3A1234%2Fcallback&code_challenge_method=S256\
         &code_challenge={challenge}&scope=openid+offline_access+api%3A%2F%2F{API}%2FTools.Call{more}",
        idp.url()
    )
}

fn location(answer: &Answer) -> Vec<(String, String)> {
    assert_eq!(answer.status, 302, "{}", answer.text());
    let url = url::Url::parse(answer.header("location").unwrap()).unwrap();
    assert_eq!(url.port(), Some(1234));
    url.query_pairs().into_owned().collect()
}

#[tokio::test]
async fn somebody_signs_in_with_a_code_and_its_proof_once() {
    let idp = with_jane().await;
    let challenge = base64url(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"the-verifier"));
    let back = location(&get(&authorize_url(&idp, &challenge, "")).await);
    assert_eq!(answers::parameter(&back, "state"), Some("s 1"));
    let code = answers::parameter(&back, "code").unwrap();
    let token = format!("{}/{HOME}/oauth2/v2.0/token", idp.url());
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", CLIENT),
        ("code", code),
        ("redirect_uri", "http://localhost:1234/callback"),
        ("code_verifier", "the-verifier"),
    ];
    let answer = post(&token, &form).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = answer.json();
    assert!(answer["id_token"].is_string());
    assert_eq!(post(&token, &form).await.status, 400, "a code is good once");
    let refresh = [
        ("grant_type", "refresh_token"),
        ("client_id", CLIENT),
        ("refresh_token", answer["refresh_token"].as_str().unwrap()),
    ];
    assert_eq!(post(&token, &refresh).await.status, 200);
    let rejected = location(&get(&authorize_url(&idp, &challenge, "&resource=http%3A%2F%2Fx")).await);
    assert_eq!(answers::parameter(&rejected, "error"), Some("invalid_target"));
}

#[tokio::test]
async fn graph_tells_groups_page_by_page_on_behalf_of_their_user() {
    let idp = with_jane().await;
    idp.page_size(2);
    let assertion = idp.token(&User::new("jane@example.com", OID)).sign();
    let url = format!("{}/{HOME}/oauth2/v2.0/token", idp.url());
    let form = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("client_id", API),
        ("client_secret", API_SECRET),
        ("assertion", &assertion),
        ("scope", "https://graph.microsoft.com/.default"),
        ("requested_token_use", "on_behalf_of"),
    ];
    let token = post(&url, &form).await.json()["access_token"].as_str().unwrap().to_owned();
    let ask = client()
        .post(format!("{}/v1.0/me/getMemberObjects", idp.url()))
        .bearer_auth(&token)
        .body(json!({"securityEnabledOnly": true}).to_string());
    let first = Answer::read(ask.send().await.unwrap()).await.json();
    assert_eq!(first["value"], json!(["g1", "g2"]));
    let next = client().get(first["@odata.nextLink"].as_str().unwrap()).bearer_auth(&token);
    let next = Answer::read(next.send().await.unwrap()).await.json();
    assert_eq!((next["value"].clone(), next.get("@odata.nextLink")), (json!(["g3"]), None::<&Value>));
    assert_eq!(idp.hits(Page::MyGroups), 2);
}

#[tokio::test]
async fn documents_lead_to_keys_and_lack_what_entras_lack() {
    let idp = Idp::start().await;
    for (path, page) in [
        (format!("/{HOME}/v2.0/.well-known/openid-configuration"), Page::Keys),
        (format!("/{HOME}/.well-known/openid-configuration"), Page::KeysV1),
    ] {
        let document = get(&format!("{}{path}", idp.url())).await;
        assert_eq!(document.header("cache-control"), Some("max-age=86400, private"));
        let document = document.json();
        assert!(document.get("code_challenge_methods_supported").is_none());
        let keys = get(document["jwks_uri"].as_str().unwrap()).await.json();
        assert_eq!(keys["keys"][0]["kid"], idp.signing_key().kid);
        assert_eq!(idp.hits(page), 1);
    }
    let absent = get(&format!("{}/.well-known/oauth-authorization-server/{HOME}/v2.0", idp.url())).await;
    assert_eq!(absent.status, 404);
}

#[tokio::test]
async fn a_page_waits_breaks_off_or_lies_as_told_and_others_do_not() {
    let idp = Idp::start().await;
    let keys = format!("{}/{HOME}/discovery/v2.0/keys", idp.url());
    for fault in [Fault::HangUp, Fault::BreakOff] {
        idp.fault(Page::Keys, fault);
        assert!(async { client().get(&keys).send().await?.bytes().await }.await.is_err());
    }
    idp.fault(Page::Keys, Fault::Status(500));
    assert_eq!(get(&keys).await.status, 500);
    idp.fault(Page::Keys, Fault::Huge(10_000_000));
    assert!(get(&keys).await.body.len() > 10_000_000);
    assert_eq!(get(&format!("{}/{HOME}/discovery/keys", idp.url())).await.status, 200);
    idp.fault(Page::Keys, Fault::Wait);
    let waiting = tokio::spawn({
        let keys = keys.clone();
        async move { get(&keys).await }
    });
    idp.asked_for(Page::Keys, 5).await;
    assert!(!waiting.is_finished());
    idp.heal(Page::Keys);
    assert_eq!(waiting.await.unwrap().status, 200);
}
