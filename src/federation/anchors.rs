//! What becomes of a peer's anchors when it tells of others. Pure.
//!
//! An anchor is added, never replaced at once: what the peer no longer names stays good for [`OVERLAP`]. A bundle that isn't
//! newer than the last one is nothing.

use std::time::Duration;

use super::moment::Moment;
use super::peer::{Anchor, Trust};
use super::pki::verify::check_root;
use super::pki::{PkiError, certificates_of, pem_of};

/// How long an anchor that the peer no longer names is still good.
pub const OVERLAP: Duration = Duration::from_secs(7 * 86_400);
/// The most anchors that a peer may have at a time.
const MAX_ANCHORS: usize = 4;

/// Takes over a peer's bundle; says whether its anchors are others than before.
///
/// # Errors
/// The bundle has something that is no root, or too many: nothing has changed.
pub fn take(trust: &mut Trust, bundle_pem: &str, sequence: u64, now: Moment) -> Result<bool, PkiError> {
    if sequence <= trust.sequence {
        return Ok(false);
    }
    let mut named = Vec::new();
    for root in certificates_of(bundle_pem)? {
        named.push((check_root(&root, now)?, pem_of(&root)));
    }
    let mut anchors: Vec<Anchor> = Vec::new();
    for mut anchor in trust.anchors_at(now).cloned() {
        let is_named = named
            .iter()
            .any(|(fingerprint, _)| *fingerprint == anchor.fingerprint);
        let end = now.after(OVERLAP);
        anchor.until = if is_named {
            None
        } else {
            Some(anchor.until.map_or(end, |until| until.min(end)))
        };
        anchors.push(anchor);
    }
    for (fingerprint, pem) in named {
        if anchors.iter().all(|anchor| anchor.fingerprint != fingerprint) {
            anchors.push(Anchor {
                pem,
                fingerprint,
                since: now,
                until: None,
                proven: false,
            });
        }
    }
    if anchors.len() > MAX_ANCHORS {
        return Err(PkiError::Foreign(format!(
            "more than {MAX_ANCHORS} anchors at a time, the old ones of the last {} days included",
            OVERLAP.as_secs() / 86_400
        )));
    }
    trust.sequence = sequence;
    let changed = anchors != trust.anchors;
    trust.anchors = anchors;
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::federation::pki::SiteCa;
    use crate::federation::site::SiteId;

    const NOW: Moment = Moment::EPOCH;

    fn ca() -> SiteCa {
        SiteCa::generate(&SiteId::new("site-b.fd1234abcd42").unwrap(), NOW)
            .unwrap()
            .0
    }

    fn trust(ca: &SiteCa) -> Trust {
        Trust {
            site: SiteId::new("site-b.fd1234abcd42").unwrap(),
            anchors: vec![Anchor {
                pem: ca.pem().to_owned(),
                fingerprint: ca.fingerprint(),
                since: NOW,
                until: None,
                proven: true,
            }],
            sequence: 1,
            outbound_subject: "fed:x".to_owned(),
            signed_here: Vec::new(),
        }
    }

    #[test]
    fn anchors_are_added_and_go_only_after_the_overlap() {
        let (old, new) = (ca(), ca());
        let mut trust = trust(&old);
        let both = format!("{}{}", old.pem(), new.pem());
        assert!(take(&mut trust, &both, 2, NOW).unwrap());
        let good = |trust: &Trust, at: Moment| {
            trust
                .anchors_at(at)
                .map(|anchor| anchor.fingerprint)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            good(&trust, NOW.after(OVERLAP * 9)),
            [old.fingerprint(), new.fingerprint()]
        );
        // Told again, or by an older or replayed bundle: nothing.
        assert!(!take(&mut trust, old.pem(), 2, NOW).unwrap());
        assert!(!take(&mut trust, old.pem(), 1, NOW).unwrap());
        assert!(!take(&mut trust, &both, 3, NOW).unwrap(), "newer, and the same");
        assert!(take(&mut trust, new.pem(), 4, NOW).unwrap());
        assert_eq!(
            good(&trust, NOW.after(OVERLAP).before(Duration::from_millis(1))).len(),
            2
        );
        assert_eq!(good(&trust, NOW.after(OVERLAP)), [new.fingerprint()]);
        // The end isn't put off by another bundle.
        let later = NOW.after(OVERLAP / 2);
        take(&mut trust, new.pem(), 5, later).unwrap();
        assert_eq!(good(&trust, NOW.after(OVERLAP)), [new.fingerprint()]);
    }

    #[test]
    fn a_bundle_that_is_none_changes_nothing() {
        let old = ca();
        let mut trust = trust(&old);
        let before = trust.clone();
        let many: String = (0..4).map(|_| ca().pem().to_owned()).collect();
        for bundle in ["", "-----BEGIN", &old.pem()[..200], &many] {
            assert!(take(&mut trust, bundle, 2, NOW).is_err(), "{bundle:.30}");
            assert_eq!(trust, before);
        }
    }
}
