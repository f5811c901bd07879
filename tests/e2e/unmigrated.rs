//! What is asked of a grants database that has no tables yet.

use std::process::{Command, Output};

/// The gateway's program with the shipped configuration and this grants database.
fn portcullis(database_url: &str, arguments: &[&str]) -> Output {
    let conf = concat!(env!("CARGO_MANIFEST_DIR"), "/conf");
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.env_clear().env("DATABASE_URL", database_url).args(["--config", conf]).args(arguments);
    command.output().unwrap()
}

#[test]
fn explain_without_tables_says_how_to_make_them() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("new.db").display());
    let explain = || portcullis(&url, &["explain", "--as", "user@company.com", "sample"]);
    let before = explain();
    let said = String::from_utf8_lossy(&before.stderr);
    assert_eq!(before.status.code(), Some(1));
    assert!(before.stdout.is_empty() && said.contains("run `portcullis migrate`"), "{said}");
    assert!(portcullis(&url, &["migrate"]).status.success());
    let after = explain();
    assert_eq!(after.status.code(), Some(1), "{}", String::from_utf8_lossy(&after.stderr));
    assert!(String::from_utf8_lossy(&after.stdout).contains("may not use `sample`"));
}
