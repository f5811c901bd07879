//! Facts about keys and addresses of groups' own: told like grants, sealed, and each row by itself.

use super::*;
use crate::names::SecretKey;

fn sealing(bytes: &[u8]) -> SealingSettings {
    let key = |byte: &u8| SecretKey::parse(&format!("{byte:02x}").repeat(32)).unwrap();
    SealingSettings { keys: bytes.iter().map(key).collect(), file: None }
}

fn secret(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

#[tokio::test]
async fn every_way_to_change_what_a_group_has_of_its_own_is_told_once() {
    on_both(async |scratch| {
        let store = scratch.store().await;
        let (_, mut cursor) = load(&store).await;
        let (scratch, store, cursor) = (&scratch, &store, &mut cursor);
        for table in ["tenant_server_keys", "tenant_endpoint_overrides", "tenant_server_endpoints"] {
            let rest = if table == "tenant_server_keys" { "'token','x'" } else { "'http://h'" };
            let insert = format!("INSERT INTO {table} VALUES ('G','git',{rest}), ('H','git',{rest})");
            check(scratch, store, cursor, &insert, "[G] [H]").await;
            check(
                scratch,
                store,
                cursor,
                &format!("UPDATE {table} SET tenant_id = 'I' WHERE tenant_id = 'H'"),
                "[H] [I]",
            )
            .await;
            check(
                scratch,
                store,
                cursor,
                &format!("UPDATE {table} SET server_id = 'hg' WHERE tenant_id = 'I'"),
                "[I]",
            )
            .await;
            check(
                scratch,
                store,
                cursor,
                &format!("DELETE FROM {table} WHERE tenant_id = 'none'"),
                "nothing",
            )
            .await;
            check(scratch, store, cursor, &format!("DELETE FROM {table}"), "[G] [I]").await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_group_has_of_its_own_is_read_with_everything_and_by_itself() {
    on_both(async |mut scratch| {
        scratch.settings.sealing = sealing(&[1]);
        let store = scratch.store().await;
        store.set_key(&group("G"), &server("git"), "token", &secret("one")).await.unwrap();
        store.set_key(&group("G"), &server("git"), "token", &secret("two")).await.unwrap();
        store.set_key(&group("H"), &server("git"), "token", &secret("other")).await.unwrap();
        scratch
            .execute(
                "INSERT INTO tenant_server_keys VALUES ('P','git','token','plain');\
                 INSERT INTO tenant_endpoint_overrides VALUES ('G','git','http://a');\
                 INSERT INTO tenant_server_endpoints VALUES ('H','git','http://b')",
            )
            .await;
        let all = [
            "endpoint G git http://a",
            "endpoint H git http://b",
            "key G git token two",
            "key H git token other",
            "key P git token (Plain)",
        ];
        assert_eq!(load(&store).await.0, all);
        let of_g = about(&store, &[Subject::Group("G".into()), user("a@x")]).await;
        assert_eq!(of_g, ["endpoint G git http://a", "key G git token two"]);
        // Moved to another group it is nobody's.
        scratch.execute("UPDATE tenant_server_keys SET tenant_id = 'X' WHERE tenant_id = 'G'").await;
        assert_eq!(about(&store, &[Subject::Group("X".into())]).await, ["key X git token (Spoilt)"]);
        assert_eq!(store.delete_key(&group("H"), &server("git"), "token").await.unwrap(), 1);
        assert_eq!(store.delete_key(&group("H"), &server("git"), "token").await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn an_earlier_gateways_tables_that_lack_a_column_harm_nothing_but_what_they_are_about() {
    on_postgres(async |scratch| {
        scratch
            .execute(
                "CREATE TABLE tenant_server_keys (tenant_id varchar(99), server_id varchar(99), api_key text);\
                 CREATE TABLE tenant_endpoint_overrides (id serial, tenant_id text, server_id text, url text);\
                 INSERT INTO tenant_server_keys VALUES ('G','git','hush');\
                 INSERT INTO tenant_endpoint_overrides (tenant_id, server_id, url) VALUES ('G','git','http://h')",
            )
            .await;
        let store = scratch.store().await;
        scratch.execute(OPERATORS_SQL).await;
        let expected = [
            "endpoint G git ",
            "group MCP-GitHub github",
            "key G git  (Plain)",
            "user user@company.com github",
        ];
        assert_eq!(load(&store).await.0, expected);
        let (_, mut cursor) = load(&store).await;
        check(&scratch, &store, &mut cursor, "DELETE FROM tenant_server_keys", "[G]").await;
    })
    .await;
}

#[tokio::test]
async fn sealing_anew_reaches_every_row_that_can_be_read_and_tells_the_others() {
    on_both(async |mut scratch| {
        scratch.settings.sealing = sealing(&[1]);
        let old = scratch.store().await;
        old.set_key(&group("G"), &server("git"), "token", &secret("one")).await.unwrap();
        scratch
            .execute(
                "INSERT INTO tenant_server_keys VALUES ('P','git','token','plain'), ('E','git','token',''),\
                 ('S','git','token','portcullis:1:00000000:AAAA')",
            )
            .await;
        scratch.settings.sealing = sealing(&[2, 1]);
        let new = scratch.store().await;
        let done = new.reseal_keys().await.unwrap();
        assert_eq!((done.resealed, done.current, done.changed_meanwhile), (2, 0, 0));
        let unreadable: Vec<_> = done.unreadable.iter().map(|key| key.group.as_str()).collect();
        assert_eq!(
            {
                let mut all = unreadable;
                all.sort_unstable();
                all
            },
            ["E", "S"]
        );
        scratch.settings.sealing = sealing(&[2]);
        let newest = scratch.store().await;
        let rows = load(&newest).await.0;
        assert!(rows.contains(&"key G git token one".to_owned()), "{rows:?}");
        assert!(rows.contains(&"key P git token plain".to_owned()), "{rows:?}");
        assert_eq!(newest.reseal_keys().await.unwrap().current, 2);
        scratch.settings.sealing = sealing(&[]);
        let keyless = scratch.store().await;
        let error = keyless.set_key(&group("G"), &server("git"), "token", &secret("x")).await.unwrap_err();
        assert!(format!("{error:#}").contains("PORTCULLIS_SEALING_KEY"), "{error:#}");
    })
    .await;
}
