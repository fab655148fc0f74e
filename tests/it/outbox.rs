//! What every store promises about results that are to be filed elsewhere.
use dawson::store::{
    Delivery, DeliveryState, JobId, JobStore, Leaving, NewJob, Room, State, Undelivered,
};

use crate::postgres::Postgres;
use crate::store::{accepted, file, lease, new, on_each, state};

async fn take(store: &JobStore, destination: &str, now: i64, until: i64) -> Option<Delivery> {
    store.next_delivery(destination, now, until).await.unwrap()
}

/// A job whose results go to `destinations`.
async fn filed(store: &JobStore, destinations: &[&str]) -> JobId {
    let room = Room {
        jobs: 100,
        bytes: 100_000,
    };
    let id = accepted(
        store,
        NewJob {
            room,
            ..new(None, "f")
        },
    )
    .await;
    let held = lease(store, 2000).await.unwrap();
    let names: Vec<String> = destinations.iter().map(|&d| d.to_owned()).collect();
    let artifacts = [file("a")];
    let published = store.succeed(id, held.attempt, 2500, &artifacts, &names);
    assert!(published.await.unwrap());
    id
}

async fn of_job(store: &JobStore, id: JobId) -> Vec<(String, DeliveryState, i64, Option<String>)> {
    let all = store.deliveries(id).await.unwrap().into_iter();
    all.map(|d| (d.destination, d.state, d.tries, d.error))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn results_wait_for_their_destinations_from_the_moment_they_are_there() {
    on_each(|store| async move {
        let lost = accepted(&store, new(None, "f")).await;
        lease(&store, 2000).await.unwrap();
        let names = ["a".to_owned()];
        assert!(!store.succeed(lost, 9, 2500, &[], &names).await.unwrap());
        assert_eq!(store.deliveries(lost).await.unwrap(), []);
        store
            .leave(lost, Leaving::Erase, "w", 1)
            .await
            .unwrap()
            .unwrap();

        let id = filed(&store, &["b", "a"]).await;
        let waits = |destination: &str| Delivery {
            job: id,
            destination: destination.to_owned(),
            state: DeliveryState::Waiting,
            tries: 0,
            not_before: 0,
            transaction_uid: None,
            error: None,
            created_at: 2500,
            ended_at: None,
        };
        assert_eq!(
            store.deliveries(id).await.unwrap(),
            [waits("a"), waits("b")]
        );
        assert_eq!(store.awaited_destinations().await.unwrap(), ["a", "b"]);
        assert!(take(&store, "c", 3000, 4000).await.is_none());
        let first = take(&store, "a", 3000, 4000).await.unwrap();
        let taken = Delivery {
            tries: 1,
            not_before: 4000,
            ..waits("a")
        };
        assert_eq!(first, taken);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_is_held_and_one_that_was_overtaken_changes_nothing() {
    on_each(|store| async move {
        let id = filed(&store, &["b", "a"]).await;
        let first = take(&store, "a", 3000, 4000).await.unwrap();
        // Held as long as who tries it says so; then another one tries, and the first has lost it.
        assert!(take(&store, "a", 3999, 5000).await.is_none());
        assert!(store.hold_delivery(&first, 6000).await.unwrap());
        assert!(take(&store, "a", 5999, 7000).await.is_none());
        let second = take(&store, "a", 6000, 7000).await.unwrap();
        assert_eq!(second.tries, 2);
        assert!(!store.hold_delivery(&first, 9000).await.unwrap());
        assert!(!store.delivered(&first, 6500).await.unwrap());
        assert!(!store.delivery_again(&first, 6500, "late").await.unwrap());
        assert!(!store.bury_delivery(&first, 6500, "late").await.unwrap());
        assert!(
            store
                .delivery_again(&second, 8000, "status 0xA700")
                .await
                .unwrap()
        );
        assert!(take(&store, "a", 7999, 9000).await.is_none());
        let third = take(&store, "a", 8000, 9000).await.unwrap();
        assert_eq!(third.error.as_deref(), Some("status 0xA700"));
        assert!(
            store
                .bury_delivery(&third, 8500, "status 0xA701")
                .await
                .unwrap()
        );
        let dead = (
            "a".to_owned(),
            DeliveryState::Dead,
            3,
            Some("status 0xA701".to_owned()),
        );
        let waiting = ("b".to_owned(), DeliveryState::Waiting, 0, None);
        assert_eq!(of_job(&store, id).await, [dead, waiting]);
        assert!(take(&store, "a", i64::MAX, i64::MAX).await.is_none());
        let left = store.undelivered().await.unwrap();
        assert_eq!(
            left,
            Undelivered {
                waiting: 1,
                dead: 1
            }
        );
        let buried = store.dead_deliveries(10).await.unwrap();
        assert_eq!(
            (buried.len(), buried[0].job, buried[0].ended_at),
            (1, id, Some(8500))
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_again_begins_anew_and_what_leaves_is_not_sent() {
    on_each(|store| async move {
        let id = filed(&store, &["a", "b", "c"]).await;
        assert!(
            store
                .delivered(&take(&store, "a", 3000, 4000).await.unwrap(), 3500)
                .await
                .unwrap()
        );
        assert!(
            store
                .bury_delivery(&take(&store, "b", 3000, 4000).await.unwrap(), 3500, "no")
                .await
                .unwrap()
        );
        // What has arrived is sent again only by name.
        assert_eq!(store.send_again(id, None).await.unwrap(), 2);
        assert_eq!(store.send_again(id, Some("a")).await.unwrap(), 1);
        assert_eq!(store.send_again(id, Some("d")).await.unwrap(), 0);
        assert_eq!(store.send_again(JobId::new(), None).await.unwrap(), 0);
        for (_, state, tries, error) in of_job(&store, id).await {
            assert_eq!((state, tries, error), (DeliveryState::Waiting, 0, None));
        }
        assert_eq!(take(&store, "b", 3000, 4000).await.unwrap().tries, 1);
        store
            .leave(id, Leaving::Erase, "w", 5000)
            .await
            .unwrap()
            .unwrap();
        assert!(take(&store, "c", 3000, 4000).await.is_none());
        assert!(store.erase(id).await.unwrap());
        assert_eq!(store.deliveries(id).await.unwrap(), []);
        assert_eq!(store.undelivered().await.unwrap(), Undelivered::default());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_committed_to_is_the_same_try_until_its_time_is_over() {
    on_each(|store| async move {
        let id = filed(&store, &["a"]).await;
        let tried = take(&store, "a", 3000, 4000).await.unwrap();
        assert!(
            store
                .await_commitment(&tried, "2.25.1", 9000)
                .await
                .unwrap()
        );
        // To hold it meanwhile does not make its time shorter.
        assert!(store.hold_delivery(&tried, 5000).await.unwrap());
        assert!(take(&store, "a", 8999, 9999).await.is_none());
        let asked = store.delivery_of("2.25.1").await.unwrap().unwrap();
        assert_eq!(
            (asked.job, asked.tries, asked.not_before, asked.stage()),
            (id, 1, 9000, "stored")
        );
        assert!(store.delivery_of("2.25.2").await.unwrap().is_none());
        // Nobody answered: it fails as the try that it was, and the next one asks anew.
        let late = take(&store, "a", 9000, 9999).await.unwrap();
        assert_eq!(
            (late.tries, late.transaction_uid.as_deref()),
            (1, Some("2.25.1"))
        );
        assert!(
            store
                .delivery_again(&late, 9100, "no report")
                .await
                .unwrap()
        );
        assert!(store.delivery_of("2.25.1").await.unwrap().is_none());
        let second = take(&store, "a", 9100, 9999).await.unwrap();
        assert_eq!((second.tries, second.stage()), (2, "waiting"));
        assert!(
            !store
                .await_commitment(&tried, "2.25.3", 9000)
                .await
                .unwrap()
        );
        assert!(
            store
                .await_commitment(&second, "2.25.4", 9900)
                .await
                .unwrap()
        );
        assert!(store.delivered(&second, 9200).await.unwrap());
        let told_twice = store.delivery_of("2.25.4").await.unwrap().unwrap();
        assert_eq!(told_twice.stage(), "delivered");
        store.send_again(id, Some("a")).await.unwrap();
        assert!(store.delivery_of("2.25.4").await.unwrap().is_none());
        let third = take(&store, "a", 9300, 9999).await.unwrap();
        assert!(
            store
                .await_commitment(&third, "2.25.5", 9400)
                .await
                .unwrap()
        );
        assert!(store.bury_delivery(&third, 9400, "no").await.unwrap());
        assert!(store.delivery_of("2.25.5").await.unwrap().is_none());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_kept_until_they_have_arrived_and_their_time_counts_from_then() {
    on_each(|store| async move {
        let ended = async |time| store.ended_before(time, 10).await.unwrap();
        let plain = filed(&store, &[]).await;
        let sent = filed(&store, &["a", "b"]).await;
        assert_eq!(ended(2501).await, [plain]);
        let a = take(&store, "a", 3000, 4000).await.unwrap();
        assert!(store.delivered(&a, 5000).await.unwrap());
        assert_eq!(ended(i64::MAX).await, [plain], "it waits for b");
        let b = take(&store, "b", 3000, 4000).await.unwrap();
        assert!(store.bury_delivery(&b, 6000, "no").await.unwrap());
        assert_eq!(ended(i64::MAX).await, [plain], "b is dead");
        store.send_again(sent, Some("b")).await.unwrap();
        let b = take(&store, "b", 7000, 8000).await.unwrap();
        assert!(store.delivered(&b, 9000).await.unwrap());
        assert_eq!(ended(9000).await, [plain]);
        assert_eq!(ended(9001).await, [plain, sent]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_take_every_delivery_once() {
    on_each(|store| async move {
        for _ in 0..20 {
            filed(&store, &["a"]).await;
        }
        let desks: Vec<_> = (0..6)
            .map(|_| {
                let store = store.clone();
                tokio::spawn(async move {
                    let mut taken = Vec::new();
                    while let Some(one) = take(&store, "a", 3000, 4000).await {
                        taken.push(one.job);
                    }
                    taken
                })
            })
            .collect();
        let mut taken = Vec::new();
        for desk in desks {
            taken.extend(desk.await.unwrap());
        }
        taken.sort();
        let all = taken.len();
        taken.dedup();
        assert_eq!((all, taken.len()), (20, 20));
    })
    .await;
}

/// A database as version 1 made it, with a job that has results.
async fn of_version_1(address: &str, int: &str, strict: &str, more: &str) -> JobId {
    let id = JobId::new();
    let schema = include_str!("../fixtures/schema_1.sql")
        .replace("{int}", int)
        .replace("{strict}", strict);
    let rows = format!(
        "INSERT INTO jobs (id, state, priority, memory_bytes, voxels, input_bytes, model, options, inputs, fingerprint,
                           created_at, ended_at, attempt)
         VALUES ('{id}', 'succeeded', 1, 10, 5, 100, 'm@1', '{{}}', '[]', 'f', 1000, 2000, 1);
         INSERT INTO artifacts (job, name, media_type, bytes, sha256) VALUES ('{id}', 'a', 'application/gzip', 3, 'c0ffee');"
    );
    sqlx::any::install_default_drivers();
    let old = sqlx::AnyPool::connect(address).await.unwrap();
    let all = format!("{schema}\n{more}\n{rows}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(all))
        .execute(&old)
        .await
        .unwrap();
    old.close().await;
    id
}

/// What version 2 had more.
fn of_version_2(int: &str, strict: &str) -> String {
    include_str!("../fixtures/schema_2.sql")
        .replace("{int}", int)
        .replace("{strict}", strict)
}

/// Opens it: its rows are there, and what is new works.
async fn is_brought_up_to_date(address: &str, id: JobId) {
    // Twice: what was done is not done again.
    for _ in 0..2 {
        let store = JobStore::open(address).await.unwrap();
        assert_eq!(state(&store, id).await, State::Succeeded);
        assert_eq!(store.artifacts(id).await.unwrap(), [file("a")]);
        assert_eq!(store.deliveries(id).await.unwrap(), []);
        assert_eq!(store.ended_before(2001, 10).await.unwrap(), [id]);
        let filed = filed(&store, &["a"]).await;
        assert_eq!(store.deliveries(filed).await.unwrap().len(), 1);
        store
            .leave(filed, Leaving::Erase, "w", 1)
            .await
            .unwrap()
            .unwrap();
        assert!(store.erase(filed).await.unwrap());
        assert_eq!(store.deliveries(filed).await.unwrap(), []);
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_an_older_version_is_brought_up_to_date() {
    let folder = std::env::temp_dir().join(format!("dawson-store-{}", JobId::new()));
    std::fs::create_dir_all(&folder).unwrap();
    let address = format!("sqlite:{}/rows.sqlite?mode=rwc", folder.display());
    let id = of_version_1(&address, "INTEGER", "STRICT", "").await;
    is_brought_up_to_date(&address, id).await;
    let address = format!("sqlite:{}/rows2.sqlite?mode=rwc", folder.display());
    let second = of_version_2("INTEGER", "STRICT");
    let id = of_version_1(&address, "INTEGER", "STRICT", &second).await;
    is_brought_up_to_date(&address, id).await;
    std::fs::remove_dir_all(folder).unwrap();
    if let Some(server) = Postgres::shared() {
        let (address, notify) = (
            server.database(),
            include_str!("../fixtures/schema_1_postgres.sql"),
        );
        let id = of_version_1(&address, "BIGINT", "", notify).await;
        // Several processes start at once.
        let starts = [1, 2, 3].map(|_| {
            tokio::spawn({
                let address = address.clone();
                async move { JobStore::open(&address).await.unwrap().close().await }
            })
        });
        for start in starts {
            start.await.unwrap();
        }
        is_brought_up_to_date(&address, id).await;
    }
}
