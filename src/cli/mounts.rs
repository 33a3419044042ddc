//! `relayfile mounts`: what is mounted, asked of the kernel first and of each mount second, so that a dead or hung one is listed
//! and delays nothing.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Serialize;

use super::args::Mounts;
use super::live::{self, Answer};
use super::{out, report};
use crate::fs;
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
    let places: BTreeSet<PathBuf> = mounts.into_iter().filter(|m| m.is_ours()).map(|m| m.mountpoint).collect();
    let rows: Vec<Row> = places.iter().map(|place| row(place)).collect();
    if options.json {
        out(format_args!("{}", serde_json::to_string_pretty(&rows).expect("strings and numbers become JSON")));
    } else if rows.is_empty() {
        out(format_args!("nothing is mounted"));
    } else {
        print_table(&rows);
    }
    Exit::Ok
}

fn row(mountpoint: &std::path::Path) -> Row {
    let name = mountpoint.display().to_string();
    let without = |status: &str| Row {
        mountpoint: name.clone(),
        status: status.into(),
        workspace: None,
        pid: None,
        state_dir: None,
        pending: None,
        dead_lettered: None,
    };
    match live::ask(mountpoint) {
        Answer::State(state) => Row {
            mountpoint: name,
            status: state.status.unwrap_or_else(|| "mounted".into()),
            workspace: Some(state.workspace_id),
            pid: Some(state.pid),
            state_dir: Some(state.state_dir.display().to_string()),
            pending: Some(state.pending_writeback),
            dead_lettered: Some(state.dead_lettered),
        },
        Answer::Dead => without("dead"),
        Answer::None(why) => {
            super::say(format_args!("relayfile: {name}: {why}"));
            without("silent")
        }
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
