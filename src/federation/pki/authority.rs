//! The site's CA as it is now, and the one that is about to take its place; and the files that they are kept in.
//!
//! ```text
//! rotate ─▶ peers are told of both, in their beats ─▶ all hold both, or 7 days have passed ─▶ the new one signs, alone
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `ca.pem`, `ca.key` | the CA that signs |
//! | `ca-next.pem`, `ca-next.key` | the one that peers are being told of |
//! | `children.pem`, `children.key` | the one that signs for children, if there ever was one |
//!
//! Keys are their user's alone (0600). Which of the two signs, the ledger says: a move that was cut off is made up for at
//! the next start.

use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::{Leaf, PkiError, SiteCa, Usage};
use crate::federation::moment::Moment;
use crate::federation::site::SiteId;
use crate::federation::token::Fingerprint;
use crate::model::Name;

/// A CA's files can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// One of them.
    #[error("{what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What they hold is no CA, or none can be drawn.
    #[error("the site's CA")]
    Pki(#[from] PkiError),
    /// The CA that the ledger says signs isn't there.
    #[error(
        "the ledger says that CA {0} signs, and neither ca.pem nor ca-next.pem in {1} is it: restore both from the same backup"
    )]
    Missing(Fingerprint, PathBuf),
}

impl StoreError {
    pub(super) const fn file(what: &'static str, path: PathBuf, source: io::Error) -> Self {
        Self::File { what, path, source }
    }
}

/// Where CAs are kept.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) folder: PathBuf,
}

impl Store {
    /// In this folder.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    fn paths(&self, stem: &str) -> (PathBuf, PathBuf) {
        let at = |suffix: &str| self.folder.join(format!("{stem}.{suffix}"));
        (at("pem"), at("key"))
    }

    fn read(&self, stem: &str) -> Result<Option<SiteCa>, StoreError> {
        let (pem, key) = self.paths(stem);
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|source| StoreError::File {
                what: "reading",
                path: path.to_owned(),
                source,
            })
        };
        if !pem.exists() {
            return Ok(None);
        }
        Ok(Some(SiteCa::load(&read(&pem)?, &Zeroizing::new(read(&key)?))?))
    }

    /// The key first: a certificate without it would be worthless.
    fn write(&self, stem: &str, ca: &SiteCa, secret: &str) -> Result<(), StoreError> {
        let (pem, key) = self.paths(stem);
        for (path, text, mode) in [(&key, secret, 0o600), (&pem, ca.pem(), 0o644)] {
            write_whole(path, text, mode).map_err(|source| StoreError::File {
                what: "writing",
                path: path.clone(),
                source,
            })?;
        }
        Ok(())
    }

    /// The CA that signs, drawn at the first start, and the next one if there is one. `signs` is what the ledger says.
    ///
    /// # Errors
    /// The files can't be read or written, or aren't those that the ledger speaks of.
    pub fn open(
        &self,
        site: &SiteId,
        signs: Option<Fingerprint>,
        now: Moment,
    ) -> Result<(SiteCa, Option<SiteCa>), StoreError> {
        let next = self.read("ca-next");
        let is_due = |ca: &SiteCa| signs == Some(ca.fingerprint());
        if let Ok(Some(next)) = &next
            && is_due(next)
        {
            // The ledger had moved on, and the files hadn't.
            self.promote()?;
        }
        let (next_pem, next_key) = self.paths("ca-next");
        if next_pem.exists() && !next_key.exists() {
            // Between the two renames: the key has moved, its certificate hasn't.
            self.promote()?;
        }
        let current = self.read("ca")?;
        if let Some(signs) = signs
            && current.as_ref().map(SiteCa::fingerprint) != Some(signs)
        {
            return Err(StoreError::Missing(signs, self.folder.clone()));
        }
        let current = if let Some(current) = current {
            current
        } else {
            let (ca, secret) = SiteCa::generate(site, now)?;
            self.write("ca", &ca, &secret)?;
            tracing::info!(fingerprint = %ca.fingerprint(), "drew the site's CA");
            ca
        };
        // One that was cut off while it was written was never announced.
        let next = self.read("ca-next").unwrap_or_else(|error| {
            tracing::warn!(error = %error, "what is left of a next CA can't be read, and isn't used");
            None
        });
        Ok((current, next))
    }

    /// The CA that signs for children: what there is of it; where there is none, and a time is given, it is drawn.
    ///
    /// # Errors
    /// It can't be read or written.
    pub fn children(&self, site: &SiteId, draw: Option<Moment>) -> Result<Option<SiteCa>, StoreError> {
        let kept = self.read("children")?;
        let (None, Some(now)) = (&kept, draw) else {
            return Ok(kept);
        };
        let (ca, secret) = SiteCa::for_children(site, now)?;
        self.write("children", &ca, &secret)?;
        tracing::info!(fingerprint = %ca.fingerprint(), "drew the CA that signs for children");
        Ok(Some(ca))
    }

    /// Keeps the CA that shall be next. `signs` is the one that signs now: where its files still have the name of a next one,
    /// they get their own first, since there is no other copy of its key.
    ///
    /// # Errors
    /// It can't be written.
    pub fn keep_next(&self, signs: Fingerprint, next: &SiteCa, secret: &str) -> Result<(), StoreError> {
        if let Ok(Some(left)) = self.read("ca-next")
            && left.fingerprint() == signs
        {
            self.promote()?;
        }
        self.write("ca-next", next, secret)
    }

    /// Puts the next CA in the place of the one that signs, whose key is gone then.
    ///
    /// # Errors
    /// The files can't be moved.
    pub fn promote(&self) -> Result<(), StoreError> {
        let ((pem, key), (next_pem, next_key)) = (self.paths("ca"), self.paths("ca-next"));
        for (from, to) in [(&next_key, &key), (&next_pem, &pem)] {
            let moved = match std::fs::rename(from, to) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                moved => moved,
            };
            moved
                .and_then(|()| std::fs::File::open(&self.folder)?.sync_all())
                .map_err(|source| StoreError::File {
                    what: "moving",
                    path: from.clone(),
                    source,
                })?;
        }
        Ok(())
    }
}

/// Writes a file that is there whole or not at all, whenever the power is cut; with this mode, whatever was left by a
/// write that was cut off.
///
/// # Errors
/// It can't be written.
pub fn write_whole(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)?;
    // Whatever the umask is.
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}

/// The CAs in use. Shared by everyone who signs or shows them.
#[derive(Debug)]
pub struct Authority(RwLock<(Arc<SiteCa>, Option<Arc<SiteCa>>)>);

impl From<SiteCa> for Authority {
    fn from(ca: SiteCa) -> Self {
        Self::new(ca, None)
    }
}

impl Authority {
    /// With the CA that signs, and the next one.
    #[must_use]
    pub fn new(current: SiteCa, next: Option<SiteCa>) -> Self {
        Self(RwLock::new((Arc::new(current), next.map(Arc::new))))
    }

    fn both(&self) -> (Arc<SiteCa>, Option<Arc<SiteCa>>) {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The CA that signs.
    #[must_use]
    pub fn current(&self) -> Arc<SiteCa> {
        self.both().0
    }

    /// The CA that is about to.
    #[must_use]
    pub fn next(&self) -> Option<Arc<SiteCa>> {
        self.both().1
    }

    /// Announces the CA that is about to sign.
    pub fn announce(&self, next: SiteCa) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).1 = Some(Arc::new(next));
    }

    /// Lets the next CA sign, alone.
    pub fn promote(&self) {
        let mut both = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(next) = both.1.take() {
            both.0 = next;
        }
    }

    /// SHA-256 of the signing CA's public key.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.current().fingerprint()
    }

    /// Whether a CA is ours, the next one included.
    #[must_use]
    pub fn is_own(&self, fingerprint: Fingerprint) -> bool {
        let (current, next) = self.both();
        current.fingerprint() == fingerprint || next.is_some_and(|next| next.fingerprint() == fingerprint)
    }

    /// The signing CA's certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.current().pem().to_owned()
    }

    /// The certificates of all that peers should know, PEM.
    #[must_use]
    pub fn bundle_pem(&self) -> String {
        let (current, next) = self.both();
        next.map_or_else(
            || current.pem().to_owned(),
            |next| format!("{}{}", current.pem(), next.pem()),
        )
    }

    /// The signing CA's certificate.
    #[must_use]
    pub fn der(&self) -> CertificateDer<'static> {
        self.current().der().clone()
    }

    /// See [`SiteCa::issue`].
    ///
    /// # Errors
    /// Signing failed.
    pub fn issue(&self, site: &SiteId, node: &Name, usage: Usage<'_>, now: Moment) -> Result<Leaf, PkiError> {
        self.current().issue(site, node, usage, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> SiteId {
        SiteId::new("site-a.fd1234abcd42").unwrap()
    }

    #[test]
    fn a_ca_cut_short_while_it_was_drawn_is_drawn_again() {
        let folder = tempfile::tempdir().unwrap();
        let (store, at) = (Store::new(folder.path()), |name: &str| folder.path().join(name));
        for left in ["ca.key", "ca.key.new", "ca.pem.new"] {
            std::fs::write(at(left), "-----BEG").unwrap();
        }
        let open = || store.open(&site(), None, Moment::EPOCH).unwrap();
        let drawn = open().0.fingerprint();
        assert_eq!(open().0.fingerprint(), drawn);
        let mode = std::fs::metadata(at("ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "whatever was left");
        assert!(!at("ca.key.new").exists() && !at("ca.pem.new").exists());
    }

    #[test]
    fn a_rotation_cut_off_anywhere_is_made_up_for() {
        let folder = tempfile::tempdir().unwrap();
        let (store, at) = (Store::new(folder.path()), |name: &str| folder.path().join(name));
        let old = store.open(&site(), None, Moment::EPOCH).unwrap().0.fingerprint();
        let (next, secret) = SiteCa::generate(&site(), Moment::EPOCH).unwrap();
        store.keep_next(old, &next, &secret).unwrap();
        let signs = next.fingerprint();
        let state = |signs| {
            let (current, next) = store.open(&site(), signs, Moment::EPOCH).unwrap();
            (current.fingerprint(), next.map(|next| next.fingerprint()))
        };
        assert_eq!(state(None), (old, Some(signs)), "the ledger hasn't moved");
        assert_eq!(state(Some(old)), (old, Some(signs)));
        // The ledger has moved; of the files none, the key, or both.
        std::fs::rename(at("ca-next.key"), at("ca.key")).unwrap();
        assert_eq!(state(Some(signs)), (signs, None));
        assert_eq!(state(Some(signs)), (signs, None));
        assert!(matches!(
            store.open(&site(), Some(old), Moment::EPOCH),
            Err(StoreError::Missing(found, _)) if found == old
        ));
        let draw = || SiteCa::generate(&site(), Moment::EPOCH).unwrap();
        let (third, secret) = draw();
        store.keep_next(signs, &third, &secret).unwrap();
        // Its files never got their name: the next rotation doesn't write over the only copy of the key that signs.
        let (fourth, secret) = draw();
        let third = third.fingerprint();
        store.keep_next(third, &fourth, &secret).unwrap();
        assert_eq!(state(Some(third)), (third, Some(fourth.fingerprint())));
        // Whatever is left of one that was cut off while it was written, the gateway starts.
        std::fs::write(at("ca-next.key"), "-----BEG").unwrap();
        assert_eq!(state(Some(third)), (third, None));
        assert_eq!(state(None), (third, None));
    }
}
