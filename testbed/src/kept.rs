//! What is kept of a failure, in a folder beside the testbed's that `down` leaves: logs and configurations,
//! what the gateways say of themselves and recorded of their connections, the packets on the WAN, the results,
//! and the line that repeats it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{emulator::control::Request, gateway, standing::Standing};

/// Moments kept of one run.
const MOMENTS: usize = 3;
/// What a gateway is asked for.
const ASKED: [&str; 4] = ["status", "peers", "services", "events"];

/// The folder of moments while the testbed stands.
fn moments(standing: &Standing) -> PathBuf {
    standing.folder.join("kept")
}

/// Keeps a moment: the packets, and what every gateway says now. The first few of a run are kept.
pub(crate) fn moment(standing: &Standing, name: &str) -> Result<()> {
    let all = moments(standing);
    let before = fs::read_dir(&all).map_or(0, |entries| entries.count());
    if before >= MOMENTS {
        return Ok(());
    }
    let folder = all.join(name);
    fs::create_dir_all(&folder)?;
    // What stopped or died has nothing to say, which is no reason to lose the rest.
    let to = std::path::absolute(folder.join("wan.pcapng"))?;
    let _ = standing.wan().ask(&Request::WriteCapture { to });
    for (index, cluster) in standing.scenario.clusters.iter().enumerate() {
        for number in 0..cluster.gateways {
            let Ok(admin) = gateway::admin(standing, index, number) else { continue };
            for what in ASKED {
                let Ok(said) = admin.get(&format!("/v1/{what}")) else { continue };
                let file = format!("{}-{}-{what}.json", cluster.name, number + 1);
                fs::write(folder.join(file), serde_json::to_vec_pretty(&said)?)?;
            }
        }
    }
    Ok(())
}

/// Keeps a failure: its moments, every log and configuration, the report if there is one, and how to repeat it.
pub(crate) fn failure(standing: &Standing, command: &str, report: Option<&str>) -> Result<PathBuf> {
    // Repetitions that failed have theirs; without one, the end is all there is.
    if !moments(standing).exists() {
        moment(standing, "end")?;
    }
    let name = format!("testbed-kept-{}", standing.run);
    let kept = standing.folder.parent().unwrap_or(&standing.folder).join(name);
    copy(&moments(standing), &kept)?;
    for cluster in &standing.scenario.clusters {
        copy(&standing.cluster_folder(&cluster.name), &kept.join(&cluster.name))?;
    }
    for name in ["testbed.json", "wan.json", "wan.log"] {
        let from = standing.folder.join(name);
        if from.exists() {
            fs::copy(from, kept.join(name))?;
        }
    }
    if let Some(report) = report {
        fs::write(kept.join("report.json"), report)?;
    }
    let place = std::env::current_dir().context("the current folder is not known")?;
    let file = format!("# seed {}, in {}\n{command}\n", standing.scenario.seed, place.display());
    fs::write(kept.join("repeat.sh"), file)?;
    Ok(kept)
}

/// Copies a folder with its folders; nothing where it is not there.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// The line that was typed, with what of the environment is part of it, as a shell reads it back.
pub(crate) fn command_line() -> String {
    let set = ["TESTBED_DIR", "TOMBOLO_BIN", "TOMBOLO_LOG"]
        .into_iter()
        .filter_map(|name| std::env::var(name).ok().map(|value| format!("{name}={}", quoted(&value))));
    set.chain(std::env::args().map(|word| quoted(&word))).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,%@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_typed() {
        assert_eq!(quoted("--delay=20ms"), "--delay=20ms");
        assert_eq!(quoted("gap_p99<1s failed==0"), "'gap_p99<1s failed==0'");
        let odd = "it's $HOME";
        let said =
            std::process::Command::new("sh").args(["-c", &format!("printf %s {}", quoted(odd))]).output();
        assert_eq!(said.unwrap().stdout, odd.as_bytes());
    }
}
