//! Facts about rows whose texts are not UTF-8: SQLite takes any bytes, and so does Postgres in the encoding `SQL_ASCII`.

use super::{
    super::scratch::{on_ascii_postgres, on_both},
    *,
};

/// Runs a test on both databases, with what writes `<FF>@x.y` into each.
async fn with_bad_text(test: impl AsyncFn(Scratch, &str)) {
    on_sqlite(async |scratch| test(scratch, "cast(x'ff40782e79' as text)").await).await;
    on_ascii_postgres(async |scratch| test(scratch, r"E'\xff@x.y'").await).await;
}

#[tokio::test]
async fn a_row_that_is_not_text_is_no_name_and_hides_no_other_row() {
    with_bad_text(async |scratch, bad| {
        let store = scratch.store().await;
        let (_, mut cursor) = load(&store).await;
        let rows = format!(
            "INSERT INTO user_tenant_access VALUES ({bad}, 'git', 'read'), ('a@x', {bad}, 'read'), ('a@x', 'git', {bad}); \
             INSERT INTO user_group_membership VALUES ({bad}, 'G'), ('a@x', {bad}), ('a@x', 'G'); \
             INSERT INTO group_tenant_mapping VALUES ({bad}, 'git'), ('G', {bad}), ('G', 'git')"
        );
        check(&scratch, &store, &mut cursor, &rows, "a@x [G]").await;
        let expected = [
            "group  git", "group G ", "group G git", "member  G", "member a@x ", "member a@x G", "user  git",
            "user a@x ", "user a@x git",
        ];
        assert_eq!(load(&store).await.0, expected, "no name is where the bytes are no text");
        assert_eq!(
            about(&store, &[user("a@x"), Subject::Group("G".into())]).await,
            ["group G ", "group G git", "member a@x ", "member a@x G", "user a@x ", "user a@x git"]
        );
        let revoke = "DELETE FROM user_tenant_access WHERE tenant_id = 'git'";
        check(&scratch, &store, &mut cursor, revoke, "a@x").await;
        let mend = format!("UPDATE user_group_membership SET user_email = 'b@x' WHERE user_email = {bad}");
        check(&scratch, &store, &mut cursor, &mend, "b@x").await;
    })
    .await;
}

/// A rule in letters that are none must reach whoever decides: it may have been a denial.
#[tokio::test]
async fn a_rule_that_is_not_text_is_read_with_what_can_be_read() {
    with_bad_text(async |scratch, bad| {
        let store = scratch.store().await;
        let (_, mut cursor) = load(&store).await;
        let lift = if store.is_postgres() {
            "ALTER TABLE tool_rules DROP CONSTRAINT tool_pattern_is_letters_digits_and_stars; \
             ALTER TABLE tool_rules DROP CONSTRAINT effect_is_allow_or_deny;"
        } else {
            "PRAGMA ignore_check_constraints = ON;"
        };
        let rows = format!(
            "{lift} INSERT INTO tool_rules VALUES ('group', 'G', 'git', {bad}, 'deny'), ('user', 'a@x', 'git', 'a', {bad})"
        );
        check(&scratch, &store, &mut cursor, &rows, "a@x [G]").await;
        let expected = ["rule group G git  deny", "rule user a@x git a "];
        assert_eq!(load(&store).await.0, expected);
        assert_eq!(about(&store, &[user("a@x"), Subject::Group("G".into())]).await, expected);
    })
    .await;
}

#[tokio::test]
async fn changes_that_cannot_be_named_still_count_as_many() {
    on_sqlite(async |scratch| {
        let store = scratch.store().await;
        let (_, mut cursor) = load(&store).await;
        let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000) \
             INSERT INTO user_tenant_access (user_email, tenant_id) SELECT cast(x'ff' as text) || i, 'git' FROM n; \
             INSERT INTO user_tenant_access VALUES ('a@x', 'git', 'read')";
        check(&scratch, &store, &mut cursor, many, "everything").await;
    })
    .await;
}

#[tokio::test]
async fn a_change_of_unreadable_kind_is_everything() {
    with_bad_text(async |scratch, bad| {
        let store = scratch.store().await;
        let (_, mut cursor) = load(&store).await;
        let note = format!("INSERT INTO portcullis_changes (kind, subject) VALUES ({bad}, 'a@x')");
        check(&scratch, &store, &mut cursor, &note, "everything").await;
    })
    .await;
}

#[tokio::test]
async fn rows_without_a_name_are_left_out() {
    on_both(async |scratch| {
        scratch
            .execute(
                "CREATE TABLE user_tenant_access (user_email text, tenant_id text, access_level text);
                CREATE TABLE user_group_membership (user_email text, group_name text);
                CREATE TABLE group_tenant_mapping (group_name text, tenant_id text);",
            )
            .await;
        let store = scratch.store().await;
        let (_, mut cursor) = load(&store).await;
        let rows = "INSERT INTO user_tenant_access VALUES ('a@x', NULL, NULL), ('a@x', 'git', NULL); \
             INSERT INTO user_group_membership VALUES ('a@x', NULL); \
             INSERT INTO group_tenant_mapping VALUES ('G', NULL)";
        check(&scratch, &store, &mut cursor, rows, "a@x [G]").await;
        assert_eq!(about(&store, &[user("a@x"), Subject::Group("G".into())]).await, ["user a@x git"]);
        assert_eq!(load(&store).await.0, ["user a@x git"]);
    })
    .await;
}
