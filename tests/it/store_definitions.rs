//! Definitions and their versions, and what of them may be run.

use crate::{store_ledger::migrated, support::PostgresServer};
use floh_worker::store::{
    Store,
    definition::{DefinitionStatus, Imported, Published, Reference, StoredDefinition},
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

    /// The versions of a name and their states, newest first.
    async fn states(&self, name: &str) -> Vec<(i32, &'static str)> {
        let listed = self.store.list_definitions(Some(name), 100).await.unwrap();
        listed.iter().map(|one| (one.version, one.status.word())).collect()
    }

    async fn read(&self, reference: &str) -> StoredDefinition {
        self.store.definitions(&named(reference)).await.unwrap().remove(0)
    }

    async fn import(&self, document: &Value) -> Imported {
        self.store.import_definition("Onboarding", Some("joiners"), document).await.unwrap()
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

#[tokio::test]
async fn a_published_version_neither_changes_nor_goes() {
    let bench = Bench::new().await;
    bench.version("Onboarding", 1, "active").await;
    bench.version("Onboarding", 2, "draft").await;
    let of_version = |version: i32, what: &str| format!("{what} WHERE version = {version}");
    for (change, why) in [
        ("UPDATE workflow_definition SET definition = '{\"a\": 1}'", "does not change; make a new version"),
        ("UPDATE workflow_definition SET name = 'Other'", "does not change"),
        ("UPDATE workflow_definition SET version = 7", "does not change"),
        ("UPDATE workflow_definition SET category = 'x'", "does not change"),
        ("UPDATE workflow_definition SET status = 'draft'", "cannot become a draft again"),
        ("DELETE FROM workflow_definition", "was published and stays"),
    ] {
        let error = bench.api.batch_execute(&of_version(1, change)).await.expect_err(change);
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "23001", "{change}");
        assert!(error.message().starts_with("version 1 of the workflow definition Onboarding "), "{error:?}");
        assert!(error.message().contains(why), "{change}: {error:?}");
    }
    let skip = of_version(2, "UPDATE workflow_definition SET status = 'deprecated'");
    assert!(bench.api.batch_execute(&skip).await.is_err(), "a draft is published before it is deprecated");
    bench.api.batch_execute(&of_version(2, "UPDATE workflow_definition SET definition = '{\"b\": 1}'")).await.unwrap();
    bench.api.batch_execute(&of_version(2, "DELETE FROM workflow_definition")).await.unwrap();
    bench.api.batch_execute(&of_version(1, "UPDATE workflow_definition SET status = 'deprecated'")).await.unwrap();
    assert_eq!(bench.states("Onboarding").await, [(1, "deprecated")]);
}

#[tokio::test]
async fn one_version_of_a_name_is_active_whoever_publishes_it() {
    let bench = Bench::new().await;
    bench.version("Onboarding", 1, "active").await;
    bench.version("Other", 1, "active").await;
    // As an API server may do it: the row is inserted as active.
    bench.version("Onboarding", 2, "active").await;
    assert_eq!(bench.states("Onboarding").await, [(2, "active"), (1, "deprecated")]);
    assert_eq!(bench.states("Other").await, [(1, "active")]);
    let row = bench.api.query_one("SELECT count(published_at) FROM workflow_definition", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 3);
    // A release that did not do well is taken back.
    let first = bench.read("Onboarding@1").await;
    assert_eq!(bench.store.publish_definition(&first).await.unwrap(), Published::Now { instead: Some(2) });
    assert_eq!(bench.states("Onboarding").await, [(2, "deprecated"), (1, "active")]);
    assert_eq!(bench.store.publish_definition(&first).await.unwrap(), Published::Before);
    // Many at once: one of them is the last.
    for version in 3..11 {
        bench.version("Onboarding", version, "draft").await;
    }
    let versions = bench.store.definitions(&named("Onboarding")).await.unwrap();
    let publish = versions.iter().filter(|one| one.is_draft()).map(|one| bench.store.publish_definition(one));
    for published in futures_util::future::join_all(publish).await {
        assert!(matches!(published.unwrap(), Published::Now { .. }));
    }
    let states = bench.states("Onboarding").await;
    assert_eq!(states.iter().filter(|(_, state)| *state == "active").count(), 1, "{states:?}");
    assert_eq!(states.iter().filter(|(_, state)| *state == "deprecated").count(), 9, "{states:?}");
}

#[tokio::test]
async fn an_import_is_the_newest_draft() {
    let bench = Bench::new().await;
    let (one, two, three) = (json!({"name": "a"}), json!({"name": "b"}), json!({"name": "c"}));
    assert_eq!(bench.import(&one).await, Imported::New { version: 1 });
    let read = bench.read("Onboarding").await;
    assert_eq!((read.version, read.status, &read.document), (1, DefinitionStatus::Draft, &one));
    assert_eq!(bench.import(&one).await, Imported::Same { version: 1, status: DefinitionStatus::Draft });
    assert_eq!(bench.import(&two).await, Imported::Updated { version: 1 });
    // What was looked at before is not what would be published.
    assert_eq!(bench.store.publish_definition(&read).await.unwrap(), Published::Changed);
    let read = bench.read("Onboarding@1").await;
    assert_eq!(bench.store.publish_definition(&read).await.unwrap(), Published::Now { instead: None });
    assert_eq!(bench.import(&two).await, Imported::Same { version: 1, status: DefinitionStatus::Active });
    assert_eq!(bench.import(&three).await, Imported::New { version: 2 });
    assert_eq!(bench.states("Onboarding").await, [(2, "draft"), (1, "active")]);
    let listed = bench.store.list_definitions(None, 1).await.unwrap();
    assert_eq!((listed.len(), listed[0].category.as_deref()), (1, Some("joiners")));
    // Many at once make one version each, or change the same draft.
    bench.version("Onboarding", 3, "active").await;
    let documents: Vec<Value> = (0..8).map(|number| json!({ "name": number })).collect();
    let imports = futures_util::future::join_all(documents.iter().map(|document| bench.import(document))).await;
    assert_eq!(imports.iter().filter(|one| **one == Imported::New { version: 4 }).count(), 1, "{imports:?}");
    assert_eq!(bench.states("Onboarding").await.len(), 4);
}
