//! What every store of jobs promises, asked of each that there is.
use std::time::Duration;

use dawson::store::{
    Cost, Error, JobId, JobStore, Leaving, NewJob, Page, Priority, Room, State, StoredFile,
    StoredProgress, Submitted,
};
use dawson_inference::problem::{Code, Problem};

use crate::postgres::Postgres;

/// Runs a promise on a new, empty store of each kind.
pub(crate) async fn on_each<F: Future<Output = ()>>(promise: impl Fn(JobStore) -> F) {
    let folder = std::env::temp_dir().join(format!("dawson-store {}?#%", JobId::new()));
    std::fs::create_dir_all(&folder).unwrap();
    let store = JobStore::open_file(&folder.join("rows.sqlite"))
        .await
        .unwrap();
    promise(store.clone()).await;
    store.close().await;
    std::fs::remove_dir_all(folder).unwrap();
    if let Some(server) = Postgres::shared() {
        let store = JobStore::open(&server.database()).await.unwrap();
        assert!(store.is_shared());
        promise(store.clone()).await;
        store.close().await;
    }
}

pub(crate) fn new(key: Option<&str>, fingerprint: &str) -> NewJob {
    // Names tell the age of jobs by the millisecond: no two of a test may share one.
    std::thread::sleep(Duration::from_millis(2));
    NewJob {
        id: JobId::new(),
        owner: None,
        priority: Priority::Routine,
        deadline_at: None,
        cost: Cost {
            memory_bytes: 10,
            voxels: 5,
            input_bytes: 100,
        },
        callback_url: None,
        label: Some("l'abel".to_owned()),
        model: "m@1".to_owned(),
        options: "{}".to_owned(),
        inputs: vec![file("flair")],
        idempotency_key: key.map(str::to_owned),
        fingerprint: fingerprint.to_owned(),
        now: 1000,
        room: Room {
            jobs: 3,
            bytes: 1000,
        },
    }
}

pub(crate) fn file(name: &str) -> StoredFile {
    StoredFile {
        name: name.to_owned(),
        media_type: "application/gzip".to_owned(),
        bytes: 3,
        sha256: "c0ffee".to_owned(),
    }
}

pub(crate) async fn accepted(store: &JobStore, new: NewJob) -> JobId {
    match store.submit(new).await.unwrap() {
        Submitted::Accepted(job) => job.id,
        other => panic!("{other:?}"),
    }
}

/// Leases the next job with room for everything.
pub(crate) async fn lease(store: &JobStore, now: i64) -> Option<dawson::store::Job> {
    store.lease("w", now, now + 1000, 1000, 1000).await.unwrap()
}

pub(crate) async fn state(store: &JobStore, id: JobId) -> State {
    store.get(id).await.unwrap().unwrap().state
}

fn crashed() -> Problem {
    Problem::new(Code::Crashed, "three times")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_comes_back_as_it_was_written() {
    on_each(|store| async move {
        let wanted = NewJob {
            owner: Some("key-1".to_owned()),
            priority: Priority::Batch,
            deadline_at: Some(99_000),
            callback_url: Some("https://pacs.example/".to_owned()),
            ..new(Some("k"), "f")
        };
        let id = accepted(&store, wanted).await;
        let job = store.get(id).await.unwrap().unwrap();
        assert_eq!(
            (job.id, job.state, job.attempt, job.created_at),
            (id, State::Queued, 0, 1000)
        );
        assert_eq!(
            (job.owner.as_deref(), job.priority),
            (Some("key-1"), Priority::Batch)
        );
        assert_eq!(
            (job.deadline_at, job.label.as_deref()),
            (Some(99_000), Some("l'abel"))
        );
        assert_eq!(
            (job.cost.memory_bytes, job.cost.voxels, job.cost.input_bytes),
            (10, 5, 100)
        );
        assert_eq!(
            (job.inputs, job.progress, job.error),
            (vec![file("flair")], None, None)
        );
        assert!(store.get(JobId::new()).await.unwrap().is_none());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_takes_no_more_and_a_known_key_gives_the_same_job() {
    on_each(|store| async move {
        let first = accepted(&store, new(Some("k"), "f")).await;
        let Submitted::Known(same) = store.submit(new(Some("k"), "f")).await.unwrap() else { panic!() };
        assert_eq!(first, same.id);
        assert!(matches!(store.submit(new(Some("k"), "other")).await.unwrap(), Submitted::Mismatch));
        // Another caller's key is another key.
        let other = NewJob { owner: Some("o".to_owned()), ..new(Some("k"), "other") };
        accepted(&store, other).await;
        let large = NewJob { cost: Cost { input_bytes: 801, ..Cost::default() }, ..new(None, "f") };
        assert!(matches!(store.submit(large).await.unwrap(), Submitted::Full(w) if w.jobs == 2 && w.bytes == 200));
        accepted(&store, new(None, "f")).await;
        assert!(matches!(store.submit(new(None, "f")).await.unwrap(), Submitted::Full(w) if w.jobs == 3));
        let waiting = store.waiting().await.unwrap();
        assert_eq!((waiting.jobs, waiting.voxels, waiting.since), (3, 15, Some(1000)));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn submissions_at_the_same_time_never_exceed_the_queue() {
    on_each(|store| async move {
        let all: Vec<_> = (0..20)
            .map(|_| {
                let store = store.clone();
                tokio::spawn(async move { store.submit(new(None, "f")).await.unwrap() })
            })
            .collect();
        let mut taken = 0;
        for one in all {
            taken += usize::from(matches!(one.await.unwrap(), Submitted::Accepted(_)));
        }
        assert_eq!(taken, 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_go_by_priority_then_by_age_and_only_if_they_fit() {
    on_each(|store| async move {
        let with = |priority, memory_bytes| NewJob {
            priority,
            cost: Cost {
                memory_bytes,
                ..Cost::default()
            },
            room: Room {
                jobs: 10,
                bytes: 1000,
            },
            ..new(None, "f")
        };
        let batch = accepted(&store, with(Priority::Batch, 1)).await;
        let large = accepted(&store, with(Priority::Routine, 500)).await;
        let small = accepted(&store, with(Priority::Routine, 1)).await;
        let urgent = accepted(&store, with(Priority::Urgent, 1)).await;
        let huge = accepted(&store, with(Priority::Urgent, 5000)).await;
        let of_large = store.get(large).await.unwrap().unwrap();
        assert_eq!(store.ahead_of(&of_large).await.unwrap().jobs, 2);
        let take = |room| store.lease("w", 2000, 3000, room, 1000);
        assert_eq!(take(100).await.unwrap().unwrap().id, urgent);
        // The next one does not fit: what is behind it waits, or it would wait for ever.
        assert!(take(100).await.unwrap().is_none());
        assert_eq!(take(900).await.unwrap().unwrap().id, large);
        assert_eq!(take(100).await.unwrap().unwrap().id, small);
        assert_eq!(take(100).await.unwrap().unwrap().id, batch);
        assert!(
            take(1000).await.unwrap().is_none(),
            "{huge} is for a larger machine"
        );
        assert_eq!(state(&store, huge).await, State::Queued);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_workers_take_every_job_once() {
    on_each(|store| async move {
        for _ in 0..30 {
            let room = Room {
                jobs: 100,
                bytes: 100_000,
            };
            accepted(
                &store,
                NewJob {
                    room,
                    ..new(None, "f")
                },
            )
            .await;
        }
        let workers: Vec<_> = (0..6)
            .map(|n| {
                let store = store.clone();
                tokio::spawn(async move {
                    let mut taken = Vec::new();
                    while let Some(job) = store
                        .lease(&format!("w{n}"), 2000, 3000, 100, 100)
                        .await
                        .unwrap()
                    {
                        taken.push(job.id);
                    }
                    taken
                })
            })
            .collect();
        let mut taken = Vec::new();
        for worker in workers {
            taken.extend(worker.await.unwrap());
        }
        taken.sort();
        let all = taken.len();
        taken.dedup();
        assert_eq!((all, taken.len()), (30, 30));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_lost_its_lease_can_neither_report_nor_publish() {
    on_each(|store| async move {
        let id = accepted(&store, new(None, "f")).await;
        let first = lease(&store, 2000).await.unwrap();
        assert_eq!(
            (first.id, first.attempt, first.state),
            (id, 1, State::Running)
        );
        assert!(lease(&store, 2000).await.is_none());
        let progress = StoredProgress {
            stage: "infer".to_owned(),
            done: 1,
            total: 4,
        };
        assert!(store.hold(id, 1, 4000, Some(&progress)).await.unwrap());
        assert!(store.hold(id, 1, 4000, None).await.unwrap());
        assert_eq!(
            store.get(id).await.unwrap().unwrap().progress,
            Some(progress)
        );
        assert!(
            store
                .reclaim(4000, &crashed())
                .await
                .unwrap()
                .queued
                .is_empty()
        );
        assert_eq!(store.reclaim(4001, &crashed()).await.unwrap().queued, [id]);
        let second = lease(&store, 5000).await.unwrap();
        assert_eq!(
            (second.attempt, second.started_at, second.attempt_at),
            (2, Some(2000), Some(5000))
        );
        assert!(!store.hold(id, 1, 9000, None).await.unwrap());
        assert!(!store.succeed(id, 1, 5500, &[file("a")], &[]).await.unwrap());
        assert!(!store.fail(id, 1, 5500, &crashed()).await.unwrap());
        assert!(!store.retry(id, 1, 0, 3).await.unwrap() && !store.release(id, 1).await.unwrap());
        assert!(store.artifacts(id).await.unwrap().is_empty());
        assert!(
            store
                .succeed(id, 2, 5500, &[file("b"), file("a")], &[])
                .await
                .unwrap()
        );
        assert_eq!(store.artifacts(id).await.unwrap(), [file("a"), file("b")]);
        let ended = store.get(id).await.unwrap().unwrap();
        assert_eq!(
            (ended.state, ended.ended_at),
            (State::Succeeded, Some(5500))
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_third_crash_ends_a_job_and_retries_are_counted() {
    on_each(|store| async move {
        let id = accepted(&store, new(None, "f")).await;
        for crash in 1..=3 {
            lease(&store, 2000).await.unwrap();
            let lapsed = store.reclaim(3001, &crashed()).await.unwrap();
            assert_eq!(lapsed.crashed.len(), usize::from(crash == 3));
        }
        let job = store.get(id).await.unwrap().unwrap();
        assert_eq!((job.state, job.error), (State::Failed, Some(crashed())));
        assert!(store.revive(id).await.unwrap() && !store.revive(id).await.unwrap());
        for retry in 0..3 {
            let attempt = lease(&store, 4000).await.unwrap().attempt;
            assert_eq!(store.retry(id, attempt, 4000, 2).await.unwrap(), retry < 2);
        }
        assert_eq!(state(&store, id).await, State::Running);
        // What waits for its next try is not taken before.
        let second = accepted(&store, new(None, "f")).await;
        let attempt = lease(&store, 4000).await.unwrap().attempt;
        assert!(store.retry(second, attempt, 9000, 2).await.unwrap());
        assert!(lease(&store, 8999).await.is_none());
        assert_eq!(lease(&store, 9000).await.unwrap().id, second);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cancels_a_job_takes_it_over_and_it_has_ended_only_then() {
    on_each(|store| async move {
        let id = accepted(&store, new(None, "f")).await;
        let held = lease(&store, 2000).await.unwrap();
        let taken = store
            .leave(id, Leaving::Cancel, "c", 5000)
            .await
            .unwrap()
            .unwrap();
        assert_eq!((taken.attempt, taken.state), (2, State::Running));
        assert!(
            !store
                .succeed(id, held.attempt, 2500, &[], &[])
                .await
                .unwrap()
        );
        assert!(
            store
                .leave(id, Leaving::Cancel, "d", 5000)
                .await
                .unwrap()
                .is_none()
        );
        // Nobody else runs or crashes it meanwhile; who does not come back is found.
        assert_eq!(store.reclaim(9000, &crashed()).await.unwrap().queued, []);
        assert!(store.left_behind(5000).await.unwrap().is_empty());
        assert_eq!(
            store.left_behind(5001).await.unwrap(),
            [(id, Leaving::Cancel)]
        );
        assert!(store.cancel(id, 6000).await.unwrap() && !store.cancel(id, 6000).await.unwrap());
        assert_eq!(state(&store, id).await, State::Cancelled);
        assert!(
            store
                .leave(id, Leaving::Cancel, "c", 5000)
                .await
                .unwrap()
                .is_none()
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_erased_is_not_seen_and_then_not_there() {
    on_each(|store| async move {
        let id = accepted(&store, new(Some("k"), "f")).await;
        lease(&store, 2000).await.unwrap();
        assert!(store.succeed(id, 1, 2500, &[file("a")], &[]).await.unwrap());
        assert!(
            !store.erase(id).await.unwrap(),
            "only what leaves is erased"
        );
        store
            .leave(id, Leaving::Erase, "e", 5000)
            .await
            .unwrap()
            .unwrap();
        assert!(store.get(id).await.unwrap().is_none());
        let page = Page {
            limit: 10,
            ..Page::default()
        };
        assert!(store.list(page).await.unwrap().is_empty());
        assert_eq!(
            store.left_behind(6000).await.unwrap(),
            [(id, Leaving::Erase)]
        );
        assert!(store.erase(id).await.unwrap() && !store.erase(id).await.unwrap());
        assert!(store.artifacts(id).await.unwrap().is_empty());
        // Its key is free again.
        accepted(&store, new(Some("k"), "other")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_in_the_queue_is_never_run() {
    on_each(|store| async move {
        let late = NewJob {
            deadline_at: Some(2000),
            ..new(None, "f")
        };
        let id = accepted(&store, late).await;
        let expired = Problem::new(Code::Expired, "late");
        assert!(
            store
                .expire_waiting(1999, &expired)
                .await
                .unwrap()
                .is_empty()
        );
        assert!(lease(&store, 2000).await.is_none());
        let ended = store.expire_waiting(2000, &expired).await.unwrap();
        assert_eq!(
            (ended[0].id, ended[0].state, ended[0].error.clone()),
            (id, State::Failed, Some(expired))
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_pages_of_one_caller_and_one_state() {
    on_each(|store| async move {
        let mut ids = Vec::new();
        for n in 0..6 {
            let owner = Some(if n % 2 == 0 { "even" } else { "odd" }.to_owned());
            let room = Room {
                jobs: 10,
                bytes: 10_000,
            };
            ids.push(
                accepted(
                    &store,
                    NewJob {
                        owner,
                        room,
                        ..new(None, "f")
                    },
                )
                .await,
            );
        }
        lease(&store, 2000).await.unwrap();
        let list = async |owner: Option<&str>, state, before| {
            let page = Page {
                owner: owner.map(str::to_owned),
                state,
                before,
                limit: 2,
            };
            let jobs = store.list(page).await.unwrap();
            jobs.iter().map(|j| j.id).collect::<Vec<_>>()
        };
        ids.sort();
        assert_eq!(list(None, None, None).await, [ids[5], ids[4]]);
        assert_eq!(list(None, None, Some(ids[4])).await, [ids[3], ids[2]]);
        let odd = store
            .list(Page {
                owner: Some("odd".to_owned()),
                limit: 9,
                ..Page::default()
            })
            .await
            .unwrap();
        assert_eq!(
            (
                odd.len(),
                odd.iter().all(|j| j.owner.as_deref() == Some("odd"))
            ),
            (3, true)
        );
        assert_eq!(list(None, Some(State::Running), None).await.len(), 1);
        assert_eq!(store.count(State::Queued).await.unwrap(), 5);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_told_once_it_is_there_until_it_was_told() {
    on_each(|store| async move {
        let asked = NewJob {
            callback_url: Some("https://x/".to_owned()),
            ..new(None, "f")
        };
        let id = accepted(&store, asked).await;
        accepted(&store, new(None, "f")).await;
        assert!(store.next_callback(9000, 9999).await.unwrap().is_none());
        lease(&store, 2000).await.unwrap();
        assert!(store.fail(id, 1, 2500, &crashed()).await.unwrap());
        let first = store.next_callback(3000, 4000).await.unwrap().unwrap();
        assert_eq!((first.job.id, first.tries), (id, 1));
        assert!(store.next_callback(3999, 4999).await.unwrap().is_none());
        assert_eq!(
            store
                .next_callback(4000, 5000)
                .await
                .unwrap()
                .unwrap()
                .tries,
            2
        );
        store.callback_again(id, 8000).await.unwrap();
        assert!(store.next_callback(7999, 9000).await.unwrap().is_none());
        assert!(store.next_callback(8000, 9000).await.unwrap().is_some());
        store.callback_done(id, 8500).await.unwrap();
        assert!(store.next_callback(99_000, 99_999).await.unwrap().is_none());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_long_ago_is_found_and_rows_are_told_apart() {
    on_each(|store| async move {
        let old = accepted(&store, new(None, "f")).await;
        lease(&store, 2000).await.unwrap();
        store.succeed(old, 1, 2500, &[], &[]).await.unwrap();
        let going_on = accepted(&store, new(None, "f")).await;
        assert_eq!(store.ended_before(2501, 10).await.unwrap(), [old]);
        assert!(store.ended_before(2500, 10).await.unwrap().is_empty());
        let states = store.states().await.unwrap();
        assert_eq!(states.len(), 2);
        assert_eq!(states[&old], (State::Succeeded, 1));
        assert_eq!(states[&going_on], (State::Queued, 0));
        lease(&store, 3000).await.unwrap();
        assert!(store.expire_leases().await.unwrap() >= 1);
        assert_eq!(
            store.reclaim(3001, &crashed()).await.unwrap().queued,
            [going_on]
        );
        store.ping().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_changes_another_hears() {
    let Some(server) = Postgres::shared() else {
        return;
    };
    let address = server.database();
    let (here, there) = (
        JobStore::open(&address).await.unwrap(),
        JobStore::open(&address).await.unwrap(),
    );
    let mut changes = here.changes().await.unwrap().unwrap();
    let id = accepted(&there, new(None, "f")).await;
    assert_eq!(changes.next().await.unwrap(), Some(id));
    lease(&there, 2000).await.unwrap();
    assert_eq!(changes.next().await.unwrap(), Some(id));
    // Keeping the lease tells nobody, progress does.
    assert!(there.hold(id, 1, 4000, None).await.unwrap());
    let progress = StoredProgress {
        stage: "infer".to_owned(),
        done: 1,
        total: 4,
    };
    assert!(there.hold(id, 1, 4000, Some(&progress)).await.unwrap());
    assert_eq!(changes.next().await.unwrap(), Some(id));
    assert_eq!(
        here.get(id).await.unwrap().unwrap().progress,
        Some(progress)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_no_database_is_refused_in_words() {
    let refused = JobStore::open("mysql://somewhere/x").await.unwrap_err();
    assert!(
        matches!(&refused, Error::Unsuitable(words) if words.contains("postgres://")),
        "{refused}"
    );
}
