//! What a site vouches with, and what it makes of others' certificates.
//!
//! ```text
//! site CA (P-256, 10 years) ─┬─ serves: DNS <site id>, URI spiffe://<site id>/gateway/<node>         90 days
//!                            ├─ serves operators: localhost, where it listens, our host      90 days
//!                            └─ calls peer p: CN = the name that p gave us, the same URI              90 days
//! children's CA (P-256, 10 years) ── calls us, for a child that asked: CN = the name that we gave it, its URI  90 days
//! ```
//!
//! A certificate is judged in two steps that never mix: TLS proves that the caller has the key of what it shows; the
//! path is then validated against the anchors of the one peer that it names ([`verify`]), never against a union.

pub mod authority;
pub mod issued;
pub mod request;
pub mod tls;
pub mod verify;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::time::Duration;

use super::moment::Moment;
use super::site::SiteId;
use super::token::Fingerprint;
use crate::model::Name;

/// How long a CA is good.
pub const CA_LIFE: Duration = Duration::from_secs(3_652 * 86_400);
/// How long a leaf is good.
pub const LEAF_LIFE: Duration = Duration::from_secs(90 * 86_400);
/// What clocks may differ.
const SKEW: Duration = Duration::from_secs(300);

/// Why something can't be signed, read or believed.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// Signing failed: a fault of ours.
    #[error("can't sign")]
    Sign(#[source] rcgen::Error),
    /// A key or certificate of ours can't be read.
    #[error("can't read {0}")]
    Own(&'static str, #[source] rcgen::Error),
    /// What others sent isn't what it should be.
    #[error("{0}")]
    Foreign(String),
}

impl PkiError {
    fn foreign(what: impl std::fmt::Display) -> Self {
        Self::Foreign(what.to_string())
    }
}

/// A site's own CA.
pub struct SiteCa {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
    fingerprint: Fingerprint,
}

impl std::fmt::Debug for SiteCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SiteCa")
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// A certificate with its key and what leads to the root, root included.
pub struct Leaf {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// When it should be renewed: two thirds of its life.
    pub renew_at: Moment,
    /// When it is no longer good.
    pub not_after: Moment,
    /// Whose key has signed it.
    pub issuer: Fingerprint,
}

/// What a leaf is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage<'a> {
    /// Our listener.
    Serve,
    /// The operators' listener.
    Operate {
        /// What operators call it: host names and addresses.
        names: &'a [String],
    },
    /// Calls to a peer, under the name that it gave us.
    Call {
        /// The name.
        subject: &'a str,
    },
}

impl SiteCa {
    /// A new CA with a new key, and that key as PEM, which is the caller's to keep (0600).
    ///
    /// # Errors
    /// Signing failed.
    pub fn generate(site: &SiteId, now: Moment) -> Result<(Self, zeroize::Zeroizing<String>), PkiError> {
        Self::named(&format!("sdwand CA of {site}"), now)
    }

    /// A new CA that signs for the site's children, and never for its own gateways.
    ///
    /// # Errors
    /// Signing failed.
    pub fn for_children(site: &SiteId, now: Moment) -> Result<(Self, zeroize::Zeroizing<String>), PkiError> {
        Self::named(&format!("sdwand children's CA of {site}"), now)
    }

    fn named(name: &str, now: Moment) -> Result<(Self, zeroize::Zeroizing<String>), PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::Sign)?;
        let secret = zeroize::Zeroizing::new(key.serialize_pem());
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        life(&mut params, now, CA_LIFE);
        let certificate = params.self_signed(&key).map_err(PkiError::Sign)?;
        Ok((Self::new(Issuer::new(params, key), &certificate.pem())?, secret))
    }

    /// A CA that was kept.
    ///
    /// # Errors
    /// Key or certificate can't be read, or don't belong together.
    pub fn load(pem: &str, key: &str) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key).map_err(|error| PkiError::Own("the CA's key", error))?;
        let public = key.public_key_raw().to_vec();
        let issuer = Issuer::from_ca_cert_pem(pem, key)
            .map_err(|error| PkiError::Own("the CA's certificate", error))?;
        let ca = Self::new(issuer, pem)?;
        let own = verify::public_key_of(&ca.der)?;
        if own != public {
            return Err(PkiError::foreign("the CA's key isn't that of its certificate"));
        }
        Ok(ca)
    }

    fn new(issuer: Issuer<'static, KeyPair>, pem: &str) -> Result<Self, PkiError> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(PkiError::foreign)?;
        Ok(Self {
            fingerprint: verify::fingerprint_of(&der)?,
            issuer,
            pem: pem.to_owned(),
            der,
        })
    }

    /// Its certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its certificate.
    #[must_use]
    pub const fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// SHA-256 of its public key.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// A leaf with a new key for a gateway of this site.
    ///
    /// # Errors
    /// Signing failed.
    pub fn issue(&self, site: &SiteId, node: &Name, usage: Usage<'_>, now: Moment) -> Result<Leaf, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::Sign)?;
        let mut params = leaf_params(now);
        params.subject_alt_names.push(uri(&site.gateway_uri(node))?);
        match usage {
            Usage::Serve => {
                params.distinguished_name.push(DnType::CommonName, site.as_str());
                let name = site.as_str().try_into().map_err(PkiError::Sign)?;
                params.subject_alt_names.push(SanType::DnsName(name));
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }
            Usage::Operate { names } => {
                let subject = format!("{node}, for operators of {site}");
                params.distinguished_name.push(DnType::CommonName, subject);
                for name in names {
                    params.subject_alt_names.push(match name.parse() {
                        Ok(address) => SanType::IpAddress(address),
                        Err(_) => SanType::DnsName(name.as_str().try_into().map_err(PkiError::Sign)?),
                    });
                }
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }
            Usage::Call { subject } => {
                params.distinguished_name.push(DnType::CommonName, subject);
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }
        }
        let certificate = params.signed_by(&key, &self.issuer).map_err(PkiError::Sign)?;
        Ok(Leaf {
            chain: vec![certificate.der().clone(), self.der.clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            renew_at: now.after(LEAF_LIFE * 2 / 3),
            not_after: now.after(LEAF_LIFE),
            issuer: self.fingerprint,
        })
    }
}

fn life(params: &mut CertificateParams, now: Moment, life: Duration) {
    params.not_before = now.before(SKEW).to_offset();
    params.not_after = now.after(life).to_offset();
}

fn leaf_params(now: Moment) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    life(&mut params, now, LEAF_LIFE);
    params
}

fn uri(text: &str) -> Result<SanType, PkiError> {
    Ok(SanType::URI(text.try_into().map_err(PkiError::Sign)?))
}

/// The certificates of a PEM text, and only certificates.
///
/// # Errors
/// It isn't PEM, has none, or more than 4.
pub fn certificates_of(pem: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        found.push(certificate.map_err(PkiError::foreign)?);
        if found.len() > 4 {
            return Err(PkiError::foreign("more than 4 certificates"));
        }
    }
    if found.is_empty() {
        return Err(PkiError::foreign("no certificate in PEM"));
    }
    Ok(found)
}

/// A certificate as PEM (RFC 7468).
#[must_use]
pub fn pem_of(der: &CertificateDer<'_>) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", der.as_ref()), config)
}
