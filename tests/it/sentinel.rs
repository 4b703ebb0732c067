//! Links that ask sentinels where the primary is, over real sentinels: whom they believe, and what they say.

use crate::support::{
    RedisServer, eventually, free_port,
    sentinel::{MASTER, Sentinel, ask, asking, connection, replica_at, replica_of},
};
use floh_worker::{
    config::{QueueConfig, RedisConfig, RedisEndpoint},
    queue::{
        Error, Queue,
        add::NewJob,
        connection::{COMMAND_DEADLINE, Fate},
    },
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use std::{
    fs,
    net::TcpListener,
    time::{Duration, Instant},
};

fn queue(config: &RedisConfig) -> Queue {
    let names = QueueConfig { name: "q".into(), prefix: "bull".into(), max_job_bytes: 1024 * 1024 };
    Queue::new(&names, config, Fate::default()).unwrap()
}

/// The port of the server that a new connection leads to.
async fn port(config: &RedisConfig) -> Result<u16, Error> {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg("port");
    let (_, port): (String, String) = queue(config).link.query(&command, "CONFIG", COMMAND_DEADLINE).await?;
    Ok(port.parse().unwrap())
}

/// A sentinel of yesterday: it watches a server that has become a replica, and is slow to believe it.
fn stale(port: u16) -> Sentinel {
    Sentinel::watching(port, 1, &[&format!("sentinel down-after-milliseconds {MASTER} 600000")])
}

#[tokio::test]
async fn sentinels_that_are_down_silent_or_know_no_such_primary_are_passed_over_in_time() {
    let primary = RedisServer::start();
    let (ignorant, good) = (Sentinel::ignorant(), Sentinel::watching(primary.port(), 1, &[]));
    // The kernel accepts for it, and nobody ever answers.
    let deaf = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let deaf = deaf.local_addr().unwrap().port();
    for others in [vec![free_port(), ignorant.port()], vec![deaf], vec![deaf, free_port(), deaf, ignorant.port()]] {
        let asked = Instant::now();
        let config = asking(&[others, vec![good.port()]].concat());
        assert_eq!(port(&config).await.unwrap(), primary.port());
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    }
}

#[tokio::test]
async fn where_nobody_knows_the_primary_the_error_says_what_each_answered_and_soon() {
    let (ignorant, down) = (Sentinel::ignorant(), free_port());
    let frozen = Sentinel::ignorant();
    frozen.freeze();
    let asked = Instant::now();
    let error = port(&asking(&[ignorant.port(), down, frozen.port()])).await.unwrap_err();
    assert!(asked.elapsed() < Duration::from_millis(1900), "{:?}", asked.elapsed());
    assert!(error.is_unavailable() && !error.is_fatal(), "{error:?}");
    let text = error.to_string();
    let list = format!("127.0.0.1:{}, 127.0.0.1:{down}, 127.0.0.1:{}", ignorant.port(), frozen.port());
    assert!(text.starts_with(&format!("Redis primary \"mymaster\" (sentinels {list}) was not found: ")), "{text}");
    for part in [
        format!("sentinel 127.0.0.1:{} knows no primary \"mymaster\"", ignorant.port()),
        format!("sentinel 127.0.0.1:{down} cannot be reached"),
        format!("sentinel 127.0.0.1:{} did not answer", frozen.port()),
    ] {
        assert!(text.contains(&part), "{part}: {text}");
    }
}

#[tokio::test]
async fn a_stale_sentinel_that_names_a_replica_leads_to_no_write_there() {
    let primary = RedisServer::start();
    // This replica would take writes, so it is we who must not make them.
    let replica = replica_of(primary.port(), &["--replica-read-only", "no"]);
    let stale = stale(replica.port());
    assert_eq!(stale.primary(), replica.port());
    let config = asking(&[stale.port()]);
    let error = queue(&config).add(&NewJob::new("x", json!({}))).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    let expected =
        format!("127.0.0.1:{} is a replica of 127.0.0.1:{} and not the primary", replica.port(), primary.port());
    assert!(error.to_string().contains(&expected), "{error}");
    assert_eq!(ask::<u64>(&mut connection(replica.port()), &["DBSIZE"]), 0);

    // Another sentinel, even a single one, is believed where the server agrees with it.
    let good = Sentinel::watching(primary.port(), 1, &[]);
    for ports in [[stale.port(), good.port()], [good.port(), stale.port()]] {
        assert_eq!(port(&asking(&ports)).await.unwrap(), primary.port());
    }
    queue(&asking(&[stale.port(), good.port()])).add(&NewJob::new("x", json!({}))).await.unwrap();
    assert!(ask::<u64>(&mut connection(primary.port()), &["DBSIZE"]) > 0);
}

#[tokio::test]
async fn a_primary_that_is_down_is_waited_for_and_a_link_asks_anew_each_time_it_connects() {
    let mut first = RedisServer::start();
    let mut sentinel = Sentinel::watching(first.port(), 1, &[]);
    let queue = queue(&asking(&[sentinel.port()]));
    queue.now_ms().await.unwrap();
    first.down();
    queue.now_ms().await.unwrap_err();
    let error = queue.now_ms().await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(error.to_string().contains(&format!("127.0.0.1:{} cannot be reached", first.port())), "{error}");

    // The same sentinel, as far as the link can see, now names another server.
    let second = RedisServer::start();
    let mut control = connection(sentinel.port());
    let _: String = ask(&mut control, &["SENTINEL", "REMOVE", MASTER]);
    let port = second.port().to_string();
    let _: String = ask(&mut control, &["SENTINEL", "MONITOR", MASTER, "127.0.0.1", &port, "1"]);
    queue.now_ms().await.unwrap();
    // A link that is connected needs no sentinel.
    sentinel.down();
    queue.now_ms().await.unwrap();
}

#[tokio::test]
async fn each_login_is_refused_with_the_names_of_its_own_settings() {
    let primary = RedisServer::start_with(&["--requirepass", "inner"]);
    let sentinel =
        Sentinel::watching(primary.port(), 1, &["requirepass outer", &format!("sentinel auth-pass {MASTER} inner")]);
    let login = |inner: Option<&str>, outer: Option<&str>| RedisConfig {
        password: inner.map(Into::into),
        sentinel_password: outer.map(Into::into),
        ..asking(&[sentinel.port()])
    };
    assert_eq!(port(&login(Some("inner"), Some("outer"))).await.unwrap(), primary.port());
    for outer in [None, Some("guppytrout")] {
        let error = port(&login(Some("inner"), outer)).await.unwrap_err();
        let text = error.to_string();
        assert!(error.is_fatal() && text.contains("REDIS_SENTINEL_PASSWORD"), "{text}");
        assert!(!text.contains("guppytrout"), "{text}");
    }
    for inner in [None, Some("guppytrout")] {
        let error = port(&login(inner, Some("outer"))).await.unwrap_err();
        let text = error.to_string();
        assert!(error.is_fatal() && text.contains("REDIS_PASSWORD") && !text.contains("SENTINEL_PASS"), "{text}");
        assert!(!text.contains("guppytrout"), "{text}");
    }
    // Where only one of them refuses us, the others may come back and let us in.
    let config = RedisConfig { password: Some("inner".into()), ..asking(&[sentinel.port(), free_port()]) };
    let error = port(&config).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
}

#[tokio::test]
async fn users_need_no_more_than_the_manual_says() {
    let primary = RedisServer::start();
    let sentinel = Sentinel::watching(
        primary.port(),
        1,
        &["user asker on >outer -@all +sentinel|get-master-addr-by-name", "user default off"],
    );
    let mut control = connection(primary.port());
    for (role, fits) in [("-role", false), ("+role", true)] {
        let user = ["ACL", "SETUSER", "worker", "on", ">inner", "~*", "+@all", "-@dangerous", "+config|get", role];
        let _: String = ask(&mut control, &user);
        let config = RedisConfig {
            username: Some("worker".into()),
            password: Some("inner".into()),
            sentinel_username: Some("asker".into()),
            sentinel_password: Some("outer".into()),
            ..asking(&[sentinel.port()])
        };
        match port(&config).await {
            Ok(port) => assert!(fits && port == primary.port()),
            Err(error) => {
                let text = error.to_string();
                assert!(!fits && error.is_fatal() && text.contains("role") && text.contains("ACL"), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn tls_is_spoken_to_the_sentinels_and_to_the_primary() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut ca = CertificateParams::new(vec![]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_string()]).unwrap();
    let certificate = params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    fs::write(path("ca.pem"), ca_certificate.pem()).unwrap();
    fs::write(path("cert.pem"), certificate.pem()).unwrap();
    fs::write(path("key.pem"), key.serialize_pem()).unwrap();
    let files = [("tls-cert-file", "cert.pem"), ("tls-key-file", "key.pem"), ("tls-ca-cert-file", "ca.pem")];
    let settings = |port: u16| {
        let mut settings: Vec<(String, String)> =
            files.iter().map(|(name, file)| (name.to_string(), path(file))).collect();
        settings.push(("tls-auth-clients".into(), "no".into()));
        settings.push(("tls-port".into(), port.to_string()));
        settings
    };

    let (primary_port, sentinel_port) = (free_port(), free_port());
    let options: Vec<String> =
        settings(primary_port).into_iter().flat_map(|(name, value)| [format!("--{name}"), value]).collect();
    let primary = RedisServer::start_with(&options.iter().map(String::as_str).collect::<Vec<_>>());
    let mut lines: Vec<String> =
        settings(sentinel_port).into_iter().map(|(name, value)| format!("{name} {value}")).collect();
    lines.push("tls-replication yes".into());
    let sentinel = Sentinel::watching(primary_port, 1, &lines.iter().map(String::as_str).collect::<Vec<_>>());

    let ca = Some(path("ca.pem").into());
    let config = RedisConfig { tls: true, tls_ca: ca, ..asking(&[sentinel_port]) };
    let _ = rustls::crypto::ring::default_provider().install_default();
    assert_eq!(port(&config).await.unwrap(), primary.port(), "the server's other port is the plain one");
    // Both ports that are plain are of no use to a link with TLS, and those with TLS to one without.
    assert!(port(&RedisConfig { tls: true, ..asking(&[sentinel.port()]) }).await.unwrap_err().is_unavailable());
    assert!(port(&asking(&[sentinel_port])).await.unwrap_err().is_unavailable());
}

/// A primary and its replica that are known by `host` alone, and a sentinel that is asked there: a link finds the primary,
/// and the other one when it has been replaced.
async fn is_followed_at(host: &str, servers: &[&str], settings: &[&str]) {
    const SOON: Duration = Duration::from_secs(30);
    let primary = RedisServer::start_with(servers);
    let replica = replica_at(host, primary.port(), servers);
    let sentinel = Sentinel::watching_at(host, primary.port(), 1, settings);
    let named = || -> (String, u16) { sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]) };
    assert_eq!(named(), (host.to_string(), primary.port()));
    let endpoint =
        RedisEndpoint::Sentinels { sentinels: vec![(host.to_string(), sentinel.port())], master: MASTER.into() };
    let config = RedisConfig { endpoint, ..asking(&[]) };
    assert_eq!(port(&config).await.unwrap(), primary.port());
    let queue = queue(&config);
    queue.add(&NewJob::new("x", json!({}))).await.unwrap();

    eventually("the sentinel sees the replica well", SOON, async || {
        let replicas: Vec<Vec<String>> = sentinel.ask(&["SENTINEL", "REPLICAS", MASTER]);
        let facts = replicas.first()?;
        let is = |pair: [&str; 2]| facts.chunks(2).any(|found| found == pair);
        (is(["ip", host]) && is(["flags", "slave"]) && is(["master-link-status", "ok"])).then_some(())
    })
    .await;
    sentinel.fail_over();
    eventually("the promotion", SOON, async || (named() == (host.to_string(), replica.port())).then_some(())).await;
    eventually("the link follows", SOON, async || {
        let added = queue.add(&NewJob::new("y", json!({}))).await;
        let at_replica = ask::<u64>(&mut connection(replica.port()), &["LLEN", &queue.keys.wait]);
        (added.is_ok() && at_replica >= 2 && port(&config).await.ok()? == replica.port()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_primary_with_an_address_of_version_6_is_found_and_followed() {
    if TcpListener::bind(("::1", 0)).is_err() {
        eprintln!("NOT TESTED: this machine has no ::1, so sentinels were not tried with addresses of version 6");
        return;
    }
    // Both, because the test's own questions go to 127.0.0.1.
    is_followed_at("::1", &["--bind", "::1", "127.0.0.1"], &["bind ::1 127.0.0.1"]).await;
}

#[tokio::test]
async fn a_primary_that_its_sentinels_give_by_name_is_found_and_followed() {
    // A replica tries only the first address of a name: where this machine has ::1, that can be it.
    let servers = ["--bind", "127.0.0.1", "-::1", "--replica-announce-ip", "localhost"];
    let settings = ["bind 127.0.0.1 -::1", "sentinel resolve-hostnames yes", "sentinel announce-hostnames yes"];
    is_followed_at("localhost", &servers, &settings).await;
}
