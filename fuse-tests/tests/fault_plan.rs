//! A long run of operations against a remote that fails in every way it can: each one ends as promised.

use std::process::{Command, Stdio};

use fuse_tests::{binary, output, require};

/// The plan of faults and the operations follow from it.
const SEED: &str = "5";

#[test]
fn a_thousand_operations_under_a_plan_of_faults_are_neither_lost_nor_repeated_nor_stuck() {
    require(&["python3", "umount"]);
    let mount = binary("relayfile-mount");
    binary("relayfile");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/faults");
    let mut command = Command::new("python3");
    command.args([script, "1000", SEED]).stdin(Stdio::null()).env("RELAYFILE_BIN_DIR", mount.parent().expect("its directory"));
    let out = output(&mut command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{}\n{}{}", out.status, text(&out.stdout), text(&out.stderr));
}
