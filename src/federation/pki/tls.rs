//! TLS 1.3 for both directions. No resumption, no early data: either would let a revoked peer past the verifier.
//!
//! The server's verifier proves possession only; who the caller is, is settled later and elsewhere, per peer. The
//! client's verifier knows one peer's anchors and its site id, and nothing else.

use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::verify::{Purpose, fingerprint_of, verify_path};
use super::{Leaf, PkiError};
use crate::federation::moment::Moment;
use crate::federation::site::SiteId;
use crate::federation::token::Fingerprint;

/// The most certificates that a caller may show.
pub const MAX_CHAIN: usize = 3;
/// The most bytes of them.
pub const MAX_CHAIN_BYTES: usize = 16 * 1024;

/// One for all: every connection holds on to it.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

fn certified(leaf: &Leaf) -> Result<CertifiedKey, PkiError> {
    CertifiedKey::from_der(leaf.chain.clone(), leaf.key.clone_key(), &provider()).map_err(PkiError::foreign)
}

/// A configuration for the listener: `leaf` is read on every handshake, so that a renewed one is shown at once.
///
/// # Errors
/// The provider lacks TLS 1.3.
pub fn server_config(
    leaf: Arc<dyn ResolvesServerCert>,
    verifier: Arc<PossessionOnly>,
) -> Result<ServerConfig, PkiError> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(PkiError::foreign)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(leaf);
    Ok(without_memory(config))
}

/// A configuration for the operators' listener: no certificate is asked for, since they show tokens.
///
/// # Errors
/// The provider lacks TLS 1.3.
pub fn operator_config(leaf: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, PkiError> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(PkiError::foreign)?
        .with_no_client_auth()
        .with_cert_resolver(leaf);
    Ok(without_memory(config))
}

fn without_memory(mut config: ServerConfig) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// The listener's certificate, which can be replaced while it listens.
#[derive(Debug)]
pub struct CurrentLeaf(std::sync::RwLock<Arc<CertifiedKey>>);

impl CurrentLeaf {
    /// Begins with this one.
    ///
    /// # Errors
    /// Its key can't be used.
    pub fn new(leaf: &Leaf) -> Result<Self, PkiError> {
        Ok(Self(std::sync::RwLock::new(Arc::new(certified(leaf)?))))
    }

    /// Shows another one from the next handshake on.
    ///
    /// # Errors
    /// Its key can't be used: the old one stays.
    pub fn replace(&self, leaf: &Leaf) -> Result<(), PkiError> {
        let next = Arc::new(certified(leaf)?);
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = next;
        Ok(())
    }
}

impl ResolvesServerCert for CurrentLeaf {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(
            &self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner),
        ))
    }
}

/// Takes any client certificate that isn't too long, if the caller has its key.
pub struct PossessionOnly {
    algorithms: WebPkiSupportedAlgorithms,
    /// Says whether anyone is awaited who has no certificate that we know; it is asked at each handshake.
    awaits: Option<Box<dyn Fn() -> bool + Send + Sync>>,
}

impl std::fmt::Debug for PossessionOnly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PossessionOnly")
            .field("mandatory", &self.client_auth_mandatory())
            .finish_non_exhaustive()
    }
}

impl Default for PossessionOnly {
    fn default() -> Self {
        Self {
            algorithms: provider().signature_verification_algorithms,
            awaits: None,
        }
    }
}

impl PossessionOnly {
    /// Callers without a certificate are turned away in the handshake unless `awaits` says that one is expected: at that
    /// moment, since an operator may hand a token over as soon as it is shown.
    #[must_use]
    pub fn unless(awaits: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self {
            awaits: Some(Box::new(awaits)),
            ..Self::default()
        }
    }
}

impl ClientCertVerifier for PossessionOnly {
    fn client_auth_mandatory(&self) -> bool {
        !self.awaits.as_ref().is_some_and(|awaits| awaits())
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let bytes: usize = intermediates.iter().map(|der| der.len()).sum::<usize>() + end_entity.len();
        if intermediates.len() >= MAX_CHAIN || bytes > MAX_CHAIN_BYTES {
            return Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 isn't spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whom a call is for.
#[derive(Clone, Debug)]
pub enum Callee {
    /// A peer that we know: its anchors and its site id.
    Known {
        /// What its certificates must lead to.
        anchors: Vec<CertificateDer<'static>>,
        /// Whom they must name.
        site: SiteId,
    },
    /// Whoever has the CA that an acceptance token names.
    Pinned(Fingerprint),
}

/// A configuration for calls to one peer, with the certificate that it expects of us.
///
/// # Errors
/// The leaf's key can't be used.
pub fn client_config(callee: Callee, leaf: Option<&Leaf>) -> Result<ClientConfig, PkiError> {
    let verifier = Arc::new(CalleeVerifier {
        algorithms: provider().signature_verification_algorithms,
        callee,
    });
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(PkiError::foreign)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match leaf {
        Some(leaf) => builder
            .with_client_auth_cert(leaf.chain.clone(), leaf.key.clone_key())
            .map_err(PkiError::foreign)?,
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct CalleeVerifier {
    algorithms: WebPkiSupportedAlgorithms,
    callee: Callee,
}

impl ServerCertVerifier for CalleeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let refused = |_| Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        let now = Moment::from_millis(i64::try_from(now.as_secs().saturating_mul(1_000)).unwrap_or(i64::MAX));
        let mut chain = vec![end_entity.clone()];
        chain.extend(intermediates.iter().cloned());
        match &self.callee {
            Callee::Known { anchors, site } => {
                verify_path(&chain, anchors, Purpose::Server, now).map_err(refused)?;
                let leaf = webpki::EndEntityCert::try_from(end_entity)
                    .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
                let name = ServerName::try_from(site.as_str())
                    .map_err(|_| Error::InvalidCertificate(CertificateError::NotValidForName))?;
                leaf.verify_is_valid_for_subject_name(&name)
                    .map_err(|_| Error::InvalidCertificate(CertificateError::NotValidForName))?;
            }
            Callee::Pinned(fingerprint) => {
                let pinned =
                    |der: &&CertificateDer<'_>| fingerprint_of(der).is_ok_and(|found| found == *fingerprint);
                let root = intermediates.iter().find(pinned);
                let root = root.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
                verify_path(&chain, std::slice::from_ref(root), Purpose::Server, now).map_err(refused)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 isn't spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
