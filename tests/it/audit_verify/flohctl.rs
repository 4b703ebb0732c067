//! `flohctl audit verify`: its sentences, its exit codes and its memory.

use super::{KEY, Witness, bench, copied, intact, signed_bench, tamper, tamperings, witnesses};
use crate::support::PostgresServer;
use std::{
    process::{Command, Output, Stdio},
    time::Duration,
};

const WITH_KEY: [(&str, &str); 2] = [("AUDIT_CHECKPOINT_KEY", KEY), ("AUDIT_CHECKPOINT_KEY_ID", "k1")];

/// Runs `flohctl audit verify`.
fn flohctl(server: &PostgresServer, extra: &[(&str, &str)], arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flohctl"))
        .args(["audit", "verify"])
        .args(arguments)
        .env_clear()
        .envs(server.environment())
        .envs(extra.iter().copied())
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn flohctl_says_in_a_sentence_what_it_found() {
    let (server, store, _api) = signed_bench().await;
    let head = hex::encode(intact(&store).await.head);
    let kept = witnesses(&store).await.pop().unwrap();
    let output = flohctl(&server, &WITH_KEY, &[]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = said.lines();
    assert_eq!(
        lines.next().unwrap(),
        format!(
            "the audit log is intact: 12 rows, head {head}; 2 checkpoints, their signatures are good; 4 rows since the \
             last checkpoint"
        )
    );
    let keep = lines.next().unwrap();
    assert!(keep.starts_with("the last checkpoint is number 2 of 20"), "{said}");
    assert!(keep.ends_with(&format!("Z; keep it for the next time: --expect {kept}")), "{said}");
    assert_eq!((lines.next(), output.status.code()), (None, Some(0)));
    let output = flohctl(&server, &[], &[]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("2 checkpoints, signatures NOT CHECKED; 4 rows"), "{said}");
    assert!(said.contains("AUDIT_CHECKPOINT_KEY is not set"), "{said}");
    assert_eq!(output.status.code(), Some(0));
    // Another key is in use now: the old one is given by its file.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{KEY}\n")).unwrap();
    let new = KEY.replace('0', "f");
    let rotated = [("AUDIT_CHECKPOINT_KEY", new.as_str()), ("AUDIT_CHECKPOINT_KEY_ID", "k2")];
    let output = flohctl(&server, &rotated, &[]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("checkpoint 1 is signed with the key k1, which is not known here"), "{said}");
    assert_eq!(output.status.code(), Some(1));
    let output = flohctl(&server, &rotated, &["--key", &format!("k1={}", file.path().display())]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));

    tamper(&server, "UPDATE audit_log SET actor = 'nobody' WHERE id = 7").await;
    let output = flohctl(&server, &WITH_KEY, &[]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "the audit log is not intact: audit row 7 (position 7) was changed, or swapped with another: it is not what was \
         chained there\n"
    );
    assert_eq!(output.status.code(), Some(1));
}

/// Each kind of tampering with the words that an operator reads; the others with what verification found.
#[tokio::test(flavor = "multi_thread")]
async fn flohctl_names_every_tampering() {
    let (server, _store, _api) = signed_bench().await;
    let restore = copied(&server).await;
    let said = |sql: &str| {
        let (code, said) = answer(&flohctl(&server, &WITH_KEY, &[]));
        assert_eq!(code, Some(1), "{sql}: {said}");
        said.strip_prefix("the audit log is not intact: ").unwrap_or_else(|| panic!("{sql}: {said}")).to_string()
    };
    let changed = "was changed, or swapped with another: it is not what was chained there\n";
    let swap = "UPDATE audit_log a SET entity_id = b.entity_id, new_state = b.new_state, timestamp = b.timestamp
        FROM audit_log b WHERE (a.id, b.id) IN ((9, 10), (10, 9))";
    for (sql, sentence) in [
        ("UPDATE audit_log SET action = 'delete' WHERE id = 3", format!("audit row 3 (position 3) {changed}")),
        ("DELETE FROM audit_log WHERE id = 6", "audit row 6 (position 6) was removed\n".to_string()),
        (swap, format!("audit row 9 (position 9) {changed}")),
        ("DELETE FROM audit_checkpoint WHERE number = 1", "checkpoint 1 was removed\n".to_string()),
    ] {
        tamper(&server, sql).await;
        assert_eq!(said(sql), sentence, "{sql}");
        tamper(&server, &restore).await;
    }
    for (sql, flaw) in tamperings() {
        tamper(&server, sql).await;
        assert_eq!(said(sql), format!("{flaw}\n"), "{sql}");
        tamper(&server, &restore).await;
    }
    let (code, said) = answer(&flohctl(&server, &WITH_KEY, &[]));
    assert!(code == Some(0) && said.starts_with("the audit log is intact: 12 rows"), "{code:?} {said}");
}

/// The most memory that a process has had so far, in kB; `None` once it has ended.
fn peak_memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn verification_needs_little_memory_however_big_the_rows() {
    let (server, _store, api) = bench(0).await;
    // 150 MB in 1,500 rows, so that already one page of them would be seen.
    for _ in 0..15 {
        let sql = "INSERT INTO audit_log (entity, entity_id, action, new_state)
            SELECT 'report', n::text, 'create', to_jsonb(repeat(md5(n::text), 3200)) FROM generate_series(1, 100) n";
        api.execute(sql, &[]).await.unwrap();
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_flohctl"))
        .args(["audit", "verify"])
        .env_clear()
        .envs(server.environment())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        peak = peak.max(peak_memory(child.id()).unwrap_or(0));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("is intact: 1500 rows"), "{said}");
    assert!((1_000..60_000).contains(&peak), "{peak} kB");
}

#[tokio::test(flavor = "multi_thread")]
async fn flohctl_tells_a_missing_schema_and_a_bad_key_from_a_broken_log() {
    let server = PostgresServer::start();
    let output = flohctl(&server, &[], &[]);
    assert_eq!(output.status.code(), Some(69), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("run `flohctl migrate`"));
    let output = flohctl(&server, &[], &["--key", "old=/nonexistent"]);
    assert_eq!(output.status.code(), Some(78));
    let output = flohctl(&server, &[], &["--key", "old"]);
    assert_eq!(output.status.code(), Some(64));
}

fn answer(output: &Output) -> (Option<i32>, String) {
    let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    (output.status.code(), said.concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn flohctl_compares_with_checkpoints_that_were_kept() {
    let (server, store, _api) = signed_bench().await;
    let [one, two] = witnesses(&store).await.try_into().unwrap();
    let expect = |known: &[&Witness]| {
        let arguments: Vec<String> = known.iter().map(|witness| format!("--expect={witness}")).collect();
        answer(&flohctl(&server, &WITH_KEY, &arguments.iter().map(String::as_str).collect::<Vec<_>>()))
    };
    let (code, said) = expect(&[&one]);
    assert!(code == Some(0) && said.contains("are good, the expected one is there; 4 rows"), "{code:?} {said}");
    let (code, said) = expect(&[&two, &one]);
    assert!(code == Some(0) && said.contains("the expected ones are there"), "{code:?} {said}");
    let (code, said) = expect(&[&one, &Witness { number: 2, ..one.clone() }]);
    let (found, known) = (hex::encode(&two.head_hash), hex::encode(&one.head_hash));
    let sentence = format!(
        "the audit log is not intact: checkpoint 2 is another one: its head hash is {found}, and it is known from outside \
         with {known};"
    );
    assert!(code == Some(1) && said.starts_with(&sentence), "{code:?} {said}");
    let (code, said) = expect(&[&Witness { number: 3, ..one }]);
    let sentence = format!(
        "the audit log is not intact: checkpoint 3 is gone: it is known from outside with the head hash {known}, and here \
         the last one is number 2;"
    );
    assert!(code == Some(1) && said.starts_with(&sentence), "{code:?} {said}");
    for wrong in ["2", "2=", "=00", "2=00", &format!("x={known}"), &format!("0={known}")] {
        assert_eq!(flohctl(&server, &WITH_KEY, &["--expect", wrong]).status.code(), Some(64), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flohctl_requires_signatures_where_it_is_told_to() {
    let (server, _store, _api) = bench(0).await;
    let require = |settings: &[(&str, &str)]| answer(&flohctl(&server, settings, &["--require-signatures"]));
    let (code, said) = require(&[]);
    assert!(code == Some(64) && said.contains("--require-signatures needs a key"), "{code:?} {said}");
    // An empty log has nothing to sign.
    assert_eq!(require(&WITH_KEY).0, Some(0));
    drop(server);
    let (server, _store, _api) = signed_bench().await;
    let require = |settings: &[(&str, &str)]| answer(&flohctl(&server, settings, &["--require-signatures"]));
    assert_eq!(require(&WITH_KEY).0, Some(0));
    assert_eq!(require(&[]).0, Some(64));
    let (code, said) = require(&[("AUDIT_CHECKPOINT_KEY", KEY), ("AUDIT_CHECKPOINT_KEY_ID", "k2")]);
    assert!(code == Some(1) && said.contains("signed with the key k1, which is not known here"), "{code:?} {said}");
    tamper(&server, "DELETE FROM audit_checkpoint; UPDATE audit_checkpoint_head SET number = 0, to_position = 0").await;
    let (code, said) = require(&WITH_KEY);
    assert!(code == Some(1) && said.contains("not intact: nothing is signed"), "{code:?} {said}");
    let (code, said) = answer(&flohctl(&server, &WITH_KEY, &[]));
    assert!(code == Some(0) && said.contains("0 checkpoints; 12 rows") && said.contains("nothing is signed"), "{said}");
}
