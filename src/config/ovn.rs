//! `[[networks.ovn_switches]]` and `[[tenants]]`.

use std::collections::BTreeMap;

use super::files::Spot;
use super::network::{Parts, read_member, unique};
use super::reader::{Bad, Cursor};
use crate::model::Name;
use crate::model::check::Object;
use crate::model::network::NetworkId;
use crate::model::ovn::{OvnAcl, OvnPort, OvnPortKind, OvnSwitch, Tenant};

/// The longest key of a tenant: `tenant-<key>` is a name too.
const MAX_TENANT_KEY: usize = Name::MAX - "tenant-".len();

/// The switches of a network.
pub(super) fn read_switches(network: &Cursor<'_>, parts: &mut Parts) -> Vec<OvnSwitch> {
    let mut seen = BTreeMap::new();
    let mut switches = Vec::new();
    for cursor in network.children("ovn_switches") {
        let name: Option<Name> = cursor.need("name");
        let name = name.filter(|name| unique(&cursor, "OVN switch of this network", name, &mut seen));
        if let Some(name) = &name {
            let object = Object::OvnSwitch {
                network: parts.network.clone(),
                name: name.clone(),
            };
            parts.spots.push((object, cursor.spot()));
        }
        let stretch = cursor.or("stretch", false);
        let switch_ports = read_ports(&cursor, parts, name.as_ref());
        let acls = read_acls(&cursor);
        cursor.finish();
        switches.extend(name.map(|name| OvnSwitch {
            name,
            stretch,
            ports: switch_ports,
            acls,
        }));
    }
    switches
}

fn read_ports(switch: &Cursor<'_>, parts: &mut Parts, switch_name: Option<&Name>) -> Vec<OvnPort> {
    let mut seen = BTreeMap::new();
    let mut read = Vec::new();
    for cursor in switch.children("ports") {
        let name: Option<Name> = cursor.need("name");
        let kind: Option<OvnPortKind> = cursor.need("kind");
        let node = cursor.get("node");
        if kind.is_some_and(|kind| kind != OvnPortKind::External) && !cursor.has("node") {
            cursor.missing("node");
        }
        let mac = cursor.get("mac");
        let addresses = cursor.set("addresses");
        cursor.finish();
        let (Some(name), Some(kind)) = (name, kind) else {
            continue;
        };
        if !unique(&cursor, "port of this switch", &name, &mut seen) {
            continue;
        }
        if let Some(switch) = switch_name {
            let (network, switch) = (parts.network.clone(), switch.clone());
            parts.spots.push((
                Object::OvnPort {
                    network,
                    switch,
                    name: name.clone(),
                },
                cursor.spot(),
            ));
        }
        read.push(OvnPort {
            name,
            kind,
            node,
            mac,
            addresses,
        });
    }
    read
}

fn read_acls(switch: &Cursor<'_>) -> Vec<OvnAcl> {
    let mut seen = BTreeMap::new();
    let mut acls = Vec::new();
    for cursor in switch.children("acls") {
        let (name, direction) = (cursor.need::<Name>("name"), cursor.need("direction"));
        let priority = cursor.need_within("priority", &(0..=32_767));
        let (matches, action) = (cursor.need("match"), cursor.need("action"));
        let log = cursor.or("log", false);
        cursor.finish();
        let (Some(name), Some(direction), Some(priority), Some(matches), Some(action)) =
            (name, direction, priority, matches, action)
        else {
            continue;
        };
        if unique(&cursor, "ACL of this switch", &name, &mut seen) {
            acls.push(OvnAcl {
                name,
                direction,
                priority,
                matches,
                action,
                log,
            });
        }
    }
    acls
}

/// One of `[[tenants]]`, and the places of its members.
pub(super) fn read_tenant(cursor: &Cursor<'_>) -> (Option<Name>, Option<(Tenant, Vec<Spot>)>) {
    let key: Option<Name> = cursor.need("key");
    if key
        .as_ref()
        .is_some_and(|key| key.as_str().len() > MAX_TENANT_KEY)
    {
        cursor.fail(
            "key",
            Bad::new(format!(
                "a tenant's key has at most {MAX_TENANT_KEY} bytes: \"tenant-<key>\" is a name too"
            )),
        );
    }
    let id: Option<NetworkId> = cursor.need("id");
    let members: Vec<_> = cursor
        .children("members")
        .iter()
        .filter_map(read_member)
        .collect();
    let cidr = cursor.get("cidr");
    cursor.finish();
    let (spots, members) = members
        .into_iter()
        .map(|((spot, member), _)| (spot, member))
        .unzip();
    let tenant = match (&key, id) {
        (Some(key), Some(id)) => Some((
            Tenant {
                key: key.clone(),
                id,
                members,
                cidr,
            },
            spots,
        )),
        _ => None,
    };
    (key, tenant)
}
