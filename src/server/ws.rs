//! The live event stream (`/fs/ws`): what was missed, then what happens, each event once and in order.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts as _;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::http::StatusCode;
use axum::http::request::Parts;
use futures_util::stream::SplitStream;
use futures_util::{SinkExt as _, StreamExt as _, stream::SplitSink};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::acl::Gate;
use super::auth::Claims;
use super::dispatch::{App, check_name, check_rate};
use super::events::event_name;
use super::hub::{Gap, Subscription};
use super::query::Query;
use super::reply::{self, ApiError, Reply, sequence, timestamp};
use super::store::{EventRow, EventType, rev_name};

/// Longest content that travels with its event, in bytes of the stored string.
const INLINE_MAX: u64 = 1 << 20;
/// Events of a subscriber that named no position.
const RECENT: usize = 100;
/// Events read at once while catching up.
const PAGE: usize = 500;
/// Longest message from a client; all that it can say is a ping.
const CLIENT_MESSAGE_MAX: usize = 64 * 1024;
/// Pongs that may wait for a client that does not read.
const CONTROL_QUEUE: usize = 8;
/// How long a closing handshake may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct EventMessage {
    event_id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    path: String,
    revision: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    inline_content: bool,
    origin: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    provider: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    correlation_id: String,
    timestamp: String,
}

#[derive(Serialize)]
struct Pong {
    #[serde(rename = "type")]
    kind: &'static str,
    timestamp: String,
}

/// What a subscriber asked for.
struct Options {
    from_now: bool,
    cursor: String,
    /// Patterns; none matches all.
    paths: Vec<String>,
}

impl Options {
    fn new(query: &Query) -> Options {
        let mut paths: Vec<String> = Vec::new();
        for path in query.all("path").map(str::trim).filter(|p| !p.is_empty()) {
            let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        Options {
            from_now: query.get("from").trim().eq_ignore_ascii_case("now"),
            cursor: query.get("cursor").trim().to_owned(),
            paths,
        }
    }

    fn wants(&self, path: &str) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|pattern| matches(pattern, path))
    }
}

/// Exact, or segment by segment with `*` for one and a final `**` for any number.
fn matches(pattern: &str, path: &str) -> bool {
    if pattern == path {
        return true;
    }
    let mut path = path.trim_matches('/').split('/');
    let mut pattern = pattern.trim_matches('/').split('/').peekable();
    while let Some(want) = pattern.next() {
        if want == "**" && pattern.peek().is_none() {
            return true;
        }
        match path.next() {
            Some(segment) if want == "*" || want == segment => {}
            _ => return false,
        }
    }
    path.next().is_none()
}

/// Checks the token of the query (the header is not looked at), then upgrades.
pub(crate) async fn handle(app: &Arc<App>, workspace: &str, query: &Query, parts: &mut Parts) -> Result<Reply, ApiError> {
    let options = Options::new(query);
    let claims = app.verifier.verify(&format!("Bearer {}", query.get("token").trim()), reply::now_ns() / 1_000_000_000)?;
    claims.check_workspace(workspace)?;
    claims.check_scope("fs:read", Some(options.paths.first().map_or("/", String::as_str)))?;
    for path in options.paths.iter().skip(1) {
        claims.check_scope("fs:read", Some(path))?;
    }
    check_rate(app, workspace, &claims)?;
    check_name(workspace)?;
    let upgrade = WebSocketUpgrade::from_request_parts(parts, &())
        .await
        .map_err(|_| ApiError::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", "this route speaks WebSocket only"))?;
    let name = workspace.to_owned();
    let ws = match app.store.workspace(&name)? {
        Some(ws) => ws,
        // A subscription is a use: the workspace comes to be, so that its first event has a place to go.
        None => {
            let name = name.clone();
            app.store.write(move |tx| tx.workspace(&name)).await?
        }
    };
    let app = app.clone();
    Ok(upgrade
        .max_message_size(CLIENT_MESSAGE_MAX)
        .max_frame_size(CLIENT_MESSAGE_MAX)
        .on_upgrade(move |socket| async move { Stream { app, name, ws, options, claims }.run(socket).await }))
}

struct Stream {
    app: Arc<App>,
    name: String,
    ws: i64,
    options: Options,
    claims: Claims,
}

/// Why a stream ends.
enum End {
    /// The peer is gone.
    Gone,
    Close(u16, &'static str),
}

enum FromClient {
    Ping,
    NotJson,
}

impl Stream {
    async fn run(self, socket: WebSocket) {
        let (mut sink, stream) = socket.split();
        let (control, mut from_client) = mpsc::channel(CONTROL_QUEUE);
        let reader = tokio::spawn(listen(stream, control));
        let end = match self.serve(&mut sink, &mut from_client).await {
            Ok(()) => End::Gone,
            Err(end) => end,
        };
        if let End::Close(code, reason) = end {
            let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, sink.send(Message::Close(Some(frame)))).await;
            // The peer's own close frame, lest a reset overtakes ours.
            from_client.close();
            let abort = reader.abort_handle();
            if tokio::time::timeout(CLOSE_TIMEOUT, reader).await.is_err() {
                abort.abort();
            }
        } else {
            reader.abort();
        }
    }

    async fn serve(
        &self,
        sink: &mut SplitSink<WebSocket, Message>,
        from_client: &mut mpsc::Receiver<FromClient>,
    ) -> Result<(), End> {
        // First the queue, then the log: what is committed in between is in both, and the number tells.
        let Subscription { mut events, gap } = self.app.hub.subscribe(self.ws);
        let mut stopping = self.app.stopping.clone();
        let mut sent = 0;
        if let Some(start) = self.start()? {
            sent = start;
            loop {
                let page = self.app.store.events_after(self.ws, sent, PAGE).map_err(failed)?;
                let last_page = page.len() < PAGE;
                for event in &page {
                    sent = event.seq;
                    self.send_event(sink, event, &gap).await?;
                }
                if last_page {
                    break;
                }
            }
        }
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut stopping) => return Err(End::Close(close_code::AWAY, "the server is stopping")),
                message = from_client.recv() => match message {
                    None => return Ok(()),
                    Some(FromClient::NotJson) => {
                        return Err(End::Close(close_code::INVALID, "failed to unmarshal JSON"));
                    }
                    Some(FromClient::Ping) => {
                        let pong = Pong { kind: "pong", timestamp: timestamp(reply::now_ns()) };
                        self.send(sink, to_text(&pong), &gap).await?;
                    }
                },
                event = events.recv() => match event {
                    Some(event) if event.seq > sent => {
                        sent = event.seq;
                        self.send_event(sink, &event, &gap).await?;
                    }
                    Some(_) => {}
                    // The hub let go of a reader that was too slow; all before the gap has been sent.
                    None => return Err(OVERFLOW),
                },
            }
        }
    }

    /// The number after which to catch up; `None` for live events only.
    fn start(&self) -> Result<Option<i64>, End> {
        if !self.options.cursor.is_empty() {
            // An unknown cursor gives no catch-up and no error.
            let Some(seq) = sequence("evt_", &self.options.cursor) else { return Ok(None) };
            let known = self.app.store.has_event(self.ws, seq).map_err(failed)?;
            return Ok(known.then_some(seq));
        }
        if self.options.from_now {
            return Ok(None);
        }
        self.app.store.before_last(self.ws, RECENT).map(Some).map_err(failed)
    }

    async fn send_event(&self, sink: &mut SplitSink<WebSocket, Message>, event: &EventRow, gap: &Gap) -> Result<(), End> {
        if !self.options.wants(&event.path) {
            return Ok(());
        }
        let text = to_text(&self.message(event));
        self.send(sink, text, gap).await
    }

    async fn send(&self, sink: &mut SplitSink<WebSocket, Message>, text: Message, gap: &Gap) -> Result<(), End> {
        let mut stopping = self.app.stopping.clone();
        tokio::select! {
            biased;
            sent = sink.send(text) => sent.map_err(|_| End::Gone),
            () = gap.missed() => Err(OVERFLOW),
            () = stopped(&mut stopping) => Err(End::Close(close_code::AWAY, "the server is stopping")),
        }
    }

    fn message(&self, event: &EventRow) -> EventMessage {
        let mut message = EventMessage {
            event_id: event_name(event.seq),
            kind: event.kind.name(),
            path: event.path.clone(),
            revision: rev_name(event.revision),
            content_hash: event.hash.map(hex::encode),
            origin: event.origin.name(),
            provider: event.provider.clone(),
            correlation_id: event.correlation_id.clone(),
            timestamp: timestamp(event.at_ns),
            ..EventMessage::default()
        };
        if event.kind != EventType::Deleted
            && self.may_see(&event.path)
            && let Ok(Some((file, content))) = self.app.store.content_at(self.ws, &event.path, event.revision, INLINE_MAX)
        {
            message.content_type = Some(file.content_type);
            message.content = content;
            message.encoding = file.base64.then_some("base64");
            message.inline_content = true;
        }
        message
    }

    /// Whether the access rules let the subscriber have the content; the event itself everybody gets.
    fn may_see(&self, path: &str) -> bool {
        let gate = Gate::new(&self.name, &self.claims);
        gate.is_none_or(|gate| gate.admits(&self.app.store, path, true).unwrap_or(false))
    }
}

const OVERFLOW: End = End::Close(close_code::AGAIN, "event stream overflow; reconnect from cursor");

/// Returns when the server stops.
async fn stopped(stopping: &mut tokio::sync::watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

fn failed(e: super::store::StoreError) -> End {
    log::error!("embedded server: event stream: {e}");
    End::Close(close_code::ERROR, "failed to load events")
}

fn to_text(message: &impl Serialize) -> Message {
    let mut text = serde_json::to_string(message).unwrap_or_default();
    text.push('\n');
    Message::Text(text.into())
}

/// Reads what the client says until it leaves.
async fn listen(mut stream: SplitStream<WebSocket>, control: mpsc::Sender<FromClient>) {
    #[derive(Deserialize)]
    struct ClientMessage {
        #[serde(rename = "type")]
        kind: Option<String>,
    }
    while let Some(Ok(message)) = stream.next().await {
        let bytes = match &message {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        let said = match serde_json::from_slice::<ClientMessage>(bytes) {
            Err(_) => FromClient::NotJson,
            Ok(message) if message.kind.as_deref().unwrap_or("").trim().eq_ignore_ascii_case("ping") => FromClient::Ping,
            Ok(_) => continue,
        };
        // After a refusal the rest is read only for the closing handshake.
        let _ = control.send(said).await;
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn path_filters_are_exact_or_patterns() {
        for (pattern, path, want) in [
            ("/ws/x", "/ws/x", true),
            ("/ws/x", "/ws/x/y", false),
            ("/ws/**", "/ws/deep/x", true),
            ("/ws/**", "/ws", true),
            ("/ws/**", "/wsx/a", false),
            ("/**", "/anything", true),
            ("/*/x", "/a/x", true),
            ("/*/x", "/a/b/x", false),
            ("/ws/*", "/ws/a", true),
            ("/ws/*", "/ws", false),
        ] {
            assert_eq!(matches(pattern, path), want, "{pattern} {path}");
        }
    }
}
