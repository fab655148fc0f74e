//! What happens to a job, for those who watch it.
//!
//! Each job that is watched or run has a short list of events with ascending ids. Progress replaces
//! progress, so the list stays short however long the job; who comes back with the last id that was
//! seen misses no state and no end. The list is in memory only: of a job that ended before a restart
//! the row tells the end.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

use crate::store::JobId;

/// The kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The job's state has changed.
    State,
    /// It has come further.
    Progress,
    /// Something to know about its result.
    Warning,
    /// It has ended; nothing follows.
    End,
}

impl Kind {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Progress => "progress",
            Self::Warning => "warning",
            Self::End => "end",
        }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Ascending from 1 within a job.
    pub id: u64,
    /// What kind it is.
    pub kind: Kind,
    /// What happened.
    pub data: Value,
}

/// The events of one job.
#[derive(Debug)]
pub struct Channel {
    events: Mutex<Vec<Event>>,
    latest: watch::Sender<u64>,
}

impl Channel {
    fn new() -> Self {
        Self {
            events: Mutex::new(Vec::new()),
            latest: watch::Sender::new(0),
        }
    }

    /// Adds an event.
    pub fn push(&self, kind: Kind, data: Value) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if events.last().is_some_and(|e| e.kind == Kind::End) {
            return; // Nothing follows the end.
        }
        let id = events.last().map_or(0, |e| e.id) + 1;
        if kind == Kind::Progress && events.last().is_some_and(|e| e.kind == Kind::Progress) {
            events.pop();
        }
        events.push(Event { id, kind, data });
        drop(events);
        self.latest.send_replace(id);
    }

    /// The events after `id`.
    #[must_use]
    pub fn after(&self, id: u64) -> Vec<Event> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().filter(|e| e.id > id).cloned().collect()
    }

    /// Where to go on for one who saw `id`: an id that was never given out is of an earlier process, whose
    /// events are gone, so all of this one's are new.
    #[must_use]
    pub fn resume_after(&self, id: u64) -> u64 {
        if id > *self.latest.borrow() { 0 } else { id }
    }

    /// Whether the last event has been pushed.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.last().is_some_and(|e| e.kind == Kind::End)
    }

    /// Tells when there is an event after `id`.
    pub async fn wait_after(&self, id: u64) {
        let mut latest = self.latest.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _newest = latest.wait_for(|&newest| newest > id).await;
    }
}

/// The channels of all jobs that are watched or run.
#[derive(Debug, Default)]
pub(super) struct Hub {
    channels: Mutex<HashMap<JobId, Arc<Channel>>>,
}

impl Hub {
    /// A job's channel, made if it is not there.
    #[must_use]
    pub(super) fn channel(&self, id: JobId) -> Arc<Channel> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(
            channels
                .entry(id)
                .or_insert_with(|| Arc::new(Channel::new())),
        )
    }

    /// A job's channel, if it is there.
    #[must_use]
    pub(super) fn existing(&self, id: JobId) -> Option<Arc<Channel>> {
        let channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.get(&id).map(Arc::clone)
    }

    /// The jobs that have a channel which has not ended.
    #[must_use]
    pub(super) fn watched(&self) -> Vec<JobId> {
        let channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let open = channels.iter().filter(|(_, channel)| !channel.has_ended());
        open.map(|(id, _)| *id).collect()
    }

    /// Forgets the channels that have ended and that nobody watches.
    pub(super) fn sweep(&self) {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.retain(|_, channel| Arc::strong_count(channel) > 1 || !channel.has_ended());
    }

    /// Forgets a job that was erased; who watches it is told the end.
    pub(super) fn forget(&self, id: JobId, end: Value) {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.remove(&id)
            && !channel.has_ended()
        {
            channel.push(Kind::End, end);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn progress_replaces_progress_and_ids_go_on() {
        let channel = Channel::new();
        channel.push(Kind::State, json!("running"));
        channel.push(Kind::Progress, json!(1));
        channel.push(Kind::Progress, json!(2));
        channel.push(Kind::End, json!("succeeded"));
        let ids: Vec<u64> = channel.after(0).iter().map(|e| e.id).collect();
        assert_eq!(ids, [1, 3, 4]);
        assert_eq!(channel.after(3).len(), 1);
        assert!(channel.has_ended());
    }

    #[test]
    fn nothing_follows_the_end_and_an_unknown_id_starts_anew() {
        let channel = Channel::new();
        channel.push(Kind::End, json!("cancelled"));
        channel.push(Kind::Progress, json!(1));
        assert_eq!(channel.after(0).len(), 1);
        assert_eq!((channel.resume_after(1), channel.resume_after(40)), (1, 0));
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_the_next_event() {
        let hub = Hub::default();
        let channel = hub.channel(JobId::new());
        let waiting = tokio::spawn({
            let channel = Arc::clone(&channel);
            async move { channel.wait_after(0).await }
        });
        channel.push(Kind::State, json!("running"));
        waiting.await.unwrap();
    }
}
