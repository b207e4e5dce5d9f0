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
/// runs in. What may be missing or old is built: in a checkout's release folder, and whatever stands beside an
/// executable that `cargo run` has brought up to date without them.
pub(crate) async fn folder(chosen: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(folder) = chosen {
        return match missing(folder) {
            None => Ok(folder.to_owned()),
            Some(name) => Err(format!("{} has no {name}", folder.display()).into()),
        };
    }
    let executable = env::current_exe()?;
    let beside = executable.parent().ok_or("this executable is in no folder")?;
    if let Some(checkout) = run_by_cargo().and_then(|package| checkout(&package)) {
        return built(&checkout, beside).await;
    }
    if missing(beside).is_none() {
        return Ok(beside.to_owned());
    }
    let checkout = checkout(&env::current_dir()?).or_else(|| checkout(beside));
    let Some(checkout) = checkout else {
        let name = missing(beside).unwrap_or_default();
        return Err(format!(
            "there is no {name} beside this executable ({}) and this is no checkout of usher; in one, run \
             `cargo build --release` and then `target/release/usher dev`, or name the binaries' folder with --functions",
            beside.display(),
        )
        .into());
    };
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout.join("target"), |dir| checkout.join(dir));
    built(&checkout, &target.join("release")).await
}

/// The folder of this package, if `cargo run` runs it.
fn run_by_cargo() -> Option<PathBuf> {
    let ours = env::var_os("CARGO_PKG_NAME").is_some_and(|name| name == env!("CARGO_PKG_NAME"));
    env::var_os("CARGO_MANIFEST_DIR").filter(|_| ours).map(PathBuf::from)
}

fn missing(folder: &Path) -> Option<&'static str> {
    FUNCTIONS.into_iter().find(|name| !folder.join(name).is_file())
}

/// The nearest folder at or above `start` that is a checkout.
fn checkout(start: &Path) -> Option<PathBuf> {
    let is_ours = |folder: &&Path| folder.join("Cargo.lock").is_file() && folder.join("functions/mint").is_dir();
    start.ancestors().find(is_ours).map(Path::to_owned)
}

/// Brings the functions in `folder`, a profile's in a target folder, up to date.
///
/// All default members are built: cargo unites the features of what is built at once, so the functions alone would be
/// built with other dependencies than this executable, and take far longer.
async fn built(checkout: &Path, folder: &Path) -> Result<PathBuf, Failure> {
    let no_profile = || format!("{} is no profile's folder", folder.display());
    let target = folder.parent().ok_or_else(no_profile)?;
    let profile = folder.file_name().and_then(|name| name.to_str()).ok_or_else(no_profile)?;
    let profile = match profile {
        "release" => "--release".to_owned(),
        "debug" => "--profile=dev".to_owned(),
        other => format!("--profile={other}"),
    };
    let command = format!("cargo build {profile}");
    say(&format!("bringing the functions up to date: {command}"));
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What `cargo run` says of this package would have packages built again whose build scripts look at it.
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"CARGO_PKG_")) {
        cargo.env_remove(name);
    }
    let status = cargo
        .env_remove("CARGO_MANIFEST_DIR")
        .env_remove("CARGO_MANIFEST_PATH")
        .args(["build", &profile, "--target-dir"])
        .arg(target)
        .current_dir(checkout)
        // Standard output is this command's result.
        .stdout(Stdio::from(std::io::stderr()))
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|error| format!("`{command}` cannot be run in {}: {error}", checkout.display()))?;
    match missing(folder) {
        _ if !status.success() => Err(format!("`{command}` failed in {}", checkout.display()).into()),
        Some(name) => Err(format!("`{command}` made no {}", folder.join(name).display()).into()),
        None => Ok(folder.to_owned()),
    }
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
