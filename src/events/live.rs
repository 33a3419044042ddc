//! The live stream: from the first event, which must be the one that was applied last, to the end.

use super::*;

/// How long a stream may take to show that it goes on where it was left.
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);
/// Between two questions whether the feed knows more than the stream has brought.
const VERIFY_EVERY: Duration = Duration::from_secs(60);
/// How much later the stream may bring what the feed knows.
const LATE_MAX: Duration = Duration::from_secs(5);
/// A stream that lived so long is worth another at once.
const LIVED: Duration = Duration::from_secs(30);
/// Between two looks at what waits for the end of local work.
const TICK: Duration = Duration::from_secs(1);
/// How long after the old name of a draft went its new one may come: both belong together.
const NAMED_WITHIN: Duration = Duration::from_millis(100);
/// Events applied in one transaction, and the bytes that they may bring along (the last one may go beyond).
const BATCH: usize = 256;
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// How a stream ended.
pub(super) enum End {
    /// The follower is to end.
    Stopped,
    /// It broke, or its events do not follow those that were applied.
    Lost,
    /// There was none.
    None,
}

/// What the remote said to the request for a stream.
fn said(e: &RemoteError) -> String {
    match e.status {
        Some(status) => format!("{} (status {status})", e.message),
        None => e.message.clone(),
    }
}

impl Loop {
    /// Opens the stream and follows it to its end.
    pub(super) fn stream(&mut self, stopped: &Receiver<()>, poked: &Receiver<()>) -> End {
        self.state.lock().stream.last_attempt_at = Some(SystemTime::now());
        let mark = match self.workspace.mark() {
            Ok(mark) => mark,
            Err(e) => return self.no_stream(&e.to_string()),
        };
        let subscription = match self.remote.subscribe(self.place(&mark)) {
            Ok(subscription) => subscription,
            Err(e) => return self.no_stream(&said(&e)),
        };
        if self.no_feed && mark.before.is_none() {
            // There is no place to go on from: listed after the stream began, nothing can fall in between.
            if let Err(e) = self.learn() {
                return self.no_stream(&e.to_string());
            }
        }
        let began = Instant::now();
        let end = self.listen(&subscription, stopped, poked, began);
        let Err(why) = end else { return End::Stopped };
        // Whether the remote is the one that was followed has to be found out before anything is sent to it.
        self.gate.close();
        // Without a feed only a listing can tell.
        self.listed_at = self.listed_at.filter(|_| !self.no_feed);
        log::info!("the event stream ended after {:.0} s: {why}", began.elapsed().as_secs_f64());
        if began.elapsed() >= LIVED {
            self.stream_failures = 0;
        }
        self.pause(&why);
        let mut s = self.state.lock();
        (s.feed, s.why) = (Feed::Offline, Some(why));
        End::Lost
    }

    fn place<'m>(&self, mark: &'m FeedMark) -> Place<'m> {
        match (self.no_feed, mark.before.as_deref()) {
            (true, before) => Place::BelowRoot(before),
            (false, Some(before)) => Place::Behind(before),
            (false, None) => Place::Recent,
        }
    }

    fn no_stream(&mut self, why: &str) -> End {
        if self.stream_failures == 0 {
            log::warn!("no event stream, changes are polled for: {why}");
        }
        self.pause(why);
        End::None
    }

    /// The next attempt comes later, by a random part of a pause that doubles: many mounts lose the same server at once.
    fn pause(&mut self, why: &str) {
        let most = STREAM_AGAIN.saturating_mul(1 << self.stream_failures.min(16)).min(STREAM_AGAIN_MAX);
        self.stream_failures = self.stream_failures.saturating_add(1);
        let wait = most.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.stream_at = Instant::now() + wait;
        let mut s = self.state.lock();
        s.stream.why_not = Some(why.to_owned());
        s.stream.next_attempt_at = Some(SystemTime::now() + wait);
    }

    /// `Ok` when the follower is to end, else why the stream is over.
    fn listen(
        &mut self,
        subscription: &Subscription,
        stopped: &Receiver<()>,
        poked: &Receiver<()>,
        began: Instant,
    ) -> Result<(), String> {
        let mark = self.workspace.mark().map_err(|e| e.to_string())?;
        let mut confirmed = mark.last.is_none() || (self.no_feed && mark.before.is_none());
        if confirmed {
            self.streaming();
        }
        let (mut verified, mut missing) = (Instant::now(), None);
        loop {
            select_biased! {
                recv(stopped) -> _ => return Ok(()),
                recv(subscription.events) -> first => {
                    let mut batch = Vec::new();
                    let mut over = None;
                    let mut next = first.ok();
                    while let Some(item) = next {
                        match item {
                            Ok(event) => batch.push(event),
                            Err(e) => over = Some(e.message),
                        }
                        let brought = |e: &RemoteEvent| e.content.as_ref().map_or(0, |c| c.bytes.len());
                        if batch.len() >= BATCH || batch.iter().map(brought).sum::<usize>() >= BATCH_BYTES {
                            break;
                        }
                        next = match batch.last() {
                            Some(e) if e.by_system && e.kind == EventKind::Deleted => {
                                subscription.events.recv_timeout(NAMED_WITHIN).ok()
                            }
                            _ => subscription.events.try_recv().ok(),
                        };
                    }
                    let nothing = batch.is_empty();
                    self.heard(batch, &mut confirmed)?;
                    match over {
                        Some(why) => return Err(why),
                        None if nothing => return Err("its reader has ended".into()),
                        None => {}
                    }
                }
                recv(poked) -> message => {
                    if message.is_err() {
                        return Ok(());
                    }
                    self.refresh()?;
                }
                default(TICK) => {}
            }
            if !confirmed && began.elapsed() >= CONFIRM_WITHIN {
                return Err("it does not begin with the event that was applied last".into());
            }
            self.refresh()?;
            if confirmed && !(self.gate.is_open() && self.workspace.is_reachable()) {
                // A request got no answer. The stream lives, so the remote does; that it is the same one is asked for.
                match self.no_feed {
                    true => self.learn().map_err(|e| e.to_string())?,
                    false => drop(self.verify(None)?),
                }
                self.gate.open();
                self.workspace.set_reachable(true);
            }
            if confirmed && !self.no_feed && verified.elapsed() >= if missing.is_some() { LATE_MAX } else { VERIFY_EVERY } {
                missing = self.verify(missing)?;
                verified = Instant::now();
            }
        }
    }

    fn streaming(&mut self) {
        log::info!("the event stream is open");
        self.in_step(Feed::Streaming);
        let mut s = self.state.lock();
        s.stream = StreamState {
            last_connected_at: Some(SystemTime::now()),
            last_attempt_at: s.stream.last_attempt_at,
            ..Default::default()
        };
    }

    fn refresh(&mut self) -> Result<(), String> {
        self.workspace.refresh_noted().map_err(|e| e.to_string())?;
        self.state.lock().last_sync_at = Some(SystemTime::now());
        Ok(())
    }

    /// Applies what has come. `Err` when it does not follow what was applied.
    fn heard(&mut self, mut batch: Vec<RemoteEvent>, confirmed: &mut bool) -> Result<(), String> {
        if batch.is_empty() {
            return Ok(());
        }
        let mark = self.workspace.mark().map_err(|e| e.to_string())?;
        if !*confirmed {
            if Some(&batch[0].id) == mark.before.as_ref() {
                batch.remove(0); // a remote that takes "behind" as "from"
            }
            if batch.is_empty() {
                return Ok(());
            }
            if mark.last.as_deref() != Some(batch[0].print().as_str()) {
                return Err("it goes on with another event than the one that was applied last".into());
            }
            batch.remove(0);
            *confirmed = true;
            self.streaming();
        }
        // At the border of catching up and live a remote may say the same thing twice.
        batch.retain(|e| Some(e.id.as_str()) != mark.last_id());
        let mut last = mark.last_number();
        for event in &batch {
            let number = event.number();
            if let (Some(last), Some(number)) = (last, number)
                && number <= last
            {
                return Err(format!("the remote counts its events anew: {} came after evt_{last}", event.id));
            }
            last = number.or(last);
        }
        if batch.iter().any(|e| e.kind == EventKind::Unreadable) {
            return Err("it brings an event that cannot be read".into());
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.apply(&mark, &batch).map_err(|e| e.to_string())
    }

    /// Asks the feed whether it knows more than the stream has brought, and returns the number of the first such event. One
    /// that was `missing` the last time should have come since: a stream that stays silent although it is open would
    /// otherwise never be noticed.
    fn verify(&mut self, missing: Option<u64>) -> Result<Option<u64>, String> {
        let mark = self.workspace.mark().map_err(|e| e.to_string())?;
        let page = self.remote.events(mark.before.as_deref()).map_err(|e: RemoteError| e.message)?;
        let Some(news) = news_of(&page.events, &mark) else {
            return Err("the feed does not continue where it was".into());
        };
        match (news.iter().find(|e| !e.id.is_empty()).map(|e| e.number().unwrap_or(0)), missing) {
            (Some(first), Some(before)) if first <= before => Err("it is open and brings nothing".into()),
            (Some(first), _) => Ok(Some(first)),
            (None, _) => Ok(None),
        }
    }
}
