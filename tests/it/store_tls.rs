//! TLS towards PostgreSQL in libpq's modes, with certificates made for the test.

use crate::support::{
    PostgresServer,
    proxy::{Fault, Proxy},
    within,
};
use floh_worker::{
    config::{DatabaseConfig, DatabaseHost, SslMode},
    store::{Store, StoreError},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn install(data: &Path, certificate: &str, key: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(data.join("server.crt"), certificate).unwrap();
    fs::write(data.join("server.key"), key).unwrap();
    fs::set_permissions(data.join("server.key"), fs::Permissions::from_mode(0o600)).unwrap();
}

/// A server with a certificate for `localhost` by the given authority.
fn server_of(authority: &Authority) -> PostgresServer {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_string()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    PostgresServer::start_with("ssl = on", |data| install(data, &certificate.pem(), &key.serialize_pem()))
}

fn written(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let file = folder.path().join(name);
    fs::write(&file, text).unwrap();
    file
}

/// Whether the session was encrypted, or why there is none.
async fn encrypted(config: &DatabaseConfig) -> Result<bool, StoreError> {
    let store = Store::open(config, 1, "floh-worker@tls")?;
    let client = store.client().await?;
    let row = client.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await?;
    Ok(row.get(0))
}

#[tokio::test]
async fn each_mode_checks_what_it_promises() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, other) = (authority("ours"), authority("other"));
    let (good, wrong) = (written(&folder, "good.pem", &ours.pem()), written(&folder, "wrong.pem", &other.pem()));
    let server = server_of(&ours);
    let cases = [
        // mode, authorities, host, expected: encrypted, or a refusal with this word
        (SslMode::Disable, None, "localhost", Ok(false)),
        (SslMode::Prefer, None, "localhost", Ok(true)),
        (SslMode::Prefer, Some(&wrong), "127.0.0.1", Ok(true)),
        (SslMode::Require, None, "127.0.0.1", Ok(true)),
        (SslMode::Require, Some(&good), "localhost", Ok(true)),
        (SslMode::Require, Some(&good), "127.0.0.1", Ok(true)),
        (SslMode::Require, Some(&wrong), "localhost", Err("UnknownIssuer")),
        (SslMode::VerifyFull, Some(&good), "localhost", Ok(true)),
        (SslMode::VerifyFull, Some(&good), "127.0.0.1", Err("not valid for name")),
        (SslMode::VerifyFull, Some(&wrong), "localhost", Err("UnknownIssuer")),
        (SslMode::VerifyFull, None, "localhost", Err("DB_SSL_CA")),
    ];
    for (mode, authorities, host, expected) in cases {
        let config = DatabaseConfig {
            host: DatabaseHost::Tcp(host.into()),
            ssl: mode,
            ssl_ca: authorities.cloned(),
            ..server.config()
        };
        match (encrypted(&config).await, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{mode:?} {authorities:?} {host}"),
            (Err(error), Err(word)) => {
                assert!(matches!(error, StoreError::Rejected { .. }), "{mode:?} {authorities:?} {host}: {error:?}");
                let message = error.to_string();
                assert!(message.contains(word) && message.contains("DB_SSL"), "{mode:?} {host}: {message}");
            }
            (found, expected) => panic!("{mode:?} {authorities:?} {host}: {found:?} instead of {expected:?}"),
        }
    }
    // libpq ignores the mode on a socket, and so do we.
    let socket = DatabaseConfig { ssl: SslMode::VerifyFull, ssl_ca: Some(good), ..server.socket_config() };
    assert!(!encrypted(&socket).await.unwrap());
}

/// What `openssl req -x509` makes: a certificate that serves and calls itself an authority.
#[tokio::test]
async fn a_self_signed_certificate_named_as_trusted_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_string()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    let server = PostgresServer::start_with("ssl = on", |data| install(data, &certificate.pem(), &key.serialize_pem()));
    let trusted = written(&folder, "self.pem", &certificate.pem());
    let config = |mode, host: &str| DatabaseConfig {
        host: DatabaseHost::Tcp(host.into()),
        ssl: mode,
        ssl_ca: Some(trusted.clone()),
        ..server.config()
    };
    assert!(encrypted(&config(SslMode::VerifyFull, "localhost")).await.unwrap());
    assert!(encrypted(&config(SslMode::Require, "127.0.0.1")).await.unwrap());
    let error = encrypted(&config(SslMode::VerifyFull, "127.0.0.1")).await.unwrap_err();
    assert!(matches!(error, StoreError::Rejected { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_without_tls_is_used_by_prefer_and_refused_by_require() {
    let server = PostgresServer::start();
    let config = |ssl| DatabaseConfig { ssl, ..server.config() };
    assert!(!encrypted(&config(SslMode::Prefer)).await.unwrap());
    let error = encrypted(&config(SslMode::Require)).await.unwrap_err();
    assert!(matches!(error, StoreError::Rejected { .. }), "{error:?}");
    assert!(error.to_string().contains("DB_SSL"), "{error}");
}

#[tokio::test]
async fn unusable_authorities_are_refused_at_once_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let server = PostgresServer::start();
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for file in
        [folder.path().join("missing.pem"), written(&folder, "empty.pem", ""), written(&folder, "b.pem", broken)]
    {
        let config = DatabaseConfig { ssl: SslMode::Require, ssl_ca: Some(file.clone()), ..server.config() };
        let error = Store::open(&config, 1, "x").err().expect("it was accepted");
        assert!(matches!(error, StoreError::Rejected { .. }), "{error:?}");
        let message = error.to_string();
        assert!(message.contains(file.to_str().unwrap()), "{message}");
    }
}

/// A handshake that breaks off is the network's fault, and waited for; it is not a certificate's.
#[tokio::test]
async fn a_handshake_that_breaks_off_is_waited_for() {
    let server = server_of(&authority("ours"));
    let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], server.port()))).await;
    let config = DatabaseConfig { port: proxy.port(), ssl: SslMode::Require, ..server.config() };
    // The record of a ClientHello.
    proxy.arm("\u{16}\u{3}\u{1}", Fault::CutBefore);
    let error = within("an answer", Duration::from_secs(20), encrypted(&config)).await.unwrap_err();
    assert_eq!(proxy.sprung(), 1);
    assert!(error.is_unavailable(), "{error:?}");
    assert!(encrypted(&config).await.unwrap());
}
