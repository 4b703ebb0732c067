//! TLS towards other systems: rustls with the ring provider, and the system's certificate authorities.

use rustls::{ClientConfig, RootCertStore, crypto::ring};
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

fn client_side(roots: RootCertStore) -> Result<ClientConfig, String> {
    Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
