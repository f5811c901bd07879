//! What `run` refuses, `check` refuses; and what `check` lets pass, `run` starts with.

use std::{fs, path::Path};

use tokio::process::Command;
use toml::Value;

use super::set;
use crate::harness::{deadline::until_so, gateway::Setup, grants::Grants};

/// How a command ended: its code, and what it said. `run` is stopped once it can be called.
async fn ended(setup: Setup, change: &dyn Fn(&mut toml::Table, &Path)) -> (i32, String, bool) {
    let folder = setup.write();
    let path = folder.path().join("gateway.toml");
    let mut table: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
    change(&mut table, folder.path());
    fs::write(&path, toml::to_string(&table).unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(["check", "--config"]).arg(folder.path()).current_dir(folder.path()).env_clear();
    let checked = command.output().await.unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    let mut gateway = setup.spawn_in(folder);
    // Where little is logged, the port tells.
    let (log, address) = (gateway.stderr.clone(), gateway.address());
    let runs = || {
        let is_told = log.text().contains("listening on http://");
        is_told || std::net::TcpStream::connect(&address).is_ok()
    };
    let runs = tokio::select! {
        () = until_so("a gateway that runs or ends", runs) => true,
        status = gateway.ended() => {
            assert_eq!(status.code(), Some(1), "{}", log.text());
            false
        }
    };
    let text = format!("check: {said}\nrun: {}", gateway.stderr.text());
    (checked.status.code().unwrap(), text, runs)
}

async fn check(what: &str, change: impl Fn(&mut toml::Table, &Path)) -> bool {
    let grants = Grants::of(&[]).await;
    let (code, text, runs) = ended(grants.setup(), &change).await;
    assert_eq!(
        code == 0,
        runs,
        "{what}: check ended with {code}, run {}\n{text}",
        if runs { "runs" } else { "ended" }
    );
    runs
}

#[tokio::test]
async fn what_cannot_be_built_is_refused_by_both() {
    let keyed = |text: &'static str| {
        move |table: &mut toml::Table, folder: &Path| {
            let file = folder.join("sealing.keys");
            fs::write(&file, text).unwrap();
            set(table, "tenants.sealing_key_file", file.display().to_string());
        }
    };
    assert!(check("nothing", |_, _| {}).await);
    assert!(check("a good file of keys", keyed(&"5f".repeat(32).leak()[..])).await);
    for text in ["", "not a key", "# nothing but a remark\n"] {
        assert!(!check("a bad file of keys", keyed(text)).await, "{text:?}");
    }
    let to = |key: &'static str, value: &'static str| {
        move |table: &mut toml::Table, _: &Path| set(table, key, value)
    };
    for (key, value) in [
        ("tenants.sealing_key_file", "no-such-file"),
        ("tenants.sealing_key_file", "/"),
        ("database.url", "postgres://u:p@[::bad/db"),
        ("database.url", "postgres://u@h/db?sslmode=maybe"),
        ("database.url", "postgres://u@h:99999/db"),
        ("database.url", "postgres://u@h/db?sslrootcert=/no/such/file"),
        ("auth.openwebui.database_url", "postgres://u@h/db?sslmode=maybe"),
        ("auth.openwebui.redis_url", "redis://h/not-a-number"),
        ("auth.openwebui.redis_url", "redis://h:99999"),
        ("log.filter", "a[b=,"),
        ("listen.http", "203.0.113.7:8000"),
        ("listen.ops", "203.0.113.7:8000"),
    ] {
        check(&format!("{key} = {value}"), to(key, value)).await;
    }
    assert!(!check("an address of somebody else", to("listen.http", "203.0.113.7:8000")).await);
    assert!(!check("nobody", |table, _| super::unset(table, "auth.openwebui.secret")).await);
}

/// Keys, each with values that somebody might write.
const ODD: &[(&str, &[&str])] = &[
    (
        "database.url",
        &[
            "sqlite:",
            "sqlite:x.db",
            "sqlite::memory:",
            "sqlite:/",
            "postgres://",
            "postgres:///db",
            "postgres://h",
            "mysql://h/d",
        ],
    ),
    ("database.schema", &["public", "", "Public", "pg_catalog"]),
    (
        "auth.openwebui.database_url",
        &["", "sqlite:webui.db", "postgres://h/db?options=-c%20x", "postgres://h/db?unknown=1"],
    ),
    (
        "auth.openwebui.redis_url",
        &["", "redis://", "redis://h", "rediss://h:1/2", "unix:///tmp/x", "redis://:p%40@h"],
    ),
    ("auth.entra.tenant_id", &["", "common", "72f988bf-86f1-41af-91ab-2d7cd011db47"]),
    ("auth.entra.audience", &["", "api://x"]),
    ("auth.entra.authority", &["https://login.microsoftonline.com", "http://h", "h"]),
    ("access.admin_group", &["", "MCP-Admin", " x"]),
    ("log.filter", &["", "off", ",", "info,,x=debug", "[{a=b}]", "x[y{z=\"w\"}]=info", "===", "trace,"]),
    ("listen.public_url", &["", "https://h", "http://localhost:1", "h"]),
    ("mcp.session_keys", &["x"]),
    ("reload.watch", &["true", "perhaps", ""]),
    ("listen.http", &["127.0.0.1:0", "[::1]:1", "localhost:80", "127.0.0.1:65536", "255.255.255.255:9"]),
];

#[tokio::test]
async fn odd_values_in_any_mixture_are_judged_alike_by_both() {
    for seed in 0_u64..60 {
        let change = move |table: &mut toml::Table, _: &Path| {
            let mut random = seed;
            // Numerical Recipes' generator: the same mixtures in every run.
            let mut next = |below: usize| {
                random = random.wrapping_mul(1_664_525_u64).wrapping_add(1_013_904_223) & 0xffff_ffff;
                (random >> 8) as usize % below
            };
            for _ in 0..=next(3) {
                let (key, values) = ODD[next(ODD.len())];
                set(table, key, Value::from(values[next(values.len())]));
            }
        };
        let mut shown = toml::Table::new();
        change(&mut shown, Path::new(""));
        check(&format!("seed {seed}: {shown:?}"), change).await;
    }
}
