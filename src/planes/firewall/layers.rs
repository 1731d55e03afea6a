//! Which layer of verdict maps an element goes to.
//!
//! A map's elements must not overlap, and the first rule that matches decides: so an element goes one layer below the
//! deepest earlier one that it overlaps, and layers are asked from the top. From some depth on, only what has another
//! effect must stay above: elements that do the same may then be asked in any order, which changes no verdict, only
//! which of two rules counts a packet that both match. So rules that all allow need few layers, however they overlap,
//! and what a packet costs doesn't grow with their number. Asking "does this layer have anything that overlaps" ends at the first find,
//! and looks up from the side with the longer prefix, so it stays cheap for thousands of rules.

use std::collections::{BTreeMap, BTreeSet};

use super::policy::{ALL_PORTS, Class};
use crate::model::network::PortRange;

/// A prefix of either family: the address in the upper bits, the rest zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    bits: u128,
    len: u8,
}

impl Prefix {
    /// A prefix; `v4` addresses count from the top like others.
    #[must_use]
    pub fn new(net: ipnet::IpNet) -> Self {
        let bits = match net {
            ipnet::IpNet::V4(net) => u128::from(u32::from(net.network())) << 96,
            ipnet::IpNet::V6(net) => u128::from(net.network()),
        };
        Self {
            bits,
            len: net.prefix_len(),
        }
    }

    fn host_mask(len: u8) -> u128 {
        u128::MAX.checked_shr(u32::from(len)).unwrap_or(0)
    }

    /// The least that is greater.
    fn next(self) -> Self {
        Self {
            bits: self.bits,
            len: self.len + 1,
        }
    }

    fn last(self) -> u128 {
        self.bits | Self::host_mask(self.len)
    }

    fn shortened(self, len: u8) -> Self {
        Self {
            bits: self.bits & !Self::host_mask(len),
            len,
        }
    }
}

/// An element of one family, as far as overlap is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// What its rule does: equal numbers do the same.
    pub effect: u8,
    /// Its class.
    pub class: Class,
    /// Its source.
    pub from: Prefix,
    /// Its destination.
    pub to: Prefix,
    /// Its ports.
    pub ports: PortRange,
}

/// The layers of one network and family, as they fill.
#[derive(Default)]
pub struct Layers {
    layers: Vec<Layer>,
}

impl Layers {
    /// How many layers there are.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// Places the next element, in the order of rules; the answer is its layer, counted from 0.
    pub fn place(&mut self, area: &Area) -> usize {
        let below = |above: Option<usize>| above.map_or(0, |above| above + 1);
        let mut at = below(self.layers.iter().rposition(|layer| layer.overlaps(area)));
        if at >= STRICT_DEPTH {
            let free = below(self.layers.iter().rposition(|layer| layer.contradicts(area)));
            at = (free..at)
                .find(|at| !self.layers[*at].overlaps(area))
                .unwrap_or(at);
        }
        if at == self.layers.len() {
            self.layers.push(Layer::default());
        }
        self.layers[at]
            .by_effect
            .entry(area.effect)
            .or_default()
            .insert(area);
        at
    }
}

/// Up to this depth, also elements that do the same are asked in the order of rules.
const STRICT_DEPTH: usize = 8;

/// Elements without overlap.
#[derive(Default)]
struct Layer {
    by_effect: BTreeMap<u8, Index>,
}

impl Layer {
    fn overlaps(&self, area: &Area) -> bool {
        self.by_effect.values().any(|index| index.overlaps(area))
    }

    /// Whether anything overlaps that does something else.
    fn contradicts(&self, area: &Area) -> bool {
        let others = self
            .by_effect
            .iter()
            .filter(|(effect, _)| **effect != area.effect);
        others.into_iter().any(|(_, index)| index.overlaps(area))
    }
}

/// Elements of one layer and effect, found by what they overlap.
#[derive(Default)]
struct Index {
    all: Pairs,
    by_class: BTreeMap<Class, Pairs>,
    /// By class and the magnitude of the range's width: within one, an overlap is near.
    by_ports: BTreeMap<(Class, u32), BTreeMap<PortRange, Pairs>>,
}

impl Index {
    fn insert(&mut self, area: &Area) {
        self.all.insert(area);
        self.by_class.entry(area.class).or_default().insert(area);
        if area.class.has_ports() {
            self.by_ports
                .entry((area.class, magnitude(area.ports)))
                .or_default()
                .entry(area.ports)
                .or_default()
                .insert(area);
        }
    }

    fn overlaps(&self, area: &Area) -> bool {
        if area.class == Class::Any {
            return self.all.overlaps(area);
        }
        let class = |class| {
            self.by_class
                .get(&class)
                .is_some_and(|pairs: &Pairs| pairs.overlaps(area))
        };
        if class(Class::Any) {
            return true;
        }
        if !area.class.has_ports() || area.ports == ALL_PORTS {
            return class(area.class);
        }
        let groups = self.by_ports.range((area.class, 0)..=(area.class, u32::MAX));
        groups.into_iter().any(|((_, magnitude), group)| {
            // Ranges of this magnitude are shorter than 2^(magnitude + 1): earlier ones end before ours begins.
            let reach = u16::try_from((2_u32 << magnitude) - 1).unwrap_or(u16::MAX);
            let earliest = PortRange {
                first: area.ports.first.saturating_sub(reach),
                last: 0,
            };
            let latest = PortRange {
                first: area.ports.last,
                last: u16::MAX,
            };
            group
                .range(earliest..=latest)
                .any(|(ports, pairs)| ports.last >= area.ports.first && pairs.overlaps(area))
        })
    }
}

fn magnitude(ports: PortRange) -> u32 {
    (u32::from(ports.last) - u32::from(ports.first) + 1).ilog2()
}

/// Pairs of source and destination, found from either side.
#[derive(Default)]
struct Pairs {
    by_source: Ordered,
    by_destination: Ordered,
}

/// Pairs of prefixes, in the order of the first.
#[derive(Default)]
struct Ordered {
    firsts: Lengths,
    seconds: Lengths,
    pairs: BTreeSet<(Prefix, Prefix)>,
}

/// Which lengths of prefixes there are.
#[derive(Clone, Copy, Default)]
struct Lengths([u64; 3]);

impl Lengths {
    fn insert(&mut self, length: u8) {
        self.0[usize::from(length / 64)] |= 1 << (length % 64);
    }

    /// Those that are shorter than `length`.
    fn below(self, length: u8) -> impl Iterator<Item = u8> {
        let mut words = self.0;
        for (at, word) in words.iter_mut().enumerate() {
            let kept = u32::from(length).saturating_sub(64 * u32::try_from(at).unwrap_or(0));
            *word &= 1_u64.checked_shl(kept).map_or(u64::MAX, |above| above - 1);
        }
        std::iter::from_fn(move || {
            let at = words.iter().position(|word| *word != 0)?;
            let bit = words[at].trailing_zeros();
            words[at] &= words[at] - 1;
            u8::try_from(64 * at).ok()?.checked_add(u8::try_from(bit).ok()?)
        })
    }
}

impl Pairs {
    fn insert(&mut self, area: &Area) {
        self.by_source.insert(area.from, area.to);
        self.by_destination.insert(area.to, area.from);
    }

    fn overlaps(&self, area: &Area) -> bool {
        if area.from.len >= area.to.len {
            self.by_source.overlaps(area.from, area.to)
        } else {
            self.by_destination.overlaps(area.to, area.from)
        }
    }
}

impl Ordered {
    fn insert(&mut self, first: Prefix, second: Prefix) {
        self.firsts.insert(first.len);
        self.seconds.insert(second.len);
        self.pairs.insert((first, second));
    }

    fn overlaps(&self, first: Prefix, second: Prefix) -> bool {
        self.has_within(first, second)
            || self
                .firsts
                .below(first.len)
                .any(|len| self.has(first.shortened(len), second))
    }

    /// Whether a pair overlaps whose first is inside this one.
    fn has_within(&self, first: Prefix, second: Prefix) -> bool {
        let mut from = (first, Prefix::default());
        loop {
            let Some((inner, _)) = self.pairs.range(from..).next() else {
                return false;
            };
            if inner.bits > first.last() {
                return false;
            }
            if self.has(*inner, second) {
                return true;
            }
            from = (inner.next(), Prefix::default());
        }
    }

    /// Whether there is a pair of just this first, whose second overlaps.
    fn has(&self, first: Prefix, second: Prefix) -> bool {
        let within = self.pairs.range((first, second)..).next();
        within.is_some_and(|(at, found)| *at == first && found.bits <= second.last())
            || self
                .seconds
                .below(second.len)
                .any(|len| self.pairs.contains(&(first, second.shortened(len))))
    }
}

#[cfg(test)]
mod tests {
    use ipnet::{IpNet, Ipv4Net};
    use proptest::prelude::*;

    use super::*;

    type Plain = (u8, Class, IpNet, IpNet, PortRange);

    fn plain() -> impl Strategy<Value = Plain> {
        let net = || {
            (0_u32..16, 27_u8..=32)
                .prop_map(|(a, len)| IpNet::V4(Ipv4Net::new((0x0a00_0000 + a).into(), len).unwrap().trunc()))
        };
        let ports = (0_u16..40, 0_u16..40).prop_map(|(first, width)| PortRange {
            first,
            last: first + width,
        });
        (
            0_u8..2,
            0_usize..4,
            net(),
            net(),
            prop_oneof![3 => ports, 1 => Just(ALL_PORTS)],
        )
            .prop_map(|(effect, class, from, to, ports)| {
                let class = Class::ALL[class];
                let ports = if class.has_ports() { ports } else { ALL_PORTS };
                (effect, class, from, to, ports)
            })
    }

    fn overlap(a: &Plain, b: &Plain) -> bool {
        let nets = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
        let ports = !a.1.has_ports() || a.1 != b.1 || (a.4.first <= b.4.last && b.4.first <= a.4.last);
        a.1.meets(b.1) && nets(&a.2, &b.2) && nets(&a.3, &b.3) && ports
    }

    #[test]
    fn lengths_are_told_in_order() {
        let mut lengths = Lengths::default();
        for length in [0, 24, 63, 64, 127, 128] {
            lengths.insert(length);
        }
        let below = |length| lengths.below(length).collect::<Vec<_>>();
        assert_eq!(below(0), [0; 0]);
        assert_eq!(below(64), [0, 24, 63]);
        assert_eq!(below(128), [0, 24, 63, 64, 127]);
        assert_eq!(below(129), [0, 24, 63, 64, 127, 128]);
    }

    proptest! {
        #[test]
        fn layers_keep_the_order_of_what_overlaps(elements in prop::collection::vec(plain(), 0..80)) {
            let mut layers = Layers::default();
            let mut placed: Vec<usize> = Vec::new();
            for (n, element) in elements.iter().enumerate() {
                let (effect, class, from, to, ports) = *element;
                let (from, to) = (Prefix::new(from), Prefix::new(to));
                let at = layers.place(&Area { effect, class, from, to, ports });
                let above: Vec<usize> = (0..n).filter(|m| overlap(&elements[*m], element)).collect();
                let strict = above.iter().map(|m| placed[*m] + 1).max().unwrap_or(0);
                prop_assert!(at <= strict);
                prop_assert!(at == strict || strict >= STRICT_DEPTH);
                for m in above {
                    prop_assert!(placed[m] != at, "one layer");
                    prop_assert!(placed[m] < at || elements[m].0 == effect, "another effect");
                }
                placed.push(at);
            }
            prop_assert_eq!(layers.depth(), placed.iter().max().map_or(0, |top| top + 1));
        }
    }
}
