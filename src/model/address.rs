//! Sets of addresses, as prefixes of both families.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// A set of addresses, kept as sorted prefixes that neither overlap nor could be joined.
///
/// Two sets with the same addresses are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AddressSet {
    v4: Vec<Ipv4Net>,
    v6: Vec<Ipv6Net>,
}

impl AddressSet {
    /// The IPv4 part.
    #[must_use]
    pub fn v4(&self) -> &[Ipv4Net] {
        &self.v4
    }

    /// The IPv6 part.
    #[must_use]
    pub fn v6(&self) -> &[Ipv6Net] {
        &self.v6
    }

    /// Whether no address is in the set. An empty set matches nothing, never everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// All prefixes, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> + '_ {
        let v4 = self.v4.iter().copied().map(IpNet::V4);
        v4.chain(self.v6.iter().copied().map(IpNet::V6))
    }

    /// Whether `address` is in the set.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => {
                let at = self.v4.partition_point(|n| n.network() <= a);
                at > 0 && self.v4[at - 1].contains(&a)
            }
            IpAddr::V6(a) => {
                let at = self.v6.partition_point(|n| n.network() <= a);
                at > 0 && self.v6[at - 1].contains(&a)
            }
        }
    }

    /// Whether any address is in both sets.
    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        let within = |a: &Self, b: &Self| a.iter().any(|net| b.contains(net.network()));
        within(self, other) || within(other, self)
    }
}

impl FromIterator<IpNet> for AddressSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in nets {
            match net {
                IpNet::V4(net) => v4.push(net.trunc()),
                IpNet::V6(net) => v6.push(net.trunc()),
            }
        }
        Self {
            v4: Ipv4Net::aggregate(&v4),
            v6: Ipv6Net::aggregate(&v6),
        }
    }
}

impl<'a> FromIterator<&'a IpNet> for AddressSet {
    fn from_iter<I: IntoIterator<Item = &'a IpNet>>(nets: I) -> Self {
        nets.into_iter().copied().collect()
    }
}

impl FromIterator<IpAddr> for AddressSet {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        addresses.into_iter().map(IpNet::from).collect()
    }
}

/// The addresses in both sets.
#[must_use]
pub fn intersection(a: &AddressSet, b: &AddressSet) -> AddressSet {
    if a == b {
        return a.clone();
    }
    let v4 = in_both(a.v4(), b.v4(), Ipv4Net::network, Ipv4Net::broadcast).map(IpNet::V4);
    let v6 = in_both(a.v6(), b.v6(), Ipv6Net::network, Ipv6Net::broadcast).map(IpNet::V6);
    v4.chain(v6).collect()
}

/// Of two sorted lists of prefixes without overlaps, what is in both. Prefixes overlap only by containment, so each
/// common piece is the smaller of two.
fn in_both<N: Copy, A: Ord>(
    a: &[N],
    b: &[N],
    first: impl Fn(&N) -> A,
    last: impl Fn(&N) -> A,
) -> impl Iterator<Item = N> {
    // One of the lists is often a single prefix: start where the lists meet.
    let mut i = b.first().map_or(0, |y| a.partition_point(|x| last(x) < first(y)));
    let mut j = a.first().map_or(0, |x| b.partition_point(|y| last(y) < first(x)));
    std::iter::from_fn(move || {
        while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
            let found = first(x) <= last(y) && first(y) <= last(x);
            let (x_ends, y_ends) = (last(x) <= last(y), last(y) <= last(x));
            let smaller = if first(x) >= first(y) && x_ends { *x } else { *y };
            if x_ends {
                i += 1;
            }
            if y_ends {
                j += 1;
            }
            if found {
                return Some(smaller);
            }
        }
        None
    })
    .collect::<Vec<N>>()
    .into_iter()
}

/// Whether one of the prefixes contains the other (prefixes never overlap in any other way).
#[must_use]
pub fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The first pair of overlapping prefixes, each with the index it came with; sorts once, so it is fast for many.
#[must_use]
pub fn first_overlap<T: Copy>(nets: &[(IpNet, T)]) -> Option<(T, T)> {
    let mut sorted: Vec<_> = nets.iter().map(|(net, at)| (net.trunc(), *at)).collect();
    sorted.sort_by_key(|(net, _)| *net);
    sorted
        .windows(2)
        .find(|pair| overlaps(&pair[0].0, &pair[1].0))
        .map(|pair| (pair[0].1, pair[1].1))
}

/// The prefixes without duplicates, host bits cleared.
#[must_use]
pub fn canonical(nets: impl IntoIterator<Item = IpNet>) -> BTreeSet<IpNet> {
    nets.into_iter().map(|net| net.trunc()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(nets: &[&str]) -> AddressSet {
        nets.iter().map(|n| n.parse::<IpNet>().unwrap()).collect()
    }

    #[test]
    fn equal_addresses_are_equal_sets() {
        assert_eq!(set(&["10.0.0.0/25", "10.0.0.128/25"]), set(&["10.0.0.9/24"]));
        assert_eq!(set(&["fd00::/64", "fd00::1/128"]), set(&["fd00::/64"]));
    }

    #[test]
    fn contains_and_intersects() {
        let a = set(&["10.0.0.0/24", "fd00::/64", "fd00:0:0:2::1/128"]);
        assert!(a.contains("10.0.0.7".parse().unwrap()));
        assert!(!a.contains("10.0.1.0".parse().unwrap()));
        assert!(a.contains("fd00:0:0:2::1".parse().unwrap()));
        assert!(!a.contains("fd00:0:0:2::2".parse().unwrap()));
        assert!(a.intersects(&set(&["10.0.0.0/8"])));
        assert!(a.intersects(&set(&["fd00::5/128"])));
        assert!(!a.intersects(&set(&["fd00:0:0:3::/64", "11.0.0.0/8"])));
        assert!(!a.intersects(&AddressSet::default()));
    }

    #[test]
    fn overlap_is_by_containment() {
        let nets: Vec<(IpNet, usize)> = ["10.0.0.0/8", "fd00::/48", "10.9.0.0/16"]
            .iter()
            .enumerate()
            .map(|(i, n)| (n.parse().unwrap(), i))
            .collect();
        assert_eq!(first_overlap(&nets), Some((0, 2)));
        assert_eq!(first_overlap(&nets[..2]), None);
    }

    fn nets() -> impl Strategy<Value = AddressSet> {
        let v4 = (0_u32..64, 24_u8..=32)
            .prop_map(|(a, len)| IpNet::V4(Ipv4Net::new((0x0a00_0000 + a * 5).into(), len).unwrap().trunc()));
        let v6 = (0_u128..64, 120_u8..=128).prop_map(|(a, len)| {
            IpNet::V6(
                Ipv6Net::new(((0xfd_u128 << 120) | (a * 5)).into(), len)
                    .unwrap()
                    .trunc(),
            )
        });
        prop::collection::vec(prop_oneof![v4, v6], 0..12).prop_map(|nets| nets.into_iter().collect())
    }

    proptest! {
        #[test]
        fn an_address_is_in_the_intersection_iff_it_is_in_both(a in nets(), b in nets(), at in 0_u32..330) {
            let both = intersection(&a, &b);
            let v4 = IpAddr::V4((0x0a00_0000 + at).into());
            let v6 = IpAddr::V6(((0xfd_u128 << 120) | u128::from(at)).into());
            for address in [v4, v6] {
                prop_assert_eq!(both.contains(address), a.contains(address) && b.contains(address));
            }
            prop_assert_eq!(intersection(&b, &a), both);
        }
    }
}
