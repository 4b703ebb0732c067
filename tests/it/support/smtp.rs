//! A real SMTP server (`tests/peers/smtp.py`, Debian's python3-aiosmtpd), and what it was sent.

use super::{node, process::Guarded, wait_for};
use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{self, BufRead, BufReader, PipeWriter, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};
use tempfile::TempDir;

/// A running server; ended when dropped.
pub struct Smtp {
    _process: Guarded,
    input: PipeWriter,
    answers: mpsc::Receiver<Value>,
    mails: Arc<Mutex<Vec<Value>>>,
    folder: TempDir,
    port: u16,
}

impl Smtp {
    /// Without TLS and login.
    pub fn start() -> Smtp {
        Smtp::start_with("none", None)
    }

    /// With `none`, `starttls` or `tls`, and a login that it asks for. Its certificate is for `localhost`.
    pub fn start_with(tls: &str, login: Option<(&str, &str)>) -> Smtp {
        let folder = tempfile::Builder::new().prefix("floh-it-smtp-").tempdir().unwrap();
        let mut options = json!({"tls": tls});
        if tls != "none" {
            let authority = authority("ours");
            let key = KeyPair::generate().unwrap();
            let certificate =
                CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &authority).unwrap();
            options["certificate"] = json!(put(&folder, "server.pem", &certificate.pem()));
            options["key"] = json!(put(&folder, "server.key", &key.serialize_pem()));
            put(&folder, "ca.pem", &authority.pem());
        }
        if let Some((user, password)) = login {
            options["user"] = json!(user);
            options["password"] = json!(password);
        }
        let (child_input, input) = io::pipe().unwrap();
        let (output, child_output) = io::pipe().unwrap();
        // Debian's own, because the module is Debian's.
        let process = Guarded::spawn(Path::new("/usr/bin/python3"), None, Signal::SIGKILL, |command| {
            command.arg("smtp.py").arg(options.to_string()).current_dir(node::peers());
            command.stdin(child_input).stdout(child_output);
        });
        let (sender, answers) = mpsc::channel();
        let mails = Arc::new(Mutex::new(Vec::new()));
        let received = Arc::clone(&mails);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let mut line: Value = serde_json::from_str(&line).unwrap();
                if line.get("mail").is_some() {
                    received.lock().unwrap_or_else(PoisonError::into_inner).push(line["mail"].take());
                } else if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let started = answers.recv_timeout(Duration::from_secs(30));
        let started = started.expect("an SMTP server (apt install python3-aiosmtpd)");
        let port = u16::try_from(started["port"].as_u64().unwrap()).unwrap();
        Smtp { _process: process, input, answers, mails, folder, port }
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The authority behind its certificate.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// How it answers from now on; `tests/peers/smtp.py` knows the rules.
    pub fn rule(&mut self, rule: &Value) {
        writeln!(self.input, "{rule}").unwrap();
        self.answers.recv_timeout(Duration::from_secs(30)).expect("the SMTP server takes a rule");
    }

    /// What it has received so far.
    pub fn mails(&self) -> Vec<Value> {
        self.mails.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it has received when that are at least so many.
    pub fn wait_mails(&self, count: usize) -> Vec<Value> {
        wait_for(&format!("{count} mails"), Duration::from_secs(20), || {
            Some(self.mails()).filter(|mails| mails.len() >= count)
        })
    }
}

/// The identity of the mail that a step's visit sends to somebody, from an address of `example.com`.
pub fn message_id(run: &str, step: &str, visit: i32, to: &str) -> String {
    let digest = hex::encode(Sha256::digest(to.to_lowercase()));
    format!("<{run}.{step}.{visit}.{}@floh-worker.example.com>", &digest[..16])
}

/// An authority of certificates that nobody else knows.
pub fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn put(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let file = folder.path().join(name);
    fs::write(&file, text).unwrap();
    file
}
