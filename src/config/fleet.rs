//! `fleet.d/*.toml`: the fragments of one site, merged.
//!
//! ```text
//! fragment ─ parse ─ tree ─ read ─▶ draft ┐
//! fragment ─ parse ─ tree ─ read ─▶ draft ┼─ resolve (what follows from the site's prefix) ─▶ Fleet ─ check
//! ```
//!
//! A tree lives only while its fragment is read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::{Digest as _, Sha256};
use toml::de::DeTable;

use super::diag::{Diagnostic, DiagnosticKind, Diagnostics, Notice};
use super::document::{self, MAX_FLEET_BYTES, MAX_FRAGMENTS};
use super::files::{Files, Problem, Spot};
use super::network::{self, NetworkDraft};
use super::reader::{Bad, Cursor, Sink};
use super::{locate, ovn, routing, services};
use crate::model::check::{self, Object};
use crate::model::network::{Endpoint, Network};
use crate::model::{Fleet, FleetDigest, Name, Node, Site, naming, service};

/// The only format there is.
const FORMAT: u32 = 1;

/// A fleet without errors.
#[derive(Clone, Debug)]
pub struct ParsedFleet {
    /// The fleet.
    pub fleet: Fleet,
    /// What is worth knowing about it.
    pub notices: Vec<Notice>,
}

/// Reads and checks a fleet.
///
/// `fragments` are paths, for messages only, and texts, in order of their file names.
///
/// # Errors
/// Everything that is wrong in any fragment, at once.
pub fn parse_fleet(fragments: &[(PathBuf, String)]) -> Result<ParsedFleet, Diagnostics> {
    let mut session = Session::default();
    let fragments = fragments
        .iter()
        .map(|(path, text)| (path.as_path(), text.as_str()));
    let fleet = session.read_fleet(fragments, Path::new("fleet.d"));
    session.finish(fleet)
}

/// The texts of one configuration, and what was found in them.
#[derive(Default)]
pub(super) struct Session {
    pub files: Files,
    pub problems: Vec<Problem>,
    /// Problems that aren't at a place in a text.
    pub outside: Vec<Diagnostic>,
    pub notices: Vec<Notice>,
    pub spots: BTreeMap<Object, Spot>,
    broken: Broken,
}

/// What couldn't be read: nobody should be told that it doesn't exist.
#[derive(Debug, Default)]
pub(super) struct Broken {
    /// A whole fragment, or part of it.
    pub fragment: bool,
    /// Objects, by name.
    pub names: BTreeSet<Name>,
    /// Some part of a node.
    pub nodes: bool,
    /// Networks of which a member, LAN or prefix is wrong.
    pub networks: BTreeSet<Name>,
}

/// What the fragments say before anything is derived.
#[derive(Default)]
struct Draft {
    site: Option<Site>,
    nodes: BTreeMap<Name, Node>,
    networks: BTreeMap<Name, NetworkDraft>,
    route_leaks: Vec<crate::model::routing::RouteLeak>,
    bridges: BTreeMap<Name, crate::model::routing::Bridge>,
    offers: BTreeMap<Name, service::Offer>,
    subscriptions: BTreeMap<Name, service::Subscription>,
    tenants: BTreeMap<Name, crate::model::ovn::Tenant>,
}

impl Session {
    /// Ends a reading: the notices, or every error.
    pub fn finish(mut self, fleet: Option<Fleet>) -> Result<ParsedFleet, Diagnostics> {
        match fleet {
            Some(fleet) if !self.has_errors() => {
                self.notices.sort();
                Ok(ParsedFleet {
                    fleet,
                    notices: self.notices,
                })
            }
            _ => Err(self.into_diagnostics()),
        }
    }

    pub fn has_errors(&self) -> bool {
        !self.problems.is_empty() || !self.outside.is_empty()
    }

    pub fn into_diagnostics(self) -> Diagnostics {
        let mut all = self.outside;
        all.extend(
            self.problems
                .into_iter()
                .map(|problem| self.files.diagnose(problem)),
        );
        Diagnostics::new(all)
    }

    /// Marks the fleet as incomplete: what a missing part would have held isn't reported as missing.
    pub fn incomplete(&mut self) {
        self.broken.fragment = true;
    }

    /// Reads the fragments and checks them together. `None` where there is no site.
    pub fn read_fleet<'f>(
        &mut self,
        fragments: impl Iterator<Item = (&'f Path, &'f str)> + Clone,
        folder: &Path,
    ) -> Option<Fleet> {
        let total: usize = fragments.clone().map(|(_, text)| text.len()).sum();
        let count = fragments.clone().count();
        if count > MAX_FRAGMENTS || total > MAX_FLEET_BYTES {
            let message = format!(
                "{count} fragments with {total} bytes: the limit is {MAX_FRAGMENTS} with {MAX_FLEET_BYTES}"
            );
            self.outside(DiagnosticKind::Limit, folder, message, None);
            return None;
        }
        let mut draft = Draft::default();
        let mut digest = Sha256::new();
        for (path, text) in fragments {
            digest.update((text.len() as u64).to_be_bytes());
            digest.update(text.as_bytes());
            self.read_document(path, text, |session, root| {
                session.read_fragment(root, &mut draft);
            });
        }
        let mut fleet = self.resolve(draft, folder, FleetDigest(digest.finalize().into()));
        let mut expanded = service::expand(&mut fleet);
        let mut findings = std::mem::take(&mut expanded.findings);
        findings.extend(expanded.trace(check::check_fleet(&fleet)));
        self.report(findings, &fleet);
        Some(fleet)
    }

    /// Notes findings as errors or notices.
    pub fn report(&mut self, findings: Vec<check::Finding>, fleet: &Fleet) {
        let located = locate::locate(&self.files, &self.spots, &self.broken, fleet, findings);
        self.problems.extend(located.problems);
        self.notices.extend(located.notices);
    }

    pub fn outside(&mut self, kind: DiagnosticKind, path: &Path, message: String, hint: Option<&str>) {
        self.outside.push(Diagnostic::of_file(kind, path, message, hint));
    }

    /// Parses a text and has its root read.
    ///
    /// What stands behind a syntax error may mean something else than was meant, so only what is wrong before it is
    /// reported beside it.
    pub fn read_document(&mut self, path: &Path, text: &str, read: impl FnOnce(&mut Self, &Cursor<'_>)) {
        let file = self.files.add(path, text.into());
        let (tree, flaws) = document::parse(text);
        let grave = flaws.iter().filter(|flaw| !flaw.is_harmless);
        let first_flaw = grave.map(|flaw| header_before(text, flaw.span.start)).min();
        let sink = Sink::new(file);
        self.problems.extend(flaws.into_iter().map(|flaw| Problem {
            kind: if flaw.is_limit {
                DiagnosticKind::Limit
            } else {
                DiagnosticKind::Syntax
            },
            spot: sink.spot(&flaw.span),
            object: None,
            message: flaw.message,
            hint: flaw.hint,
            related: Vec::new(),
        }));
        self.broken.fragment |= first_flaw.is_some();
        {
            let tree: DeTable<'_> = tree;
            let root = Cursor::root(&tree, &sink);
            check_format(&root);
            read(self, &root);
            root.finish();
        }
        let is_reliable = |problem: &Problem| first_flaw.is_none_or(|at| (problem.spot.end as usize) <= at);
        self.problems
            .extend(sink.into_problems().into_iter().filter(is_reliable));
    }

    /// Notes where an object is; `false` where its name is taken.
    fn declare(&mut self, cursor: &Cursor<'_>, kind: &str, name: &Name, object: Object) -> bool {
        if let Some(first) = self.spots.get(&object) {
            cursor.duplicate(kind, name.as_str(), *first);
            return false;
        }
        self.spots.insert(object, cursor.spot());
        true
    }

    fn later(&mut self, spot: Spot, table: &str) {
        self.notices
            .push(self.files.notice(spot, None, format!("not yet applied: {table}")));
    }

    fn read_fragment(&mut self, root: &Cursor<'_>, draft: &mut Draft) {
        if let Some(site) = root.child("site") {
            let read = read_site(&site);
            site.finish();
            if let Some(first) = self.spots.get(&Object::Site) {
                let first = vec![(*first, "the first one is".to_owned())];
                root.sink().push(Problem {
                    kind: DiagnosticKind::Duplicate,
                    spot: site.spot(),
                    object: Some("site".to_owned()),
                    message: "there is another [site]".to_owned(),
                    hint: Some("exactly one fragment has it".to_owned()),
                    related: first,
                });
            } else {
                self.spots.insert(Object::Site, site.spot());
                draft.site = read;
            }
        }
        for cursor in root.children("nodes") {
            self.read_node(&cursor, draft);
        }
        for cursor in root.children("networks") {
            self.read_network(&cursor, draft);
        }
        for (leak, spot) in routing::read_leaks(root) {
            self.spots
                .insert(Object::RouteLeak(draft.route_leaks.len()), spot);
            draft.route_leaks.push(leak);
        }
        for cursor in root.children("bridges") {
            let (name, bridge) = routing::read_bridge(&cursor);
            let Some(name) = name else { continue };
            if !self.declare(&cursor, "bridge", &name, Object::Bridge(name.clone())) {
                continue;
            }
            match bridge {
                Some(bridge) => drop(draft.bridges.insert(name, bridge)),
                None => drop(self.broken.names.insert(name)),
            }
        }
        self.read_services(root, draft);
        for cursor in root.children("tenants") {
            let (key, tenant) = ovn::read_tenant(&cursor);
            let Some(key) = key else { continue };
            if !self.declare(&cursor, "tenant", &key, Object::Tenant(key.clone())) {
                continue;
            }
            if let Some((tenant, members)) = tenant {
                for (index, spot) in members.into_iter().enumerate() {
                    self.spots.insert(
                        Object::TenantMember {
                            tenant: key.clone(),
                            index,
                        },
                        spot,
                    );
                }
                draft.tenants.insert(key, tenant);
            }
        }
        for table in ["route_leaks", "tenants"] {
            if root.has(table) {
                self.later(root.spot_of(table), table);
            }
        }
    }

    fn read_services(&mut self, root: &Cursor<'_>, draft: &mut Draft) {
        for cursor in root.children("offers") {
            let (name, offer) = services::read_offer(&cursor);
            let Some(name) = name else { continue };
            if self.declare(&cursor, "offer", &name, Object::Offer(name.clone())) {
                draft.offers.extend(offer.map(|offer| (name, offer)));
            }
        }
        for cursor in root.children("subscriptions") {
            let (name, subscription) = services::read_subscription(&cursor);
            let Some(name) = name else { continue };
            let object = Object::Subscription(name.clone());
            if self.declare(&cursor, "subscription", &name, object) {
                let subscription = subscription.map(|subscription| (name, subscription));
                draft.subscriptions.extend(subscription);
            }
        }
    }

    fn read_node(&mut self, cursor: &Cursor<'_>, draft: &mut Draft) {
        let before = cursor.sink().count();
        let name: Option<Name> = cursor.need("name");
        let public_key = cursor.need("public_key");
        let next_public_key = cursor.get("next_public_key");
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for (endpoint, spot) in cursor.items::<Endpoint>("endpoints").unwrap_or_default() {
            if endpoint.port.is_some() {
                let bad = Bad::new("a node's endpoint is a host without a port");
                cursor.fail_at(
                    spot,
                    bad.hint("each network has its own port; a member's `endpoints` may have one"),
                );
            }
            endpoints.push(endpoint);
        }
        let tags = cursor.set("tags");
        let host_id = cursor.get("host_id");
        if host_id == Some(0) {
            cursor.fail(
                "host_id",
                Bad::new("host_id can't be 0: that address is the network's own"),
            );
        }
        cursor.finish();
        self.broken.nodes |= cursor.sink().count() > before;
        let Some(name) = name else { return };
        if !self.declare(cursor, "node", &name, Object::Node(name.clone())) {
            return;
        }
        match public_key {
            Some(public_key) => {
                let node = Node {
                    name: name.clone(),
                    public_key,
                    next_public_key,
                    endpoints,
                    tags,
                    host_id,
                };
                draft.nodes.insert(name, node);
            }
            None => drop(self.broken.names.insert(name)),
        }
    }

    fn read_network(&mut self, cursor: &Cursor<'_>, draft: &mut Draft) {
        let (name, read) = network::read(cursor);
        let Some(name) = name else { return };
        if !self.declare(cursor, "network", &name, Object::Network(name.clone())) {
            return;
        }
        let Some(mut network) = read else {
            self.broken.names.insert(name);
            return;
        };
        self.spots.extend(std::mem::take(&mut network.spots));
        self.broken.names.extend(std::mem::take(&mut network.broken));
        if network.is_shaky {
            self.broken.networks.insert(name.clone());
        }
        for (spot, table) in std::mem::take(&mut network.later) {
            self.later(spot, &table);
        }
        draft.networks.insert(name, network);
    }

    fn resolve(&mut self, draft: Draft, folder: &Path, digest: FleetDigest) -> Fleet {
        if draft.site.is_none() && !self.broken.fragment && !self.spots.contains_key(&Object::Site) {
            let hint = "exactly one fragment has it; `sdwand init` writes a first one";
            self.outside(
                DiagnosticKind::MissingKey,
                folder,
                "no fragment has a [site]".to_owned(),
                Some(hint),
            );
        }
        let site = draft.site.unwrap_or_else(|| {
            // Checking goes on with what doesn't depend on the site; there is an error already.
            self.broken.fragment = true;
            let name = Name::new("unnamed").expect("it follows the grammar");
            Site {
                asn: naming::asn(&name),
                name,
                prefix: Ipv6Net::default(),
                gateways: Vec::new(),
            }
        });
        let networks = draft.networks.into_iter();
        Fleet {
            digest,
            networks: networks
                .map(|(name, network)| (name, resolve_network(network, site.prefix)))
                .collect(),
            site,
            nodes: draft.nodes,
            route_leaks: draft.route_leaks,
            bridges: draft.bridges,
            offers: draft.offers,
            subscriptions: draft.subscriptions,
            tenants: draft.tenants,
        }
    }
}

/// `format`, which every document may have and no other number is read of.
fn check_format(root: &Cursor<'_>) {
    if let Some(format) = root.get::<u32>("format").filter(|format| *format != FORMAT) {
        let hint = if format > FORMAT {
            "a newer sdwand reads it"
        } else {
            "the first format is 1"
        };
        root.fail(
            "format",
            Bad::new(format!("this sdwand reads format {FORMAT}, not {format}")).hint(hint),
        );
    }
}

/// The beginning of the table that a byte is in: the last line before it that begins with `[`.
fn header_before(text: &str, at: usize) -> usize {
    let bytes = &text.as_bytes()[..at.min(text.len())];
    let header = |at: &usize| bytes[*at] == b'[' && (*at == 0 || bytes[*at - 1] == b'\n');
    (0..bytes.len()).rev().find(header).unwrap_or(0)
}

fn read_site(cursor: &Cursor<'_>) -> Option<Site> {
    let name: Option<Name> = cursor.need("name");
    let prefix: Option<Ipv6Net> = cursor.need("prefix");
    let prefix = prefix.filter(|prefix| {
        let is_local = prefix.network().octets()[0] == 0xfd && prefix.prefix_len() == 48;
        if !is_local {
            let bad = Bad::new(format!(
                "a site's prefix is a /48 of fd00::/8 (RFC 4193), not {prefix}"
            ));
            cursor.fail("prefix", bad.hint("`sdwand init` draws one"));
        }
        is_local
    });
    let asn = cursor.within("asn", &(1..=4_294_967_294));
    let gateways = cursor.set("gateways");
    let name = name?;
    Some(Site {
        asn: asn.unwrap_or_else(|| naming::asn(&name)),
        name,
        prefix: prefix?,
        gateways,
    })
}

/// Gives a network what follows from the site's prefix.
fn resolve_network(draft: NetworkDraft, site: Ipv6Net) -> Network {
    let mut network = draft.network;
    network.prefix = draft.prefix.unwrap_or_else(|| naming::prefix(site, network.id));
    let has_v4_lan = || {
        let mut lans = network.members.iter().flat_map(|member| &member.lans);
        lans.any(|lan| matches!(lan.subnet, IpNet::V4(_)))
    };
    network.prefix_v4 = draft
        .prefix_v4
        .or_else(|| has_v4_lan().then(|| naming::prefix_v4(network.id)));
    let (prefix, prefix_v4) = (network.prefix, network.prefix_v4);
    for vip in &mut network.virtual_ips {
        vip.address = join(vip.address, prefix, prefix_v4);
    }
    let (workload, workload_v4) = match network.workload_prefix {
        Some(IpNet::V6(workload)) => (workload, prefix_v4),
        Some(IpNet::V4(workload)) => (prefix, Some(workload)),
        None => (prefix, prefix_v4),
    };
    for port in network
        .ovn_switches
        .iter_mut()
        .flat_map(|switch| &mut switch.ports)
    {
        for address in &mut port.addresses {
            *address = join(*address, workload, workload_v4);
        }
    }
    network
}

/// An address of a prefix, where only its host part is given (`::100`, `0.0.0.7`).
fn join(address: IpAddr, prefix: Ipv6Net, prefix_v4: Option<Ipv4Net>) -> IpAddr {
    match (address, prefix_v4) {
        (IpAddr::V6(a), _) if a.segments()[..4] == [0; 4] => {
            IpAddr::V6((u128::from(prefix.network()) | u128::from(a)).into())
        }
        (IpAddr::V4(a), Some(prefix)) if a.octets()[0] == 0 => {
            IpAddr::V4(Ipv4Addr::from(u32::from(prefix.network()) | u32::from(a)))
        }
        _ => address,
    }
}
