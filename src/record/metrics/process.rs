//! What the system says of this process, under the names that every Prometheus client uses.
//!
//! Reads `/proc` when it is asked and keeps nothing. What cannot be read is left out, never guessed.

use std::{fs, path::Path};

use prometheus::{
    Gauge, IntGauge,
    core::{Collector, Desc},
    proto::{MetricFamily, MetricType},
};

/// Ticks of `/proc` a second (`USER_HZ`): part of the kernel's interface, and the same on all that we are built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads the figures.
pub(super) struct Process {
    cpu_seconds: Gauge,
    resident_bytes: IntGauge,
    virtual_bytes: IntGauge,
    threads: IntGauge,
    open_files: IntGauge,
    most_files: IntGauge,
    started: Gauge,
}

impl Process {
    pub fn new() -> prometheus::Result<Self> {
        let process = Self {
            cpu_seconds: Gauge::new("process_cpu_seconds_total", "CPU time of this process, in seconds.")?,
            resident_bytes: IntGauge::new("process_resident_memory_bytes", "Memory of this process.")?,
            virtual_bytes: IntGauge::new(
                "process_virtual_memory_bytes",
                "Addresses this process has in use.",
            )?,
            threads: IntGauge::new("process_threads", "Threads of this process.")?,
            open_files: IntGauge::new("process_open_fds", "Files and connections this process has open.")?,
            most_files: IntGauge::new("process_max_fds", "How many it may have open.")?,
            started: Gauge::new(
                "process_start_time_seconds",
                "When this process began, in seconds since 1970.",
            )?,
        };
        Ok(process)
    }

    fn read(&self) -> Option<()> {
        let stat = Stat::read(&fs::read_to_string("/proc/self/stat").ok()?)?;
        self.cpu_seconds.set(stat.cpu_seconds);
        self.threads.set(stat.threads);
        let status = fs::read_to_string("/proc/self/status").ok()?;
        self.resident_bytes.set(kib(&status, "VmRSS:")? * 1024);
        self.virtual_bytes.set(kib(&status, "VmSize:")? * 1024);
        self.open_files.set(i64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()?);
        let limits = fs::read_to_string("/proc/self/limits").ok()?;
        let most = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        self.most_files.set(most.split_whitespace().next()?.parse().unwrap_or(i64::MAX));
        let system = fs::read_to_string(Path::new("/proc/stat")).ok()?;
        let booted: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        self.started.set(booted + stat.started_seconds);
        Some(())
    }

    fn all(&self) -> [&dyn Collector; 7] {
        [
            &self.cpu_seconds,
            &self.resident_bytes,
            &self.virtual_bytes,
            &self.threads,
            &self.open_files,
            &self.most_files,
            &self.started,
        ]
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if self.read().is_none() {
            return Vec::new();
        }
        let mut families: Vec<_> = self.all().into_iter().flat_map(Collector::collect).collect();
        // A gauge inside, because it is set; what it says only grows.
        if let Some(cpu) = families.first_mut() {
            let mut metrics = cpu.take_metric();
            for metric in &mut metrics {
                let mut counter = prometheus::proto::Counter::default();
                counter.set_value(metric.get_gauge().get_value());
                metric.set_counter(counter);
            }
            cpu.set_metric(metrics);
            cpu.set_field_type(MetricType::COUNTER);
        }
        families
    }
}

/// What `/proc/PID/stat` says.
struct Stat {
    cpu_seconds: f64,
    threads: i64,
    started_seconds: f64,
}

impl Stat {
    fn read(text: &str) -> Option<Self> {
        // The program's name, in brackets, may hold anything.
        let (_, behind_name) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = behind_name.split_whitespace().collect();
        // proc(5) counts from 1; the state, which comes first here, is field 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / TICKS_PER_SECOND,
            threads: field(20)? as i64,
            started_seconds: field(22)? / TICKS_PER_SECOND,
        })
    }
}

fn kib(status: &str, name: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_all_of_them() {
        let families = Process::new().unwrap().collect();
        assert_eq!(families.len(), 7, "{families:?}");
        let value = |name: &str| {
            let family = families.iter().find(|family| family.name() == name).unwrap();
            let metric = &family.get_metric()[0];
            metric.get_gauge().get_value().max(metric.get_counter().get_value())
        };
        assert!(value("process_resident_memory_bytes") > 1e6 && value("process_open_fds") > 2.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let age = now - value("process_start_time_seconds");
        assert!((-2.0..3600.0).contains(&age), "began {age} seconds ago");
    }

    #[test]
    fn a_name_with_brackets_hides_nothing() {
        let stat = Stat::read(
            "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 13 14 15 16 9 18 12300 20 21 22 23 24 25 26 27",
        );
        let stat = stat.unwrap();
        assert_eq!((stat.cpu_seconds, stat.threads, stat.started_seconds), (3.0, 9, 123.0));
    }
}
