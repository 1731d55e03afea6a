//! Certificates that a parent has signed for us, and their keys.
//!
//! | file | holds |
//! |---|---|
//! | `issued-<peer id>.pem` | a key, the certificate that the parent signed for it, and what leads to the parent's anchor |
//! | `issued-<peer id>.next` | a key that waits for its certificate |
//!
//! Both are erased when the parent is revoked.
//!
//! A key is on the disk before it is asked for: an answer that was lost is asked for again with the same key.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::authority::{Store, StoreError, write_whole};
use super::request::{Signed, draw_key, renew_at};
use super::verify::{Purpose, fingerprint_of, names_of, validity, verify_path};
use super::{Leaf, PkiError, certificates_of, pem_of};
use crate::federation::moment::Moment;
use crate::federation::peer::PeerId;

/// A leaf and the name that the parent gave us in it.
pub struct Issued {
    /// Certificate and key.
    pub leaf: Arc<Leaf>,
    /// Its common name.
    pub subject: String,
    /// Since when it is good.
    pub since: Moment,
}

impl Issued {
    /// What a parent signed for this key.
    ///
    /// # Errors
    /// It is for another key, can't be used, or isn't good at this time.
    pub fn of(signed: &Signed, key_pem: &str, now: Moment) -> Result<Self, PkiError> {
        let mut chain = certificates_of(&signed.cert_pem)?;
        chain.extend(certificates_of(&signed.ca_chain_pem)?);
        Self::new(chain, key_pem, Some(now))
    }

    fn new(
        mut chain: Vec<CertificateDer<'static>>,
        key_pem: &str,
        now: Option<Moment>,
    ) -> Result<Self, PkiError> {
        let key =
            rcgen::KeyPair::from_pem(key_pem).map_err(|error| PkiError::Own("a parent's key", error))?;
        let leaf = chain
            .first()
            .ok_or_else(|| PkiError::foreign("no certificate"))?
            .clone();
        if super::verify::public_key_of(&leaf)? != key.public_key_raw() {
            return Err(PkiError::foreign("the certificate is for another key"));
        }
        let (since, until) = validity(&leaf)?;
        let leads = |root: &CertificateDer<'static>| {
            verify_path(
                std::slice::from_ref(&leaf),
                std::slice::from_ref(root),
                Purpose::Client,
                now.unwrap_or(since),
            )
        };
        // Of what came along, only what has signed it is shown.
        let issuer = chain.iter().skip(1).find(|root| leads(root).is_ok()).cloned();
        let issuer =
            issuer.ok_or_else(|| PkiError::foreign("the certificate doesn't lead to what came with it"))?;
        chain = vec![leaf, issuer];
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(PkiError::foreign)?;
        Ok(Self {
            subject: names_of(&chain[0])?.subject,
            since,
            leaf: Arc::new(Leaf {
                renew_at: renew_at(since, until),
                not_after: until,
                issuer: fingerprint_of(&chain[1])?,
                chain,
                key,
            }),
        })
    }
}

impl Store {
    fn issued(&self, id: PeerId, suffix: &str) -> PathBuf {
        self.folder.join(format!("issued-{id}.{suffix}"))
    }

    /// The key that waits for a certificate of this parent: drawn and kept if there is none.
    ///
    /// # Errors
    /// It can't be read or written.
    pub fn waiting_key(&self, id: PeerId) -> Result<Zeroizing<String>, StoreError> {
        let path = self.issued(id, "next");
        match std::fs::read_to_string(&path) {
            Ok(text) => return Ok(Zeroizing::new(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(StoreError::file("reading", path, source)),
        }
        let key = draw_key()?;
        write_whole(&path, &key, 0o600).map_err(|source| StoreError::file("writing", path, source))?;
        Ok(key)
    }

    /// Keeps what the parent signed for a key.
    ///
    /// # Errors
    /// It can't be written.
    pub fn keep_issued(&self, id: PeerId, issued: &Issued, key_pem: &str) -> Result<(), StoreError> {
        let mut text = Zeroizing::new(key_pem.trim_end().to_owned());
        text.push('\n');
        for certificate in &issued.leaf.chain {
            text.push_str(&pem_of(certificate));
        }
        let path = self.issued(id, "pem");
        write_whole(&path, &text, 0o600).map_err(|source| StoreError::file("writing", path, source))
    }

    /// The key that waited has its certificate.
    ///
    /// # Errors
    /// It can't be removed.
    pub fn forget_waiting(&self, id: PeerId) -> Result<(), StoreError> {
        let waits = self.issued(id, "next");
        match std::fs::remove_file(&waits) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::file("removing", waits, error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Erases what the parent signed, and the key that waits. Says whether there was any.
    ///
    /// # Errors
    /// It can't be removed.
    pub fn erase_issued(&self, id: PeerId) -> Result<bool, StoreError> {
        let mut was_there = false;
        for suffix in ["pem", "next", "pem.new", "next.new"] {
            let path = self.issued(id, suffix);
            match std::fs::remove_file(&path) {
                Ok(()) => was_there = true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(StoreError::file("removing", path, source)),
            }
        }
        if was_there {
            let synced = std::fs::File::open(&self.folder).and_then(|folder| folder.sync_all());
            synced.map_err(|source| StoreError::file("writing", self.folder.clone(), source))?;
        }
        Ok(was_there)
    }

    /// What the parent signed last, if it did.
    ///
    /// # Errors
    /// It can't be read.
    pub fn read_issued(&self, id: PeerId) -> Result<Option<Issued>, StoreError> {
        let path = self.issued(id, "pem");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::file("reading", path, source)),
        };
        Ok(Some(Issued::new(certificates_of(&text)?, &text, None)?))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::federation::pki::SiteCa;
    use crate::federation::pki::request::{Request, request_of};
    use crate::federation::site::SiteId;
    use crate::model::Name;

    fn now() -> Moment {
        Moment::from_millis(1_800_000_000_000)
    }

    #[test]
    fn a_key_waits_until_it_has_its_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let (store, id) = (Store::new(folder.path()), PeerId(uuid::Uuid::from_u128(7)));
        let site = SiteId::new("site-b.fd0000000002").unwrap();
        let key = store.waiting_key(id).unwrap();
        assert_eq!(
            store.waiting_key(id).unwrap(),
            key,
            "the same until it is answered"
        );
        assert!(store.read_issued(id).unwrap().is_none());
        let csr = request_of(&key, &site, &Name::new("hub-b1").unwrap()).unwrap();
        let ca = SiteCa::generate(&SiteId::new("site-a.fd0000000001").unwrap(), now())
            .unwrap()
            .0;
        let mut signed = ca.sign(&Request::parse(&csr).unwrap(), "fed:b", now()).unwrap();
        let other = SiteCa::generate(&site, now()).unwrap().0;
        signed.ca_chain_pem = format!("{}{}", other.pem(), ca.pem());
        let issued = Issued::of(&signed, &key, now()).unwrap();
        assert_eq!(
            (issued.subject.as_str(), issued.leaf.issuer),
            ("fed:b", ca.fingerprint())
        );
        assert_eq!(issued.leaf.not_after, signed.not_after);
        store.keep_issued(id, &issued, &key).unwrap();
        assert_eq!(store.waiting_key(id).unwrap(), key, "until the ledger knows");
        store.forget_waiting(id).unwrap();
        let read = store.read_issued(id).unwrap().unwrap();
        assert_eq!(read.leaf.chain, issued.leaf.chain);
        assert_ne!(store.waiting_key(id).unwrap(), key, "the next is another");
        for name in ["pem", "next"] {
            let mode = std::fs::metadata(store.issued(id, name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        // For another key, of a CA that didn't come along, or when it isn't good.
        assert!(Issued::of(&signed, &draw_key().unwrap(), now()).is_err());
        assert!(
            Issued::of(
                &signed,
                &key,
                signed.not_after.after(std::time::Duration::from_secs(1))
            )
            .is_err()
        );
        signed.ca_chain_pem = other.pem().to_owned();
        assert!(Issued::of(&signed, &key, now()).is_err());
    }
}
