//! What the kernel says of a running gateway.

use super::gateway::Gateway;

impl Gateway {
    /// Memory it holds at this moment, in MiB.
    pub fn memory_mib(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1024
    }
}
