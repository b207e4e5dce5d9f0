//! The code in `src/proto/generated` is what `proto/` says. `UPDATE_GENERATED=1 cargo test -p usher-xmtp --test generated`
//! writes it anew; the compiler is written in Rust, so no `protoc` has to be installed.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn generate(into: &Path) -> Result<(), Box<dyn Error>> {
    let roots = ["identity_api.proto", "credential.proto", "mls_api.proto", "state.proto"];
    let files = protox::compile(roots, [folder("proto")])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .server_mod_attribute(".", r#"#[cfg(feature = "server")]"#)
        // Maps that go into signed or hashed bytes must encode the same way each time.
        .btree_map(".")
        .include_file("xmtp.rs")
        .out_dir(into)
        .compile_fds(files)?;
    Ok(())
}

fn contents(folder: &Path) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    let files = fs::read_dir(folder)?.map(|entry| {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok((name, fs::read_to_string(&path)?))
    });
    files.collect()
}

#[test]
fn the_generated_code_is_what_proto_says() -> Result<(), Box<dyn Error>> {
    let (checked_in, anew) = (folder("src/proto/generated"), tempfile::tempdir()?);
    if env::var_os("UPDATE_GENERATED").is_some() {
        fs::remove_dir_all(&checked_in)?;
        fs::create_dir(&checked_in)?;
        return generate(&checked_in);
    }
    generate(anew.path())?;
    let (expected, found) = (contents(anew.path())?, contents(&checked_in)?);
    let names = expected.keys().chain(found.keys()).collect::<BTreeSet<_>>();
    let outdated: Vec<_> = names.into_iter().filter(|name| expected.get(*name) != found.get(*name)).collect();
    assert!(outdated.is_empty(), "{outdated:?} are not what proto/ says: write them anew, see the head of this file");
    Ok(())
}
