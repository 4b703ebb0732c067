//! The call itself: one connection to an address that was looked at, no redirects, no proxy, and an end in any case.

use super::{
    answer::{self, Received},
    request::Request,
};
use crate::connectors::{Call, Failure, Hosts, secrets::Scrub, tls, tls::Tls};
use reqwest::{
    Client, Response,
    dns::{Addrs, Name, Resolve, Resolving},
    header::LOCATION,
    redirect,
};
use std::{error::Error, net::SocketAddr, time::Duration};
use tokio::time::Instant;

/// How long a connection may take to be there.
const CONNECT: Duration = Duration::from_secs(10);

/// Sends a request and takes its answer, if that is one of the expected.
pub(super) async fn send(
    request: &Request,
    call: &Call<'_>,
    hosts: &Hosts,
    tls: &Tls,
    scrub: &Scrub,
) -> Result<Received, Failure> {
    let left = call.deadline.saturating_duration_since(Instant::now());
    let limit = request.timeout.min(left);
    match tokio::time::timeout(limit, exchange(request, hosts, tls, scrub)).await {
        Ok(received) => received,
        Err(_) => {
            let message = format!("{} gave no whole answer within {:.1} s", request.name(), limit.as_secs_f64());
            Err(Failure::passing("TIMEOUT", message))
        }
    }
}

async fn exchange(request: &Request, hosts: &Hosts, tls: &Tls, scrub: &Scrub) -> Result<Received, Failure> {
    let addresses = hosts.resolve(&request.url).await?;
    let client = client(request, addresses, tls)?;
    let mut message = client.request(request.method.clone(), request.url.clone()).headers(request.headers.clone());
    if let Some(body) = &request.body {
        message = message.body(body.clone());
    }
    let response = message.send().await.map_err(|error| explain(request, error))?;
    let status = response.status();
    if request.expected.holds(status.as_u16()) {
        return answer::read(response, request).await;
    }
    Err(unexpected(response, request, scrub).await)
}

/// A client for one call: the next one may be for another name at the same address, or after the name has moved.
fn client(request: &Request, addresses: Vec<SocketAddr>, tls: &Tls) -> Result<Client, Failure> {
    let tls = if request.url.scheme() == "https" { tls.config() } else { Tls::trusting_nobody() };
    let tls = tls.map_err(|why| Failure::new("TLS", why))?;
    Client::builder()
        .dns_resolver(Looked(addresses))
        .tls_backend_preconfigured(tls)
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .http1_only()
        .pool_max_idle_per_host(0)
        .connect_timeout(CONNECT)
        .build()
        .map_err(|error| Failure::new("TLS", format!("the call cannot be set up: {}", chain(&error))))
}

/// The addresses that were looked at, whatever the name is.
struct Looked(Vec<SocketAddr>);

impl Resolve for Looked {
    fn resolve(&self, _: Name) -> Resolving {
        let addresses: Addrs = Box::new(self.0.clone().into_iter());
        Box::pin(async { Ok(addresses) })
    }
}

/// Why there is no answer, or not all of it.
pub(super) fn explain(request: &Request, error: reqwest::Error) -> Failure {
    let name = request.name();
    // The URL in its message holds data.
    let error = error.without_url();
    if let Some(error) = find::<rustls::Error>(&error) {
        return Failure {
            passing: !tls::is_about_certificates(error),
            ..Failure::new("TLS", format!("{name}: {error}"))
        };
    }
    if error.is_builder() {
        return Failure::new("BAD_PARAMS", format!("{name} cannot be sent: {}", chain(&error)));
    }
    let code = if error.is_timeout() { "TIMEOUT" } else { "CONNECTION" };
    let what = if error.is_connect() { "cannot be reached" } else { "broke off" };
    Failure::passing(code, format!("{name} {what}: {}", chain(&error)))
}

/// An answer with another status. What it says about itself is told, as far as it is short.
async fn unexpected(response: Response, request: &Request, scrub: &Scrub) -> Failure {
    let (status, name) = (response.status(), request.name());
    let code = format!("HTTP_{}", status.as_u16());
    let passing = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
    let message = if status.is_redirection() && response.headers().contains_key(LOCATION) {
        format!("{name} answered {status}: redirects are not followed, so the URL has to be the last one")
    } else {
        match answer::excerpt(response, scrub).await {
            Some(why) => format!("{name} answered {status}: {why}"),
            None => format!("{name} answered {status}"),
        }
    };
    Failure { message, code: code.into(), passing }
}

/// An error and its causes, each once.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = inner.source();
    }
    text
}

/// The first cause of this type. An I/O error hides the error that it was made of from `source`.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    if let Some(found) = error.downcast_ref::<T>() {
        return Some(found);
    }
    let inside = error.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
    let inside = inside.and_then(|inner| find(inner as &(dyn Error + 'static)));
    inside.or_else(|| error.source().and_then(find))
}
