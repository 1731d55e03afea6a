//! What a second operator lets a bridge open, where `[approvals]` asks for one. Pure.
//!
//! ```text
//! the fleet's want ──┬─ within what is approved ─▶ as it is
//!                    └─ beyond it ─┬─ what is within goes on
//!                                  └─ the rest is asked for, once, until it is approved, denied or the fleet changes
//! ```
//!
//! What is approved shrinks with the fleet: narrowing waits for nobody, and what was given up is asked for anew.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::half::{covers, ordered};
use super::{BridgeRow, Content, Ours, State, Want, intersection};

/// What a bridge opens: prefixes, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = BridgeScope)]
pub struct Scope {
    /// What this site takes.
    #[schema(value_type = Vec<String>)]
    pub import: Vec<IpNet>,
    /// What this site gives.
    #[schema(value_type = Vec<String>)]
    pub export: Vec<IpNet>,
}

impl Scope {
    /// What the fleet wants opened; none where what it exports can't be told.
    #[must_use]
    pub fn wanted(want: &Want) -> Option<Self> {
        let content = want.content.as_ref()?;
        Some(Self {
            import: ordered(&want.import),
            export: ordered(&content.prefixes),
        })
    }

    /// What is open already: what was told, and imported.
    #[must_use]
    pub fn open(ours: &Ours) -> Self {
        let told = ours.half.as_ref();
        Self {
            import: ordered(&ours.import),
            export: told.map_or_else(Vec::new, |half| ordered(&half.prefixes)),
        }
    }

    /// Whether nothing of it is outside the other: each prefix is within one of the other's.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self == other || self.beyond(other) == Self::default()
    }

    /// What of it isn't within the other.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Self {
        let rest = |nets: &[IpNet], of: &[IpNet]| -> Vec<IpNet> {
            let outside = nets
                .iter()
                .filter(|net| !of.iter().any(|wide| wide.contains(*net)));
            outside.copied().collect()
        };
        Self {
            import: rest(&self.import, &other.import),
            export: rest(&self.export, &other.export),
        }
    }

    /// What is within both.
    #[must_use]
    pub fn both(&self, other: &Self) -> Self {
        if self == other {
            return self.clone();
        }
        Self {
            import: intersection(&self.import, &other.import),
            export: intersection(&self.export, &other.export),
        }
    }

    /// All of both.
    fn with(&self, other: &Self) -> Self {
        let all = |one: &[IpNet], other: &[IpNet]| ordered(&[one, other].concat());
        Self {
            import: all(&self.import, &other.import),
            export: all(&self.export, &other.export),
        }
    }

    /// What of a want is within it.
    fn narrow(&self, want: Want) -> Want {
        let import = intersection(&ordered(&want.import), &self.import);
        let content = want.content.map(|content| {
            let prefixes = intersection(&content.prefixes, &self.export);
            Content {
                listener: content.listener.filter(|at| covers(&prefixes, at)),
                prefixes,
                ..content
            }
        });
        Want {
            import,
            content,
            ..want
        }
    }
}

/// What operators have said about what the fleet wants of a bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    /// What may be open; none where nothing was ever approved.
    pub approved: Option<Scope>,
    /// What was wanted when somebody said no: as long as that is wanted, it isn't asked for again.
    pub denied: Option<Scope>,
}

impl Consent {
    /// Nobody has said anything.
    pub const NONE: Self = Self {
        approved: None,
        denied: None,
    };

    /// Whether nothing was said.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.approved.is_none() && self.denied.is_none()
    }

    /// What of a scope isn't approved.
    #[must_use]
    pub fn beyond(&self, wanted: &Scope) -> Scope {
        let approved = self.approved.as_ref();
        approved.map_or_else(|| wanted.clone(), |approved| wanted.beyond(approved))
    }
}

/// What comes of a want where a second operator is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consented {
    /// What of it goes on; none where nothing was approved yet.
    pub want: Option<Want>,
    /// All that is wanted, where some of it is to be asked for.
    pub asks: Option<Scope>,
}

impl BridgeRow {
    /// Holds what the fleet wants against what is approved, and takes back what isn't wanted any more. What was in force before
    /// anybody was asked counts as approved.
    pub fn consented(&mut self, want: Want) -> Consented {
        if self.consent.approved.is_none() {
            self.consent.approved = self.in_force_before();
        }
        let Some(wanted) = Scope::wanted(&want) else {
            // What can't be told can't be asked for.
            let approved = self.consent.approved.as_ref();
            return Consented {
                want: approved.map(|approved| approved.narrow(want)),
                asks: None,
            };
        };
        let approved = self
            .consent
            .approved
            .as_ref()
            .map(|approved| approved.both(&wanted));
        self.consent.approved.clone_from(&approved);
        if approved.as_ref() == Some(&wanted) || approved.as_ref().is_some_and(|all| wanted.is_within(all)) {
            self.consent.denied = None;
            return Consented {
                want: Some(want),
                asks: None,
            };
        }
        let is_denied = self.consent.denied.as_ref() == Some(&wanted);
        if !is_denied {
            self.consent.denied = None;
        }
        Consented {
            want: approved.map(|approved| approved.narrow(want)),
            asks: (!is_denied).then_some(wanted),
        }
    }

    /// What was agreed when nobody was asked; what only waited for the peer opened nothing.
    fn in_force_before(&self) -> Option<Scope> {
        let agreed = self.live().filter(|ours| ours.state != State::Proposed);
        agreed.map(Scope::open)
    }

    /// A second operator says yes to this much.
    pub fn allow(&mut self, scope: &Scope) {
        let before = self.consent.approved.take();
        // What is in force without anybody's word stays so.
        let before = before.or_else(|| self.in_force_before()).unwrap_or_default();
        self.consent = Consent {
            approved: Some(before.with(scope)),
            denied: None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BridgeId, PresharedHalf, State, WaitsFor, step};
    use super::*;
    use crate::federation::moment::Moment;
    use crate::federation::peer::PeerId;
    use crate::model::{Name, PublicKey};
    use uuid::Uuid;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn want(import: &[&str], export: &[&str]) -> Want {
        let name = |text: &str| Name::new(text).unwrap();
        Want {
            name: name("bridge"),
            network: name("prod"),
            remote_network: name("prod"),
            import: ordered(&nets(import)),
            content: Some(Content {
                gateway_public_key: PublicKey([7; 32]),
                endpoints: Vec::new(),
                prefixes: ordered(&nets(export)),
                listener: Some("[fd00:0:1:1::1]:8443".parse().unwrap()),
            }),
            obstacle: None,
            is_paused: false,
        }
    }

    fn row() -> BridgeRow {
        BridgeRow::new(PeerId(Uuid::from_u128(1)), BridgeId(Uuid::from_u128(2)))
    }

    fn settle(row: &mut BridgeRow, want: Want) -> Option<Scope> {
        let Consented { want, asks } = row.consented(want);
        let mut draw = || Some(PresharedHalf::new([1; 32]));
        step(row, want.as_ref(), "", &mut draw, Moment::EPOCH);
        asks
    }

    /// What is told and imported.
    fn open(row: &BridgeRow) -> Scope {
        row.live().map(Scope::open).unwrap_or_default()
    }

    #[test]
    fn nothing_begins_before_it_is_approved_and_then_just_that_does() {
        let mut row = row();
        let wanted = want(&["fd00:0:2::/48"], &["fd00:0:1:1::/64"]);
        let asked = settle(&mut row, wanted.clone()).unwrap();
        assert_eq!((row.ours.as_ref(), open(&row)), (None, Scope::default()));
        row.allow(&asked);
        assert_eq!(settle(&mut row, wanted.clone()), None);
        assert_eq!(open(&row), asked);
        assert_eq!(row.ours.as_ref().unwrap().state, State::Proposed);
        // More of both waits, and what was approved goes on.
        let wider = want(
            &["fd00:0:2::/48", "fd00:0:3::/48"],
            &["fd00:0:1::/48", "10.1.0.0/16"],
        );
        let more = settle(&mut row, wider.clone()).unwrap();
        assert_eq!(open(&row), asked);
        assert_eq!(more.beyond(&asked).import, nets(&["fd00:0:3::/48"]));
        row.allow(&more);
        assert_eq!(settle(&mut row, wider), None);
        assert_eq!(open(&row), more);
    }

    #[test]
    fn what_only_waited_for_its_peer_before_anybody_was_asked_is_asked_for() {
        let wanted = want(&["fd00:0:2::/48"], &["fd00:0:1:1::/64"]);
        let mut row = row();
        step(
            &mut row,
            Some(&wanted),
            "",
            &mut || Some(PresharedHalf::new([1; 32])),
            Moment::EPOCH,
        );
        assert_eq!(row.live().unwrap().state, State::Proposed);
        let asked = row.consented(wanted.clone()).asks;
        assert_eq!(asked, Scope::wanted(&wanted), "nothing of it was open");
        row.ours.as_mut().unwrap().state = State::Active;
        row.consent = Consent::default();
        assert_eq!(row.consented(wanted).asks, None, "what was in force stays");
    }

    #[test]
    fn narrowing_waits_for_nobody_and_what_was_given_up_is_asked_for_anew() {
        let mut row = row();
        let wide = want(&["fd00:0:2::/48"], &["fd00:0:1:1::/64"]);
        let asked = settle(&mut row, wide.clone()).unwrap();
        row.allow(&asked);
        settle(&mut row, wide.clone());
        let narrow = want(&["fd00:0:2:1::/64"], &[]);
        assert_eq!(settle(&mut row, narrow.clone()), None);
        assert_eq!(open(&row), Scope::wanted(&narrow).unwrap());
        assert_eq!(settle(&mut row, wide), Some(asked));
        assert_eq!(open(&row), Scope::wanted(&narrow).unwrap());
    }

    #[test]
    fn a_denial_holds_as_long_as_the_same_is_wanted() {
        let mut row = row();
        let wanted = want(&["fd00:0:2::/48"], &["fd00:0:1:1::/64"]);
        let asked = settle(&mut row, wanted.clone()).unwrap();
        row.consent.denied = Some(asked.clone());
        for _ in 0..3 {
            assert_eq!(settle(&mut row, wanted.clone()), None);
            assert_eq!(row.live(), None);
        }
        let other = want(&["fd00:0:2::/48"], &["fd00:0:1:2::/64"]);
        assert!(settle(&mut row, other).is_some());
        assert_eq!(
            settle(&mut row, wanted),
            Some(asked),
            "it is asked for as if anew"
        );
    }

    #[test]
    fn what_was_in_force_before_anybody_was_asked_stays_so() {
        let mut row = row();
        let before = want(&["fd00:0:2:1::/64"], &["fd00:0:1:1::/64"]);
        let mut draw = || Some(PresharedHalf::new([1; 32]));
        step(&mut row, Some(&before), "", &mut draw, Moment::EPOCH);
        row.ours.as_mut().unwrap().state = State::Active;
        let wider = want(&["fd00:0:2::/48"], &["fd00:0:1:1::/64"]);
        assert!(settle(&mut row, wider.clone()).is_some());
        assert_eq!(open(&row), Scope::wanted(&before).unwrap());
        row.allow(&Scope::wanted(&wider).unwrap());
        assert_eq!(settle(&mut row, wider.clone()), None);
        assert_eq!(open(&row), Scope::wanted(&wider).unwrap());
    }

    #[test]
    fn an_approval_counts_for_what_was_asked_and_for_nothing_that_was_added_since() {
        let mut row = row();
        let asked = settle(&mut row, want(&["fd00:0:2:1::/64"], &["fd00:0:1:1::/64"])).unwrap();
        let since = want(
            &["fd00:0:2:1::/64", "fd00:0:2:2::/64"],
            &["fd00:0:1:1::/64", "fd00:0:1:2::/64"],
        );
        row.allow(&asked);
        assert_eq!(settle(&mut row, since.clone()), Scope::wanted(&since));
        assert_eq!(open(&row), asked);
    }

    #[test]
    fn what_cant_be_told_is_neither_asked_for_nor_given_up() {
        let mut row = row();
        let wanted = want(&["fd00:0:2::/48"], &["fd00:0:1:1::/64"]);
        let asked = settle(&mut row, wanted.clone()).unwrap();
        row.allow(&asked);
        settle(&mut row, wanted.clone());
        let untold = Want {
            content: None,
            obstacle: Some(WaitsFor::Export),
            ..wanted.clone()
        };
        assert_eq!(settle(&mut row, untold), None);
        assert_eq!(settle(&mut row, wanted), None);
    }

    proptest::proptest! {
        /// Whatever the fleet wants and operators say, in whichever order: nothing is ever open that no operator has said yes to.
        #[test]
        fn nothing_is_open_beyond_what_was_approved_and_is_wanted(
            acts in proptest::collection::vec((0_u8..5, 0_u16..1_024), 0..40),
        ) {
            let mut row = row();
            let mut approved = Scope::default();
            let mut wanted = want(&[], &[]);
            let mut asked: Vec<Scope> = Vec::new();
            for (act, n) in acts {
                match act {
                    0 | 1 => {
                        let pick = |bits: u16, all: [&'static str; 5]| -> Vec<&str> {
                            (0..5_usize).filter(|bit| bits & (1 << bit) != 0).map(|bit| all[bit]).collect()
                        };
                        let import = ["fd00:0:2::/48", "fd00:0:2:1::/64", "fd00:0:2:1::1/128", "fd00:0:3::/48", "10.2.0.0/16"];
                        let export = ["fd00:0:1::/48", "fd00:0:1:1::/64", "fd00:0:1:1::1/128", "10.1.0.0/16", "10.1.2.0/24"];
                        wanted = want(&pick(n & 31, import), &pick(n >> 5, export));
                    }
                    2 => if let Some(scope) = asked.get(usize::from(n) % asked.len().max(1)) {
                        row.allow(scope);
                        approved = approved.with(scope);
                    },
                    3 => row.consent.denied = Scope::wanted(&wanted),
                    _ => {}
                }
                asked.extend(settle(&mut row, wanted.clone()));
                let (is, may) = (open(&row), Scope::wanted(&wanted).unwrap());
                proptest::prop_assert!(is.is_within(&may), "{is:?} {may:?}");
                proptest::prop_assert!(is.is_within(&approved), "{is:?} {approved:?}");
                let before = row.clone();
                settle(&mut row, wanted.clone());
                proptest::prop_assert_eq!(&row, &before, "a second step changes nothing");
            }
        }
    }
}
