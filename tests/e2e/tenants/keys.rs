//! Keys of groups' own: which one a call is made with, and when none is sent.

use serde_json::json;

use super::*;
use crate::harness::{
    deadline::{until, within},
    fake_peer::Behaviour,
    postgres::Database,
};

#[tokio::test]
async fn every_caller_s_call_carries_their_own_group_s_key_on_every_face() {
    for grants in Grants::both().await {
        let peer = peer().await;
        let tenants = Tenants::start(grants, &peer.url(), |setup| {
            let key = "credential = { header = 'Authorization', scheme = 'Bearer', env = 'GITHUB_TOKEN' }\n\
                 enabled = 'auto'\ndialect = 'mcp'";
            setup.server_with("native", &format!("{}/mcp", peer.url()), key.parse().unwrap())
        })
        .await;
        tenants.set_key("A", "key-of-a\n").await;
        tenants.set_key("B", "key-of-b").await;
        tenants.grants.execute("INSERT INTO group_tenant_mapping VALUES ('A','native')").await;
        tenants
            .grants
            .execute("UPDATE tenant_server_keys SET server_id = server_id WHERE server_id = 'github'")
            .await;
        let before = peer.requests().len();
        for (email, expected) in [(ANN, "Bearer key-of-a"), (BOB, "Bearer key-of-b")] {
            let at = peer.requests().len();
            assert_eq!(tenants.call(email).await, served());
            let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
                "params": {"name": "github_search", "arguments": {}}});
            let token = email_token(email);
            let answer = tenants
                .gateway
                .send(tenants.gateway.call_request("/mcp", &token, &initialize()).header("accept", BOTH))
                .await;
            let session = answer.header("mcp-session-id").unwrap().to_owned();
            let call = tenants.gateway.call_request("/mcp", &token, &list).header("accept", BOTH);
            let answered = tenants.gateway.send(call.header("mcp-session-id", session)).await;
            assert_eq!(answered.status, 200, "{}", answered.text());
            assert_eq!(credentials(&peer.requests()[at..]), [expected, expected], "{}", answered.text());
        }
        assert_eq!(peer.requests().len() - before, 4);
        assert!(!tenants.gateway.written().contains("key-of-"), "{}", tenants.gateway.written());
    }
}

const BOTH: &str = "application/json, text/event-stream";

fn initialize() -> serde_json::Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25",
        "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}})
}

#[tokio::test]
async fn native_mcp_is_called_with_the_group_s_own_key() {
    let peer = peer().await;
    let keys = "dialect = 'mcp'\nmcp_versions = '2025-11-25'".parse().unwrap();
    let grants = Grants::Postgres(Database::create().await);
    let tenants = Tenants::start_with(grants, &format!("{}/mcp", peer.url()), keys, |setup| setup).await;
    tenants.set_key("A", "key-of-a").await;
    tenants.set_key("B", "key-of-b").await;
    for (email, expected) in [(ANN, "Bearer key-of-a"), (BOB, "Bearer key-of-b")] {
        let at = peer.requests().len();
        let list = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/list"});
        let request = tenants.gateway.call_request("/github/mcp", &email_token(email), &list);
        let answer = tenants.gateway.send(request.header("accept", BOTH)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let of_caller: Vec<_> =
            peer.requests()[at..].iter().filter(|it| it.json()["id"] == 7).cloned().collect();
        assert_eq!(credentials(&of_caller), [expected]);
    }
    let at = peer.requests().len();
    let list = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/list"});
    let request = tenants.gateway.call_request("/github/mcp", &email_token(DAN), &list);
    let answer = tenants.gateway.send(request.header("accept", BOTH)).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["error"]["data"]["code"]),
        (403, &json!("no_tenant_key"))
    );
    assert!(peer.requests()[at..].iter().all(|it| it.json()["id"] != 7));
}

#[tokio::test]
async fn a_session_is_good_for_the_group_and_key_it_was_opened_with_alone() {
    let peer = FakePeer::start().await;
    let result = json!({"jsonrpc": "2.0", "id": 1, "result": {"protocolVersion": "2025-11-25", "capabilities": {},
        "serverInfo": {"name": "fake", "version": "1"}}});
    let body = result.to_string();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nmcp-session-id: of-the-vendor\r\n";
    let opened = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    peer.set("/mcp", Behaviour::Answer(opened.into_bytes()));
    let keys = "dialect = 'mcp'\nmcp_versions = '2025-11-25'\nshared_credential = true".parse().unwrap();
    let grants = Grants::Postgres(Database::create().await);
    let tenants = Tenants::start_with(grants, &format!("{}/mcp", peer.url()), keys, |setup| setup).await;
    tenants.set_key("A", "key-of-a").await;
    tenants.set_key("B", "key-of-b").await;
    let rows = tenants.rows().await;
    tenants.grants.execute("INSERT INTO user_tenant_access VALUES ('ann@company.com','github','read')").await;
    tenants.gateway.await_grants(rows + 1).await;
    let token = email_token(ANN);
    let open = async || {
        let request =
            tenants.gateway.call_request("/github/mcp", &token, &initialize()).header("accept", BOTH);
        tenants.gateway.send(request).await.header("mcp-session-id").unwrap().to_owned()
    };
    let goes_on = async |session: &str| {
        let list = json!({"jsonrpc": "2.0", "id": 9, "method": "tools/list"});
        let request = tenants.gateway.call_request("/github/mcp", &token, &list).header("accept", BOTH);
        tenants.gateway.send(request.header("mcp-session-id", session)).await.status.as_u16()
    };
    let session = open().await;
    assert_eq!(goes_on(&session).await, 200);
    for change in [
        // Another key of the same group, another group, and none.
        "UPDATE tenant_server_keys SET key_value = 'x' WHERE tenant_id = 'A'",
        "UPDATE user_group_membership SET group_name = 'B' WHERE user_email = 'ann@company.com'",
        "DELETE FROM user_group_membership WHERE user_email = 'ann@company.com'",
    ] {
        let version = tenants.gateway.metrics().await.sum("portcullis_snapshot_version", &[]);
        tenants.grants.execute(change).await;
        until("the change in force", || async {
            let now = tenants.gateway.metrics().await.sum("portcullis_snapshot_version", &[]);
            (now > version).then_some(())
        })
        .await;
        let at = peer.requests().len();
        let status = goes_on(&session).await;
        assert!([404, 503].contains(&status), "{status} after {change}");
        assert!(peer.requests()[at..].iter().all(|request| request.json()["id"] != 9), "{change}");
    }
    let anew = open().await;
    assert_eq!(goes_on(&anew).await, 200, "a new one is opened with what is shared");
}

#[tokio::test]
async fn who_has_no_key_shares_one_only_where_the_server_says_so() {
    for (sharing, without_keys, with_keys) in [
        (None, served(), refused(403, "no_tenant_key")),
        (Some(true), served(), served()),
        (Some(false), refused(403, "no_tenant_key"), refused(403, "no_tenant_key")),
    ] {
        let peer = peer().await;
        let keys = sharing.map(|sharing: bool| ("shared_credential".to_owned(), sharing.into()));
        let grants = Grants::Postgres(Database::create().await);
        let tenants =
            Tenants::start_with(grants, &peer.url(), keys.into_iter().collect(), |setup| setup).await;
        assert_eq!(tenants.call(DAN).await, without_keys, "{sharing:?}");
        tenants.set_key("A", "key-of-a").await;
        assert_eq!(tenants.call(DAN).await, with_keys, "{sharing:?}");
        assert_eq!(tenants.call(BOB).await, with_keys, "{sharing:?}");
        assert_eq!(tenants.call(ANN).await, served(), "{sharing:?}");
        let shared = format!("Bearer {SHARED}");
        let sent = credentials(&peer.requests());
        let count = [&without_keys, &with_keys, &with_keys].iter().filter(|it| ***it == served()).count();
        assert_eq!(sent.iter().filter(|it| **it == shared).count(), count, "{sharing:?} {sent:?}");
        assert_eq!(sent.last().unwrap(), "Bearer key-of-a");
    }
}

#[tokio::test]
async fn a_caller_in_two_groups_with_keys_is_refused_until_an_order_says_which_counts() {
    for (order, expected) in [
        (vec![], Err(refused(403, "ambiguous_tenant"))),
        (vec!["C"], Err(refused(403, "ambiguous_tenant"))),
        (vec!["C", "B", "A"], Ok("Bearer key-of-b")),
        (vec!["A"], Ok("Bearer key-of-a")),
    ] {
        let peer = peer().await;
        let grants = Grants::Postgres(Database::create().await);
        let tenants =
            Tenants::start(grants, &peer.url(), |setup| setup.set("tenants.order", order.clone())).await;
        tenants.set_key("A", "key-of-a").await;
        assert_eq!(tenants.call(EVE).await, served(), "one group with a key is no question");
        tenants.set_key("B", "key-of-b").await;
        let before = peer.requests().len();
        let called = tenants.call(EVE).await;
        match expected {
            Err(refusal) => {
                assert_eq!(called, refusal, "{order:?}");
                assert_eq!(peer.requests().len(), before, "the server heard of a refused call");
            }
            Ok(credential) => assert_eq!(credentials(&peer.requests()[before..]), [credential], "{order:?}"),
        }
    }
}

#[tokio::test]
async fn a_key_that_cannot_be_unsealed_is_never_replaced_by_another() {
    for grants in Grants::both().await {
        let peer = peer().await;
        let keys = toml::Table::from_iter([("shared_credential".to_owned(), true.into())]);
        let tenants = Tenants::start_with(grants, &peer.url(), keys, |setup| setup).await;
        tenants.set_key("A", "key-of-a").await;
        tenants.set_key("B", "key-of-b").await;
        let before = peer.requests().len();
        let token = email_token(ANN);
        for spoil in [
            // Plain, as an earlier gateway wrote it.
            "UPDATE tenant_server_keys SET key_value = 'key-of-a' WHERE tenant_id = 'A'",
            // Another group's, moved.
            "UPDATE tenant_server_keys SET key_value = (SELECT key_value FROM tenant_server_keys WHERE tenant_id = 'B') \
             WHERE tenant_id = 'A'",
            "UPDATE tenant_server_keys SET key_value = '' WHERE tenant_id = 'A'",
            // Under a name that cannot be read, or for the server in other letters.
            "UPDATE tenant_server_keys SET key_name = ' GITHUB_TOKEN' WHERE tenant_id = 'A'",
            "UPDATE tenant_server_keys SET key_name = '' WHERE tenant_id = 'A'",
            "UPDATE tenant_server_keys SET key_name = 'GITHUB_TOKEN', server_id = 'GitHub' WHERE tenant_id = 'A'",
            "UPDATE tenant_server_keys SET server_id = 'github' WHERE tenant_id = 'A'",
            "UPDATE tenant_server_keys SET key_value = 'portcullis:1:00000000:AAAA' WHERE tenant_id = 'A'",
        ] {
            tenants.grants.execute(spoil).await;
            let (answer, _) = tenants.gateway.call_until("/github/search", &token, 503).await;
            assert_eq!(answer.code(), "tenant_key_unusable", "{spoil}");
            assert!(!answer.text().contains("key-of"), "{}", answer.text());
        }
        let sent = credentials(&peer.requests()[before..]);
        assert!(sent.iter().all(|sent| sent == "Bearer key-of-a"), "{sent:?}");
        assert!(!tenants.gateway.written().contains("key-of-"));
        assert_eq!(tenants.call(BOB).await, served());
        tenants.grants.execute("DELETE FROM tenant_server_keys WHERE tenant_id = 'A'").await;
        tenants.gateway.call_until("/github/search", &token, 200).await;
        assert_eq!(credentials(&peer.requests()).last().unwrap(), &format!("Bearer {SHARED}"));
    }
}

#[tokio::test]
async fn a_new_key_is_used_by_the_next_call_and_a_deleted_one_by_none_within_100_ms() {
    let peer = peer().await;
    let tenants =
        Tenants::start(Grants::Postgres(Database::create().await), &peer.url(), |setup| setup).await;
    tenants.set_key("B", "key-of-b").await;
    let mut times = Vec::new();
    let token = email_token(ANN);
    for round in 0..5 {
        let key = format!("key-of-a-{round}");
        tenants.set_key("A", &key).await;
        assert_eq!(tenants.call(ANN).await, served());
        assert_eq!(credentials(&peer.requests()).last().unwrap(), &format!("Bearer {key}"));
        tenants.grants.execute("DELETE FROM tenant_server_keys WHERE tenant_id = 'A'").await;
        let (_, took) = tenants.gateway.call_until("/github/search", &token, 403).await;
        times.push(took);
    }
    times.sort_unstable();
    assert!(times[2] <= std::time::Duration::from_millis(100), "{times:?}");
}

#[tokio::test]
async fn a_stream_ends_with_the_key_it_was_opened_with_and_no_other_does() {
    let peer = FakePeer::start().await;
    peer.set("/mcp", Behaviour::Hold);
    let keys = "dialect = 'mcp'\nmcp_versions = '2025-11-25'".parse().unwrap();
    let grants = Grants::Postgres(Database::create().await);
    // Its lists are never answered.
    let tenants = Tenants::start_with(grants, &format!("{}/mcp", peer.url()), keys, |setup| {
        setup.set("tools.deadline_secs", 1)
    })
    .await;
    tenants.set_key("A", "key-of-a").await;
    tenants.set_key("B", "key-of-b").await;
    let open = async |email: &str| {
        let request = tenants.gateway.request(reqwest::Method::GET, "/github/mcp");
        let request = request.bearer_auth(email_token(email)).header("accept", "text/event-stream");
        let (answer, held) = tokio::join!(request.send(), async {
            loop {
                let held = peer.held().await;
                if held.request.method == "GET" {
                    held.send(": hello\n\n");
                    return held;
                }
            }
        });
        (answer.unwrap(), held)
    };
    let (_of_ann, held_for_ann) = open(ANN).await;
    let (mut of_bob, held_for_bob) = open(BOB).await;
    tenants.grants.execute("DELETE FROM tenant_server_keys WHERE tenant_id = 'A'").await;
    held_for_ann.closed().await;
    held_for_bob.send(": still here\n\n");
    let heard = async {
        let mut heard = String::new();
        while !heard.contains("still here") {
            let chunk = of_bob.chunk().await.unwrap().expect("the other stream goes on");
            heard.push_str(&String::from_utf8_lossy(&chunk));
        }
    };
    within("what the other stream says", heard).await;
}
