//! `README.md`, carried out: each command block is run as it stands and its output compared with what is printed there.
//!
//! A block begins a command at `$ `; the lines up to the next are its output, where `…` stands for anything. A section (`## …`) is
//! one shell in one folder with a copy of `conf/`. Only ports are replaced, by free ones. `toml` blocks are put at the end of the file
//! they name, and `sql` blocks are run on SQLite and on Postgres.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use super::harness::{
    deadline::{DEADLINE, until, until_so},
    gateway::{Answer, client},
    port::Port,
    postgres::Database,
    tokens,
};

const README: &str = include_str!("../../README.md");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Commands that are not run here, and why.
const NOT_RUN: [(&str, &str); 1] = [(
    r#"cargo build --release && export PATH="$PWD/target/release:$PATH""#,
    "minutes of building; what runs here is built already and stands in PATH",
)];

/// Commands that go on until they are ended, and the port that shows that they are there.
const LASTING: [(&str, &str); 3] =
    [("scripts/dev", "9090"), ("portcullis run", "9090"), ("python3 conf/examples/notes_server.py", "8910")];

/// The ports the README speaks of.
const PORTS: [&str; 3] = ["8000", "9090", "8910"];

/// A fenced block: its language, its text and the section it stands in.
struct Block {
    section: String,
    language: String,
    text: String,
}

fn blocks() -> Vec<Block> {
    let (mut blocks, mut section, mut open): (Vec<Block>, _, Option<Block>) =
        (Vec::new(), String::new(), None);
    for line in README.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => blocks.push(block),
            (Some(language), None) => {
                let (section, language) = (section.clone(), language.to_owned());
                open = Some(Block { section, language, text: String::new() });
            }
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {
                if let Some(title) = line.strip_prefix("## ") {
                    section = title.to_owned();
                }
            }
        }
    }
    assert!(open.is_none(), "a block of README.md has no end");
    blocks
}

/// The commands of a `console` block with the output printed under each.
fn commands(console: &str) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    for line in console.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command.to_owned(), String::new())),
            (None, Some((_, output))) => {
                output.push_str(line);
                output.push('\n');
            }
            (None, None) => panic!("a console block begins with output: {line}"),
        }
    }
    commands
}

/// Whether a text is as expected, where `…` stands for anything.
fn is_as_printed(expected: &str, text: &str) -> bool {
    let (expected, text) = (expected.trim_end(), text.trim_end());
    let Some((first, rest)) = expected.split_once('…') else { return expected == text };
    let Some(mut left) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('…').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some((_, after)) = left.split_once(part) else { return false };
        left = after;
    }
    left.ends_with(last)
}

/// One section's shell; it and all it started end when this is dropped.
struct Session {
    bash: Child,
    folder: tempfile::TempDir,
    /// Holds the output of each command.
    said: tempfile::TempDir,
    ports: Vec<(&'static str, Port)>,
    count: usize,
    /// Lasting commands by their first words.
    lasting: Vec<(&'static str, usize)>,
}

impl Session {
    fn start() -> Self {
        let (folder, said) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ports: Vec<_> = PORTS.into_iter().map(|number| (number, Port::take())).collect();
        let program = Path::new(env!("CARGO_BIN_EXE_portcullis")).parent().unwrap();
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("bash");
        command.env_clear().env("PATH", path).envs(std::env::var_os("HOME").map(|home| ("HOME", home)));
        // A group of its own, so that what it starts can be ended with it.
        command.current_dir(folder.path()).process_group(0).stdin(Stdio::piped());
        let bash = command.spawn().unwrap();
        let session = Self { bash, folder, said, ports, count: 0, lasting: Vec::new() };
        session.copy_configuration();
        session
    }

    fn copy_configuration(&self) {
        let conf = self.folder.path().join("conf");
        fs::create_dir_all(conf.join("examples")).unwrap();
        for file in ["gateway.toml", "servers.toml", "examples/notes_server.py"] {
            let text = fs::read_to_string(Path::new(ROOT).join("conf").join(file)).unwrap();
            fs::write(conf.join(file), self.on_free_ports(&text)).unwrap();
        }
    }

    fn port(&self, number: &str) -> &Port {
        &self.ports.iter().find(|(known, _)| *known == number).unwrap().1
    }

    fn on_free_ports(&self, text: &str) -> String {
        let replaced = |text: String, (number, port): &(&str, Port)| {
            let port = port.number();
            text.replace(&format!(":{number}"), &format!(":{port}"))
                .replace(&format!("--port {number}"), &format!("--port {port}"))
        };
        self.ports.iter().fold(text.to_owned(), replaced)
    }

    fn said(&self, count: usize) -> String {
        fs::read_to_string(self.file(count, "out")).unwrap_or_default()
    }

    fn file(&self, count: usize, kind: &str) -> PathBuf {
        self.said.path().join(format!("{count}.{kind}"))
    }

    /// Gives the shell work and waits until it is done, or begun; the number given back names its output.
    async fn tell(&mut self, work: &str, is_lasting: bool) -> usize {
        self.count += 1;
        let [out, err, new, done] = ["out", "err", "new", "done"].map(|kind| self.file(self.count, kind));
        let (out, err, new) = (out.display(), err.display(), new.display());
        let line = if is_lasting {
            format!("{work} >{out} 2>{err} & echo $! >{new}; mv {new} {}\n", done.display())
        } else {
            format!("{{ {work}\n}} </dev/null >{out} 2>&1; echo $? >{new}; mv {new} {}\n", done.display())
        };
        self.bash.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
        until_so(work, || done.exists()).await;
        self.count
    }

    /// Runs a command to its end: its exit code and what it said.
    async fn run(&mut self, command: &str) -> (i32, String) {
        let count = self.tell(&self.on_free_ports(command), false).await;
        let code = fs::read_to_string(self.file(count, "done")).unwrap();
        (code.trim().parse().unwrap(), self.said(count))
    }

    /// Starts a command that lasts, in place of the one before it, and waits until it is there.
    async fn begin(&mut self, command: &str, (words, port): (&'static str, &str), expected: &str) {
        if let Some(at) = self.lasting.iter().position(|(running, _)| *running == words) {
            let (_, count) = self.lasting.remove(at);
            let process = fs::read_to_string(self.file(count, "done")).unwrap();
            let (code, said) = self.run(&format!("kill -TERM {0} && wait {0}", process.trim())).await;
            assert_eq!(code, 0, "{words} did not end well: {said}{}", self.said(count));
        }
        // The script builds, and then runs exactly this.
        let [main, ops] = ["8000", "9090"].map(|number| self.port(number).number());
        let dev = format!("portcullis dev --port {main} --ops-port {ops}");
        let command = if command == "scripts/dev" { dev } else { self.on_free_ports(command) };
        let count = self.tell(&command, true).await;
        self.lasting.push((words, count));
        let (address, expected) = (self.port(port).address(), self.on_free_ports(expected));
        until_so(&command, || {
            is_serving(&address) && (expected.is_empty() || is_as_printed(&expected, &self.said(count)))
        })
        .await;
        // "Paste the two `export` lines into another shell."
        let exports: Vec<String> =
            self.said(count).lines().filter(|line| line.starts_with("export ")).map(str::to_owned).collect();
        for export in exports {
            self.run(&export).await;
        }
    }

    /// Carries out a block.
    async fn perform(&mut self, block: &Block) {
        match block.language.as_str() {
            "console" => {
                for (command, expected) in commands(&block.text) {
                    self.perform_command(&command, &expected).await;
                }
            }
            "toml" => {
                let (file, lines) = block.text.split_once('\n').unwrap();
                let file = self.folder.path().join(file.strip_prefix("# at the end of ").unwrap());
                let text = fs::read_to_string(&file).unwrap();
                fs::write(&file, format!("{text}\n{}", self.on_free_ports(lines))).unwrap();
            }
            "sql" => self.perform_sql(&block.text).await,
            other => panic!("a block of README.md is `{other}`, which nothing here carries out"),
        }
    }

    async fn perform_command(&mut self, command: &str, expected: &str) {
        if NOT_RUN.iter().any(|(known, _)| *known == command) {
            return;
        }
        if let Some(lasting) = LASTING.into_iter().find(|(words, _)| command.starts_with(words)) {
            return self.begin(command, lasting, expected).await;
        }
        let (code, said) = self.run(command).await;
        let expected = self.on_free_ports(expected);
        assert!(is_as_printed(&expected, &said), "$ {command}\n--- said\n{said}\n--- printed\n{expected}");
        assert!(code == 0 || !expected.is_empty(), "$ {command}\nended with {code}");
    }

    /// Runs it on both databases, where rows that are written count for the people they name.
    async fn perform_sql(&mut self, sql: &str) {
        let file = self.folder.path().join("portcullis.db");
        let mut sqlite = SqliteConnection::connect(&format!("sqlite:{}", file.display())).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut sqlite).await.unwrap();
        let postgres = Database::create().await;
        let there = format!("DATABASE_URL={}", postgres.url());
        assert_eq!(self.run(&format!("{there} portcullis migrate")).await.0, 0);
        postgres.execute(sql).await;
        if !sql.contains("INSERT") {
            return;
        }
        for who in ["user@company.com", "dave@company.com"] {
            for place in ["", &there] {
                let (code, said) = self.run(&format!("{place} portcullis explain --as {who} minutes")).await;
                assert_eq!(code, 0, "{who} {place}: {said}");
                let add = format!("{place} portcullis explain --as {who} minutes/add_note");
                let is_denied = who == "dave@company.com";
                assert_eq!(self.run(&add).await.0, i32::from(is_denied), "{add}");
            }
        }
    }

    async fn variable(&mut self, name: &str) -> String {
        self.run(&format!("printf %s \"${name}\"")).await.1
    }
}

/// Whether something answers there, and not with a 503, as a gateway does that is not ready.
fn is_serving(address: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let request = format!("GET /health/ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let is_said = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_end(&mut answer)).is_ok();
    is_said && answer.starts_with(b"HTTP/1.1 ") && !answer.starts_with(b"HTTP/1.1 503")
}

impl Drop for Session {
    fn drop(&mut self) {
        let group = format!("-{}", self.bash.id());
        let _ = Command::new("bash").args(["-c", "kill -KILL -- \"$0\"", &group]).status();
        let _ = self.bash.wait();
    }
}

async fn carry_out(section: &str) -> Session {
    let mut session = Session::start();
    let blocks: Vec<_> = blocks().into_iter().filter(|block| block.section == section).collect();
    assert!(!blocks.is_empty(), "README.md has no section `{section}` with a block");
    for block in &blocks {
        session.perform(block).await;
    }
    session
}

#[tokio::test]
async fn the_first_minutes_go_as_the_readme_says() {
    carry_out("Try it").await;
    let script = fs::read_to_string(Path::new(ROOT).join("scripts/dev")).unwrap();
    assert!(
        script.ends_with("\nexec cargo run --quiet -- dev \"$@\"\n"),
        "what stands in for it is another command"
    );
}

#[tokio::test]
async fn a_gateway_is_set_up_as_the_readme_says_and_serves_open_webui_s_users() {
    let mut session = carry_out("Run it").await;
    check_access_log(&session).await;
    let key = session.variable("OPENWEBUI_SERVICE_KEY").await;
    let secret = session.variable("FORWARD_USER_INFO_HEADER_JWT_SECRET").await;
    let url = format!("http://{}/minutes/list_notes", session.port("8000").address());
    let call = || client().post(&url).bearer_auth(&key).header("content-type", "application/json").body("{}");
    let vouch = |email: &str| {
        let claims = json!({"sub": "an-id", "email": email, "name": "A", "role": "user", "iss": "open-webui",
            "iat": tokens::now(0), "exp": tokens::now(300)});
        call().header("x-openwebui-user-jwt", tokens::sign(&claims, &secret))
    };
    let alice = Answer::read(vouch("alice@example.com").send().await.unwrap()).await;
    assert_eq!((alice.status.as_u16(), &alice.json()[0]["title"]), (200, &json!("Monday")));
    let stranger = Answer::read(vouch("mallory@example.com").send().await.unwrap()).await;
    assert_eq!((stranger.status.as_u16(), stranger.code()), (403, "not_granted".to_owned()));
    let unsigned = call().header("x-openwebui-user-email", "alice@example.com");
    let unsigned = Answer::read(unsigned.send().await.unwrap()).await;
    assert_eq!((unsigned.status.as_u16(), unsigned.code()), (401, "invalid_credential".to_owned()));
}

#[tokio::test]
async fn a_gateway_in_front_says_who_calls_as_the_readme_says() {
    carry_out("Behind a gateway that knows the user").await;
}

#[tokio::test]
async fn a_credential_is_explained_as_the_readme_says() {
    carry_out("What it answers").await;
}

/// The printed line of the access log has the fields of a real one, and the words that do not vary.
async fn check_access_log(session: &Session) {
    let blocks = blocks();
    let printed = blocks.iter().find(|block| block.language == "json").expect("a line of the access log");
    let printed: Value = serde_json::from_str(&printed.text).unwrap();
    let is_like = |line: &Value| {
        let words = ["method", "route", "status", "outcome", "server", "tool", "scheme"];
        words.iter().all(|word| line[word] == printed[word])
    };
    let real = until("a line like the printed one", || {
        let said: String = (1..=session.count).map(|count| session.said(count)).collect();
        let line = said.lines().filter_map(|line| serde_json::from_str(line).ok()).find(is_like);
        std::future::ready(line)
    });
    let keys = |line: &Value| line.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&real.await), keys(&printed));
}

#[test]
fn every_command_of_the_readme_is_run_or_has_a_reason_not_to_be() {
    let blocks = blocks();
    let carried_out = ["Try it", "Run it", "Behind a gateway that knows the user", "What it answers"];
    for block in blocks.iter().filter(|block| !carried_out.contains(&block.section.as_str())) {
        let is_picture_or_line = block.language.is_empty() || block.language == "json";
        assert!(
            is_picture_or_line,
            "a `{}` block under `{}` is not carried out",
            block.language, block.section
        );
    }
    let consoles = blocks.iter().filter(|block| block.language == "console");
    let known: Vec<String> =
        consoles.flat_map(|block| commands(&block.text)).map(|(command, _)| command).collect();
    for (command, reason) in NOT_RUN {
        assert!(
            known.iter().any(|known| known == command),
            "not in README.md any more: {command} ({reason})"
        );
    }
}

#[test]
fn an_ellipsis_stands_for_anything_and_nothing_else_does() {
    assert!(is_as_printed("a…c", "abbbc\n") && is_as_printed("…", "") && is_as_printed("a…\n…d", "ab\nc\nd"));
    assert!(!is_as_printed("a…c", "abd") && !is_as_printed("a", "ab") && !is_as_printed("…x…", "abc"));
}
