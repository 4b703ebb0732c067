//! Somebody with every right who removes checkpoints, sets back what the database remembers of them, and computes another
//! chain: the tables agree with each other then, and only what is outside the database tells.

use super::{
    Evidence, Flaw, JobError, RECHAIN, Remembered, add, flaw, keys, sign, sign_remembering, signed_bench, tamper,
    verify, witnesses,
};
use floh_worker::{audit::Witness, store::Store};
use serde_json::json;
use uuid::Uuid;

fn expecting(known: &[&Witness]) -> Evidence {
    Evidence { witnesses: known.iter().copied().cloned().collect(), ..keys(&["k1"]) }
}

fn lost(witness: &Witness, last: i64) -> Flaw {
    Flaw::CheckpointLost { number: witness.number, last, expected: hex::encode(&witness.head_hash) }
}

fn replaced(witness: &Witness, by: &Witness) -> Flaw {
    let [expected, found] = [witness, by].map(|one| hex::encode(&one.head_hash));
    Flaw::CheckpointReplaced { number: witness.number, expected, found }
}

fn remembering(witness: &Witness) -> Remembered {
    Remembered(Some(witness.to_string()).into())
}

/// Why the job refused to sign, after it is sure that nothing was signed.
async fn refused(store: &Store, memory: &Remembered) -> String {
    let before = witnesses(store).await;
    let remembered = memory.now();
    let error = sign_remembering(store, memory, &Uuid::new_v4().to_string()).await.unwrap_err();
    assert!(matches!(error, JobError::Fail(_)), "{error}");
    assert_eq!((witnesses(store).await, memory.now()), (before, remembered), "{error}");
    error.to_string()
}

fn refusal(flaw: &Flaw) -> String {
    format!(
        "the audit log is not signed any further: {flaw}. If a backup was restored and this is the log that you want to \
         continue, delete the place of last-audit-checkpoint"
    )
}

#[tokio::test]
async fn a_log_that_was_reset_and_rewritten_is_told_by_a_kept_checkpoint() {
    let (server, store, _api) = signed_bench().await;
    let [one, two] = &witnesses(&store).await[..] else { panic!("not two checkpoints") };
    verify(&store, &expecting(&[one, two]), |_| ()).await.unwrap().unwrap();
    let reset = "DELETE FROM audit_checkpoint; UPDATE audit_checkpoint_head SET number = 0, to_position = 0;
        UPDATE audit_log SET actor = 'nobody' WHERE id = 3;";
    tamper(&server, &format!("{reset} {RECHAIN}")).await;
    // Nothing in the database tells.
    let summary = verify(&store, &keys(&["k1"]), |_| ()).await.unwrap().unwrap();
    assert_eq!((summary.checkpoints, summary.unsigned_rows, summary.last), (0, 12, None));
    let demanding = Evidence { demand_checkpoint: true, ..keys(&["k1"]) };
    assert_eq!(flaw(&store, &demanding).await, Flaw::NothingSigned);
    for witness in [one, two] {
        assert_eq!(flaw(&store, &expecting(&[witness])).await, lost(witness, 0));
        // The job has not forgotten what it signed, however long ago.
        let said = refused(&store, &remembering(witness)).await;
        assert_eq!(said, refusal(&lost(witness, 0)));
    }
    // Where Redis was wiped as well, it does sign. Whoever kept a checkpoint can still tell.
    assert_eq!(sign(&store, "wiped").await.unwrap(), json!({ "checkpoints": 1, "rows": 12 }));
    verify(&store, &demanding, |_| ()).await.unwrap().unwrap();
    let forged = &witnesses(&store).await[0];
    assert_eq!(flaw(&store, &expecting(&[one])).await, replaced(one, forged));
    assert_eq!(flaw(&store, &expecting(&[two])).await, lost(two, 1));
    assert_eq!(flaw(&store, &expecting(&[forged, two])).await, lost(two, 1));
    assert_eq!(refused(&store, &remembering(one)).await, refusal(&replaced(one, forged)));
    assert_eq!(refused(&store, &remembering(two)).await, refusal(&lost(two, 1)));
}

#[tokio::test]
async fn a_log_whose_last_checkpoint_was_taken_back_is_told_by_a_kept_one() {
    let (server, store, _api) = signed_bench().await;
    let [one, two] = &witnesses(&store).await[..] else { panic!("not two checkpoints") };
    let back =
        "DELETE FROM audit_checkpoint WHERE number = 2; UPDATE audit_checkpoint_head SET number = 1, to_position = 4;
        UPDATE audit_log SET actor = 'nobody' WHERE id = 7;";
    tamper(&server, &format!("{back} {RECHAIN}")).await;
    let summary = verify(&store, &expecting(&[one]), |_| ()).await.unwrap().unwrap();
    assert_eq!((summary.checkpoints, summary.unsigned_rows), (1, 8));
    assert_eq!(flaw(&store, &expecting(&[one, two])).await, lost(two, 1));
    assert_eq!(refused(&store, &remembering(two)).await, refusal(&lost(two, 1)));
    // A memory of the first checkpoint is kept by this log: it is signed on.
    let older = remembering(one);
    assert_eq!(sign_remembering(&store, &older, "remembers one").await.unwrap()["rows"], 8);
    let forged = &witnesses(&store).await[1];
    assert_eq!(older.now(), Some(forged.to_string()));
    verify(&store, &keys(&["k1"]), |_| ()).await.unwrap().unwrap();
    assert_eq!(flaw(&store, &expecting(&[two])).await, replaced(two, forged));
    assert_eq!(refused(&store, &remembering(two)).await, refusal(&replaced(two, forged)));
}

#[tokio::test]
async fn a_forged_last_checkpoint_is_not_signed_upon() {
    let (server, store, api) = signed_bench().await;
    let two = &witnesses(&store).await[1];
    let forge = "UPDATE audit_log SET actor = 'nobody' WHERE id = 7;";
    let fit = "UPDATE audit_checkpoint p
        SET head_hash = (SELECT hash FROM audit_chain c WHERE c.position = p.to_position) WHERE number = 2;";
    tamper(&server, &format!("{forge} {RECHAIN}; {fit}")).await;
    let bad = Flaw::BadSignature { number: 2, key_id: "k1".into() };
    let said = refused(&store, &Remembered::default()).await;
    assert_eq!(said, format!("the audit log is not signed any further: {bad}"));
    add(&api, 1).await;
    assert_eq!(refused(&store, &Remembered::default()).await, said);
    // Under the name of a key that the worker does not have, the memory tells.
    tamper(&server, "UPDATE audit_checkpoint SET key_id = 'k0' WHERE number = 2").await;
    let forged = &witnesses(&store).await[1];
    assert_eq!(refused(&store, &remembering(two)).await, refusal(&replaced(two, forged)));
    assert_eq!(flaw(&store, &keys(&["k1"])).await, Flaw::UnknownKey { number: 2, key_id: "k0".into() });
}

#[tokio::test]
async fn a_head_that_does_not_fit_is_named_by_the_job() {
    let (server, store, _api) = signed_bench().await;
    for (sql, named) in [
        ("UPDATE audit_checkpoint_head SET number = 1, to_position = 4", Flaw::CheckpointHead { number: 2 }),
        ("UPDATE audit_checkpoint_head SET number = 0, to_position = 0", Flaw::CheckpointHead { number: 2 }),
        ("UPDATE audit_checkpoint_head SET number = -9223372036854775808", Flaw::CheckpointHead { number: 2 }),
        ("UPDATE audit_checkpoint_head SET number = 3, to_position = 12", Flaw::CheckpointRemoved { number: 3 }),
        ("DELETE FROM audit_checkpoint_head", Flaw::CheckpointHead { number: 2 }),
    ] {
        tamper(&server, sql).await;
        let said = refused(&store, &Remembered::default()).await;
        assert_eq!(said, format!("the audit log is not signed any further: {named}"), "{sql}");
        assert_eq!(flaw(&store, &keys(&["k1"])).await, named, "{sql}");
    }
}

#[tokio::test]
async fn the_memory_follows_the_log_and_is_not_guessed_at() {
    let (_server, store, api) = signed_bench().await;
    sign(&store, "three").await.unwrap();
    let [one, two, three] = &witnesses(&store).await[..] else { panic!("not three checkpoints") };
    // A new memory, or one that missed some, is brought up to the last checkpoint, also when there is nothing to sign.
    for (n, memory) in [Remembered::default(), remembering(one), remembering(three)].iter().enumerate() {
        let value = sign_remembering(&store, memory, &format!("nothing new {n}")).await.unwrap();
        assert_eq!((value, memory.now()), (json!({ "checkpoints": 0, "rows": 0 }), Some(three.to_string())));
    }
    add(&api, 1).await;
    let memory = remembering(two);
    assert_eq!(sign_remembering(&store, &memory, "four").await.unwrap()["checkpoints"], 1);
    assert_eq!(memory.now(), Some(witnesses(&store).await[3].to_string()));
    let nonsense = Remembered(Some("4".to_string()).into());
    let said = refused(&store, &nonsense).await;
    assert!(said.starts_with("the place of last-audit-checkpoint was changed: expected NUMBER=HASH"), "{said}");
}
