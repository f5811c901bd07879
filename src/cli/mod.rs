//! The command line: what was typed becomes one call into the library.
//!
//! stdout is data, stderr is talk; exit 0 fine, 1 failed at work, 2 asked wrong. Decides nothing
//! about requests; every command is a file or a few lines here.

mod audit;
mod check;
mod dev;
mod explain;
mod grants;
mod health;
mod import;
mod keys;
mod logs;
mod ops;
mod sample;
mod token;
mod tools;
mod upgrade;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::{CommandFactory, Parser, Subcommand, error::ErrorKind};

use crate::{
    app,
    config::{self, Config, Environment},
    record::metrics::Metrics,
    store::Store,
};

/// One address in front of every MCP server a company uses.
#[derive(Parser)]
#[command(name = "portcullis", version, disable_help_subcommand = true)]
struct Arguments {
    /// Folder with gateway.toml and servers.toml.
    #[arg(long, global = true, default_value = "conf", value_name = "DIR")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway.
    Run,
    /// Run a self-contained gateway with a sample server and two users; needs no configuration.
    Dev(dev::DevArguments),
    /// Report every problem of the configuration.
    Check {
        /// Also reach the databases and read every server's tools.
        #[arg(long)]
        connect: bool,
    },
    /// Say whether the gateway on this machine can be called.
    Health(health::HealthArguments),
    /// Have a running gateway hand over to the program and configuration in place now, and wait for it.
    Upgrade(upgrade::UpgradeArguments),
    /// List the servers of the configuration.
    Servers,
    /// Say why somebody may use a server or tool, or what is missing.
    Explain(explain::ExplainArguments),
    /// Let a user or group use a server, allow or deny them single tools of it, or put a user into a group.
    Grant(grants::GrantArguments),
    /// Take back what `grant` gave, or remove a rule about tools.
    Revoke(grants::RevokeArguments),
    /// Take over what the earlier gateway's tables say; nothing is changed there.
    Import(import::ImportArguments),
    /// Keep the keys that groups bring of their own to servers.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Show what servers changed about their tools, and approve it.
    Tools(tools::ToolsArguments),
    /// Show who called what, and what came of it.
    Audit(audit::AuditArguments),
    /// Print a session token for development, signed with `auth.openwebui.secret`.
    Token(token::TokenArguments),
    /// Bring the database's tables up to date.
    Migrate,
    /// List the metrics of `/metrics`, with types, labels and meanings.
    Metrics,
    /// Run the bundled sample tool server.
    Sample(sample::SampleArguments),
    /// Print the version.
    Version,
}

/// How the configuration is found, for commands in other files.
struct Place<'a> {
    directory: &'a Path,
    environment: &'a Environment,
}

impl Place<'_> {
    fn load(&self) -> anyhow::Result<Config> {
        let config = config::load(self.directory, self.environment).map_err(anyhow::Error::new)?;
        for warning in &config.warnings {
            talk(&format!("warning: {warning}"));
        }
        Ok(config)
    }
}

/// Runs what was typed.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are answers, everything else was asked wrong.
            drop(error.print());
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let environment = Environment::of_process();
    let place = Place { directory: &arguments.config, environment: &environment };
    match perform(arguments.command, &place) {
        Ok(code) => code,
        Err(error) => match error.downcast::<clap::Error>() {
            Ok(asked_wrong) => {
                drop(asked_wrong.print());
                ExitCode::from(2)
            }
            Err(error) => {
                talk(&format!("error: {error:#}"));
                ExitCode::FAILURE
            }
        },
    }
}

/// For what clap cannot tell by itself: words that do not go together.
fn asked_wrong(sentence: &str) -> anyhow::Error {
    Arguments::command().error(ErrorKind::ArgumentConflict, sentence).into()
}

fn perform(command: Command, place: &Place<'_>) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run => run(place)?,
        Command::Dev(arguments) => dev::dev(&arguments)?,
        Command::Check { connect } => return check::check(place, connect),
        Command::Health(arguments) => return health::health(place, &arguments),
        Command::Upgrade(arguments) => upgrade::upgrade(place, &arguments)?,
        Command::Servers => servers(&place.load()?)?,
        Command::Explain(arguments) => return explain::explain(&place.load()?, &arguments),
        Command::Grant(arguments) => wait_for(grants::grant(place.load()?, arguments))?,
        Command::Revoke(arguments) => wait_for(grants::revoke(place.load()?, arguments))?,
        Command::Import(arguments) => return wait_for(import::import(place.load()?, arguments)),
        Command::Keys(command) => wait_for(keys::keys(place.load()?, command))?,
        Command::Tools(arguments) => return wait_for(tools::tools(place.load()?, arguments)),
        Command::Audit(arguments) => wait_for(audit::audit(place.load()?, arguments))?,
        Command::Token(arguments) => token::token(&place.load()?, &arguments)?,
        Command::Migrate => wait_for(migrate(place.load()?))?,
        Command::Metrics => data(Metrics::new()?.table().trim_end())?,
        Command::Sample(arguments) => sample::sample(&arguments)?,
        Command::Version => data(&format!("portcullis {}", env!("CARGO_PKG_VERSION")))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn run(place: &Place<'_>) -> anyhow::Result<()> {
    // First, while there is one thread.
    let inherited = app::Inherited::take();
    app::survive_signals()?;
    let loaded = config::load_with_files(place.directory, place.environment);
    let origin = app::Origin {
        directory: place.directory.to_owned(),
        environment: place.environment.clone(),
        files: loaded.files,
        written: loaded.written,
    };
    let config = loaded.outcome.map_err(anyhow::Error::new)?;
    for warning in &config.warnings {
        talk(&format!("warning: {warning}"));
    }
    if config.identity.believes_nobody() {
        bail!("{}", config::NOBODY_COULD_CALL);
    }
    for remark in [config.servers_remark(), config.sessions_remark()].into_iter().flatten() {
        talk(&format!("warning: {remark}"));
    }
    // Before anybody is told that somebody listens: whatever is wrong is wrong now, in the words of `check`.
    check::build(&config)?;
    let last_things = app::LastThings::default();
    let (log, levels) = logs::start(&config.record)?;
    last_things.keep(log);
    let (origin, command_line) = (Some(origin), Some(config::command_line()));
    app::run(app::Start { config, origin, levels, inherited, command_line, begin: None, last_things })
}

fn servers(config: &Config) -> anyhow::Result<()> {
    let width = config.servers.iter().map(|server| server.id.as_str().len()).max().unwrap_or_default();
    for server in &config.servers {
        let state = if server.is_enabled { "on" } else { "off" };
        let peers: Vec<String> = server.peers.iter().map(ToString::to_string).collect();
        let (id, tier, dialect) = (server.id.as_str(), server.tier.as_str(), server.dialect.as_str());
        let waits = match server.missing_variables.as_slice() {
            [] => String::new(),
            missing => format!("  (waits for {})", missing.join(", ")),
        };
        data(&format!(
            "{id:width$}  {state:3}  {tier:5}  {dialect:7}  {}  {}{waits}",
            peers.join(","),
            server.description
        ))?;
    }
    Ok(())
}

async fn migrate(config: Config) -> anyhow::Result<()> {
    let store = Store::open(&config.store)?;
    let pending = store.pending_migrations().await?;
    store.migrate().await?;
    for left in store.prepare_audit(&audit::a_year_ahead()).await?.left {
        talk(&format!("warning: a partition of the audit table could not be made: {left}"));
    }
    store.close().await;
    talk(&format!("applied {pending} migrations"));
    Ok(())
}

/// Runs a command's work to its end on a runtime of its own.
fn wait_for<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    app::install_crypto();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?
        .block_on(work)
}

/// One line of data.
fn data(line: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout(), "{line}") {
        // `portcullis servers | head` closes the pipe; that is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to stdout"),
    }
}

/// A text from a table, without what would change the terminal.
fn printable(text: &str) -> String {
    // The others turn the direction of writing round.
    let is_bad = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|letter| if is_bad(letter) { '\u{fffd}' } else { letter }).collect()
}

/// One line of talk. There is nobody to tell when stderr is closed.
fn talk(line: &str) {
    drop(writeln!(io::stderr(), "{line}"));
}
