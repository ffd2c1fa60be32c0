//! Writes `sidecar/schema/` anew from the types in `output.rs`: run it after a change there, and read the difference.

fn main() -> std::io::Result<()> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("schema");
    for (name, schema) in heirloom_sidecar::output::schemas() {
        let mut text = serde_json::to_string_pretty(&schema)?;
        text.push('\n');
        std::fs::write(dir.join(format!("{name}.schema.json")), text)?;
    }
    Ok(())
}
