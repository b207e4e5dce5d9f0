//! Compiles `proto/` with a compiler written in Rust, so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["identity_api.proto", "credential.proto", "mls_api.proto", "state.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_server(std::env::var_os("CARGO_FEATURE_SERVER").is_some())
        .build_client(true)
        .build_transport(false)
        // Maps that go into signed or hashed bytes must encode the same way each time.
        .btree_map(".")
        .include_file("xmtp.rs")
        .compile_fds(files)?;
    Ok(())
}
