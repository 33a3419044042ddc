//! `relayfile mounts`: what is mounted, asked of the kernel first and of each mount second, so that a dead or hung one is listed
//! and delays nothing. What such a one cannot say is taken from its state directory.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::args::Mounts;
use super::known;
use super::live::{self, Answer};
use super::{out, report};
use crate::config;
use crate::fs::{self, MountEntry};
use crate::preflight::{Code, Exit, Problem};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    mountpoint: String,
    /// The word of `.relay/status`, or `dead`, or `silent`.
    status: String,
    workspace: Option<String>,
    pid: Option<u32>,
    state_dir: Option<String>,
    pending: Option<u64>,
    dead_lettered: Option<u64>,
}

pub fn run(options: &Mounts) -> Exit {
    let mounts = match fs::mounts() {
        Ok(mounts) => mounts,
        Err(e) => {
            let problem = Problem::new(Code::Internal, format!("cannot read /proc/self/mountinfo: {e}"), "is /proc mounted?");
            return report("relayfile", &problem);
        }
    };
    // Of several on one path only the topmost can be asked.
    let places: BTreeMap<PathBuf, MountEntry> =
        mounts.into_iter().filter(|m| m.is_ours()).map(|m| (m.mountpoint.clone(), m)).collect();
    let rows: Vec<Row> = places.values().map(row).collect();
    if options.json {
        out(format_args!("{}", serde_json::to_string_pretty(&rows).expect("strings and numbers become JSON")));
    } else if rows.is_empty() {
        out(format_args!("nothing is mounted"));
    } else {
        print_table(&rows);
    }
    Exit::Ok
}

fn row(mount: &MountEntry) -> Row {
    let name = mount.mountpoint.display().to_string();
    match live::ask(&mount.mountpoint) {
        Answer::State(state) => Row {
            mountpoint: name,
            status: state.status.unwrap_or_else(|| "mounted".into()),
            workspace: Some(state.workspace_id),
            pid: Some(state.pid),
            state_dir: Some(state.state_dir.display().to_string()),
            pending: Some(state.pending_writeback),
            dead_lettered: Some(state.dead_lettered),
        },
        Answer::Dead => without_answer(mount, "dead"),
        Answer::None(why) => {
            super::say(format_args!("relayfile: {name}: {why}"));
            without_answer(mount, "silent")
        }
    }
}

/// What the kernel and the state directory say of a mount that says nothing itself.
fn without_answer(mount: &MountEntry, status: &str) -> Row {
    let workspace = mount.source.to_str().and_then(|source| source.strip_prefix("relayfile:"));
    let known = config::states().ok().and_then(|states| known::last_at(&states, &mount.mountpoint, workspace));
    let known = known.as_ref();
    Row {
        mountpoint: mount.mountpoint.display().to_string(),
        status: status.into(),
        workspace: workspace.map(str::to_owned).or(known.map(|k| k.workspace.clone())),
        pid: known.and_then(|k| k.pid),
        state_dir: known.map(|k| k.state_dir.display().to_string()),
        pending: known.and_then(|k| k.pending),
        dead_lettered: known.and_then(|k| k.dead_lettered),
    }
}

fn print_table(rows: &[Row]) {
    let number = |n: Option<u64>| n.map_or_else(|| "?".to_owned(), |n| n.to_string());
    let mut table = vec![["MOUNTPOINT", "WORKSPACE", "STATUS", "PENDING", "DEAD", "PID", "STATE"].map(str::to_owned)];
    table.extend(rows.iter().map(|r| {
        [
            r.mountpoint.clone(),
            r.workspace.clone().unwrap_or_else(|| "?".into()),
            r.status.clone(),
            number(r.pending),
            number(r.dead_lettered),
            number(r.pid.map(u64::from)),
            r.state_dir.clone().unwrap_or_else(|| "?".into()),
        ]
    }));
    let widths: [usize; 7] = std::array::from_fn(|i| table.iter().map(|r| r[i].chars().count()).max().unwrap_or(0));
    for row in &table {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out(format_args!("{}", cells.join("  ").trim_end()));
    }
}
