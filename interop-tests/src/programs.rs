//! Where the project's own programs are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

/// The helper that runs inside machines.
pub(crate) fn lab_tool() -> Result<PathBuf> {
    let path = directory()?.join("lab-tool");
    if !path.is_file() {
        bail!("{} is missing: cargo build -p interop-tests --bins", path.display());
    }
    Ok(path)
}

/// The slash32 binary under test: `SLASH32_BIN` if set, else the one of this build, brought up to
/// date first when cargo runs us.
pub fn slash32() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    built.clone().map_err(anyhow::Error::msg)
}

/// The programs every machine has in its `PATH`.
pub(crate) fn for_machines() -> Result<Vec<PathBuf>> {
    Ok(vec![lab_tool()?, slash32()?])
}

/// Cargo's target directory.
pub(crate) fn target_dir() -> Result<PathBuf> {
    Ok(directory()?.parent().context("the build directory has a parent")?.to_owned())
}

/// The repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn build() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SLASH32_BIN") {
        return std::path::absolute(path).context("SLASH32_BIN");
    }
    let directory = directory()?;
    let path = directory.join("slash32");
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut command = Command::new(cargo);
        command.args(["build", "--quiet", "--package", "slash32", "--bin", "slash32"]);
        if directory.ends_with("release") {
            command.arg("--release");
        }
        let status = command.current_dir(repository()).status().context("start cargo")?;
        if !status.success() {
            bail!("slash32 does not build");
        }
    }
    if !path.is_file() {
        bail!("{} is missing: cargo build, or set SLASH32_BIN", path.display());
    }
    Ok(path)
}

/// The directory of this build's programs (tests are in `deps/` below it).
fn directory() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("own path")?;
    let dir = exe.parent().context("own directory")?;
    let dir = if dir.ends_with("deps") { dir.parent().context("build directory")? } else { dir };
    Ok(dir.to_owned())
}
