//! With every scheme on: what is not a credential to the last byte lets nobody in, wherever it stands.

use std::{net::Ipv4Addr, sync::LazyLock};

use proptest::prelude::*;

use super::*;
use crate::{
    identity::{
        api_key::ApiKeys,
        entra::{directory::Directory, tests as entra_tests},
        gateway_headers::{GroupsFormat, Settings as GatewaySettings},
    },
    names::Network,
    store::api_keys::{ApiKey, Usage},
};

const API_KEY: &str = "sk-0123456789abcdef0123456789abcdef";
const GATEWAY_SECRET: &str = "the-secret-of-the-gateway-in-front";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const MAX_STALE: Duration = Duration::from_secs(3600);

/// Where identities come in, where they do not, and what only looks like the first.
const NAMES: [&str; 14] = [
    "authorization",
    "cookie",
    "x-gateway-secret",
    "x-user-email",
    "x-user-groups",
    "x-user-admin",
    "x-openwebui-user-jwt",
    "x-openwebui-user-email",
    "x-openwebui-user-role",
    "x_gateway_secret",
    "x_user_email",
    "x-entra-oid",
    "x-auth-source",
    "proxy-authorization",
];

/// One credential of each scheme, all of them good.
static GOOD: LazyLock<Vec<String>> = LazyLock::new(|| {
    let fixed = [SERVICE_KEY, PLAIN_KEY, API_KEY, GATEWAY_SECRET].map(str::to_owned);
    let session = vectors()["accept"]["owui_0.12_session"].as_str().unwrap().to_owned();
    let vouching = vectors()["accept"]["forward_user_jwt"].as_str().unwrap().to_owned();
    fixed.into_iter().chain([session, vouching, entra_tests::good_token()]).collect()
});

static IDENTITY: LazyLock<Identity> = LazyLock::new(|| {
    let (api_keys, _) = ApiKeys::new(MAX_STALE);
    let sha256 = Sha256::digest(API_KEY).into();
    let usage = Usage { is_on: true, is_restricted: false, is_permitted: true };
    let key = ApiKey { row: "1".into(), sha256, user: USER_ID.into(), expires: None, usage };
    api_keys.keys().remember(sha256, Some(Arc::new(key)));
    let (users, _) = Users::new(MAX_STALE);
    users.remember(USER_ID, Some(row(Some(STAMP))));
    let (directory, _) = Directory::new(&entra_tests::settings(), MAX_STALE);
    entra_tests::publish(&directory, &[entra_tests::SIGNER.jwk("k1")]);
    let settings = Settings {
        gateway_headers: Some(GatewaySettings {
            trusted_proxies: vec![Network::parse("10.0.0.0/8").unwrap()],
            shared_secret: Some(Secret::new(GATEWAY_SECRET.into())),
            groups_format: GroupsFormat::Comma,
        }),
        entra: Some(entra_tests::settings()),
        ..settings()
    };
    let sources =
        Sources { users: Some(users), api_keys: Some(api_keys), signed_out: None, entra: Some(directory) };
    Identity::new(&settings, sources)
});

/// Asks for what these headers prove.
fn ask_all(
    lines: &[(usize, String)],
    query: &str,
    face: Face,
    from: Ipv4Addr,
) -> Result<Arc<Caller>, Refusal> {
    let uri = format!(
        "/openapi.json?{}",
        form_urlencoded::Serializer::new(String::new()).append_pair("key", query).finish()
    );
    let mut request = http::Request::builder().uri(uri);
    for (name, value) in lines {
        if let Ok(value) = http::HeaderValue::from_bytes(value.as_bytes()) {
            request = request.header(NAMES[*name], value);
        }
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(IDENTITY.identify(&parts, face, Some(from.into())))
}

fn face() -> impl Strategy<Value = Face> {
    prop_oneof![Just(Face::Call), Just(Face::Page), Just(Face::Spec)]
}

fn from() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![Just(GATEWAY), Just(Ipv4Addr::new(192, 0, 2, 1))]
}

/// A good credential with one thing changed, or any text.
fn nearly() -> impl Strategy<Value = String> {
    let changed =
        (0..GOOD.len(), any::<prop::sample::Index>(), 0..4, "[!-~]").prop_map(|(which, at, how, other)| {
            let good = &GOOD[which];
            // A token's header names its key, which would be waited for.
            let start = good.find('.').map_or(0, |dot| dot + 1);
            let at = start + at.index(good.len() - start);
            let (front, behind) = good.split_at(at);
            match how {
                0 => format!("{front}{other}{behind}"),
                1 => format!("{front}{}", &behind[1..]),
                2 => front.to_owned(),
                _ => format!("{front}{other}{}", &behind[1..]),
            }
        });
    let any = prop_oneof![changed, "\\PC{0,40}", "[A-Za-z0-9_.=-]{0,80}"];
    any.prop_filter("good after all", |text| GOOD.iter().all(|good| !text.contains(good.as_str())))
}

/// A line that proves nothing.
fn line() -> impl Strategy<Value = (usize, String)> {
    let value = prop_oneof![
        nearly(),
        nearly().prop_map(|token| format!("Bearer {token}")),
        nearly().prop_map(|token| format!("token={token}")),
        Just("jane.doe@example.com".to_owned()),
        Just("MCP-Admin".to_owned()),
        Just("true".to_owned()),
    ];
    (0..NAMES.len(), value)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_is_nearly_a_credential_lets_nobody_in(
        lines in proptest::collection::vec(line(), 0..6),
        query in nearly(),
        face in face(),
        from in from(),
    ) {
        let refusal = ask_all(&lines, &query, face, from).expect_err("somebody was let in");
        let status = refusal.code().status();
        prop_assert!(matches!(status, 400 | 401 | 403 | 503), "{:?}", refusal);
        for secret in GOOD.iter() {
            prop_assert!(!refusal.sentence().contains(secret.as_str()));
        }
    }
}

#[test]
fn each_of_the_credentials_is_good_where_it_belongs() {
    let bearer = |token: &str| vec![(0, format!("Bearer {token}"))];
    let check = |lines: &[(usize, String)], from, name: &str| {
        let caller =
            ask_all(lines, "", Face::Call, from).unwrap_or_else(|refusal| panic!("{name}: {refusal:?}"));
        assert_eq!(caller.name(), name);
    };
    let elsewhere = Ipv4Addr::new(192, 0, 2, 1);
    let [vouching_key, plain_key, api_key, secret, session, voucher, entra] = &GOOD[..] else {
        panic!("seven")
    };
    check(&bearer(vouching_key), elsewhere, "service:openwebui");
    check(&bearer(plain_key), elsewhere, "service:plain");
    check(&bearer(api_key), elsewhere, "jane.doe@example.com");
    check(&bearer(session), elsewhere, "jane.doe@example.com");
    check(&bearer(entra), elsewhere, "jane@example.com");
    let vouched = [bearer(vouching_key), vec![(6, voucher.clone())]].concat();
    check(&vouched, elsewhere, "jane.doe@example.com");
    let told = vec![(2, secret.clone()), (3, "eve@example.com".to_owned())];
    check(&told, GATEWAY, "eve@example.com");
    assert!(ask_all(&told, "", Face::Call, elsewhere).is_err(), "from elsewhere");
}
