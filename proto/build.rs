//! Compiles the schema with protox, so that no system `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=schema/sealcast.proto");
    let files = protox::compile(["schema/sealcast.proto"], ["schema"])?;
    // BTreeMap: one encoding for one value. Bytes: a body is a slice of the frame it came in.
    prost_build::Config::new().btree_map(["."]).bytes(["."]).compile_fds(files)?;
    Ok(())
}
