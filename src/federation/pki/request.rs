//! Certificate requests (PKCS #10, RFC 2986): a child asks for certificates, and its parent signs them.
//!
//! Of a request only its key and the gateway's URI are taken over. Its signature proves that who asks has the key.

use std::time::Duration;

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, KeyPair,
    PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType, SerialNumber,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{LEAF_LIFE, PkiError, SiteCa, leaf_params, uri};
use crate::federation::moment::Moment;
use crate::federation::site::SiteId;
use crate::federation::token::Fingerprint;
use crate::model::Name;

/// The longest request that is looked at, in bytes.
const MAX_REQUEST: usize = 16 * 1024;

/// A request whose signature is its key's, and that names a gateway.
pub struct Request {
    params: CertificateSigningRequestParams,
    /// Whose gateway it names.
    pub site: SiteId,
    /// SHA-256 of its public key.
    pub fingerprint: Fingerprint,
    uri: String,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Request({}, {})", self.uri, self.fingerprint)
    }
}

impl Request {
    /// Reads a request, PEM.
    ///
    /// # Errors
    /// It is none, isn't signed by its own key, or names no gateway of a site.
    pub fn parse(csr_pem: &str) -> Result<Self, PkiError> {
        if csr_pem.len() > MAX_REQUEST {
            return Err(PkiError::foreign(format!(
                "csr_pem is longer than {MAX_REQUEST} bytes"
            )));
        }
        let params = CertificateSigningRequestParams::from_pem(csr_pem).map_err(|error| {
            PkiError::foreign(format!("csr_pem is no sound certificate request: {error}"))
        })?;
        let uris = params.params.subject_alt_names.iter().filter_map(|name| {
            if let SanType::URI(uri) = name {
                Some(uri.as_str())
            } else {
                None
            }
        });
        let named: Vec<(SiteId, &str)> = uris.filter_map(|uri| Some((SiteId::of_uri(uri)?, uri))).collect();
        let [(site, uri)] = named.as_slice() else {
            return Err(PkiError::foreign(
                "csr_pem names no gateway, or more than one: its URI reads spiffe://<site id>/gateway/<node>",
            ));
        };
        Ok(Self {
            fingerprint: Fingerprint(Sha256::digest(params.public_key.subject_public_key_info()).into()),
            site: site.clone(),
            uri: (*uri).to_owned(),
            params,
        })
    }
}

/// A certificate that was signed for a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Signed {
    /// The certificate.
    pub cert_pem: String,
    /// What leads from it to the anchor that the parent keeps for it; and the root of the parent's listener.
    pub ca_chain_pem: String,
    /// Its number, hexadecimal.
    pub serial: String,
    /// When it is no longer good.
    pub not_after: Moment,
}

impl SiteCa {
    /// Signs a child's key for calls under `subject`, and nothing else of its request.
    ///
    /// # Errors
    /// Signing failed.
    pub fn sign(&self, request: &Request, subject: &str, now: Moment) -> Result<Signed, PkiError> {
        let mut params = leaf_params(now);
        params.distinguished_name.push(DnType::CommonName, subject);
        params.subject_alt_names.push(uri(&request.uri)?);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        // At most 20 octets, positive, and another one for each time and key (RFC 5280, section 4.1.2.2).
        let digest = Sha256::new()
            .chain_update(request.fingerprint.0)
            .chain_update(now.millis().to_be_bytes())
            .finalize();
        let mut serial = digest[..16].to_vec();
        serial[0] = serial[0] & 0x3f | 0x40;
        let text = serial
            .iter()
            .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        params.serial_number = Some(SerialNumber::from(serial));
        let asked = CertificateSigningRequestParams {
            params,
            public_key: request.params.public_key.clone(),
        };
        let certificate = asked.signed_by(&self.issuer).map_err(PkiError::Sign)?;
        Ok(Signed {
            cert_pem: certificate.pem(),
            ca_chain_pem: self.pem.clone(),
            serial: text,
            not_after: now.after(LEAF_LIFE),
        })
    }
}

/// A new key, PEM.
///
/// # Errors
/// None can be drawn.
pub fn draw_key() -> Result<Zeroizing<String>, PkiError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::Sign)?;
    Ok(Zeroizing::new(key.serialize_pem()))
}

/// The request of a gateway with this key, PEM.
///
/// # Errors
/// The key can't be used.
pub fn request_of(key_pem: &str, site: &SiteId, node: &Name) -> Result<String, PkiError> {
    let key = KeyPair::from_pem(key_pem).map_err(|error| PkiError::Own("a key that waits", error))?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, site.as_str());
    params.subject_alt_names.push(uri(&site.gateway_uri(node))?);
    let request = params.serialize_request(&key).map_err(PkiError::Sign)?;
    request.pem().map_err(PkiError::Sign)
}

/// When a certificate that is good for `life` from `since` on should be renewed: after two thirds.
#[must_use]
pub fn renew_at(since: Moment, until: Moment) -> Moment {
    since.after(Duration::from_millis(
        u64::try_from(until.millis() - since.millis()).unwrap_or(0) / 3 * 2,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::federation::pki::certificates_of;
    use crate::federation::pki::verify::{Purpose, names_of, verify_path};

    fn now() -> Moment {
        Moment::from_millis(1_800_000_000_000)
    }

    fn child() -> (SiteId, Name) {
        (
            SiteId::new("site-b.fd0000000002").unwrap(),
            Name::new("hub-b1").unwrap(),
        )
    }

    fn ca() -> SiteCa {
        SiteCa::generate(&SiteId::new("site-a.fd0000000001").unwrap(), now())
            .unwrap()
            .0
    }

    #[test]
    fn a_request_gets_the_names_that_are_given_and_no_others() {
        let (site, node) = child();
        let key = KeyPair::from_pem(&draw_key().unwrap()).unwrap();
        let mut params = CertificateParams::new(vec!["site-a.fd0000000001".to_owned()]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "fed:somebody-else");
        params
            .subject_alt_names
            .push(uri(&site.gateway_uri(&node)).unwrap());
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let csr = params.serialize_request(&key).unwrap().pem().unwrap();
        let (ca, request) = (ca(), Request::parse(&csr).unwrap());
        assert_eq!(request.site, site);
        let signed = ca.sign(&request, "fed:b", now()).unwrap();
        let leaf = certificates_of(&signed.cert_pem).unwrap();
        let names = names_of(&leaf[0]).unwrap();
        assert_eq!(names.subject, "fed:b");
        assert_eq!(names.uris, [site.gateway_uri(&node)]);
        let anchors = [ca.der().clone()];
        verify_path(&leaf, &anchors, Purpose::Client, now()).unwrap();
        assert!(
            verify_path(&leaf, &anchors, Purpose::Server, now()).is_err(),
            "it calls"
        );
        assert!(
            verify_path(
                &leaf,
                &anchors,
                Purpose::Client,
                signed.not_after.after(Duration::from_secs(1))
            )
            .is_err()
        );
        let (_, parsed) = x509_parser::parse_x509_certificate(&leaf[0]).unwrap();
        assert!(!parsed.is_ca(), "it signs for nobody");
        let dns = parsed.subject_alternative_name().unwrap().unwrap();
        assert_eq!(dns.value.general_names.len(), 1);
        assert_eq!(parsed.raw_serial_as_string().replace(':', ""), signed.serial);
        let again = ca
            .sign(&request, "fed:b", now().after(Duration::from_millis(1)))
            .unwrap();
        assert_ne!(again.serial, signed.serial);
    }

    #[test]
    fn what_is_no_request() {
        let (site, node) = child();
        let key = draw_key().unwrap();
        let good = request_of(&key, &site, &node).unwrap();
        assert!(Request::parse(&good).is_ok());
        let mut forged = pem::parse(&good).unwrap().contents().to_vec();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        let forged = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", forged));
        let unnamed = CertificateParams::default()
            .serialize_request(&KeyPair::from_pem(&key).unwrap())
            .unwrap();
        let unnamed = unnamed.pem().unwrap();
        for bad in [
            "",
            "garbage",
            &forged,
            &unnamed,
            ca().pem(),
            &"x".repeat(MAX_REQUEST + 1),
        ] {
            assert!(Request::parse(bad).is_err(), "{bad:.60}");
        }
    }

    #[test]
    fn two_thirds_of_a_life() {
        let until = now().after(Duration::from_secs(300));
        assert_eq!(renew_at(now(), until), now().after(Duration::from_secs(200)));
        assert_eq!(renew_at(until, now()), until, "one that never was good");
    }
}
