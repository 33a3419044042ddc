//! Where the programs under test are.

use std::path::PathBuf;

/// The path of `relayfile-mount` or `relayfile`.
///
/// In `RELAYFILE_BIN_DIR` if that is set, else in the directory that cargo builds into: test programs lie in `deps` below it.
pub fn binary(name: &str) -> PathBuf {
    let dir = match std::env::var_os("RELAYFILE_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let test = std::env::current_exe().expect("the path of this test program");
            let dir = test.ancestors().find(|d| d.join("deps").is_dir());
            dir.unwrap_or_else(|| panic!("{} is not below a cargo target directory", test.display())).to_owned()
        }
    };
    let path = dir.join(name);
    assert!(
        path.is_file(),
        "{} is missing: build it first (cargo build --workspace --bins) or name its directory in RELAYFILE_BIN_DIR",
        path.display()
    );
    path
}
