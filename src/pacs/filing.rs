//! The worker that files results: takes what is due from the outbox, sends it, says what came of it.
//!
//! Each destination has a task of its own, so that one that does not answer keeps nobody else waiting. While a
//! delivery is tried it is held; a process that is killed holds no longer, and another one, or the next, tries it
//! again. What is on its way when the service stops is left to that as well. A destination that is asked to commit to
//! what it has stored answers later, and not to the task ([`commitment`]).
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::commitment;
use super::destinations::{Destination, DimsePeer, Peer};
use super::send::dimse::Sending;
use super::send::{self, Failed, Object, Wire};
use crate::jobs::{self, Delivery, Jobs};
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
                destination: destination.name,
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
    destination: String,
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
        let Some(delivery) = self.jobs.take_delivery(&self.destination).await? else {
            return Ok(false);
        };
        let outcome = match &delivery.transaction_uid {
            // Its time is over: whoever has heard a report has settled it.
            Some(_) => Some(Err(Failed::NoReport)),
            None => self.attend(&delivery).await,
        };
        let outcome = match outcome {
            Some(Ok(Sent::Confirmed)) => Ok(()),
            Some(Err(reason)) => Err(reason.to_string()),
            // Somebody else has it, or its report settles it.
            None | Some(Ok(Sent::Asked)) => return Ok(true),
        };
        self.jobs.delivery_tried(&delivery, outcome).await?;
        Ok(true)
    }

    /// Sends a delivery and holds it meanwhile; `None` if it is lost to somebody else.
    async fn attend(&self, delivery: &Delivery) -> Option<Result<Sent, Failed>> {
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

    async fn send(&self, delivery: &Delivery) -> Result<Sent, Failed> {
        let files = self.jobs.objects_for(delivery).await;
        let files = files.map_err(|error| store_failed(&error))?;
        if files.is_empty() {
            return Err(Failed::Nothing);
        }
        let objects: Vec<Object> = files
            .into_iter()
            .map(Object::read)
            .collect::<Result<_, _>>()?;
        match &self.peer {
            Peer::Dimse(peer) => self.send_by_dimse(delivery, peer, &objects).await,
            Peer::Stow(peer) => {
                send::stow::send(&self.web, peer, &objects).await?;
                Ok(Sent::Confirmed)
            }
        }
    }

    async fn send_by_dimse(
        &self,
        delivery: &Delivery,
        peer: &DimsePeer,
        objects: &[Object],
    ) -> Result<Sent, Failed> {
        match &peer.tls {
            None => {
                let sending = Sending::plainly(peer, objects).await?;
                self.store(sending, delivery, peer, objects).await
            }
            Some(tls) => {
                let sending = Sending::privately(peer, tls, objects).await?;
                self.store(sending, delivery, peer, objects).await
            }
        }
    }

    async fn store<S: Wire>(
        &self,
        sending: Sending<S>,
        delivery: &Delivery,
        peer: &DimsePeer,
        objects: &[Object],
    ) -> Result<Sent, Failed> {
        let sending = sending.store(objects).await?;
        let Some(patience) = peer.commitment else {
            sending.part().await;
            return Ok(Sent::Confirmed);
        };
        let uid = commitment::transaction_uid();
        // Before it is said: the report may be here before the answer.
        let asked = self.jobs.await_commitment(delivery, &uid, patience).await;
        if asked.map_err(|error| store_failed(&error))? {
            sending.ask(&uid, objects, &self.jobs).await?;
        }
        Ok(Sent::Asked)
    }
}

/// What a destination has done.
enum Sent {
    /// It has confirmed every object.
    Confirmed,
    /// It has stored every object, and was asked to commit to them.
    Asked,
}

/// Why is in the log.
fn store_failed(error: &jobs::Error) -> Failed {
    failed(error);
    Failed::Store
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
