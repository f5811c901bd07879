//! Configurations that cannot be: they change nothing, are told with file and line, and are forgotten once mended.

use std::{fs, os::unix::fs::symlink, path::Path};

use serde_json::json;

use super::{Load, change, file, put, set, unset};
use crate::harness::{
    deadline::{until, until_so},
    fake_peer::FakePeer,
    gateway::Gateway,
    grants::{CALLER, Grants},
    tokens::email_token,
};

async fn scene() -> (Gateway, FakePeer, Grants, String) {
    let peer = FakePeer::start().await.with_json("search", json!([]));
    let grants = Grants::of(&["github", "notes"]).await;
    let gateway = grants.setup().server("github", &peer.url()).start().await;
    gateway.await_tools("github", 1).await;
    (gateway, peer, grants, email_token(CALLER))
}

fn failures(gateway: &Gateway) -> Vec<String> {
    gateway.stderr.all().into_iter().filter(|line| line.contains("is not taken over")).collect()
}

/// A failure is told, with these words, once; then the file is mended and nothing has happened.
async fn check(gateway: &Gateway, name: &str, spoil: impl FnOnce(&Path), words: &[&str]) {
    let path = file(gateway, name);
    let (good, told, generation) =
        (fs::read_to_string(&path).unwrap(), failures(gateway).len(), gateway.generation().await);
    spoil(&path);
    until("the failure", || async { gateway.has_failed().await.then_some(()) }).await;
    until_so("the failure in the log", || failures(gateway).len() > told).await;
    let line = failures(gateway).pop().unwrap();
    for word in words {
        assert!(line.contains(word), "no {word:?} in {line}");
    }
    assert!(line.contains("\"level\":\"ERROR\""), "{line}");
    assert_eq!(gateway.readiness().await, 200);
    if path.is_dir() {
        fs::remove_dir(&path).unwrap();
    }
    put(&path, &good);
    until("the end of the failure", || async { (!gateway.has_failed().await).then_some(()) }).await;
    assert_eq!(failures(gateway).len(), told + 1, "told once: {:?}", failures(gateway));
    assert_eq!(gateway.generation().await, generation, "nothing was taken over");
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_is_told_once_with_its_line() {
    let (gateway, _peer, _grants, token) = scene().await;
    let load = Load::begin(&gateway, "/github/search", &token);
    let add = |text: &'static str| {
        move |path: &Path| {
            let before = fs::read_to_string(path).unwrap();
            put(path, &format!("{text}\n{before}"));
        }
    };
    let line_one = "gateway.toml:1: ";
    check(
        &gateway,
        "gateway.toml",
        add("[lisen]"),
        &[line_one, "`lisen` is not a known key", "did you mean"],
    )
    .await;
    check(&gateway, "gateway.toml", add("this = = 'no'"), &[line_one, "this is not TOML"]).await;
    check(&gateway, "servers.toml", add("[servers.notes]\ntier = 'stdio'"), &["servers.toml:1: ", "`notes`"])
        .await;
    let delete = |path: &Path| fs::remove_file(path).unwrap();
    check(&gateway, "servers.toml", delete, &["servers.toml: there is no such file"]).await;
    let block = |path: &Path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    };
    check(&gateway, "gateway.toml", block, &["gateway.toml: this cannot be read"]).await;
    let half = |path: &Path| {
        let whole = fs::read_to_string(path).unwrap();
        // Written in place and not to its end, as by a program that was interrupted.
        fs::write(path, &whole[..whole.len() - 10]).unwrap();
    };
    check(&gateway, "servers.toml", half, &["servers.toml:"]).await;
    let nobody = |path: &Path| {
        let mut table: toml::Table = fs::read_to_string(path).unwrap().parse().unwrap();
        unset(&mut table, "auth.openwebui.secret");
        put(path, &toml::to_string(&table).unwrap());
    };
    check(&gateway, "gateway.toml", nobody, &["nobody could ever call"]).await;
    let no_keys = |path: &Path| {
        let mut table: toml::Table = fs::read_to_string(path).unwrap().parse().unwrap();
        set(&mut table, "tenants.sealing_key_file", "no-such-file-of-keys");
        put(path, &toml::to_string(&table).unwrap());
    };
    check(&gateway, "gateway.toml", no_keys, &["no-such-file-of-keys"]).await;
    load.none_failed().await;
}

#[tokio::test]
async fn a_file_that_the_configuration_names_mends_it_when_it_appears() {
    let (gateway, _peer, _grants, token) = scene().await;
    let keys = file(&gateway, "sealing.keys");
    change(&gateway, "gateway.toml", |table| {
        set(table, "tenants.sealing_key_file", keys.display().to_string());
        set(table, "access.admin_group", "Others");
    });
    until("the failure", || async { gateway.has_failed().await.then_some(()) }).await;
    assert_eq!(gateway.generation().await, 1);
    fs::write(&keys, "5f".repeat(32)).unwrap();
    gateway.taken(2).await;
    assert!(!gateway.has_failed().await);
    assert_eq!(gateway.call("/github/search", &token, &json!({})).await.status, 200);
}

#[tokio::test]
async fn sighup_without_a_change_does_nothing_and_says_so_and_tells_a_failure_again() {
    let (gateway, _peer, _grants, _token) = scene().await;
    gateway.signal("HUP");
    gateway.stderr.find("that nothing changed", |line| line.contains("has not changed")).await;
    assert_eq!(gateway.generation().await, 1);
    put(&file(&gateway, "servers.toml"), "x = 1");
    until_so("a failure", || failures(&gateway).len() == 1).await;
    gateway.signal("HUP");
    until_so("the failure again", || failures(&gateway).len() == 2).await;
}

#[tokio::test]
async fn where_the_files_are_not_watched_only_sighup_has_them_read() {
    let (gateway, _peer, _grants, token) = scene().await;
    gateway.reconfigure("reload.watch", false).await;
    let peer = FakePeer::start().await.with_json("find", json!([]));
    change(&gateway, "servers.toml", |table| set(table, "servers.notes", super::server(&peer.url())));
    // Long enough for several looks, if there were any.
    assert!(tokio::time::timeout(std::time::Duration::from_secs(3), gateway.taken(3)).await.is_err());
    gateway.signal("HUP");
    gateway.call_until("/notes/find", &token, 200).await;
    change(&gateway, "gateway.toml", |table| set(table, "reload.watch", true));
    gateway.signal("HUP");
    gateway.taken(4).await;
    gateway.reconfigure("access.conceal", true).await;
}

#[tokio::test]
async fn keys_that_cannot_change_wait_and_are_named_and_the_rest_changes() {
    let (gateway, _peer, _grants, _token) = scene().await;
    change(&gateway, "gateway.toml", |table| {
        set(table, "listen.http", "127.0.0.1:1");
        set(table, "listen.threads", 3);
        set(table, "cors.origins", vec!["https://chat.example.com"]);
    });
    let line = gateway.stderr.find("what waits", |line| line.contains("cannot change while")).await;
    assert!(line.contains("`listen.http`, `listen.threads`") && line.contains("WARN"), "{line}");
    assert!(!line.contains("cors") && line.contains("takes effect at the next upgrade or restart"), "{line}");
    let asked = gateway.client.get(gateway.url("/health")).header("origin", "https://chat.example.com");
    let answer = gateway.send(asked).await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://chat.example.com"));
}

#[tokio::test]
async fn a_folder_that_is_swapped_as_kubernetes_does_is_noticed() {
    let (gateway, _peer, _grants, token) = scene().await;
    let peer = FakePeer::start().await.with_json("find", json!([]));
    let folder = gateway.folder.path();
    // As a ConfigMap is mounted: the files lead through `..data` to a folder, and `..data` is replaced.
    let lay = |name: &str, servers: &str| {
        let inside = folder.join(name);
        fs::create_dir(&inside).unwrap();
        fs::write(inside.join("servers.toml"), servers).unwrap();
    };
    let path = file(&gateway, "servers.toml");
    let text = fs::read_to_string(&path).unwrap();
    lay("..first", &text);
    symlink("..first", folder.join("..data")).unwrap();
    symlink("..data/servers.toml", folder.join("link")).unwrap();
    fs::rename(folder.join("link"), &path).unwrap();
    assert_eq!(gateway.generation().await, 1, "its content is the same");
    let mut table: toml::Table = text.parse().unwrap();
    set(&mut table, "servers.notes", super::server(&peer.url()));
    lay("..second", &toml::to_string(&table).unwrap());
    symlink("..second", folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    gateway.call_until("/notes/find", &token, 200).await;
    assert_eq!(gateway.generation().await, 2);
}
