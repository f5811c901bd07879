//! Who somebody is according to Open WebUI's own tables.
//!
//! Decides what of a user row counts: email, role, whether the account is active, the session stamp, the groups.
//! Never writes there, and never decides whether a token is good: `identity` does. Every version of Open WebUI that
//! has the tables `user` and `auth` is read; what an older one lacks is treated as absent.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use sqlx::{
    PgConnection, Postgres, Sqlite, SqliteConnection, Transaction, postgres::PgPool,
    sqlite::SqliteConnectOptions,
};

pub use super::second_factor::SecondFactor;
use super::{
    ANSWER, DatabaseUrl, postgres, second_factor,
    second_factor::Factors,
    sqlite_file::{Opening, Owner, SqliteFile},
    text::Text,
    within,
};
use crate::names::{Email, GroupName};

/// How many users one query asks for.
const CHUNK: usize = 1_000;
/// How long the columns are taken to be as they were: an upgrade of Open WebUI adds some while we run.
const SHAPE_LASTS: Duration = Duration::from_secs(60);

/// A user of Open WebUI as its tables have them now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The `id` of session tokens.
    pub id: String,
    /// The email that grants are looked up by.
    pub email: Email,
    /// What Open WebUI lets them do.
    pub role: Role,
    /// Whether `auth.active` is true; false without a row in `auth`.
    pub is_active: bool,
    /// What a session token has to carry; changes when the password does.
    pub session_stamp: Option<String>,
    /// What Open WebUI demands beside their password.
    pub second_factor: SecondFactor,
    /// Their groups and all groups above those, in order, each once.
    pub groups: Vec<GroupName>,
}

/// What Open WebUI lets a user do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Use it.
    User,
    /// Administer it.
    Admin,
    /// Nothing yet (`pending`), or something this gateway doesn't know.
    Other,
}

impl User {
    /// Why Open WebUI's own rules let this user do nothing, if they do.
    pub fn trouble(&self) -> Option<&'static str> {
        if !self.is_active {
            return Some("user is not active in Open WebUI");
        }
        match self.role {
            Role::User | Role::Admin => None,
            Role::Other => Some("user's role in Open WebUI is neither `user` nor `admin`"),
        }
    }
}

/// Open WebUI's database, read-only. Cloning is cheap: clones share the connections.
#[derive(Clone)]
pub struct OpenWebUi {
    database: Database,
    shape: Arc<Mutex<Option<(Instant, Opening, Shape)>>>,
}

#[derive(Clone)]
enum Database {
    Postgres(PgPool),
    Sqlite(Box<SqliteFile>),
}

/// Which of the tables and columns that came with later versions are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct Shape {
    has_stamp: bool,
    pub(super) has_members: bool,
    pub(super) has_parents: bool,
    has_second_factor: bool,
    /// API keys, and what settings and groups say of their use.
    pub(super) has_api_keys: bool,
}

/// One instant of the database, to read from.
pub(super) enum Instance {
    Postgres(Box<Transaction<'static, Postgres>>),
    Sqlite(Box<Transaction<'static, Sqlite>>),
}

/// `id, email, role, active, session_stamp` of a user.
type UserRow = (Text, Text, Text, Option<bool>, Text);
/// `user_id, name` of a group they are in.
type GroupRow = (Text, Text);
type Rows = (Vec<UserRow>, Vec<GroupRow>, Factors);

impl OpenWebUi {
    /// Prepares connections without making one.
    pub fn open(url: &DatabaseUrl, schema: &str) -> anyhow::Result<Self> {
        let database = match url {
            DatabaseUrl::Postgres(url) => Database::Postgres(postgres::pool(url, schema)?),
            DatabaseUrl::Sqlite(path) => {
                let options = SqliteConnectOptions::new().read_only(true);
                Database::Sqlite(Box::new(SqliteFile::new(path, options, Owner::Other)))
            }
        };
        Ok(Self { database, shape: Arc::default() })
    }

    /// The users with these ids; unknown ids, and users whose email is malformed, are missing from the answer.
    pub async fn users(&self, ids: &[String]) -> anyhow::Result<HashMap<String, User>> {
        let mut users = HashMap::with_capacity(ids.len());
        for chunk in ids.chunks(CHUNK) {
            let rows =
                within(ANSWER, self.read(chunk)).await.context("could not read the users of Open WebUI")?;
            users.extend(assemble(rows));
        }
        Ok(users)
    }

    /// The user with this email, whatever the case of its ASCII letters.
    pub async fn user_by_email(&self, email: &Email) -> anyhow::Result<Option<User>> {
        let ids =
            within(ANSWER, self.ids_of(email)).await.context("could not read the users of Open WebUI")?;
        // The database may fold more letters than we do.
        let mut users = self.users(&ids).await?.into_values().filter(|user| user.email == *email);
        let user = users.next();
        if users.next().is_some() {
            bail!("two users of Open WebUI have the same email, so neither can be told by it");
        }
        Ok(user)
    }

    async fn ids_of(&self, email: &Email) -> anyhow::Result<Vec<String>> {
        let ids: Vec<Text> = match &self.database {
            Database::Postgres(pool) => {
                sqlx::query_scalar("SELECT id::text FROM \"user\" WHERE lower(email) = lower($1)")
                    .bind(email.as_str())
                    .fetch_all(pool)
                    .await?
            }
            Database::Sqlite(file) => {
                let (pool, _) = file.pool().await?;
                sqlx::query_scalar("SELECT id FROM \"user\" WHERE lower(email) = lower(?1)")
                    .bind(email.as_str())
                    .fetch_all(&pool)
                    .await?
            }
        };
        // Left out, it would let another user with the same email be told by it.
        let ids: Option<_> = ids.into_iter().map(Text::readable).collect();
        ids.context("a user of Open WebUI with this email has an id that is no text")
    }

    /// Reads users and their groups as of one instant.
    async fn read(&self, ids: &[String]) -> anyhow::Result<Rows> {
        match self.begin().await? {
            (Instance::Postgres(mut transaction), shape) => {
                let (users, groups) = postgres_rows(&mut transaction, shape, ids).await?;
                let factors = match shape.has_second_factor {
                    true => second_factor::postgres(&mut transaction, ids).await?,
                    false => Factors::default(),
                };
                transaction.commit().await?;
                Ok((users, groups, factors))
            }
            (Instance::Sqlite(mut transaction), shape) => {
                let ids = serde_json::to_string(ids)?;
                let (users, groups) = sqlite_rows(&mut transaction, shape, &ids).await?;
                let factors = match shape.has_second_factor {
                    true => second_factor::sqlite(&mut transaction, &ids).await?,
                    false => Factors::default(),
                };
                transaction.commit().await?;
                Ok((users, groups, factors))
            }
        }
    }

    /// Begins to read one instant, and says what can be read there.
    pub(super) async fn begin(&self) -> anyhow::Result<(Instance, Shape)> {
        match &self.database {
            Database::Postgres(pool) => {
                let mut transaction = pool.begin_with(postgres::ONE_SNAPSHOT).await?;
                let shape = match self.known_shape(0) {
                    Some(shape) => shape,
                    None => {
                        self.remember(0, sqlx::query_as(POSTGRES_SHAPE).fetch_one(&mut *transaction).await?)
                    }
                };
                Ok((Instance::Postgres(Box::new(transaction)), shape))
            }
            Database::Sqlite(file) => {
                let (pool, opening) = file.pool().await?;
                let mut transaction = pool.begin().await?;
                let shape = match self.known_shape(opening) {
                    Some(shape) => shape,
                    None => self
                        .remember(opening, sqlx::query_as(SQLITE_SHAPE).fetch_one(&mut *transaction).await?),
                };
                Ok((Instance::Sqlite(Box::new(transaction)), shape))
            }
        }
    }

    fn known_shape(&self, opening: Opening) -> Option<Shape> {
        let shape = self.shape.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        shape.filter(|(seen, of, _)| *of == opening && seen.elapsed() < SHAPE_LASTS).map(|(.., shape)| shape)
    }

    fn remember(&self, opening: Opening, shape: Shape) -> Shape {
        let mut known = self.shape.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *known = Some((Instant::now(), opening, shape));
        shape
    }
}

/// Makes users of rows; what is malformed is left out.
fn assemble((rows, groups, factors): Rows) -> impl Iterator<Item = (String, User)> {
    let mut groups_of: HashMap<String, BTreeSet<GroupName>> = HashMap::new();
    for (user, name) in groups {
        let name = name.readable().and_then(|name| GroupName::parse(&name).ok());
        if let (Some(user), Some(name)) = (user.readable(), name) {
            groups_of.entry(user).or_default().insert(name);
        }
    }
    rows.into_iter().filter_map(move |(id, email, role, active, session_stamp)| {
        let (id, email) = (id.readable()?, Email::parse(&email.readable()?).ok()?);
        let session_stamp = match session_stamp {
            Text::Is(stamp) => Some(stamp),
            Text::Absent => None,
            // Taken for absent, it would let in a token that has none.
            Text::Malformed => return None,
        };
        let role = match role.readable().as_deref() {
            Some("user") => Role::User,
            Some("admin") => Role::Admin,
            _ => Role::Other,
        };
        let groups = groups_of.remove(&id).into_iter().flatten().collect();
        let (is_active, second_factor) = (active == Some(true), factors.of(&id));
        Some((id.clone(), User { id, email, role, is_active, session_stamp, second_factor, groups }))
    })
}

// The catalogs themselves, not `information_schema`: that hides what we may not read, and a hidden session stamp
// would look like an old version's missing one instead of being an error.
const POSTGRES_SHAPE: &str = "\
    SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('auth') \
               AND attname = 'session_stamp' AND NOT attisdropped) AS has_stamp, \
           to_regclass('group_member') IS NOT NULL AS has_members, \
           EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('\"group\"') \
               AND attname = 'parent_group_id' AND NOT attisdropped) AS has_parents, \
           EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('auth') \
               AND attname = 'mfa' AND NOT attisdropped) \
           AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('config') \
               AND attname = 'key' AND NOT attisdropped) AS has_second_factor, \
           EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('api_key') \
               AND attname = 'expires_at' AND NOT attisdropped) \
           AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('config') \
               AND attname = 'key' AND NOT attisdropped) \
           AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('\"group\"') \
               AND attname = 'permissions' AND NOT attisdropped) AS has_api_keys";

const SQLITE_SHAPE: &str = "\
    SELECT EXISTS (SELECT 1 FROM pragma_table_info('auth') WHERE name = 'session_stamp') AS has_stamp, \
           EXISTS (SELECT 1 FROM pragma_table_info('group_member')) AS has_members, \
           EXISTS (SELECT 1 FROM pragma_table_info('group') WHERE name = 'parent_group_id') AS has_parents, \
           EXISTS (SELECT 1 FROM pragma_table_info('auth') WHERE name = 'mfa') \
           AND EXISTS (SELECT 1 FROM pragma_table_info('config') WHERE name = 'key') AS has_second_factor, \
           EXISTS (SELECT 1 FROM pragma_table_info('api_key') WHERE name = 'expires_at') \
           AND EXISTS (SELECT 1 FROM pragma_table_info('config') WHERE name = 'key') \
           AND EXISTS (SELECT 1 FROM pragma_table_info('group') WHERE name = 'permissions') AS has_api_keys";

async fn postgres_rows(
    connection: &mut PgConnection,
    shape: Shape,
    ids: &[String],
) -> sqlx::Result<(Vec<UserRow>, Vec<GroupRow>)> {
    let users = if shape.has_stamp {
        "SELECT u.id::text, u.email::text, u.role::text, a.active, a.session_stamp::text \
         FROM \"user\" AS u LEFT JOIN auth AS a ON a.id = u.id WHERE u.id = ANY($1)"
    } else {
        "SELECT u.id::text, u.email::text, u.role::text, a.active, NULL::text \
         FROM \"user\" AS u LEFT JOIN auth AS a ON a.id = u.id WHERE u.id = ANY($1)"
    };
    let users = sqlx::query_as(users).bind(ids).fetch_all(&mut *connection).await?;
    if !shape.has_members {
        return Ok((users, Vec::new()));
    }
    let groups = if shape.has_parents {
        // UNION drops what is there already, so a cycle of parents comes to its end.
        "WITH RECURSIVE held (user_id, group_id) AS ( \
             SELECT user_id::text, group_id::text FROM group_member WHERE user_id = ANY($1) \
             UNION \
             SELECT held.user_id, g.parent_group_id::text FROM held JOIN \"group\" AS g ON g.id = held.group_id \
             WHERE g.parent_group_id IS NOT NULL \
         ) SELECT held.user_id, g.name::text FROM held JOIN \"group\" AS g ON g.id = held.group_id"
    } else {
        "SELECT m.user_id::text, g.name::text FROM group_member AS m JOIN \"group\" AS g ON g.id = m.group_id \
         WHERE m.user_id = ANY($1)"
    };
    Ok((users, sqlx::query_as(groups).bind(ids).fetch_all(connection).await?))
}

async fn sqlite_rows(
    connection: &mut SqliteConnection,
    shape: Shape,
    ids: &str,
) -> sqlx::Result<(Vec<UserRow>, Vec<GroupRow>)> {
    // SQLite keeps a text in a boolean column where somebody writes one.
    let users = if shape.has_stamp {
        "SELECT u.id, u.email, u.role, typeof(a.active) = 'integer' AND a.active <> 0, a.session_stamp \
         FROM \"user\" AS u LEFT JOIN auth AS a ON a.id = u.id WHERE u.id IN (SELECT value FROM json_each(?1))"
    } else {
        "SELECT u.id, u.email, u.role, typeof(a.active) = 'integer' AND a.active <> 0, NULL \
         FROM \"user\" AS u LEFT JOIN auth AS a ON a.id = u.id WHERE u.id IN (SELECT value FROM json_each(?1))"
    };
    let users = sqlx::query_as(users).bind(ids).fetch_all(&mut *connection).await?;
    if !shape.has_members {
        return Ok((users, Vec::new()));
    }
    let groups = if shape.has_parents {
        "WITH RECURSIVE held (user_id, group_id) AS ( \
             SELECT user_id, group_id FROM group_member WHERE user_id IN (SELECT value FROM json_each(?1)) \
             UNION \
             SELECT held.user_id, g.parent_group_id FROM held JOIN \"group\" AS g ON g.id = held.group_id \
             WHERE g.parent_group_id IS NOT NULL \
         ) SELECT held.user_id, g.name FROM held JOIN \"group\" AS g ON g.id = held.group_id"
    } else {
        "SELECT m.user_id, g.name FROM group_member AS m JOIN \"group\" AS g ON g.id = m.group_id \
         WHERE m.user_id IN (SELECT value FROM json_each(?1))"
    };
    Ok((users, sqlx::query_as(groups).bind(ids).fetch_all(connection).await?))
}

#[cfg(test)]
mod tests {
    use super::{
        super::scratch::{Scratch, on_ascii_postgres, on_both, on_sqlite},
        *,
    };

    const DDL: &str = include_str!("../../tests/fixtures/openwebui-0.12.4.sql");
    const PEOPLE: &str = r#"
        INSERT INTO "user" (id, email, role) VALUES
            ('jane', 'Jane@X.org', 'user'), ('root', 'root@x.org', 'admin'), ('new', 'new@x.org', 'pending'),
            ('gone', 'gone@x.org', 'user'), ('bare', 'bare@x.org', 'user'), ('odd', 'no email', 'user'),
            ('null', NULL, 'user');
        INSERT INTO auth (id, email, active, session_stamp) VALUES
            ('jane', 'jane@x.org', true, 's1'), ('root', 'root@x.org', true, NULL), ('new', 'new@x.org', true, NULL),
            ('gone', 'gone@x.org', false, 's2'), ('odd', 'odd', true, NULL);
        INSERT INTO "group" (id, name, parent_group_id) VALUES
            ('top', 'Company', NULL), ('mid', 'Engineering', 'top'), ('leaf', 'MCP-GitHub', 'mid'),
            ('same', 'Company', NULL), ('a', 'A', NULL), ('b', 'B', 'a'), ('bad', ' spaced ', NULL), ('none', NULL, NULL);
        UPDATE "group" SET parent_group_id = 'b' WHERE id = 'a';
        INSERT INTO group_member (id, group_id, user_id) VALUES
            ('1', 'leaf', 'jane'), ('2', 'same', 'jane'), ('3', 'a', 'root'), ('4', 'bad', 'root'), ('5', 'none', 'root');
    "#;

    async fn openwebui(scratch: &Scratch, ddl: &str) -> OpenWebUi {
        scratch.execute(ddl).await;
        scratch.execute(PEOPLE).await;
        OpenWebUi::open(&scratch.settings.url, "public").unwrap()
    }

    #[track_caller]
    fn check(
        users: &HashMap<String, User>,
        id: &str,
        role: Role,
        is_active: bool,
        stamp: Option<&str>,
        groups: &[&str],
    ) {
        let user = &users[id];
        assert_eq!(
            (user.role, user.is_active, user.session_stamp.as_deref()),
            (role, is_active, stamp),
            "{id}"
        );
        assert_eq!(user.groups.iter().map(GroupName::as_str).collect::<Vec<_>>(), groups, "groups of {id}");
    }

    fn everybody() -> Vec<String> {
        ["jane", "root", "new", "gone", "bare", "odd", "null", "nobody"].map(String::from).to_vec()
    }

    #[tokio::test]
    async fn users_are_what_open_webui_says_they_are() {
        on_both(async |scratch| {
            let openwebui = openwebui(&scratch, DDL).await;
            let users = openwebui.users(&everybody()).await.unwrap();
            assert_eq!(users.len(), 5, "malformed emails and unknown ids are absent");
            check(&users, "jane", Role::User, true, Some("s1"), &["Company", "Engineering", "MCP-GitHub"]);
            check(&users, "root", Role::Admin, true, None, &["A", "B"]);
            check(&users, "new", Role::Other, true, None, &[]);
            check(&users, "gone", Role::User, false, Some("s2"), &[]);
            check(&users, "bare", Role::User, false, None, &[]);

            let jane = openwebui.user_by_email(&Email::parse("JANE@x.org").unwrap()).await.unwrap();
            assert_eq!(jane.as_ref(), users.get("jane"));
            assert_eq!(openwebui.user_by_email(&Email::parse("who@x.org").unwrap()).await.unwrap(), None);
        })
        .await;
    }

    #[tokio::test]
    async fn a_second_factor_is_demanded_and_set_up_as_open_webui_has_it() {
        on_both(async |scratch| {
            let openwebui = openwebui(&scratch, DDL).await;
            let factor = async |id: &str| openwebui.users(&everybody()).await.unwrap()[id].second_factor;
            assert_eq!(factor("jane").await, SecondFactor::default());
            scratch
                .execute(
                    r#"INSERT INTO config (key, value) VALUES ('auth.mfa.enable', 'true'), ('auth.mfa.allow_oauth_bypass', 'true');
                UPDATE auth SET mfa = '{"secret": "sealed", "reset_required": false}' WHERE id = 'jane';
                UPDATE auth SET mfa = '{"secret": "sealed", "reset_required": true}' WHERE id = 'root';
                UPDATE auth SET mfa = '{"secret": null}' WHERE id = 'new';"#,
                )
                .await;
            let demanded = SecondFactor { is_demanded: true, is_oauth_exempt: true, ..SecondFactor::default() };
            assert_eq!(factor("jane").await, SecondFactor { is_set_up: true, ..demanded });
            for id in ["root", "new", "gone"] {
                assert_eq!(factor(id).await, demanded, "{id}");
            }
        })
        .await;
    }

    #[tokio::test]
    async fn more_ids_than_one_query_takes_are_all_answered() {
        on_both(async |scratch| {
            let openwebui = openwebui(&scratch, DDL).await;
            let mut ids: Vec<String> = (0..2_500).map(|n| format!("absent-{n}")).collect();
            ids.push("jane".into());
            assert_eq!(openwebui.users(&ids).await.unwrap().len(), 1);
            assert!(openwebui.users(&[]).await.unwrap().is_empty());
        })
        .await;
    }

    #[tokio::test]
    async fn what_an_older_version_lacks_is_absent() {
        on_both(async |scratch| {
            let openwebui = openwebui(&scratch, DDL).await;
            scratch.execute("DROP TABLE group_member; ALTER TABLE auth DROP COLUMN session_stamp;").await;
            let users = openwebui.users(&everybody()).await.unwrap();
            check(&users, "jane", Role::User, true, None, &[]);
            check(&users, "gone", Role::User, false, None, &[]);
        })
        .await;
    }

    #[tokio::test]
    async fn groups_without_parents_are_the_ones_of_the_member_rows() {
        on_both(async |scratch| {
            scratch
                .execute(
                    r#"CREATE TABLE "user" (id text, email text, role text);
                CREATE TABLE auth (id text, active boolean);
                CREATE TABLE "group" (id text, name text);
                CREATE TABLE group_member (user_id text, group_id text);
                INSERT INTO "user" VALUES ('jane', 'jane@x.org', 'user');
                INSERT INTO auth VALUES ('jane', NULL);
                INSERT INTO "group" VALUES ('leaf', 'MCP-GitHub');
                INSERT INTO group_member VALUES ('jane', 'leaf');"#,
                )
                .await;
            let openwebui = OpenWebUi::open(&scratch.settings.url, "public").unwrap();
            check(
                &openwebui.users(&everybody()).await.unwrap(),
                "jane",
                Role::User,
                false,
                None,
                &["MCP-GitHub"],
            );
        })
        .await;
    }

    #[tokio::test]
    async fn an_email_that_two_users_have_tells_neither() {
        on_both(async |scratch| {
            let openwebui = openwebui(&scratch, DDL).await;
            scratch
                .execute(
                    r#"DROP INDEX uq_user_email_lower;
                INSERT INTO "user" (id, email, role) VALUES ('jane2', 'jane@x.org', 'admin');"#,
                )
                .await;
            assert!(openwebui.user_by_email(&Email::parse("jane@x.org").unwrap()).await.is_err());
        })
        .await;
    }
    /// Beside everybody: users of whose row one text is `bad`, which writes bytes that are no text.
    async fn with_bad_rows(scratch: &Scratch, bad: &str) -> OpenWebUi {
        let openwebui = openwebui(scratch, DDL).await;
        scratch
            .execute(&format!(
                r#"INSERT INTO "user" (id, email, role) VALUES ('email', {bad}, 'user'), ('role', 'role@x.org', {bad}),
                    ('stamp', 'stamp@x.org', 'user'), ({bad}, 'twin@x.org', 'user');
                INSERT INTO auth (id, active, session_stamp) VALUES
                    ('email', true, NULL), ('role', true, NULL), ('stamp', true, {bad});
                INSERT INTO "group" (id, name) VALUES ('name', {bad});
                INSERT INTO group_member (id, group_id, user_id) VALUES ('6', 'name', 'jane');
                INSERT INTO config (key, value) VALUES ('auth.mfa.allow_oauth_bypass', 'true');"#
            ))
            .await;
        openwebui
    }

    async fn check_bad_rows(openwebui: &OpenWebUi) {
        let ids: Vec<String> = ["jane", "email", "role", "stamp"].map(String::from).into();
        let users = openwebui.users(&ids).await.unwrap();
        check(&users, "jane", Role::User, true, Some("s1"), &["Company", "Engineering", "MCP-GitHub"]);
        check(&users, "role", Role::Other, true, None, &[]);
        assert_eq!(users.len(), 2, "neither a user without an email nor one whose stamp nobody can tell");
        let twin = openwebui.user_by_email(&Email::parse("twin@x.org").unwrap()).await;
        assert!(twin.is_err(), "a user whose id is no text cannot be told by email");
    }

    #[tokio::test]
    async fn a_text_that_is_not_text_costs_only_its_own_row() {
        on_sqlite(async |scratch| {
            let openwebui = with_bad_rows(&scratch, "cast(x'ff40782e79' as text)").await;
            check_bad_rows(&openwebui).await;
            scratch
                .execute(
                    "UPDATE auth SET active = 'often' WHERE id = 'root';
                    UPDATE auth SET mfa = '{' WHERE id = 'jane';
                    INSERT INTO config (key, value) VALUES ('auth.mfa.enable', cast(x'ff' as text));",
                )
                .await;
            check_bad_rows(&openwebui).await;
            let users = openwebui.users(&everybody()).await.unwrap();
            assert!(!users["root"].is_active);
            let demanded =
                SecondFactor { is_demanded: true, is_oauth_exempt: true, ..SecondFactor::default() };
            assert_eq!(users["jane"].second_factor, demanded, "what cannot be read is taken as the stricter");
        })
        .await;
        on_ascii_postgres(async |scratch| {
            check_bad_rows(&with_bad_rows(&scratch, r"E'\xff@x.y'").await).await;
        })
        .await;
    }

    #[tokio::test]
    async fn a_replaced_file_is_read_from_then_on() {
        on_sqlite(async |scratch| {
            let openwebui = openwebui(&scratch, DDL).await;
            assert!(openwebui.users(&everybody()).await.unwrap().contains_key("jane"));
            let DatabaseUrl::Sqlite(path) = &scratch.settings.url else { panic!("not a file") };
            let old = path.with_extension("old");
            std::fs::rename(path, &old).unwrap();
            assert!(openwebui.users(&everybody()).await.is_err(), "a file that is gone answers nothing");
            assert!(!path.exists());
            std::fs::copy(&old, path).unwrap();
            scratch.execute(r#"DELETE FROM "user" WHERE id = 'jane'"#).await;
            assert!(!openwebui.users(&everybody()).await.unwrap().contains_key("jane"));
        })
        .await;
    }
}
