//! Commands of the real binary that end by themselves.

use std::{path::Path, process::Stdio};

use tokio::process::Command;

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
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(arguments).arg("--config").arg(folder).current_dir(folder).env_clear();
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = within("the end of a command", command.output()).await.unwrap();
    Said {
        code: output.status.code().expect("a command ended by a signal"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
