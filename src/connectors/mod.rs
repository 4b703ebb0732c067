//! Calls of other systems: the connectors, whom they may call, their secrets and their mocks. Knows neither runs nor steps.
//!
//! What is called is named by the id or the name of a row of `connector_definition`, or is one of the built-ins `http`
//! and `delay`, which need no row.

pub mod delay;
mod hosts;
mod http;
mod mock;
pub mod outputs;
pub mod secrets;
mod tls;

pub use hosts::Hosts;
pub use http::{REQUEST, WrongParam, check as check_http, check_request};

use crate::{config::ConnectorsConfig, store::connector::ConnectorRow};
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use mock::Mock;
use secrets::{Keyring, Scrub};
use serde_json::{Map, Value, json};
use std::{borrow::Cow, time::Duration};
use tls::Tls;
use tokio::time::Instant;

/// The built-in connector that makes HTTP calls.
pub const HTTP: &str = "http";
/// The built-in connector that waits.
pub const DELAY: &str = "delay";

/// One call of a command.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// What is to be done.
    pub command: &'a str,
    /// With what: values, in which nothing is a template any more.
    pub params: &'a Map<String, Value>,
    /// The same each time the same call is tried again: run, step and visit.
    pub idempotency_key: &'a str,
    /// When the answer is needed at the latest.
    pub deadline: Instant,
    /// What time it is, from which a wait is counted.
    pub now: DateTime<Utc>,
}

/// A call and what is known about whether it is to be mocked.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The id or the name of the connector.
    pub connector: &'a str,
    /// The call.
    pub call: Call<'a>,
    /// The step's own mock.
    pub mock: Option<&'a Value>,
    /// Whether the run uses mocks.
    pub use_mocks: bool,
}

/// What a connector says.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// It is done.
    Done(Answer),
    /// It is done at this time, without anybody doing anything.
    Later(DateTime<Utc>),
}

/// The answer to a call that succeeded.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What the other system said.
    pub data: Value,
    /// Variables that the connector itself takes out of it.
    pub output_variables: Map<String, Value>,
    /// How long it took.
    pub duration: Duration,
}

impl Answer {
    /// As results are stored.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let duration = u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX);
        json!({
            "success": true,
            "data": self.data,
            "outputVariables": self.output_variables,
            "durationMs": duration,
        })
    }
}

/// Why a call did not succeed. The message is one sentence, without secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// For people.
    pub message: String,
    /// For edges and filters: `TIMEOUT`, `HTTP_404`.
    pub code: Cow<'static, str>,
    /// Whether the same call may succeed later: the network, a timeout, an overloaded server.
    pub passing: bool,
}

impl Failure {
    /// One that stays.
    pub(crate) fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Failure {
        Failure { message: message.into(), code: code.into(), passing: false }
    }

    /// One that may pass.
    fn passing(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Failure {
        Failure { passing: true, ..Failure::new(code, message) }
    }

    /// As results are stored.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({"success": false, "error": {"message": self.message, "code": self.code}})
    }
}

/// One kind of connector, set up for one definition.
trait Connector: Send + Sync {
    /// Makes the call. The future may be dropped at any time; the call may have had its effect then.
    fn call<'a>(&'a self, call: &'a Call<'a>) -> BoxFuture<'a, Result<Reply, Failure>>;
}

/// All that calls need, shared by all of them.
pub struct Connectors {
    hosts: Hosts,
    keys: Keyring,
    mock_mode: bool,
    tls: Tls,
}

impl Default for Connectors {
    /// With the default settings, which let nothing be called.
    fn default() -> Connectors {
        Connectors::new(&ConnectorsConfig::default())
    }
}

impl Connectors {
    /// By the settings. Nothing is opened yet.
    #[must_use]
    pub fn new(config: &ConnectorsConfig) -> Connectors {
        Connectors {
            hosts: Hosts::new(config.allowed_hosts.clone()),
            keys: Keyring::new(config),
            mock_mode: config.mock_mode,
            tls: Tls::default(),
        }
    }

    /// The same, trusting these authorities (DER) instead of the system's.
    #[must_use]
    pub fn trusting(mut self, authorities: Vec<rustls_pki_types::CertificateDer<'static>>) -> Connectors {
        self.tls = Tls::of(authorities);
        self
    }

    /// Makes a call, or pretends to. `row` is what the table has under the name; the built-ins need none.
    ///
    /// # Errors
    /// A sentence, and whether trying again may help.
    pub async fn call(&self, row: Option<&ConnectorRow>, request: &Request<'_>) -> Result<Reply, Failure> {
        let command = request.call.command;
        let choice = mock::choose(request.mock, request.use_mocks, row, self.mock_mode);
        if let Mock::Given(value) = choice {
            return mock::answer(value, command, row);
        }
        let kind = match row {
            Some(row) if !row.enabled => {
                let message = format!("the connector `{}` is disabled", row.name);
                return Err(Failure::new("CONNECTOR_DISABLED", message));
            }
            Some(row) => row.kind.as_str(),
            None if [HTTP, DELAY].contains(&request.connector) => request.connector,
            None => {
                let message =
                    format!("there is no connector `{}`; `flohctl connector list` shows them", request.connector);
                return Err(Failure::new("UNKNOWN_CONNECTOR", message));
            }
        };
        match (kind, choice) {
            // Nothing outside is called, so there is nothing to pretend.
            (DELAY, _) => delay::Delay.call(&request.call).await,
            (HTTP, Mock::OfConnector) => mock::of_connector(row, command),
            (HTTP, _) => self.http(row, &request.call).await,
            (other, _) => {
                Err(Failure::new("UNKNOWN_TYPE", format!("connectors of type `{other}` are not executed here")))
            }
        }
    }

    async fn http(&self, row: Option<&ConnectorRow>, call: &Call<'_>) -> Result<Reply, Failure> {
        let mut scrub = Scrub::default();
        let config = match row {
            Some(row) => self.keys.open_all(&row.name, &row.config, &mut scrub)?,
            None => Map::new(),
        };
        let http = http::Http::read(config, &self.hosts, &self.tls, &mut scrub)?;
        http.call(call).await
    }
}
