//! Facts about an SQLite file that is moved, deleted or replaced while a store is open on it.

use std::path::{Path, PathBuf};

use super::*;

fn path_of(scratch: &Scratch) -> &Path {
    let DatabaseUrl::Sqlite(path) = &scratch.settings.url else { panic!("not a file") };
    path
}

/// `portcullis.db` and the files SQLite keeps beside it, and where a move to `away` puts them.
fn all_files(path: &Path, away: &str) -> Vec<(PathBuf, PathBuf)> {
    let with = |name: &str, suffix: &str| path.with_file_name(format!("{name}{suffix}"));
    ["", "-wal", "-shm"].map(|suffix| (with("portcullis.db", suffix), with(away, suffix))).into()
}

/// A closed database of its own that holds one grant.
async fn backup(scratch: &Scratch, granted: &str) -> PathBuf {
    let path = path_of(scratch).with_file_name("backup.db");
    let settings = Settings { url: DatabaseUrl::Sqlite(path.clone()), ..scratch.settings.clone() };
    let store = Store::open(&settings).unwrap();
    store.migrate().await.unwrap();
    store.grant_user(&email(granted), &server("git")).await.unwrap();
    store.close().await;
    path
}

/// A store whose only grant is Ann's, and the place after it.
async fn store_of_ann(scratch: &Scratch) -> (Store, Cursor) {
    let store = scratch.store().await;
    store.grant_user(&email("ann@x"), &server("git")).await.unwrap();
    let (rows, cursor) = load(&store).await;
    assert_eq!(rows, ["user ann@x git"]);
    (store, cursor)
}

/// What another process finds in a file.
async fn rows_in(path: &Path) -> Vec<String> {
    let url = DatabaseUrl::Sqlite(path.to_owned());
    let store = Store::open(&Settings {
        url,
        schema: "public".into(),
        auto_migrate: true,
        sealing: Default::default(),
    })
    .unwrap();
    let (rows, _) = load(&store).await;
    store.close().await;
    rows
}

/// The store reads the new file, hears of changes to it, and the old file has kept its grant.
async fn check_replaced(scratch: &Scratch, store: &Store, mut cursor: Cursor, old: &Path) {
    assert_eq!(told(store, &mut cursor).await, "everything");
    assert_eq!(told(store, &mut cursor).await, "everything", "until the cursor of a new load takes over");
    let (rows, mut cursor) = load(store).await;
    assert_eq!(rows, ["user zoe@x git"]);
    assert_eq!(told(store, &mut cursor).await, "nothing");
    let operator = Store::open(&scratch.settings).unwrap();
    operator.revoke_user(&email("zoe@x"), &server("git")).await.unwrap();
    assert_eq!(told(store, &mut cursor).await, "zoe@x");
    operator.close().await;
    assert_eq!(about(store, &[user("zoe@x")]).await, [""; 0]);
    assert_eq!(rows_in(old).await, ["user ann@x git"]);
}

#[tokio::test]
async fn a_replaced_file_is_everything_and_is_read_from_then_on() {
    on_sqlite(async |scratch| {
        let backup = backup(&scratch, "zoe@x").await;
        let (store, cursor) = store_of_ann(&scratch).await;
        let (path, old) = (path_of(&scratch), path_of(&scratch).with_file_name("old.db"));
        // Only the file itself: what SQLite keeps beside it stays, and belongs to the old one.
        std::fs::rename(path, &old).unwrap();
        std::fs::rename(&backup, path).unwrap();
        check_replaced(&scratch, &store.clone(), cursor, &old).await;
        store.close().await;
        assert!(store.load_grants(&mut |_| ()).await.is_err(), "a closed store stays closed");
    })
    .await;
}

#[tokio::test]
async fn a_file_replaced_with_all_that_is_beside_it_is_everything() {
    on_sqlite(async |scratch| {
        let backup = backup(&scratch, "zoe@x").await;
        let (store, cursor) = store_of_ann(&scratch).await;
        for (from, to) in all_files(path_of(&scratch), "old.db") {
            std::fs::rename(from, to).unwrap();
        }
        std::fs::rename(&backup, path_of(&scratch)).unwrap();
        check_replaced(&scratch, &store, cursor, &path_of(&scratch).with_file_name("old.db")).await;
    })
    .await;
}

#[tokio::test]
async fn a_file_that_is_missing_is_an_error_and_is_not_made_anew() {
    on_sqlite(async |scratch| {
        let (store, mut cursor) = store_of_ann(&scratch).await;
        let (path, away) = (path_of(&scratch), path_of(&scratch).with_file_name("away.db"));
        std::fs::rename(path, &away).unwrap();
        let error = format!("{:#}", store.changes_since(&mut cursor).await.unwrap_err());
        assert!(error.contains("portcullis.db` is missing"), "{error}");
        assert!(store.load_grants(&mut |_| ()).await.is_err());
        assert!(store.rows_about(&[user("ann@x")], &mut |_| ()).await.is_err());
        assert!(store.grant_user(&email("bob@x"), &server("git")).await.is_err());
        assert!(store.migrate().await.is_err());
        assert!(!path.exists());
        std::fs::rename(&away, path).unwrap();
        assert_eq!(told(&store, &mut cursor).await, "nothing", "the same file is back");
        store.revoke_user(&email("ann@x"), &server("git")).await.unwrap();
        assert_eq!(told(&store, &mut cursor).await, "ann@x");
    })
    .await;
}

#[tokio::test]
async fn a_lost_write_ahead_log_is_everything() {
    for lost in ["portcullis.db-wal", "portcullis.db-shm"] {
        on_sqlite(async |scratch| {
            let (store, mut cursor) = store_of_ann(&scratch).await;
            std::fs::remove_file(path_of(&scratch).with_file_name(lost)).unwrap();
            assert_eq!(told(&store, &mut cursor).await, "everything", "{lost}");
            let (rows, mut cursor) = load(&store).await;
            assert_eq!(rows, ["user ann@x git"]);
            Store::open(&scratch.settings)
                .unwrap()
                .grant_user(&email("bob@x"), &server("git"))
                .await
                .unwrap();
            assert_eq!(told(&store, &mut cursor).await, "bob@x", "{lost}");
        })
        .await;
    }
}
