//! Writes every target's seeds to `DIR/TARGET/seed-N`: what a new corpus begins from.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let dir = std::env::args().nth(1).expect("usage: seeds DIR");
    for target in sealcast_fuzz_targets::TARGETS {
        let dir = Path::new(&dir).join(target.name);
        std::fs::create_dir_all(&dir)?;
        for (n, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{n:02}")), seed)?;
        }
    }
    Ok(())
}
