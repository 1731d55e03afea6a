//! What a certificate says, and whether it leads to an anchor.

use rustls::pki_types::{CertificateDer, UnixTime};
use sha2::{Digest as _, Sha256};
use std::time::Duration;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::PkiError;
use super::tls::provider;
use crate::federation::moment::Moment;
use crate::federation::token::Fingerprint;

/// What a leaf says of its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Its one common name.
    pub subject: String,
    /// The URIs among its alternative names.
    pub uris: Vec<String>,
}

/// What is being vouched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `clientAuth`: it calls us.
    Client,
    /// `serverAuth`: we call it.
    Server,
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PkiError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(PkiError::foreign("bytes behind a certificate")),
        Err(error) => Err(PkiError::foreign(format!("no certificate: {error}"))),
    }
}

/// SHA-256 of a certificate's public key (`SubjectPublicKeyInfo`).
///
/// # Errors
/// It is no certificate.
pub fn fingerprint_of(der: &CertificateDer<'_>) -> Result<Fingerprint, PkiError> {
    let certificate = parse(der)?;
    Ok(Fingerprint(Sha256::digest(certificate.public_key().raw).into()))
}

pub(super) fn public_key_of(der: &CertificateDer<'_>) -> Result<Vec<u8>, PkiError> {
    Ok(parse(der)?.public_key().subject_public_key.data.to_vec())
}

/// From when to when a certificate is good.
///
/// # Errors
/// It is no certificate.
pub fn validity(der: &CertificateDer<'_>) -> Result<(Moment, Moment), PkiError> {
    let certificate = parse(der)?;
    let moment = |seconds: i64| Moment::from_millis(seconds.saturating_mul(1_000));
    let validity = certificate.validity();
    Ok((
        moment(validity.not_before.timestamp()),
        moment(validity.not_after.timestamp()),
    ))
}

/// When a certificate is no longer good.
///
/// # Errors
/// It is no certificate.
pub fn not_after(der: &CertificateDer<'_>) -> Result<Moment, PkiError> {
    Ok(Moment::from_millis(
        parse(der)?.validity().not_after.timestamp().saturating_mul(1_000),
    ))
}

/// Reads the names of a leaf.
///
/// # Errors
/// It is no certificate, or doesn't have exactly one common name.
pub fn names_of(der: &CertificateDer<'_>) -> Result<Names, PkiError> {
    let certificate = parse(der)?;
    let mut common = certificate.subject().iter_common_name();
    let (Some(subject), None) = (common.next(), common.next()) else {
        return Err(PkiError::foreign("not exactly one common name"));
    };
    let subject = subject
        .as_str()
        .map_err(|_| PkiError::foreign("a common name that isn't text"))?;
    let mut uris = Vec::new();
    for extension in certificate.extensions() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
            for name in &names.general_names {
                if let GeneralName::URI(uri) = name {
                    uris.push((*uri).to_owned());
                }
            }
        }
    }
    Ok(Names {
        subject: subject.to_owned(),
        uris,
    })
}

/// Whether a chain, leaf first, leads to one of `anchors` at this time and for this purpose.
///
/// # Errors
/// It doesn't; the text is for our own log, never for the caller.
pub fn verify_path(
    chain: &[CertificateDer<'_>],
    anchors: &[CertificateDer<'_>],
    purpose: Purpose,
    now: Moment,
) -> Result<(), PkiError> {
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Err(PkiError::foreign("no certificate"));
    };
    let leaf = EndEntityCert::try_from(leaf).map_err(PkiError::foreign)?;
    let anchors: Vec<_> = anchors
        .iter()
        .map(anchor_from_trusted_cert)
        .collect::<Result<_, _>>()
        .map_err(PkiError::foreign)?;
    let usage = match purpose {
        Purpose::Client => KeyUsage::client_auth(),
        Purpose::Server => KeyUsage::server_auth(),
    };
    let algorithms = provider().signature_verification_algorithms.all;
    let time = UnixTime::since_unix_epoch(Duration::from_secs(now.seconds()));
    leaf.verify_for_usage(algorithms, &anchors, intermediates, time, usage, None, None)
        .map(|_| ())
        .map_err(PkiError::foreign)
}

/// Whether a root is one: it signs itself, and may sign others.
///
/// # Errors
/// It is no such certificate.
pub fn check_root(der: &CertificateDer<'_>, now: Moment) -> Result<Fingerprint, PkiError> {
    let certificate = parse(der)?;
    if !certificate.is_ca() {
        return Err(PkiError::foreign("the certificate isn't a CA's"));
    }
    if certificate.subject() != certificate.issuer() {
        return Err(PkiError::foreign(
            "the CA's certificate isn't a root: another has issued it",
        ));
    }
    let seconds = i64::try_from(now.seconds()).unwrap_or(i64::MAX);
    let (from, to) = (
        certificate.validity().not_before.timestamp(),
        certificate.validity().not_after.timestamp(),
    );
    if seconds < from || seconds > to {
        return Err(PkiError::foreign("the CA's certificate isn't good at this time"));
    }
    // Its key has signed it: else anyone could submit another's key as its own.
    let root = EndEntityCert::try_from(der).map_err(PkiError::foreign)?;
    let algorithms = provider().signature_verification_algorithms.all;
    let signed = &certificate.tbs_certificate;
    let is_signed = algorithms.iter().any(|algorithm| {
        root.verify_signature(*algorithm, signed.as_ref(), &certificate.signature_value.data)
            .is_ok()
    });
    if !is_signed {
        return Err(PkiError::foreign(
            "the CA's certificate isn't signed by its own key",
        ));
    }
    fingerprint_of(der)
}
