//! Figures: printed, and held to bounds that even a debug build on a busy machine keeps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Client, Server};

fn pages(client: &Client, route: &str, list: &str) -> usize {
    let (mut seen, mut cursor) = (0, String::new());
    loop {
        let page = client.get(&format!("{route}&cursor={cursor}"));
        seen += page[list].as_array().map_or(0, Vec::len);
        match page["nextCursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return seen,
        }
    }
}

#[test]
fn a_hundred_thousand_files_list_page_by_page() {
    const FILES: usize = 100_000;
    let server = Server::with(|config| config.body_limit = 16 << 20);
    let client = server.client();
    let started = Instant::now();
    client.bulk((0..FILES).map(|i| format!("/d{}/e{}/f{i:06}", i % 4, i % 50)));
    println!("100 000 files written in bulk: {:?}", started.elapsed());

    let timed = |what: &str, want: usize, work: &dyn Fn() -> usize| {
        let started = Instant::now();
        assert_eq!(work(), want, "{what}");
        println!("{what}: {:?}", started.elapsed());
        started.elapsed()
    };
    let listed =
        timed("tree of everything, 1000 a page", FILES + 104, &|| pages(&client, "/fs/tree?path=/&depth=100", "entries"));
    assert!(listed < Duration::from_secs(20));
    timed("query of everything, 1000 a page", FILES, &|| pages(&client, "/fs/query?path=/&limit=1000", "items"));
    let root = timed("tree of the root, depth 1", 4, &|| {
        let page = client.get("/fs/tree?path=/&depth=1");
        assert_eq!(page["totalFiles"], FILES);
        page["entries"].as_array().map_or(0, Vec::len)
    });
    assert!(root < Duration::from_millis(100), "the root's four directories cost no scan: {root:?}");
    timed("tree of a directory, depth 1", 25, &|| {
        client.get("/fs/tree?path=/d1&depth=1")["entries"].as_array().map_or(0, Vec::len)
    });
    timed("export of a directory as JSON", 1000, &|| client.get("/fs/export?path=/d1/e1").as_array().map_or(0, Vec::len));
    timed("newest event", 1, &|| client.get("/fs/events?direction=desc&limit=1")["events"].as_array().map_or(0, Vec::len));
}

#[test]
fn concurrent_writers_share_commits() {
    const CLIENTS: usize = 16;
    let each: usize = std::env::var("RELAYFILE_TEST_PUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    let server = Arc::new(Server::start());
    let started = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|c| {
            let server = server.clone();
            std::thread::spawn(move || {
                let client = server.client();
                let content = "z".repeat(1024);
                for n in 0..each {
                    assert_eq!(client.put(&format!("/c{c}/{n}"), "0", &content).status, 202);
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|c| c.join().expect("the client ends"));
    let rate = (CLIENTS * each) as f64 / started.elapsed().as_secs_f64();
    println!("{CLIENTS} clients, {} durable PUTs of 1 KiB: {rate:.0}/s", CLIENTS * each);
    assert!(rate > 150.0, "{rate:.0}/s");
    let tree: Value = server.client().get("/fs/tree?path=/&depth=1");
    assert_eq!(tree["totalFiles"], CLIENTS * each);
}
