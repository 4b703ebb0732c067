//! The connector `http`: one HTTP call for each call of a command. A command is set up in the connector's configuration, or
//! is `request`, where the step says everything.

mod answer;
mod config;
mod members;
mod request;
mod send;

#[cfg(test)]
mod tests;

use super::{Answer, Call, Connector, Failure, Hosts, Reply, outputs, secrets::Scrub, tls::Tls};
use crate::values::template::{Template, fill_all};
use config::HttpConfig;
use futures_util::future::BoxFuture;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use request::Request;
pub use request::{WrongParam, check as check_request};
use serde_json::{Map, Value, json};
use std::cell::Cell;
use tokio::time::Instant;

/// The command in which the step says everything.
pub const REQUEST: &str = "request";

/// What is encoded in a value that becomes a part of a path: it is one segment, whatever is in it.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// An HTTP connector for one call.
pub(super) struct Http<'a> {
    config: HttpConfig,
    hosts: &'a Hosts,
    tls: &'a Tls,
    scrub: Scrub,
}

/// Finds what is wrong with a configuration before it is stored.
///
/// # Errors
/// A sentence about the first thing.
pub fn check(config: &Map<String, Value>) -> Result<(), Failure> {
    let read = HttpConfig::read(config.clone(), &mut Scrub::default())?;
    for (name, command) in &read.commands {
        request::check_command(command, &read)
            .map_err(|why| Failure::new(config::CODE, format!("the command `{name}`: {why}")))?;
    }
    Ok(())
}

impl<'a> Http<'a> {
    /// Of an opened configuration.
    pub(super) fn read(
        config: Map<String, Value>,
        hosts: &'a Hosts,
        tls: &'a Tls,
        scrub: &mut Scrub,
    ) -> Result<Http<'a>, Failure> {
        let config = HttpConfig::read(config, scrub)?;
        Ok(Http { config, hosts, tls, scrub: scrub.clone() })
    }

    /// What is to be sent, and whether it is a command of the configuration.
    fn plan(&self, call: &Call<'_>, scrub: &mut Scrub) -> Result<(Request, bool), Failure> {
        if let Some(command) = self.config.commands.get(call.command) {
            let spec = fill(command, call)?;
            return Ok((Request::read(&spec, &self.config, call, true, scrub)?, true));
        }
        if call.command == REQUEST && self.config.takes_requests() {
            return Ok((Request::read(call.params, &self.config, call, false, scrub)?, false));
        }
        let known = self.config.commands.keys().map(String::as_str);
        let known: Vec<&str> = known.chain(self.config.takes_requests().then_some(REQUEST)).collect();
        let message =
            format!("the connector has no command `{}`; its commands are: {}", call.command, known.join(", "));
        Err(Failure::new("UNKNOWN_COMMAND", message))
    }

    async fn ask(&self, call: &Call<'_>, scrub: &mut Scrub) -> Result<Reply, Failure> {
        let began = Instant::now();
        let (request, is_command) = self.plan(call, scrub)?;
        let received = send::send(&request, call, self.hosts, self.tls, scrub).await?;
        let body = scrub.value(received.body);
        let data = match body {
            Value::Object(members) if is_command => Value::Object(members),
            body if is_command => json!({"body": body}),
            body => json!({
                "status": received.status,
                "headers": scrub.value(Value::Object(received.headers)),
                "body": body,
            }),
        };
        let output_variables = outputs::take(&request.outputs, &data)?;
        Ok(Reply::Done(Answer { data, output_variables, duration: began.elapsed() }))
    }
}

impl Connector for Http<'_> {
    fn call<'a>(&'a self, call: &'a Call<'a>) -> BoxFuture<'a, Result<Reply, Failure>> {
        Box::pin(async move {
            let mut scrub = self.scrub.clone();
            let reply = self.ask(call, &mut scrub).await;
            reply.map_err(|failure| Failure { message: scrub.text(&failure.message), ..failure })
        })
    }
}

/// A command with the call's parameters in it.
fn fill(command: &Map<String, Value>, call: &Call<'_>) -> Result<Map<String, Value>, Failure> {
    let variables = Map::from_iter([("params".to_string(), Value::Object(call.params.clone()))]);
    let wrong =
        |why: String| Failure::new("BAD_PARAMS", format!("the command `{}` cannot be filled in: {why}", call.command));
    let one = |(name, value): (&String, &Value)| {
        let value = match (name.as_str(), value) {
            ("outputs", value) => value.clone(),
            ("path", Value::String(text)) => {
                // Nothing at the end of a path would mean all there is in the place before it.
                let is_empty = Cell::new(false);
                let encode = |value: &str| {
                    is_empty.set(is_empty.get() || value.is_empty());
                    utf8_percent_encode(value, SEGMENT).to_string()
                };
                let filled = Template::parse(text)
                    .and_then(|path| path.fill_text(&variables, encode).map_err(|missing| missing.to_string()));
                let filled = filled.map_err(wrong)?;
                if is_empty.get() {
                    return Err(wrong("a value of its `path` is empty".into()));
                }
                Value::String(filled)
            }
            (_, value) => fill_all(value, &variables).map_err(wrong)?,
        };
        Ok((name.clone(), value))
    };
    command.iter().map(one).collect()
}
