//! TLS towards other systems: rustls with the ring provider, and the system's certificate authorities.

use rustls::{AlertDescription, ClientConfig, Error, RootCertStore, crypto::ring};
use rustls_pki_types::CertificateDer;
use std::sync::{Arc, OnceLock};

/// Set up at the first call that needs it: most workers make none, and the authorities take a megabyte.
#[derive(Default)]
pub(super) struct Tls {
    config: OnceLock<ClientConfig>,
    authorities: Option<Vec<CertificateDer<'static>>>,
}

impl Tls {
    /// Trusting these instead of the system's.
    pub(super) fn of(authorities: Vec<CertificateDer<'static>>) -> Tls {
        Tls { config: OnceLock::new(), authorities: Some(authorities) }
    }

    /// The client side; the reason, for people, where that is not possible.
    pub(super) fn config(&self) -> Result<ClientConfig, String> {
        if let Some(config) = self.config.get() {
            return Ok(config.clone());
        }
        let mut roots = RootCertStore::empty();
        match &self.authorities {
            Some(given) => roots.add_parsable_certificates(given.iter().cloned()),
            None => roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
        };
        if roots.is_empty() {
            return Err("this machine knows no certificate authorities; install ca-certificates".to_string());
        }
        let config = client_side(roots)?;
        Ok(self.config.get_or_init(|| config).clone())
    }

    /// For calls without TLS: without any configuration, the HTTP library would look for one itself.
    pub(super) fn trusting_nobody() -> Result<ClientConfig, String> {
        client_side(RootCertStore::empty())
    }
}

/// Whether no connection came about because of a certificate: the other side's is not accepted, or it asks for one of ours,
/// and there is none. That stays, as a login that is refused does, and the step fails at once. Anything else, such as an alert
/// or an answer that is no TLS, comes from a server that is being set up, too, and may pass.
///
/// Mail waits for both to be put right: its one server is a setting of the worker, and stands between it and every message.
/// Here somebody else's system is called by one step, which may have an edge for it.
pub(super) fn is_about_certificates(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(_)
            | Error::NoCertificatesPresented
            | Error::UnsupportedNameType
            | Error::AlertReceived(AlertDescription::CertificateRequired)
    )
}

fn client_side(roots: RootCertStore) -> Result<ClientConfig, String> {
    Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
