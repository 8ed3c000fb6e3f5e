//! Writes inputs to begin with to `corpus/TARGET/`, where `cargo fuzz` begins.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    for (target, _) in meshnet_fuzz::TARGETS {
        let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        std::fs::create_dir_all(&corpus)?;
        for (name, bytes) in meshnet_fuzz::seeds(target)? {
            std::fs::write(corpus.join(name), bytes)?;
        }
    }
    Ok(())
}
