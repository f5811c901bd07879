//! Signing out of Open WebUI, which it notes in its Redis alone; and a Redis that is not itself.

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{SOON, database_with_jane, gateway_of, is_refused_soon, peer, stream};
use crate::harness::{
    chaos::Chaos,
    fake_peer::FakePeer,
    gateway::{Answer, Gateway},
    openwebui::{self, JANE, JANE_EMAIL, JANE_STAMP, VOUCHING_KEY, user_jwt},
    postgres::Database,
    redis::Redis,
    tokens::{SESSION_SECRET, now, session_with, sign},
};

/// A gateway that asks Redis at this address.
async fn gateway(database: &Database, peer: &FakePeer, redis_url: &str) -> Gateway {
    let setup = openwebui::setup(database).set("auth.openwebui.redis_url", redis_url);
    gateway_of(setup, database, peer).await
}

fn session(jti: &str) -> String {
    session_with(JANE, JANE_STAMP, jti, now(0))
}

async fn search(gateway: &Gateway, token: &str) -> Answer {
    gateway.call("/github/search", token, &json!({})).await
}

#[track_caller]
fn check_unknown(answer: &Answer) {
    assert_eq!((answer.status.as_u16(), answer.code()), (503, "grants_unknown".into()), "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
}

#[tokio::test]
async fn a_session_signed_out_of_is_refused_within_a_second() {
    let (database, redis, peer) = (database_with_jane().await, Redis::start().await, peer().await);
    let gateway = gateway(&database, &peer, &redis.url()).await;
    for round in 0..5 {
        let (jti, other) = (format!("out-{round}"), format!("in-{round}"));
        let (out, stays) = (session(&jti), session(&other));
        assert_eq!(search(&gateway, &out).await.status, 200);
        assert_eq!(search(&gateway, &stays).await.status, 200);
        redis.sign_out(&jti).await;
        is_refused_soon(&gateway, &out, 401, "revoked_credential", "signed out of").await;
        assert_eq!(search(&gateway, &stays).await.status, 200, "another session of the same user");
    }
    // One that was never seen is not let in even once.
    redis.sign_out("new").await;
    assert_eq!(search(&gateway, &session("new")).await.code(), "revoked_credential");
    gateway.stdout.find("its reason", |line| line.contains("\"signed_out\"")).await;
}

#[tokio::test]
async fn the_open_stream_of_a_session_signed_out_of_ends_and_no_other() {
    let (database, redis, peer) = (database_with_jane().await, Redis::start().await, peer().await);
    let gateway = gateway(&database, &peer, &redis.url()).await;
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
    let (mut out, at_out) = stream(&gateway, &peer, &bearer(&session("out"))).await;
    let (mut stays, at_stays) = stream(&gateway, &peer, &bearer(&session("in"))).await;
    let voucher = format!("{}x-openwebui-user-jwt: {}\r\n", bearer(VOUCHING_KEY), user_jwt(JANE, JANE_EMAIL));
    let (mut vouched, at_vouched) = stream(&gateway, &peer, &voucher).await;
    redis.sign_out("out").await;
    assert!(out.is_closed_within(SOON).await, "the stream of the session signed out of goes on");
    at_out.closed().await;

    let at = format!("open-webui:auth:user:{JANE}:revoked_at");
    redis.run(&["SET", &at, &now(0).to_string()]).await;
    assert!(stays.is_closed_within(SOON).await, "all sessions were ended, and one goes on");
    at_stays.closed().await;
    // Who comes with a service key has no session that could be ended.
    at_vouched.send("data: 2\n\n");
    assert_eq!(vouched.read_chunk().await.unwrap(), b"data: 2\n\n");
}

#[tokio::test]
async fn all_sessions_of_a_user_that_began_before_a_time_can_be_ended() {
    let (database, redis, peer) = (database_with_jane().await, Redis::start().await, peer().await);
    let gateway = gateway(&database, &peer, &redis.url()).await;
    let at = now(-10);
    let without = |claim: &str| {
        let mut claims =
            json!({"id": JANE, "session_stamp": JANE_STAMP, "jti": "old", "iat": now(0), "exp": now(600)});
        claims.as_object_mut().unwrap().remove(claim);
        sign(&claims, SESSION_SECRET)
    };
    let (before, then) =
        (session_with(JANE, JANE_STAMP, "a", at - 1), session_with(JANE, JANE_STAMP, "b", at));
    let (after, undated, nameless) =
        (session_with(JANE, JANE_STAMP, "c", at + 1), without("iat"), without("jti"));
    for token in [&before, &then, &after, &undated, &nameless] {
        assert_eq!(search(&gateway, token).await.status, 200);
    }
    let key = format!("open-webui:auth:user:{JANE}:revoked_at");
    redis.run(&["SET", &key, &at.to_string()]).await;
    for (name, token) in [("before", &before), ("then", &then), ("undated", &undated)] {
        is_refused_soon(&gateway, token, 401, "revoked_credential", name).await;
    }
    for token in [&after, &nameless] {
        assert_eq!(search(&gateway, token).await.status, 200);
    }
    // Open WebUI passes over a time that it cannot read.
    redis.run(&["SET", &key, "soon"]).await;
    is_refused_soon(&gateway, &after, 401, "revoked_credential", "a time that nobody can read").await;
}

#[tokio::test]
async fn what_was_signed_out_of_stays_so_though_redis_forgets() {
    let (database, mut redis, peer) = (database_with_jane().await, Redis::start().await, peer().await);
    let gateway = gateway(&database, &peer, &redis.url()).await;
    let token = session("out");
    assert_eq!(search(&gateway, &token).await.status, 200);
    redis.sign_out("out").await;
    is_refused_soon(&gateway, &token, 401, "revoked_credential", "signed out of").await;
    redis.kill().await;
    assert_eq!(search(&gateway, &token).await.code(), "revoked_credential");
    redis.start_again().await;
    gateway.stderr.find("Redis is back", |line| line.contains("Redis answers again")).await;
    gateway.call_until("/github/search", &session("new"), 200).await;
    assert_eq!(search(&gateway, &token).await.code(), "revoked_credential");
}

#[tokio::test]
async fn without_redis_known_sessions_go_on_and_no_other_begins() {
    let (database, mut redis, peer) = (database_with_jane().await, Redis::start().await, peer().await);
    let gateway = gateway(&database, &peer, &redis.url()).await;
    let (known, new) = (session("known"), session("new"));
    assert_eq!(search(&gateway, &known).await.status, 200);
    let (mut client, held) =
        stream(&gateway, &peer, &format!("authorization: Bearer {}\r\n", session("standing"))).await;

    redis.kill().await;
    gateway.stderr.find("Redis is away", |line| line.contains("Redis does not answer")).await;
    check_unknown(&search(&gateway, &new).await);
    assert_eq!(search(&gateway, &known).await.status, 200);
    held.send("data: 2\n\n");
    assert_eq!(client.read_chunk().await.unwrap(), b"data: 2\n\n");
    gateway.stdout.find("the reason", |line| line.contains("\"account_unknown\"")).await;

    redis.start_again().await;
    gateway.call_until("/github/search", &new, 200).await;
    redis.sign_out("known").await;
    gateway.call_until("/github/search", &known, 401).await;
    redis.sign_out("standing").await;
    held.closed().await;
}

#[tokio::test]
async fn a_redis_that_hangs_holds_up_only_who_was_never_seen_and_not_for_long() {
    let (database, redis, peer) = (database_with_jane().await, Redis::start().await, peer().await);
    let chaos = Chaos::in_front_of(redis.address()).await;
    let gateway = gateway(&database, &peer, &redis.url_through(&chaos.address())).await;
    let known = session("known");
    assert_eq!(search(&gateway, &known).await.status, 200);
    chaos.stall();
    let began = std::time::Instant::now();
    check_unknown(&search(&gateway, &session("new")).await);
    assert!(began.elapsed() < SOON * 5, "refused after {:?}", began.elapsed());
    let began = std::time::Instant::now();
    assert_eq!(search(&gateway, &known).await.status, 200);
    assert!(began.elapsed() < SOON, "a known session waited {:?}", began.elapsed());
    redis.sign_out("known").await;
    chaos.restore();
    gateway.call_until("/github/search", &known, 401).await;
    gateway.call_until("/github/search", &session("newer"), 200).await;
}

#[tokio::test]
async fn what_redis_told_is_believed_no_longer_than_what_the_databases_told() {
    let (database, mut redis, peer) = (database_with_jane().await, Redis::start().await, peer().await);
    let setup = openwebui::setup(&database).set("auth.openwebui.redis_url", redis.url());
    let gateway = gateway_of(setup.set("access.max_stale_secs", 2), &database, &peer).await;
    let known = session("known");
    assert_eq!(search(&gateway, &known).await.status, 200);
    redis.kill().await;
    let (refused, _) = gateway.call_until("/github/search", &known, 503).await;
    check_unknown(&refused);
    redis.start_again().await;
    gateway.call_until("/github/search", &known, 200).await;
}

/// Something that answers every command with these bytes.
async fn talker(says: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while socket.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                    if socket.write_all(says).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("redis://{address}")
}

#[tokio::test]
async fn what_is_no_redis_lets_nobody_in() {
    let (database, peer) = (database_with_jane().await, peer().await);
    let talkers = [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"[..],
        b"+OK\r\n+OK\r\n+OK\r\n",
        b"$-1\r\n",
        b"*1\r\n$-1\r\n",
        b"*3\r\n$-1\r\n$-1\r\n$-1\r\n",
        b"*-1\r\n",
        b"*99999999\r\n",
        b"\x00\xff\xfe",
        b"-ERR nothing here hunter2\r\n",
        b"",
    ];
    let lets_nobody_in = talkers.map(|says| lets_nobody_in(&database, &peer, says));
    futures_util::future::join_all(lets_nobody_in).await;
}

async fn lets_nobody_in(database: &Database, peer: &FakePeer, says: &'static [u8]) {
    let gateway = gateway(database, peer, &talker(says).await).await;
    let what = String::from_utf8_lossy(says);
    let answer = search(&gateway, &session("any")).await;
    assert_eq!(answer.code(), "grants_unknown", "{what}: {}", answer.text());
    // Who needs no Redis is not held up by it.
    let voucher = gateway.call_request("/github/search", VOUCHING_KEY, &json!({}));
    let voucher = voucher.header("x-openwebui-user-jwt", user_jwt(JANE, JANE_EMAIL));
    assert_eq!(gateway.send(voucher).await.status, 200, "{what}");
    gateway.stderr.find("a warning", |line| line.contains("Redis does not answer")).await;
    assert!(!gateway.written().contains("hunter2"), "{}", gateway.written());
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_written() {
    let (database, peer) = (database_with_jane().await, peer().await);
    let redis = Redis::start_with_password("the-right-password").await;
    let wrong = gateway(&database, &peer, &redis.url().replace("right", "wrong")).await;
    check_unknown(&search(&wrong, &session("any")).await);
    let line = wrong.stderr.find("a warning", |line| line.contains("Redis does not answer")).await;
    assert!(line.contains("AUTH") || line.contains("uthentication") || line.contains("WRONGPASS"), "{line}");
    assert!(!wrong.written().contains("the-wrong-password"), "{}", wrong.written());

    let right = gateway(&database, &peer, &redis.url()).await;
    assert_eq!(search(&right, &session("any")).await.status, 200);
}

#[tokio::test]
async fn another_prefix_has_other_marks() {
    let (database, redis, peer) = (database_with_jane().await, Redis::start().await, peer().await);
    let setup = openwebui::setup(&database).set("auth.openwebui.redis_url", redis.url());
    let gateway = gateway_of(setup.set("auth.openwebui.redis_key_prefix", "chat"), &database, &peer).await;
    redis.sign_out("one").await;
    assert_eq!(search(&gateway, &session("one")).await.status, 200);
    redis.run(&["SET", "chat:auth:token:one:revoked", "1"]).await;
    is_refused_soon(&gateway, &session("one"), 401, "revoked_credential", "under its own prefix").await;
}

#[tokio::test]
async fn redis_behind_tls_is_asked_when_its_certificate_is_right() {
    let (database, redis, peer) = (database_with_jane().await, Redis::start_with_tls().await, peer().await);
    let (url, authority) = redis.tls();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("authority.pem");
    std::fs::write(&file, authority).unwrap();
    let setup = || openwebui::setup(&database).set("auth.openwebui.redis_url", url.clone());
    let believes = setup().environment("SSL_CERT_FILE", file.to_str().unwrap());
    let believes = gateway_of(believes, &database, &peer).await;
    redis.sign_out("out").await;
    assert_eq!(search(&believes, &session("in")).await.status, 200);
    assert_eq!(search(&believes, &session("out")).await.code(), "revoked_credential");
    let doubts = gateway_of(setup(), &database, &peer).await;
    check_unknown(&search(&doubts, &session("in")).await);
}
