//! Scripts in their child processes: good ones, each kind of hostile one, and what is left of the process after it.

use crate::support::{eventually, wait_for};
use chrono::{DateTime, Utc};
use floh_worker::sandbox::{Finished, Kind, Level, Sandbox, Script, ScriptError, child::ARGUMENT};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

const WORKER: &str = env!("CARGO_BIN_EXE_floh-worker");

fn sandbox(most: usize) -> Sandbox {
    Sandbox::new(WORKER.into(), most)
}

async fn run_within(sandbox: &Sandbox, code: &str, time: Option<Duration>) -> Result<Finished, ScriptError> {
    let variables = Map::from_iter([("name".to_string(), json!("Ada")), ("list".to_string(), json!([3, 1, 2]))]);
    let outputs = ["out".to_string()];
    let deadline = time.map(|time| Instant::now() + time);
    sandbox
        .run(&Script { code, variables: &variables, outputs: &outputs, now: DateTime::<Utc>::UNIX_EPOCH, deadline })
        .await
}

async fn run(sandbox: &Sandbox, code: &str) -> Result<Finished, ScriptError> {
    run_within(sandbox, code, None).await
}

/// The output of a good script.
async fn out(sandbox: &Sandbox, code: &str) -> Value {
    run(sandbox, code).await.unwrap().values.remove("out").unwrap()
}

/// The processes for scripts that this test has, dead ones that nobody has waited for included.
fn children() -> BTreeSet<i32> {
    let me = i32::try_from(std::process::id()).unwrap();
    let mut found = BTreeSet::new();
    for pid in fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        if parent == Some(me) {
            found.insert(pid);
        }
    }
    found
}

fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn a_script_computes_logs_and_keeps_what_is_declared() {
    let sandbox = sandbox(1);
    let code = "floh.log.info('hello', floh.variables.name, floh.now());
                return {out: floh.variables.list.toSorted(), other: floh.uuid()}";
    let done = run(&sandbox, code).await.unwrap();
    assert_eq!(Value::from(done.values), json!({"out": [1, 2, 3]}));
    assert_eq!(done.logs.lines.len(), 1);
    assert_eq!(done.logs.lines[0].level, Level::Info);
    assert_eq!(done.logs.lines[0].text, "hello Ada 1970-01-01T00:00:00.000Z");
    assert!(done.duration < Duration::from_secs(5));
    assert_eq!(out(&sandbox, "return {out: 'é\\u0000😀'}").await, json!("é\u{0}😀"));
}

#[tokio::test]
async fn a_failure_brings_its_place_and_its_log() {
    let sandbox = sandbox(1);
    let error = run(&sandbox, "floh.log.warn('before');\nreturn missing").await.unwrap_err();
    assert_eq!((error.kind, error.logs.lines[0].text.as_str()), (Kind::Thrown, "before"));
    assert_eq!(error.position.unwrap().line, 2);
    assert!(error.to_string().starts_with("ReferenceError: missing is not defined (line 2, column"), "{error}");
    // The child is as good as before.
    let before = children();
    assert_eq!(out(&sandbox, "return {out: 1}").await, json!(1));
    assert_eq!((children(), before.len()), (before, 1));
}

#[tokio::test]
async fn nothing_of_a_script_is_left_for_the_next() {
    let sandbox = sandbox(1);
    let code = "globalThis.kept = 1; Object.prototype.kept = 1; Array.prototype.map = null; JSON.stringify = () => 'x';
                Object.getOwnPropertyDescriptor = () => 5; String.prototype.toWellFormed = () => 'spoilt';
                Object.prototype.toString = () => 'spoilt'; return {out: ['own']}";
    assert_eq!(out(&sandbox, code).await, json!(["own"]));
    let code = "return {out: [typeof kept, typeof {}.kept, [1].map(x => x), JSON.stringify(1), String({})]}";
    assert_eq!(out(&sandbox, code).await, json!(["undefined", "undefined", [1], "1", "[object Object]"]));
    assert_eq!(children().len(), 1);
}

/// Code, and the kinds of failures that it may end with; none means that it must not fail.
const HOSTILE: [(&str, &[Kind]); 31] = {
    use Kind::{OutOfMemory, Refused, Thrown, TimedOut};
    [
        ("for (;;) {}", &[TimedOut]),
        ("try { for (;;) {} } finally { for (;;) {} }", &[TimedOut]),
        // The built-in functions below never look at the clock: only a killed process ends them.
        ("return {out: ('a'.repeat(4e6) + 'c').indexOf('a'.repeat(1e6) + 'b')}", &[TimedOut]),
        ("let x = 3n ** 400000n; for (;;) x = x * x % (7n ** 300000n)", &[TimedOut, OutOfMemory, Thrown]),
        ("const a = []; for (;;) a.push('x'.repeat(1e6) + a.length)", &[OutOfMemory]),
        ("const a = []; for (;;) a.push(new Uint8Array(1e6))", &[OutOfMemory]),
        ("return {out: 'x'.repeat(2 ** 30 - 1)}", &[OutOfMemory, Thrown]),
        ("return {out: new Array(2 ** 32 - 1).fill(0).length}", &[OutOfMemory, TimedOut]),
        ("return {out: [...Array(1e9).keys()].length}", &[OutOfMemory, TimedOut]),
        ("return {out: 'x'.padEnd(1e9).length}", &[OutOfMemory, Thrown]),
        ("(function f() { f() })()", &[Thrown]),
        ("const f = () => [1].map(f); f()", &[Thrown]),
        ("const o = {}; o.toString = () => '' + o; '' + o", &[Thrown]),
        ("JSON.parse('['.repeat(1e6))", &[Thrown]),
        ("let a = []; for (let i = 0; i < 1e5; i++) a = [a]; JSON.stringify(a)", &[Thrown, OutOfMemory]),
        ("return {out: /^(([a-z])+.)+[A-Z]([a-z])+$/.test('a'.repeat(60))}", &[TimedOut, Thrown, OutOfMemory]),
        (
            "return {out: new RegExp('(' + 'a?'.repeat(5000) + ')*b').test('a'.repeat(5000))}",
            &[TimedOut, Thrown, OutOfMemory],
        ),
        ("new RegExp('('.repeat(60000))", &[Thrown]),
        ("[3, 2, 1].sort(() => { for (;;) {} })", &[TimedOut]),
        (
            "const a = Array.from({length: 4e5}, (_, i) => -i); for (;;) a.sort((x, y) => y - x)",
            &[TimedOut, OutOfMemory],
        ),
        ("eval('for (;;) {}')", &[TimedOut]),
        ("return {out: new Function('return this')().process}", &[Refused]),
        ("return {get out() { for (;;) {} }}", &[TimedOut]),
        ("return {out: {toJSON() { return {toJSON: this.toJSON, again: {toJSON: this.toJSON}} }}}", &[Refused]),
        ("return new Proxy({}, {getOwnPropertyDescriptor() { throw 1 }, get() { throw 2 }})", &[Thrown]),
        ("throw {get message() { for (;;) {} }}", &[TimedOut]),
        ("throw Object.assign(new Error('x'), {stack: {get toString() { for (;;) {} }}})", &[Thrown]),
        (
            "Object.defineProperty(Object.prototype, 'toJSON', {get() { throw new Error('trap') }}); return {out: {}}",
            &[Thrown],
        ),
        ("Object.prototype.__proto__ = null; Object.setPrototypeOf(floh, null); return {out: 1}", &[Thrown, Refused]),
        ("import('/etc/passwd'); return {out: 1}", &[]),
        ("return {out: Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)}", &[Thrown]),
    ]
};

#[tokio::test(flavor = "multi_thread")]
async fn hostile_scripts_fail_in_time_and_the_next_script_runs() {
    let sandbox = sandbox(4);
    let all = HOSTILE.map(|(code, kinds)| {
        let sandbox = sandbox.clone();
        tokio::spawn(async move {
            let started = Instant::now();
            let ended = run_within(&sandbox, code, Some(Duration::from_secs(120))).await;
            assert_eq!(out(&sandbox, "return {out: 'fine'}").await, json!("fine"), "after {code}");
            match ended {
                Ok(done) => assert!(kinds.is_empty(), "{code} gave {done:?}"),
                Err(error) => {
                    assert!(kinds.contains(&error.kind), "{code}: {error:?}");
                    assert!(!error.message.is_empty() && error.message.len() < 5000, "{code}: {error:?}");
                }
            }
            started.elapsed()
        })
    });
    for task in all {
        task.await.unwrap();
    }
    assert!(children().len() <= 4);
}

#[tokio::test]
async fn a_script_has_five_seconds_or_what_is_left_of_its_own_time() {
    let sandbox = sandbox(2);
    let started = Instant::now();
    let (whole, short) = tokio::join!(
        run(&sandbox, "for (;;) {}"),
        run_within(&sandbox, "for (;;) {}", Some(Duration::from_millis(200)))
    );
    let took = started.elapsed();
    assert_eq!(whole.unwrap_err().to_string(), "the script was not done after 5 s and was stopped");
    assert_eq!(short.unwrap_err().kind, Kind::TimedOut);
    assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(9), "{took:?}");
    let late = run_within(&sandbox, "return {out: 1}", Some(Duration::ZERO)).await.unwrap_err();
    assert_eq!((late.kind, late.message.as_str()), (Kind::TimedOut, "the time was up before the script could begin"));
}

#[tokio::test]
async fn one_child_serves_hundreds_of_scripts_and_does_not_grow() {
    let sandbox = sandbox(1);
    let work = "const a = Array.from({length: 2000}, (_, i) => ({i, s: 'x'.repeat(50) + i})); return {out: a.length}";
    let resident = |pid: i32| -> u64 {
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
        statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4
    };
    let mut before = None;
    for number in 0..200 {
        assert_eq!(out(&sandbox, work).await, json!(2000));
        if number == 20 {
            let pid = *children().first().unwrap();
            before = Some((pid, resident(pid)));
        }
    }
    let (pid, kib) = before.unwrap();
    assert_eq!(children(), BTreeSet::from([pid]), "the same child all the time");
    assert!(resident(pid) < kib + 4096, "{kib} KiB became {}", resident(pid));
}

#[tokio::test]
async fn a_child_that_is_killed_costs_one_script_which_may_be_tried_again() {
    let sandbox = sandbox(1);
    assert_eq!(out(&sandbox, "return {out: 1}").await, json!(1));
    let idle = children();
    // One that waits: nobody notices.
    kill(*idle.first().unwrap());
    assert_eq!(out(&sandbox, "return {out: 2}").await, json!(2));
    let busy = children();
    assert!(idle.is_disjoint(&busy), "{idle:?} {busy:?}");
    let (error, ()) = tokio::join!(run(&sandbox, "for (;;) {}"), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        kill(*busy.first().unwrap());
    });
    let error = error.unwrap_err();
    assert_eq!(error.kind, Kind::Machine);
    assert_eq!(error.message, "the script's process was killed from outside (SIGKILL)");
    assert_eq!(out(&sandbox, "return {out: 3}").await, json!(3));
}

#[tokio::test]
async fn a_child_that_does_not_answer_is_killed() {
    let sandbox = sandbox(1);
    assert_eq!(out(&sandbox, "return {out: 1}").await, json!(1));
    let stop = |pid: i32| {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGSTOP).unwrap();
        pid
    };
    // One that waits: another takes the script.
    let idle = stop(*children().first().unwrap());
    assert_eq!(out(&sandbox, "return {out: 2}").await, json!(2));
    assert!(!children().contains(&idle));
    let (ended, busy) = tokio::join!(run_within(&sandbox, "for (;;) {}", Some(Duration::from_millis(600))), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stop(*children().first().unwrap())
    });
    assert_eq!(ended.unwrap_err().kind, Kind::TimedOut);
    assert_eq!(out(&sandbox, "return {out: 3}").await, json!(3));
    assert!(!children().contains(&busy));
}

#[tokio::test]
async fn a_script_that_nobody_waits_for_ends() {
    let sandbox = sandbox(1);
    let busy = tokio::time::timeout(Duration::from_millis(500), run(&sandbox, "for (;;) {}"));
    assert!(busy.await.is_err(), "it is still running when we go");
    eventually("the end of the child", Duration::from_secs(2), || async { children().is_empty().then_some(()) }).await;
    assert_eq!(out(&sandbox, "return {out: 1}").await, json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_scripts_as_there_are_places_run_at_once() {
    let sandbox = sandbox(3);
    let code = "const end = Date.now() + 300; while (Date.now() < end) {} return {out: 1}";
    let started = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..9 {
        let sandbox = sandbox.clone();
        tasks.push(tokio::spawn(async move { out(&sandbox, code).await }));
    }
    let mut most = 0;
    while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
        most = most.max(children().len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for task in tasks {
        assert_eq!(task.await.unwrap(), json!(1));
    }
    assert_eq!(most, 3);
    // Three rounds, where one after the other would be nine.
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
    drop(sandbox);
    wait_for("the end of all children", Duration::from_secs(5), || children().is_empty().then_some(()));
}

#[tokio::test]
async fn a_child_has_nothing_but_its_pipes() {
    let sandbox = sandbox(1);
    assert_eq!(out(&sandbox, "return {out: 1}").await, json!(1));
    let pid = *children().first().unwrap();
    let of = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let status = of("status");
    for line in ["Name:\tfloh-sandbox", "NoNewPrivs:\t1", "Threads:\t1"] {
        assert!(status.contains(line), "{line} in {status}");
    }
    let limits = of("limits");
    for (limit, value) in
        [("Max open files", "0"), ("Max processes", "0"), ("Max core file size", "0"), ("Max file size", "0")]
    {
        let line = limits.lines().find(|line| line.starts_with(limit)).unwrap();
        let numbers: Vec<_> = line[limit.len()..].split_whitespace().take(2).collect();
        assert_eq!(numbers, [value, value], "{line}");
    }
    let space = limits.lines().find(|line| line.starts_with("Max address space")).unwrap();
    assert!(!space.contains("unlimited"), "{space}");
    let processor = limits.lines().find(|line| line.starts_with("Max cpu time")).unwrap();
    assert!(processor.split_whitespace().nth(3).unwrap().parse::<u64>().unwrap() < 20, "{processor}");
    // It cannot be looked into by its own user, so these are for root.
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: its open files and its environment, which only root sees");
        return;
    }
    let files: BTreeSet<_> =
        fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(files.len(), 3, "{files:?}");
    assert_eq!(of("environ"), "TZ=UTC0\0");
}

#[test]
fn a_child_does_not_outlive_the_thread_that_started_it() {
    let (say, started) = mpsc::channel();
    let (end, may_end) = mpsc::channel::<()>();
    let parent = thread::spawn(move || {
        let mut child =
            Command::new(WORKER).arg(ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 4];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        // Its standard input stays open, so that it is not the end of that which ends it.
        say.send(child).unwrap();
        let _ = may_end.recv();
    });
    let mut child = started.recv().unwrap();
    assert!(child.try_wait().unwrap().is_none());
    drop(end);
    parent.join().unwrap();
    let ended = wait_for("the end of the child", Duration::from_secs(5), || child.try_wait().unwrap());
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9));
}

#[test]
fn a_child_ends_with_its_pipe() {
    for program in [WORKER, env!("CARGO_BIN_EXE_flohctl")] {
        let child = Command::new(program).arg(ARGUMENT).stdin(Stdio::null()).output().unwrap();
        assert!(child.status.success(), "{program}: {:?}", child.status);
        assert!(child.stdout.ends_with(b"}") && child.stderr.is_empty(), "{program}: {child:?}");
    }
}

#[tokio::test]
async fn a_program_that_cannot_run_scripts_is_said_to_be_the_machines_fault() {
    for program in ["/nowhere/floh-worker", "/bin/false", "/bin/echo"] {
        let error = run(&Sandbox::new(program.into(), 1), "return {out: 1}").await.unwrap_err();
        assert_eq!(error.kind, Kind::Machine, "{program}");
        assert!(error.message.contains(program), "{error}");
    }
}
