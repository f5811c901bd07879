//! A small Debian with a real systemd as its first process, in namespaces of this machine (`scripts/machine`).
//!
//! It has this machine's network, so ports come from [`super::port`] and fake peers can be reached from it. What is
//! written there is gone when it is dropped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use super::{
    deadline::{until, until_so, within},
    postgres::given,
};

/// A running one.
pub struct Machine {
    /// Becomes the parent of systemd; all ends with it.
    process: Child,
    systemd: u32,
}

/// How a command ended there.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    /// What it said, on stdout and stderr.
    pub said: String,
}

impl Machine {
    /// One that has booted; none where this machine cannot have one, which `scripts/prepare machine` has said.
    #[expect(clippy::print_stderr, reason = "what is not tried is said")]
    pub async fn boot() -> Option<Self> {
        let folder = given("PORTCULLIS_TEST_MACHINE");
        if folder == "none" {
            eprintln!(
                "not tried: there can be no machine with systemd here; `scripts/prepare machine` says why"
            );
            return None;
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/machine");
        let process = Command::new(script).arg("boot").arg(folder).stdin(Stdio::null()).spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", process.id());
        let systemd = until("systemd in namespaces of its own", || {
            let children = fs::read_to_string(&children).unwrap_or_default();
            let child = children.split_whitespace().next().and_then(|id| id.parse::<u32>().ok());
            let is_systemd = |id: &u32| {
                fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name == "systemd\n")
            };
            std::future::ready(child.filter(is_systemd))
        });
        let machine = Self { systemd: systemd.await, process };
        until_so("a machine that has booted", || machine.run("systemctl is-system-running").code == 0).await;
        Some(machine)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        let systemd = self.systemd.to_string();
        command.args(["--target", &systemd, "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--"]);
        command.args([
            "env",
            "-i",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL=C",
        ]);
        command.args(["DEBIAN_FRONTEND=noninteractive", "bash", "-c"]);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a script of bash there, as root.
    pub fn run(&self, script: &str) -> Ended {
        let Output { status, stdout, stderr } = self.command().arg(script).output().unwrap();
        let said = [stdout, stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        Ended { code: status.code().unwrap_or(-1), said }
    }

    /// The same for what must end well; what it said, without white space at its end.
    #[track_caller]
    pub fn must(&self, script: &str) -> String {
        let Ended { code, said } = self.run(script);
        assert_eq!(code, 0, "{script}\n{said}\n{}", self.journal());
        said.trim_end().to_owned()
    }

    /// The same, without holding up this test's other tasks.
    pub async fn must_meanwhile(&self, script: &str) -> String {
        let mut command = tokio::process::Command::from(self.command());
        let output = within(script, command.arg(script).output()).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{script}\n{said}\n{}", self.journal());
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Where a file of it is, as seen from here.
    pub fn path(&self, path: &str) -> PathBuf {
        assert!(path.starts_with('/'), "{path}");
        PathBuf::from(format!("/proc/{}/root{path}", self.systemd))
    }

    /// Writes a file there.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Copies a file to it, as a new one.
    pub fn copy(&self, from: &Path, to: &str) {
        let to = self.path(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&to);
        fs::copy(from, to).unwrap();
    }

    /// What systemd says of a property of the gateway's unit.
    pub fn property(&self, name: &str) -> String {
        self.run(&format!("systemctl show portcullis --property {name} --value")).said.trim_end().to_owned()
    }

    /// What the gateway's unit has said so far.
    pub fn journal(&self) -> String {
        self.run("journalctl --no-pager --output cat --unit portcullis").said
    }

    /// Process id of the gateway, as seen from here.
    pub fn gateway_id(&self) -> u32 {
        let inner = self.property("MainPID");
        let status = |id: &str| fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let is_it = |id: &String| {
            let status = status(id);
            let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            let ids: Vec<_> = ids.split_whitespace().collect();
            ids.len() > 1 && ids.last() == Some(&inner.as_str()) && self.has(id)
        };
        let all =
            fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut numbers = all.filter(|name| name.parse::<u32>().is_ok());
        numbers.find(is_it).expect("the gateway's process").parse().unwrap()
    }

    /// Whether a process is of this machine.
    fn has(&self, id: &str) -> bool {
        let space = |id: &str| fs::read_link(format!("/proc/{id}/ns/pid")).ok();
        space(id).is_some() && space(id) == space(&self.systemd.to_string())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Everything in its namespaces ends with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
