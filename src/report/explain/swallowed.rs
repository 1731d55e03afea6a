//! Black holes (RFC 2923, 2.1): whether the way to a peer swallows a packet of this size, as far as the daemon of a host
//! that is looked at knows.

use super::view::Peer;
use super::walk::Step;
use crate::model::{LinkName, Name};

/// What any way takes that takes WireGuard's handshake, in bytes.
const SMALL: u32 = 128;

impl Step<'_> {
    /// Whether it isn't known to vanish on the way to a peer. What isn't known is said, and isn't called good.
    pub(super) fn arrives(&mut self, link: &LinkName, name: &Name, peer: &Peer) -> bool {
        let Some(eyes) = self.view.eyes() else {
            return true;
        };
        // A fragment is as large as the link takes.
        let size = self.trip.size.map(|size| match (size.may_be_cut, self.takes) {
            (true, Some(takes)) => size.bytes.min(takes),
            (true, None) | (false, _) => size.bytes,
        });
        let way = match eyes.way(link, name, peer) {
            Ok(way) if size.is_none_or(|size| size <= way.size || way.hole().is_some()) => way,
            Ok(way) => {
                let why = format!("only of {} bytes the daemon has asked yet", way.size);
                self.not_known(size, name, &why);
                return true;
            }
            Err(why) => {
                self.not_known(size, name, why);
                return true;
            }
        };
        self.takes = self.takes.into_iter().chain([way.passes]).min();
        match (way.hole(), size) {
            (Some(hole), Some(size)) if size > way.passes => {
                self.block("mtu", hole.text(), Some(hole.fix()));
                return false;
            }
            (Some(hole), None) => self.note("mtu", hole.text(), Some(hole.fix())),
            (Some(_) | None, _) => self.ok("mtu", format!("packets of {} bytes reach {name}", way.passes)),
        }
        true
    }

    fn not_known(&mut self, size: Option<u32>, name: &Name, why: &str) {
        let fix = Some("`sdwand doctor` asks by itself".to_owned());
        match size {
            Some(size) if size <= SMALL => {}
            Some(size) => {
                let text = format!("whether packets of {size} bytes reach {name} isn't known: {why}");
                self.in_doubt("mtu", text, fix);
            }
            None => {
                let text = format!("whether large packets reach {name} isn't known: {why}");
                self.note("mtu", text, None);
            }
        }
    }
}
