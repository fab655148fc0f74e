//! Results on their way out: which destinations there are, what is due for them, what came of each try.
//!
//! Who speaks to a destination is another room ([`crate::pacs`]); it takes deliveries here and says what came of
//! them. A delivery is written in the transaction that publishes its results, tried with back-off for as long as
//! [`FilingConfig`] says, across restarts, and is dead after that until somebody sends it again.
use std::time::Duration;

use bytes::Bytes;
use dawson_imaging::dicom::write::Kind;
use dawson_inference::pipeline::{Asked, Output, Settings};

use super::{Error, Jobs, STUDY, Sees, now_ms};
use crate::store::{self, Delivery, JobId, StoredFile, Undelivered};
use crate::telemetry;

/// Where results may be filed, and how patiently.
#[derive(Debug, Clone, Default)]
pub struct FilingConfig {
    /// Every destination.
    pub destinations: Vec<Wants>,
    /// How long after each try that failed the next one is; after the last a delivery is dead.
    pub waits: Vec<Duration>,
}

/// What a destination takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wants {
    /// The destination's name.
    pub destination: String,
    /// The kinds of objects that are sent there.
    pub objects: Vec<Kind>,
}

/// What the options of a request ask for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// What shapes the result.
    pub asked: Asked,
    /// The destinations where the result is filed, each once.
    pub send_to: Vec<String>,
}

impl FilingConfig {
    fn wants(&self, destination: &str) -> Option<&Wants> {
        self.destinations
            .iter()
            .find(|w| w.destination == destination)
    }

    /// How long a delivery waits that has failed so many times; `None` if it is given up.
    fn wait(&self, tries: i64) -> Option<Duration> {
        let failed = usize::try_from(tries).ok()?.checked_sub(1)?;
        self.waits.get(failed).copied()
    }

    /// Refuses destinations that do not exist, and results that cannot be filed.
    pub(super) fn check(&self, send_to: &[String], inputs: &[StoredFile]) -> Result<(), Error> {
        if send_to.is_empty() {
            return Ok(());
        }
        let refuse = |reason: String| Err(Error::Options(format!("send_to: {reason}")));
        if let Some(unknown) = send_to.iter().find(|name| self.wants(name).is_none()) {
            let known: Vec<&str> = self
                .destinations
                .iter()
                .map(|w| w.destination.as_str())
                .collect();
            return refuse(if known.is_empty() {
                "this server files results nowhere".to_owned()
            } else {
                format!(
                    "'{unknown}' is not a destination; there are: {}",
                    known.join(", ")
                )
            });
        }
        if inputs.iter().any(|input| input.name == STUDY) {
            Ok(())
        } else {
            refuse(
                "only the results of a DICOM study can be filed, these scans are NIfTI".to_owned(),
            )
        }
    }

    /// Adds to the outputs what the destinations take. A destination that is no longer there takes nothing.
    pub(super) fn extend(&self, settings: &mut Settings, send_to: &[String]) {
        let wanted = send_to.iter().filter_map(|name| self.wants(name));
        for kind in wanted.flat_map(|w| &w.objects) {
            let output = Output::Dicom(*kind);
            if !settings.outputs.contains(&output) {
                settings.outputs.push(output);
            }
        }
    }
}

impl Wants {
    /// Whether an artifact of that name is sent there.
    #[must_use]
    pub fn takes(&self, artifact: &str) -> bool {
        let Some(stem) = artifact.strip_suffix(".dcm") else {
            return false;
        };
        self.objects.iter().any(|kind| {
            // Captures are one file a slice: the kind's name and a number.
            stem.strip_prefix(kind.name()).is_some_and(|rest| {
                let number = rest.strip_prefix('_').unwrap_or_default();
                rest.is_empty()
                    || (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
            })
        })
    }
}

impl Jobs {
    /// Returns when results were published, or sent again, by this process.
    pub fn delivery_due(&self) -> impl Future<Output = ()> + Send + '_ {
        self.due.notified()
    }

    /// How long who tries a delivery may be silent.
    #[must_use]
    pub fn delivery_lease(&self) -> Duration {
        self.config.lease
    }

    /// Takes a delivery to a destination that is due.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub async fn take_delivery(&self, destination: &str) -> Result<Option<Delivery>, Error> {
        let now = now_ms();
        let until = now + self.lease_ms();
        Ok(self.store.next_delivery(destination, now, until).await?)
    }

    /// Keeps others from a delivery that is tried; false if it is lost to one of them.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub async fn hold_delivery(&self, delivery: &Delivery) -> Result<bool, Error> {
        let until = now_ms() + self.lease_ms();
        Ok(self.store.hold_delivery(delivery, until).await?)
    }

    /// The destinations that something waits for, those that are not configured among them.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub async fn awaited_destinations(&self) -> Result<Vec<String>, Error> {
        Ok(self.store.awaited_destinations().await?)
    }

    /// Writes down, before it is done, that a destination is asked in this transaction to commit to the objects of a
    /// delivery, and how long it may take; false if the delivery is lost to somebody else.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub async fn await_commitment(
        &self,
        delivery: &Delivery,
        transaction_uid: &str,
        patience: Duration,
    ) -> Result<bool, Error> {
        let until = now_ms().saturating_add(in_ms(patience));
        let asked = self
            .store
            .await_commitment(delivery, transaction_uid, until);
        Ok(asked.await?)
    }

    /// The delivery that was asked for in a transaction: it waits for its answer, or has had it.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub async fn delivery_of(&self, transaction_uid: &str) -> Result<Option<Delivery>, Error> {
        Ok(self.store.delivery_of(transaction_uid).await?)
    }

    /// The objects of a delivery, DICOM Part 10 files.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the job is gone, [`Error::Store`]
    pub async fn objects_for(&self, delivery: &Delivery) -> Result<Vec<Bytes>, Error> {
        let wants = self.config.filing.wants(&delivery.destination);
        let (artifacts, attempt) = self.artifacts(&Sees::All, delivery.job).await?;
        let mut objects = Vec::new();
        let taken = |name: &str| wants.is_some_and(|wants| wants.takes(name));
        for artifact in artifacts.iter().filter(|a| taken(&a.name)) {
            objects.push(
                self.files
                    .read_result(delivery.job, attempt, &artifact.name)
                    .await?,
            );
        }
        Ok(objects)
    }

    /// A try has ended: the destination has confirmed every object, or here is why not.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub async fn delivery_tried(
        &self,
        delivery: &Delivery,
        outcome: Result<(), String>,
    ) -> Result<(), Error> {
        let now = now_ms();
        let Delivery {
            job,
            destination,
            tries,
            ..
        } = delivery;
        let reason = match outcome {
            Ok(()) => {
                if self.store.delivered(delivery, now).await? {
                    telemetry::delivered(*job, destination, *tries);
                }
                return Ok(());
            }
            Err(reason) => reason,
        };
        let wait = self.config.filing.wait(*tries);
        let written = match wait {
            Some(wait) => {
                self.store
                    .delivery_again(delivery, now.saturating_add(in_ms(wait)), &reason)
                    .await?
            }
            None => self.store.bury_delivery(delivery, now, &reason).await?,
        };
        if written {
            telemetry::delivery_failed(*job, destination, *tries, wait.is_none(), &reason);
        }
        Ok(())
    }

    /// Sends the results of a job to a destination again, whatever came of it before.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NoDelivery`], [`Error::Store`]
    pub async fn send_again(&self, sees: &Sees, id: JobId, destination: &str) -> Result<(), Error> {
        self.row(sees, id).await?;
        if self.store.send_again(id, Some(destination)).await? == 0 {
            return Err(Error::NoDelivery {
                id,
                destination: destination.to_owned(),
            });
        }
        self.due.notify_waiters();
        Ok(())
    }

    /// How many deliveries have not arrived.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub async fn undelivered(&self) -> Result<Undelivered, Error> {
        Ok(self.store.undelivered().await?)
    }

    /// Where the results of a job with these options go.
    pub(super) fn destinations_of(
        &self,
        id: JobId,
        options: &str,
    ) -> Result<Vec<String>, store::Error> {
        let wanted = (self.read_options)(options).map_err(|reason| store::Error::Row {
            id: id.to_string(),
            reason: format!("its options: {reason}"),
        })?;
        Ok(wanted.send_to)
    }
}

fn in_ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> FilingConfig {
        FilingConfig {
            destinations: vec![Wants {
                destination: "pacs".to_owned(),
                objects: vec![Kind::Burden, Kind::Capture],
            }],
            waits: [5, 15].map(Duration::from_secs).to_vec(),
        }
    }

    fn input(name: &str) -> StoredFile {
        StoredFile {
            name: name.to_owned(),
            media_type: String::new(),
            bytes: 1,
            sha256: String::new(),
        }
    }

    #[test]
    fn waits_grow_and_end() {
        let waits = [0, 1, 2, 3].map(|tries| config().wait(tries).map(|d| d.as_secs()));
        assert_eq!(waits, [None, Some(5), Some(15), None]);
        assert_eq!(FilingConfig::default().wait(1), None);
    }

    #[test]
    fn a_destination_takes_its_kinds_and_nothing_that_is_only_named_alike() {
        let wants = &config().destinations[0];
        let taken = ["dicom_seg.dcm", "dicom_sc_001.dcm"];
        let left = [
            "dicom_seg_lesions.dcm",
            "dicom_seg_labelmap.dcm",
            "dicom_sr.dcm",
            "dicom_sc_.dcm",
            "dicom_seg.png",
            "lesions.nii.gz",
        ];
        assert!(taken.iter().all(|name| wants.takes(name)));
        assert!(!left.iter().any(|name| wants.takes(name)));
    }

    #[test]
    fn what_cannot_be_filed_is_refused_by_name() {
        let (config, study) = (config(), [input(STUDY)]);
        let said = |config: &FilingConfig, to: &[&str], inputs: &[StoredFile]| {
            let to: Vec<String> = to.iter().map(|&name| name.to_owned()).collect();
            config.check(&to, inputs).err().map(|e| e.to_string())
        };
        assert_eq!(said(&config, &[], &[input("flair")]), None);
        assert_eq!(said(&config, &["pacs"], &study), None);
        let unknown = said(&config, &["pacs", "pasc"], &study).unwrap();
        assert!(
            unknown.contains("'pasc'") && unknown.contains("there are: pacs"),
            "{unknown}"
        );
        let nowhere = said(&FilingConfig::default(), &["pacs"], &study).unwrap();
        assert!(nowhere.contains("nowhere"), "{nowhere}");
        let nifti = said(&config, &["pacs"], &[input("flair")]).unwrap();
        assert!(nifti.contains("NIfTI"), "{nifti}");
    }
}
