//! `.relay/metrics`: the numbers of status in Prometheus' text format (version 0.0.4).

use std::fmt::Write;

use crate::status::{Feed, Status};

/// Name, kind, help, value.
type Metric = (&'static str, &'static str, &'static str, u64);

pub fn render_metrics(s: &Status) -> String {
    let metrics: [Metric; 17] = [
        ("pending_operations", "gauge", "Operations that wait for their first or next attempt.", s.pending),
        ("in_flight_operations", "gauge", "Operations being sent.", s.in_flight),
        ("dead_letters", "gauge", "Operations that the remote has refused for good.", s.dead),
        ("conflicts", "gauge", "Dead letters that met another version at the remote.", s.conflicts),
        ("deliveries_unresolved", "gauge", "Accepted operations whose delivery is not at its end.", s.delivery.unresolved),
        ("deliveries_refused", "gauge", "Dead letters that the remote's provider has refused.", s.delivery.refused),
        ("deliveries_lost_total", "counter", "Deliveries given up without an answer.", s.delivery.lost),
        ("delivery_unknown", "gauge", "1 while the remote does not tell of deliveries.", u64::from(s.delivery.unknown.is_some())),
        ("pending_bytes", "gauge", "Bytes not yet at the remote.", s.pending_bytes),
        ("failed_writebacks_total", "counter", "Refusals since the beginning.", s.failed_writebacks),
        ("files", "gauge", "Files known.", s.files_known),
        ("hidden_names", "gauge", "Names of the remote that cannot be shown.", s.hidden_names),
        ("followed", "gauge", "1 while the changes of the remote are followed.", u64::from(s.feed.is_followed())),
        ("streaming", "gauge", "1 while they come as they happen.", u64::from(s.feed == Feed::Streaming)),
        ("token_refused", "gauge", "1 while the remote refuses the token.", u64::from(s.token_refused.is_some())),
        ("short_of_room", "gauge", "1 while the disk of the state directory is full.", u64::from(s.short_of_room)),
        ("store_failed", "gauge", "1 when the journal takes no more writes.", u64::from(s.store_failure.is_some())),
    ];
    let labels = format!("workspace=\"{}\",remote_root=\"{}\"", escaped(&s.workspace_id), escaped(&s.remote_root));
    let mut out = String::new();
    for (name, kind, help, value) in metrics {
        let _ =
            write!(out, "# HELP relayfile_{name} {help}\n# TYPE relayfile_{name} {kind}\nrelayfile_{name}{{{labels}}} {value}\n");
    }
    out
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
