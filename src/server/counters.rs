//! How often each route was asked. Tests count a client's requests with it.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// Requests by method and route, `"PUT /fs/file"`; what is no route counts as `"METHOD other"`.
#[derive(Default)]
pub(crate) struct Counters(Mutex<BTreeMap<String, u64>>);

impl Counters {
    pub(crate) fn count(&self, method: &str, route: &str) {
        // The method of an unknown route is the client's invention: it must not grow the map.
        let known = matches!(method, "GET" | "PUT" | "POST" | "DELETE" | "HEAD" | "PATCH" | "OPTIONS");
        let name = format!("{} {route}", if known { method } else { "OTHER" });
        *self.0.lock().entry(name).or_default() += 1;
    }

    pub(crate) fn snapshot(&self) -> BTreeMap<String, u64> {
        self.0.lock().clone()
    }

    pub(crate) fn reset(&self) {
        self.0.lock().clear();
    }
}
