//! What an operator and an API server do on a machine: install, configure, migrate, start; add jobs, look at them.

use crate::{
    machine::Machine,
    support::{peer::Peer, wait_for},
};
use serde_json::{Value, json};
use std::time::Duration;

/// The database's password. It must appear in no log and in no process's environment but the worker's.
pub const PASSWORD: &str = "correct-horse-7f3a";

/// A booted machine with the package installed, /etc/floh/env filled in and the schema migrated; no worker runs yet.
pub fn ready_machine() -> Machine {
    let machine = installed_machine();
    configure(&machine, "");
    machine.ok("flohctl migrate");
    // The workers' own periodic job is left to a scheduler that never makes any, so that tests may count jobs at every
    // quarter of an hour.
    machine.ok("R=bull:workflow-scheduler:repeat; redis-cli ZADD $R 4102444800000 tests:none; \
         redis-cli HSET $R:tests:none name stuck-run-recovery pattern '0 0 1 1 *' tz UTC");
    machine
}

/// A booted machine with the package installed and a database for it, as apt leaves it.
pub fn installed_machine() -> Machine {
    let machine = Machine::boot();
    install(&machine, "~test1");
    machine.ok(&format!(
        "cd /; runuser -u postgres -- psql -q -v ON_ERROR_STOP=1 \
         -c \"CREATE ROLE floh LOGIN PASSWORD '{PASSWORD}'\" -c 'CREATE DATABASE floh OWNER floh'"
    ));
    machine
}

/// Installs one of the packages with apt. The machine has no network: nothing can be downloaded for it.
pub fn install(machine: &Machine, version: &str) {
    machine.ok(&apt_install(version));
}

/// The command that does. Where both the package and somebody else have changed /etc/floh/env, the latter's stays: without
/// being told so, dpkg would ask.
pub fn apt_install(version: &str) -> String {
    format!(
        "apt-get install --yes --no-install-recommends -o Dpkg::Options::=--force-confold \
         /packages/floh-worker_*{version}_*.deb </dev/null"
    )
}

/// Writes /etc/floh/env: where the database is, and `more` lines. The file keeps its mode.
pub fn configure(machine: &Machine, more: &str) {
    machine.ok(&format!("printf '%s\\n' 'DB_PASSWORD={PASSWORD}' 'WORKER_MODE=separate' '{more}' >/etc/floh/env"));
}

/// Starts instances as one does in bash, and waits until they are active.
pub fn start(machine: &Machine, instances: &str) {
    machine.ok(&format!("systemctl start floh-worker@{instances}"));
}

/// What `psql -At` answers to a query in the schema of the workers.
pub fn sql(machine: &Machine, query: &str) -> String {
    let psql = "cd /; PGOPTIONS='-c search_path=floh_worker' runuser -u postgres -- psql -At -v ON_ERROR_STOP=1 floh";
    machine.ok(&format!("{psql} -c \"{query}\""))
}

/// What deaths are charged to which jobs, as systemd told them: `job|instance|evidence`, a line each.
pub fn suspicions(machine: &Machine) -> String {
    sql(machine, "SELECT job_id, instance, evidence FROM job_suspicion ORDER BY suspected_at")
}

/// An API server's side of the queue.
pub struct Jobs {
    peer: Peer,
}

impl Jobs {
    /// A client of the machine's Redis.
    pub fn of(machine: &Machine) -> Jobs {
        Jobs { peer: Peer::in_network_of(machine.leader()) }
    }

    /// Adds a job that takes `ms`, and returns its id.
    pub fn sleep(&mut self, ms: u64) -> String {
        self.add("test.sleep", ms, 3)
    }

    /// Adds a job of another kind that takes `ms`, with so many attempts.
    pub fn add(&mut self, name: &str, ms: u64, attempts: u32) -> String {
        let job = json!({"name": name, "data": {"ms": ms}, "opts": {"attempts": attempts}});
        let added = self.peer.call(6, "add", job);
        added["id"].as_str().unwrap().to_string()
    }

    /// Everything that the client knows of a job.
    pub fn look(&mut self, id: &str) -> Value {
        self.peer.call(6, "job", json!({"job": id}))
    }

    /// A job's state: `waiting`, `active`, `completed`, `failed`, ...
    pub fn state(&mut self, id: &str) -> String {
        self.peer.call(6, "state", json!({"job": id})).as_str().unwrap().to_string()
    }

    /// Waits until a job is in a state.
    ///
    /// # Panics
    /// It is not in time, or the job failed.
    pub fn wait_until(&mut self, id: &str, state: &str, limit: Duration) {
        wait_for(&format!("job {id} is {state}"), limit, || {
            let now = self.state(id);
            assert!(now == state || now != "failed", "job {id} failed: {}", self.look(id));
            (now == state).then_some(())
        });
    }

    /// How many jobs are in a state.
    pub fn count(&mut self, state: &str) -> u64 {
        self.peer.call(6, "counts", json!({}))[state].as_u64().unwrap()
    }
}

/// The journal's entries that match, oldest first. Big or binary fields come as arrays, as journalctl prints them.
pub fn journal(machine: &Machine, matches: &str) -> Vec<Value> {
    let lines = machine.ok(&format!("journalctl --sync; journalctl --no-pager -o json {matches}"));
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The text of an entry.
pub fn message(entry: &Value) -> &str {
    entry["MESSAGE"].as_str().unwrap_or_default()
}

/// What the journal says of a unit, as text.
pub fn log_of(machine: &Machine, unit: &str) -> String {
    machine.ok(&format!("journalctl --sync; journalctl --no-pager -o cat -u '{unit}'"))
}
