//! How the daemon reaches Redis: a Unix socket, another database, a user of its own, TLS.

use crate::support::{RedisServer, fleet::Fleet, wait_for, worker::Worker};
use rcgen::{CertificateParams, KeyPair};
use std::{fs, time::Duration};

const SOON: Duration = Duration::from_secs(15);

/// Adds a job by hand and waits for its end, both in the server's database `database`.
fn runs_a_job(server: &RedisServer, database: i64) {
    let mut connection = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    redis::cmd("SELECT").arg(database).exec(&mut connection).unwrap();
    let base = "bull:workflow-scheduler:";
    let mut hash = redis::cmd("HSET");
    hash.arg(format!("{base}one")).arg(&[
        "name",
        "test.echo",
        "data",
        "{}",
        "opts",
        "{}",
        "timestamp",
        "1700000000000",
    ]);
    hash.exec(&mut connection).unwrap();
    redis::cmd("LPUSH").arg(format!("{base}wait")).arg("one").exec(&mut connection).unwrap();
    wait_for("the job's end", SOON, || {
        let score: Option<f64> =
            redis::cmd("ZSCORE").arg(format!("{base}completed")).arg("one").query(&mut connection).unwrap();
        score.map(|_| ())
    });
}

fn worker(fleet: &Fleet, settings: &[(&str, &str)]) -> Worker {
    fleet.worker("1", settings)
}

#[test]
fn by_a_socket_and_another_database() {
    let fleet = Fleet::start();
    let server = RedisServer::start();
    let url = format!("unix://{}?db=3", server.socket().display());
    let _worker = worker(&fleet, &[("REDIS_URL", &url)]);
    runs_a_job(&server, 3);
}

#[test]
fn as_a_user_of_its_own_that_may_not_name_its_connections() {
    let fleet = Fleet::start();
    let server = RedisServer::start();
    let mut connection = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    let mut user = redis::cmd("ACL");
    user.arg(&["SETUSER", "worker", "on", ">secret", "~*", "&*", "+@all", "-client|setname"]);
    user.exec(&mut connection).unwrap();
    let port = server.port().to_string();
    let settings = [("REDIS_PORT", port.as_str()), ("REDIS_USERNAME", "worker"), ("REDIS_PASSWORD", "secret")];
    let _worker = worker(&fleet, &settings);
    runs_a_job(&server, 0);
    // Nothing of it spins: an idle worker fetches about every two seconds.
    let calls = |connection: &mut redis::Connection| -> u64 {
        let text: String = redis::cmd("INFO").arg("commandstats").query(connection).unwrap();
        let line = text.lines().find(|line| line.starts_with("cmdstat_evalsha:")).unwrap_or_default();
        line.split(['=', ',']).nth(1).and_then(|count| count.parse().ok()).unwrap_or(0)
    };
    let before = calls(&mut connection);
    std::thread::sleep(Duration::from_secs(4));
    assert!(calls(&mut connection) - before < 12, "{before}, {}", calls(&mut connection));
}

#[test]
fn over_tls_with_an_authority_of_its_own() {
    let fleet = Fleet::start();
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_string()]).unwrap().self_signed(&key).unwrap();
    let (crt, pem) = (folder.path().join("crt"), folder.path().join("key"));
    fs::write(&crt, certificate.pem()).unwrap();
    fs::write(&pem, key.serialize_pem()).unwrap();
    let tls_port = crate::support::free_port().to_string();
    let (crt, pem) = (crt.display().to_string(), pem.display().to_string());
    let server = RedisServer::start_with(&[
        "--tls-port",
        &tls_port,
        "--tls-cert-file",
        &crt,
        "--tls-key-file",
        &pem,
        "--tls-ca-cert-file",
        &crt,
        "--tls-auth-clients",
        "no",
    ]);
    let settings =
        [("REDIS_HOST", "localhost"), ("REDIS_PORT", tls_port.as_str()), ("REDIS_TLS", "true"), ("REDIS_TLS_CA", &crt)];
    let _worker = worker(&fleet, &settings);
    runs_a_job(&server, 0);
    // Without the authority the certificate is nobody's, and nothing is said to the server.
    let stranger = fleet.spawn_worker("2", &settings[..3]);
    wait_for("the refusal", SOON, || stranger.log().contains("certificate").then_some(()));
    assert!(!stranger.said("READY=1"));
}
