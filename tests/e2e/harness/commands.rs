//! Commands of the real binary that end by themselves.

use std::{path::Path, process::Stdio};

use tokio::{io::AsyncWriteExt, process::Command};

use super::deadline::within;

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// Talk.
    pub stderr: String,
}

/// Runs `portcullis ARGUMENTS` with the configuration in `folder`, and nothing of this process's environment.
pub async fn portcullis(folder: &Path, arguments: &[&str]) -> Said {
    portcullis_told(folder, arguments, "").await
}

/// The same, with this on its standard input.
pub async fn portcullis_told(folder: &Path, arguments: &[&str], input: &str) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(arguments).arg("--config").arg(folder).current_dir(folder).env_clear();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    // One that has ended, or reads nothing, takes nothing.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()).await);
    let output = within("the end of a command", child.wait_with_output()).await.unwrap();
    Said {
        code: output.status.code().expect("a command ended by a signal"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
