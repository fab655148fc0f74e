//! The worker that files results: takes what is due from the outbox, sends it, says what came of it.
//!
//! Each destination has a task of its own, so that one that does not answer keeps nobody else waiting. While a
//! delivery is tried it is held; a process that is killed holds no longer, and another one, or the next, tries it
//! again. What is on its way when the service stops is left to that as well.
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::destinations::{Destination, Peer};
use super::send::{self, Failed, Object};
use crate::jobs::{self, Delivery, Jobs, Wants};
use crate::telemetry;

/// How often what is due is looked for although nobody spoke of it.
const LOOK: Duration = Duration::from_secs(2);
/// The longest that one try may take.
const LONGEST: Duration = Duration::from_mins(10);

/// What sends results to their destinations.
#[derive(Debug)]
pub struct Filing {
    jobs: Arc<Jobs>,
    destinations: Vec<Destination>,
    web: reqwest::Client,
}

impl Filing {
    /// Files the results of these jobs at these destinations; nothing runs yet.
    ///
    /// # Errors
    /// If there can be no HTTP client.
    pub fn new(jobs: Arc<Jobs>, destinations: Vec<Destination>) -> Result<Self, reqwest::Error> {
        telemetry::filing_at(destinations.iter().map(|d| d.name.as_str()));
        Ok(Self {
            jobs,
            destinations,
            web: send::stow::client()?,
        })
    }

    /// Runs until the jobs close.
    pub async fn run(self) {
        let mut beside = JoinSet::new();
        let names: Vec<String> = self.destinations.iter().map(|d| d.name.clone()).collect();
        for destination in self.destinations {
            let desk = Desk {
                jobs: Arc::clone(&self.jobs),
                wants: destination.wants(),
                peer: destination.peer,
                web: self.web.clone(),
            };
            beside.spawn(desk.run());
        }
        beside.spawn(bury_unknown(Arc::clone(&self.jobs), names));
        self.jobs.closed().await;
        beside.shutdown().await;
    }
}

/// Files at one destination.
struct Desk {
    jobs: Arc<Jobs>,
    wants: Wants,
    peer: Peer,
    web: reqwest::Client,
}

impl Desk {
    /// Runs until it is aborted.
    async fn run(self) {
        loop {
            // Before the look: what becomes due in between is not missed.
            let due = self.jobs.delivery_due();
            match self.file_next().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => failed(&error),
            }
            tokio::select! {
                () = due => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Tries one delivery, if there is one to try.
    async fn file_next(&self) -> Result<bool, jobs::Error> {
        let Some(delivery) = self.jobs.take_delivery(&self.wants.destination).await? else {
            return Ok(false);
        };
        if let Some(outcome) = self.attend(&delivery).await {
            let outcome = outcome.map_err(|reason| reason.to_string());
            self.jobs.delivery_tried(&delivery, outcome).await?;
        }
        Ok(true)
    }

    /// Sends a delivery and holds it meanwhile; `None` if it is lost to somebody else.
    async fn attend(&self, delivery: &Delivery) -> Option<Result<(), Failed>> {
        let mut beat = tokio::time::interval(self.jobs.delivery_lease() / 3);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let sending = tokio::time::timeout(LONGEST, self.send(delivery));
        tokio::pin!(sending);
        loop {
            tokio::select! {
                sent = &mut sending => return Some(sent.unwrap_or(Err(Failed::TooSlow {
                    limit_s: LONGEST.as_secs(),
                }))),
                _ = beat.tick() => match self.jobs.hold_delivery(delivery).await {
                    Ok(true) => {}
                    Ok(false) => return None,
                    // It may still be held: the next beat tells.
                    Err(error) => failed(&error),
                },
            }
        }
    }

    async fn send(&self, delivery: &Delivery) -> Result<(), Failed> {
        let files = self.jobs.objects_for(delivery, &self.wants).await;
        let files = files.map_err(|error| {
            failed(&error);
            Failed::Results
        })?;
        if files.is_empty() {
            return Err(Failed::Nothing);
        }
        let objects: Vec<Object> = files
            .into_iter()
            .map(Object::read)
            .collect::<Result<_, _>>()?;
        match &self.peer {
            Peer::Dimse(peer) => Ok(send::dimse::send(peer, &objects).await?),
            Peer::Stow(peer) => Ok(send::stow::send(&self.web, peer, &objects).await?),
        }
    }
}

/// Tries what nobody can deliver: destinations that the file no longer names. So it ends dead, and is seen.
async fn bury_unknown(jobs: Arc<Jobs>, known: Vec<String>) {
    loop {
        if let Err(error) = try_unknown(&jobs, &known).await {
            failed(&error);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn try_unknown(jobs: &Jobs, known: &[String]) -> Result<(), jobs::Error> {
    for destination in jobs.awaited_destinations().await? {
        if known.contains(&destination) {
            continue;
        }
        while let Some(delivery) = jobs.take_delivery(&destination).await? {
            let reason = Failed::Unknown.to_string();
            jobs.delivery_tried(&delivery, Err(reason)).await?;
        }
    }
    Ok(())
}

fn failed(error: &jobs::Error) {
    if let jobs::Error::Store(error) = error {
        telemetry::store_failed("filing", error);
    }
}
