//! The samples as they stand: who is signed in at the proxy is that user here, and nobody else is anybody.

use super::*;

#[tokio::test]
async fn who_is_known_in_front_is_that_user_here_with_their_groups() {
    for kind in BOTH {
        let scene = Scene::start(kind).await;
        assert_eq!(scene.servers(scene.of_jane(Method::GET, "/servers")).await, ["github"], "{kind:?}");
        let call = scene.of_jane(Method::POST, "/github/search").header("content-type", "application/json");
        let answer = scene.send(call.body("{\"q\":1}")).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({"found": []})), "{kind:?}");
        let denied = scene.send(scene.of_jane(Method::GET, "/private")).await;
        assert_eq!((denied.status.as_u16(), denied.code()), (403, "not_granted".to_owned()), "{kind:?}");
        let line = logged(&scene.gateway, denied.header("x-request-id").unwrap()).await;
        assert_eq!(line["scheme"], "gateway_headers");

        let sent = scene.peer.requests();
        assert_eq!(sent.len(), 1);
        let text = sent[0].text().to_lowercase();
        for claim in ["x-user", "x-gateway", "authorization", "cookie", "x-forwarded", JANE, SECRET] {
            assert!(!text.contains(claim), "{kind:?}: {claim} went on: {text}");
        }
        scene.gateway.wrote_none_of(&[JANE, SECRET, GROUP]);
    }
}

#[tokio::test]
async fn what_a_client_says_of_itself_does_not_pass_the_proxy() {
    let tricks: [&[(&str, &str)]; 9] = [
        &[("X-User-Email", CALLER)],
        &[("X-User-Email", CALLER), ("X-Gateway-Secret", "a-guess-at-the-secret")],
        &[("X-User-Groups", "MCP-Admin"), ("X-User-Admin", "true"), ("X-User-Name", "The Admin")],
        &[("x-uSER-eMAIL", CALLER), ("X-USER-ADMIN", "TRUE")],
        &[("X_User_Email", CALLER), ("X_User_Admin", "true"), ("X_User_Groups", "MCP-Admin")],
        &[("X-User_Email", CALLER), ("X_Gateway_Secret", "a-guess"), ("x-user_admin", "true")],
        &[("X-User-Email", CALLER), ("X-User-Email", "admin@example.com")],
        &[("X-Entra-Email", CALLER), ("X-Tenant-Id", "private"), ("X-Auth-Source", "gateway")],
        &[("Connection", "X-User-Email, X-Gateway-Secret"), ("X-User-Email", CALLER)],
    ];
    for kind in BOTH {
        let scene = Scene::start(kind).await;
        for trick in tricks {
            let with = |request: RequestBuilder| {
                trick.iter().fold(request, |request, (name, value)| request.header(*name, *value))
            };
            let servers = scene.servers(with(scene.of_jane(Method::GET, "/servers"))).await;
            assert_eq!(servers, ["github"], "{kind:?}: {trick:?}");
            let refreshed = scene.send(with(scene.of_jane(Method::POST, "/refresh"))).await;
            assert_eq!(
                (refreshed.status.as_u16(), refreshed.code()),
                (403, "admin_only".to_owned()),
                "{trick:?}"
            );
        }
        assert!(scene.peer.requests().is_empty());
    }
}

#[tokio::test]
async fn nobody_is_anybody_without_being_signed_in_at_nginx() {
    let scene = Scene::start(Kind::Nginx).await;
    let claim =
        |request: RequestBuilder| request.header("x-user-email", CALLER).header("x-user-admin", "true");
    scene.signed_out();
    let answer = scene.send(claim(scene.request(Method::GET, "/servers"))).await;
    assert_eq!(answer.status, 401);
    assert!(answer.header("x-request-id").is_none(), "it did not come to the gateway");
    scene.sign_in_says(&[]);
    let answer = scene.send(claim(scene.request(Method::GET, "/servers"))).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code()),
        (401, "no_credential".to_owned()),
        "signed in as nobody"
    );
    scene.signed_out();
    assert_eq!(scene.send(claim(scene.request(Method::GET, "/health"))).await.status, 200);
    let metadata = "/.well-known/oauth-protected-resource";
    assert_eq!(scene.send(claim(scene.request(Method::GET, metadata))).await.code(), "not_found");
    let inner = scene.send(claim(scene.request(Method::GET, "/sign-in/check"))).await;
    assert_eq!(inner.status, 404, "the question of who is signed in is nginx's own");
}

#[tokio::test]
async fn haproxy_lets_through_only_tokens_of_its_issuer_for_us_and_in_their_time() {
    let scene = Scene::start(Kind::Haproxy).await;
    let key = scene.issuer.clone();
    let claims =
        |exp| json!({"iss": "https://login.example.com/", "aud": "portcullis", "email": JANE, "exp": exp});
    let header = |alg: &str| json!({"alg": alg, "typ": "JWT"});
    let good = signed(&key, &header("RS256"), &claims(now(600)));
    let (unsigned, _) = good.rsplit_once('.').unwrap();
    let mut wrong = vec![
        ("another issuer", scene.token(&[("iss", "https://evil.example.com/".into())])),
        ("no issuer", scene.token(&[("iss", Value::Null)])),
        ("another audience", scene.token(&[("aud", "somebody".into())])),
        ("expired", scene.token(&[("exp", now(-1).into())])),
        ("no expiry", scene.token(&[("exp", Value::Null)])),
        ("not yet", scene.token(&[("nbf", now(600).into())])),
        ("nobody", scene.token(&[("email", Value::Null)])),
        ("another key", signed(&keys::spare(1), &header("RS256"), &claims(now(600)))),
        ("alg none", signed(&key, &header("none"), &claims(now(600)))),
        (
            "alg none, unsigned",
            format!(
                "{}.",
                unsigned
                    .replace(&base64url(header("RS256").to_string()), &base64url(header("none").to_string()))
            ),
        ),
        ("unsigned", unsigned.to_owned()),
        ("empty signature", format!("{unsigned}.")),
        ("no token at all", "x".to_owned()),
    ];
    for spelling in key.public_spellings() {
        let secret = jsonwebtoken::EncodingKey::from_secret(&spelling);
        let forged =
            jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims(now(600)), &secret).unwrap();
        wrong.push(("HS256 with the public key", forged));
    }
    for (what, token) in wrong {
        let request =
            scene.request(Method::GET, "/servers").bearer_auth(&token).header("x-user-email", CALLER);
        let answer = scene.send(request).await;
        assert_eq!(answer.status, 401, "{what}: {}", answer.text());
        assert!(answer.header("x-request-id").is_none(), "{what} came to the gateway");
    }
    let none = scene.send(scene.request(Method::GET, "/servers").header("x-user-email", CALLER)).await;
    assert_eq!(none.status, 401);
    assert_eq!(scene.send(scene.request(Method::GET, "/health")).await.status, 200);
    assert_eq!(
        scene.gateway.metrics().await.sum("portcullis_refusals_total", &[]),
        0.0,
        "its checks are healthy"
    );
    let good = scene.request(Method::GET, "/servers").bearer_auth(&good);
    assert!(scene.servers(good).await.is_empty(), "no groups, no servers");
    let around = scene.request(Method::GET, "/health/../servers").bearer_auth("x");
    assert_ne!(scene.send(around).await.status, 200);
}

#[tokio::test]
async fn haproxy_passes_on_every_group_of_a_token_as_it_is_or_refuses() {
    let scene = Scene::start(Kind::Haproxy).await;
    let get = |groups: Value| {
        let token = scene.token(&[("groups", groups)]);
        scene.request(Method::GET, "/servers").bearer_auth(token)
    };
    for (groups, expected) in [
        (json!([]), &[][..]),
        (json!("MCP-Admin"), &[]),
        (json!(["A", "B", "C", GROUP]), &["github"]),
        (json!(["Zespół", "a \"quoted\" \\ one", GROUP]), &["github"]),
        (json!(["A, MCP-Admin", "A\",\"MCP-Admin", "A\\\",\"MCP-Admin"]), &[]),
        (json!(["MCP-Admin"]), &["github", "private"]),
    ] {
        assert_eq!(scene.servers(get(groups.clone())).await, expected, "{groups}");
    }
    assert_eq!(scene.send(get(json!(["A", "B", "C", "D", "E"]))).await.status, 403, "too many to pass on");
    assert_eq!(scene.send(get(json!(["A", "\u{1}"]))).await.status, 403, "one that haproxy cannot read");
    for odd in [json!([["A"], "MCP-Admin"]), json!(["A", " MCP-Admin"]), json!(["A", "B\n"])] {
        assert_eq!(scene.send(get(odd.clone())).await.status, 401, "{odd}");
    }
}

#[tokio::test]
async fn the_secret_and_not_the_address_is_what_a_way_around_the_proxy_lacks() {
    let scene = Scene::start(Kind::Nginx).await;
    let direct = || scene.gateway.request(Method::GET, "/servers").header("x-user-email", CALLER);
    let answer = scene.send(direct()).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (401, "no_credential".to_owned()));
    let answer = scene.send(direct().header("x-gateway-secret", "a-guess-at-the-secret")).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (401, "invalid_credential".to_owned()));
    let line = logged(&scene.gateway, answer.header("x-request-id").unwrap()).await;
    assert_eq!(line["reason"], "gateway_secret_wrong");
    let metrics = scene.gateway.metrics().await;
    assert_eq!(
        metrics.sum("portcullis_credentials_refused_total", &[("reason", "gateway_secret_wrong")]),
        1.0
    );
    scene.gateway.wrote_none_of(&["a-guess-at-the-secret", CALLER]);
    let proven = scene.servers(direct().header("x-gateway-secret", SECRET)).await;
    assert_eq!(proven, ["private"], "what the proxy alone may know");
}

#[tokio::test]
async fn the_log_has_the_address_that_the_proxy_saw() {
    for kind in BOTH {
        let scene = Scene::start(kind).await;
        let of_jane = scene.of_jane(Method::GET, "/servers").build().unwrap();
        let mut far =
            client_at("127.0.0.9").get(scene.proxy.url("/servers")).headers(of_jane.headers().clone());
        for forged in ["X-Forwarded-For", "Forwarded", "X-Real-IP"] {
            let value = if forged == "Forwarded" { "for=198.51.100.1" } else { "198.51.100.1" };
            far = far.header(forged, value);
        }
        let answer = scene.send(far).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let line = logged(&scene.gateway, answer.header("x-request-id").unwrap()).await;
        assert_eq!(line["client"], "127.0.0.9", "{kind:?}");
    }
}
