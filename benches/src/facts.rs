//! The machine that the figures come from.

use serde::{Deserialize, Serialize};
use std::fs;

/// What someone needs to know to compare figures with theirs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Processor, as the kernel names it.
    pub processor: String,
    /// Processors in use.
    pub cores: usize,
    /// Memory in MB.
    pub memory_mb: u64,
    /// Kernel release.
    pub kernel: String,
    /// UTC date, `YYYY-MM-DD`.
    pub date: String,
    /// Commit of this checkout, when git knows.
    pub commit: Option<String>,
    /// One-minute load average before the run.
    pub load_before: f64,
}

impl Facts {
    /// Looks at this machine.
    pub fn gather() -> Facts {
        let cpuinfo = read("/proc/cpuinfo");
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let memory_kb = field(&read("/proc/meminfo"), "MemTotal")
            .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        Facts {
            processor: field(&cpuinfo, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_mb: memory_kb.unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            date: output("date", &["-u", "+%F"]).unwrap_or_default(),
            commit: output("git", &["rev-parse", "--short", "HEAD"]),
            load_before: load(),
        }
    }
}

/// The one-minute load average now.
pub fn load() -> f64 {
    read("/proc/loadavg").split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0.0)
}

/// The first line that a program prints, when it runs and ends well.
pub fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = std::process::Command::new(program).args(arguments).output().ok()?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    let line = String::from_utf8_lossy(&text).lines().next()?.trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
