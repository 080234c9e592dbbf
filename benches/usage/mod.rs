//! What a process costs, as the kernel says it. Whose process it is, is not known here.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// What the kernel says of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Resident memory now, in KiB.
    pub(crate) rss_kib: u64,
    /// The most it ever was, in KiB.
    pub(crate) peak_kib: u64,
    /// Open files.
    pub(crate) files: usize,
    /// Processor time used so far, in both modes.
    pub(crate) cpu: Duration,
}

impl Usage {
    /// What a process uses now.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let status = fs::read_to_string(folder.join("status"))?;
        let kib = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
            Ok::<u64, anyhow::Error>(line.trim().trim_end_matches("kB").trim().parse()?)
        };
        let stat = fs::read_to_string(folder.join("stat"))?;
        // Fields 14 and 15, counted from behind the name: user and system time in hundredths (proc(5)).
        let fields = stat.rsplit_once(')').context("a process without a name")?.1.split_whitespace();
        let ticks: u64 = fields
            .skip(11)
            .take(2)
            .map(str::parse::<u64>)
            .sum::<Result<u64, _>>()
            .context("no such field")?;
        Ok(Self {
            rss_kib: kib("VmRSS:")?,
            peak_kib: kib("VmHWM:")?,
            files: fs::read_dir(folder.join("fd"))?.count(),
            cpu: Duration::from_millis(ticks * 10),
        })
    }

    /// As JSON; memory in MiB.
    pub(crate) fn json(&self) -> Value {
        let mib = |kib: u64| ((kib * 10) / 1024) as f64 / 10.0;
        json!({
            "rss_mib": mib(self.rss_kib),
            "peak_mib": mib(self.peak_kib),
            "open_files": self.files,
            "cpu_s": self.cpu.as_secs_f64(),
        })
    }
}
