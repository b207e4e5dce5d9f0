//! Where the functions' binaries are.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::Command;

use crate::{Failure, say};

/// The functions' names; each is a package and a binary.
pub(crate) const FUNCTIONS: [&str; 4] = ["usher-mint", "usher-purchase", "usher-refund", "usher-sweep"];

/// The folder that holds all binaries: `chosen`, or this executable's own, or the release folder of the checkout this
/// runs in. From a checkout what is missing is built.
pub(crate) async fn folder(chosen: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(folder) = chosen {
        return match missing(folder) {
            None => Ok(folder.to_owned()),
            Some(name) => Err(format!("{} has no {name}", folder.display()).into()),
        };
    }
    let executable = env::current_exe()?;
    let beside = executable.parent().ok_or("this executable is in no folder")?;
    if missing(beside).is_none() {
        return Ok(beside.to_owned());
    }
    let checkout = checkout(&env::current_dir()?).or_else(|| checkout(beside));
    let Some(checkout) = checkout else {
        let name = missing(beside).unwrap_or_default();
        return Err(format!(
            "there is no {name} beside this executable ({}) and this is no checkout of usher; in one, run \
             `{}` and then `target/release/usher dev`, or name the binaries' folder with --functions",
            beside.display(),
            build_command(),
        )
        .into());
    };
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout.join("target"), |dir| checkout.join(dir));
    let release = target.join("release");
    if missing(&release).is_some() {
        build(&checkout).await?;
    }
    match missing(&release) {
        None => Ok(release),
        Some(name) => Err(format!("`{}` made no {}", build_command(), release.join(name).display()).into()),
    }
}

fn missing(folder: &Path) -> Option<&'static str> {
    FUNCTIONS.into_iter().find(|name| !folder.join(name).is_file())
}

/// The nearest folder at or above `start` that is a checkout.
fn checkout(start: &Path) -> Option<PathBuf> {
    let is_ours = |folder: &&Path| folder.join("Cargo.lock").is_file() && folder.join("functions/mint").is_dir();
    start.ancestors().find(is_ours).map(Path::to_owned)
}

fn packages() -> impl Iterator<Item = [&'static str; 2]> {
    FUNCTIONS.into_iter().map(|name| ["--package", name])
}

fn build_command() -> String {
    let packages: Vec<_> = packages().flatten().collect();
    format!("cargo build --release {}", packages.join(" "))
}

async fn build(checkout: &Path) -> Result<(), Failure> {
    let command = build_command();
    say(&format!("building the functions: {command}"));
    let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release"])
        .args(packages().flatten())
        .current_dir(checkout)
        // Standard output is this command's result.
        .stdout(Stdio::from(std::io::stderr()))
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|error| format!("`{command}` cannot be run in {}: {error}", checkout.display()))?;
    if status.success() { Ok(()) } else { Err(format!("`{command}` failed in {}", checkout.display()).into()) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_chosen_folder_must_hold_them_all() {
        let dir = tempfile::tempdir().unwrap();
        for name in &FUNCTIONS[1..] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let error = folder(Some(dir.path())).await.unwrap_err().to_string();
        assert!(error.ends_with("has no usher-mint"), "{error}");
        fs::write(dir.path().join("usher-mint"), "").unwrap();
        assert_eq!(folder(Some(dir.path())).await.unwrap(), dir.path());
    }

    #[test]
    fn a_checkout_is_found_from_within() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("functions/mint/src")).unwrap();
        assert_eq!(checkout(&dir.path().join("functions/mint/src")), None);
        fs::write(dir.path().join("Cargo.lock"), "").unwrap();
        assert_eq!(checkout(&dir.path().join("functions/mint/src")), Some(dir.path().to_owned()));
    }
}
