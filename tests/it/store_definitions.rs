//! Definitions and their versions, and what of them may be run.

use crate::{store_ledger::migrated, support::PostgresServer};
use floh_worker::store::{
    Store,
    definition::Reference,
    run::{NewRun, Refusal, Started, start_run},
};
use serde_json::{Value, json};
use tokio_postgres::Client;

const QUEUE: &str = "bull:workflow-scheduler";

/// A migrated database, and the API server's session in it.
struct Bench {
    _server: PostgresServer,
    store: Store,
    api: Client,
}

impl Bench {
    async fn new() -> Bench {
        let (server, store) = migrated().await;
        let api = server.session("floh").await;
        api.batch_execute("SET search_path = floh_worker").await.unwrap();
        Bench { _server: server, store, api }
    }

    async fn version(&self, name: &str, version: i32, status: &str) {
        let sql = "INSERT INTO workflow_definition (name, version, status, definition) VALUES ($1, $2, $3, '{}')";
        self.api.execute(sql, &[&name, &version, &status]).await.unwrap();
    }

    async fn start(&self, reference: &str) -> Started {
        start_run(&self.store.client().await.unwrap(), &NewRun::new(named(reference), QUEUE)).await.unwrap()
    }

    async fn refusal(&self, reference: &str) -> Refusal {
        match self.start(reference).await {
            Started::Refused(refusal) => refusal,
            started => panic!("{started:?}"),
        }
    }

    /// What runs and wake-ups there are: definition's version, queue, variables, submitter, mocks, held back; and jobs.
    async fn runs(&self) -> (Vec<Value>, Vec<String>) {
        let sql = "SELECT jsonb_build_array(d.name, d.version, r.queue, r.variables, r.submitter_id, r.use_mocks, r.held_back)
            FROM workflow_run r JOIN workflow_definition d ON d.id = r.definition_id ORDER BY r.created_at";
        let runs = self.api.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        let sql = "SELECT queue || ' ' || name || ' ' || (data ->> 'seq') FROM job_outbox ORDER BY id";
        (runs, self.api.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect())
    }
}

fn named(text: &str) -> Reference {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_run_starts_with_the_active_version_or_the_one_that_is_named_exactly() {
    let bench = Bench::new().await;
    for (version, status) in [(1, "deprecated"), (2, "active"), (3, "draft")] {
        bench.version("Onboarding", version, status).await;
    }
    let Started::Run { id, definition_id, name, version } = bench.start("Onboarding").await else { panic!("refused") };
    assert_eq!((name.as_str(), version), ("Onboarding", 2));
    let run = NewRun {
        variables: [("who".to_string(), json!({"id": 7}))].into_iter().collect(),
        submitter_id: Some("ada@example.test".into()),
        use_mocks: true,
        held_back: true,
        ..NewRun::new(Reference::Id(definition_id), "other:queue")
    };
    let client = bench.store.client().await.unwrap();
    let Started::Run { id: second, .. } = start_run(&client, &run).await.unwrap() else { panic!("refused") };
    assert_ne!(id, second);
    assert!(matches!(bench.start("Onboarding@1").await, Started::Run { version: 1, .. }));

    let (runs, jobs) = bench.runs().await;
    let plain = |version| json!(["Onboarding", version, QUEUE, {}, null, false, false]);
    let second = json!(["Onboarding", 2, "other:queue", {"who": {"id": 7}}, "ada@example.test", true, true]);
    assert_eq!(runs, [plain(2), second, plain(1)]);
    // The one that is held back waits for its turn.
    assert_eq!(jobs, [format!("{QUEUE} resume-run 1"), format!("{QUEUE} resume-run 1")]);
}

#[tokio::test]
async fn what_is_not_published_is_not_run() {
    let bench = Bench::new().await;
    bench.version("Offboarding", 1, "deprecated").await;
    bench.version("Offboarding", 2, "draft").await;
    assert_eq!(bench.refusal("Offboarding").await, Refusal::NoActiveVersion("Offboarding".into()));
    assert_eq!(bench.refusal("Offboarding@2").await, Refusal::Draft { name: "Offboarding".into(), version: 2 });
    let id = "6f1c2f60-8a55-4d2e-9a36-3f0b0c8f0a11";
    for unknown in ["Offboarding@3", "offboarding", id] {
        assert_eq!(bench.refusal(unknown).await, Refusal::Unknown(named(unknown)));
    }
    let sentence = bench.refusal("Nothing@3").await.to_string();
    assert_eq!(sentence, "there is no workflow definition `Nothing@3`");
    assert_eq!(bench.runs().await, (vec![], vec![]));
}
