//! `sdwand config defaults`: both documents with every key and its default.

/// `sdwand.toml` with every key. Lines behind `# ` can be uncommented: they show what a key or table would hold, where
/// its absence means something else.
#[must_use]
pub fn host_document() -> &'static str {
    r#"# sdwand.toml: this host. Every key with its default.

format           = 1
node             = "hub-a1"                      # who this host is in the fleet; has no default
private_key_file = "/etc/sdwand/node.key"        # WireGuard, mode 0600
state_dir        = "/var/lib/sdwand"
run_dir          = "/run/sdwand"

[fleet]
dir = "/etc/sdwand/fleet.d"

[reconcile]
mode             = "auto"                        # "auto", or "manual": a changed fleet waits for `sdwand apply`
interval_seconds = 30                            # 1 to 86400
debounce_ms      = 200                           # 0 to 60000

[wireguard]
backend = "auto"                                 # "auto", "kernel", "userspace"

[isolation]
backend              = "auto"                    # "auto", "vrf", "rules"
host_services_in_vrf = false

[frr]
vtysh      = "/usr/bin/vtysh"
vty_socket = "/var/run/frr"                      # or pathspace = "name"

# [ovn]                                          # absent: no OVN
# northbound   = "tcp:127.0.0.1:6641"            # tcp:, ssl:, unix:
# southbound   = "tcp:127.0.0.1:6642"
# open_vswitch = "unix:/var/run/openvswitch/db.sock"
# encap        = "geneve"                        # "geneve", "vxlan"
# tls = { ca = "/etc/sdwand/ovn-ca.pem", cert = "/etc/sdwand/ovn.pem", key = "/etc/sdwand/ovn-key.pem" }

# [federation]                                   # on the site's gateways only
# listen                = "[::]:8443"
# url                   = "https://site-a.example.com:8443"   # has no default; absent behind NAT, with dialable = false
# dialable              = true
# grace_hours           = 24
# allow_dial            = []                     # private ranges that peers may name as endpoints
# verify                = "none"                 # "none", "code"
# require_explicit_axes = false
# heartbeat_seconds     = 60
# stale_after_seconds   = 150
# operator_contact      = "noc@site-a.example"   # absent: none
# jurisdiction          = "JP"                   # absent: none
# residency             = "permissive"           # "permissive", or "refuse": no grants and bridges for another jurisdiction
# compatible_versions   = []                     # of peers, like "1.4" or "1.4..1.7"; else the same major, minors one apart
# incompatible_versions = []                     # win over compatible_versions
# metrics_listen        = "127.0.0.1:9587"       # of `sdwand serve`; absent: off; a loopback address only
# payload               = "/etc/sdwand/federation-payload.json"   # what a parent left for the first start
# cluster = { kind = "etcd", address = "etcd.site-a.example:2379", credential = "vault:sdwan/etcd" }   # that children join; absent: none

[api]                                            # the operators' API has its unix sockets always
# listen   = "[::1]:8444"                        # absent: no TCP; https by the site's CA
plain_http = false                               # http instead, on a loopback address only

[metrics]                                        # of `sdwand run`
# listen = "127.0.0.1:9586"                      # absent: off; a loopback address only

[approvals]                                      # each "none" or "require": a second operator
propose       = "none"
accept        = "none"
revoke        = "none"                           # nothing else: what must stop waits for nobody
bridge        = "none"
anchor        = "none"
tenant        = "none"
compose       = "none"
timeout_hours = 4

[log]
level  = "info"                                  # "error", "warn", "info", "debug", "trace"
format = "auto"                                  # "auto", "text", "json"
"#
}

/// A fragment with every key. Lines behind `# ` can be uncommented, as in [`host_document`].
#[must_use]
pub fn fleet_document() -> &'static str {
    r#"# fleet.d/*.toml: the site, the same on every host. Every key with its default.
# Names are [a-z0-9][a-z0-9-]*, at most 48 bytes, and unique over all fragments.

format = 1

[site]                                           # exactly one fragment has it
name     = "site-a"                              # has no default
prefix   = "fd12:34ab:cd42::/48"                 # has no default; `sdwand init` draws one (RFC 4193)
# asn    = 4200000001                            # absent: from the name's hash, in the private range of RFC 6996
gateways = []                                    # who runs `sdwand serve`

[[nodes]]
name        = "hub-a1"                           # has no default
public_key  = "qyZM0n/nfE4oy3WbcOMEEEhHnPs+LsxOddSahMSLN2A="   # has no default; `sdwand pubkey` prints it
# next_public_key = "gRh13BaDxfSNZ3zEaHSxHRyRUd3JdcUpDn6GLvqsIGc="   # the key it is about to have
endpoints   = ["203.0.113.5"]                    # default []: not reachable from outside
tags        = []
host_id     = 1                                  # absent: IPv6 from the name's hash; needed for IPv4

[[nodes]]
name        = "spoke-a1"
public_key  = "T5y0uKJbdJxuVgp2AQeYdoWU1DfKH5nzZJv6wYzTnkE="
host_id     = 11

[[networks]]
name              = "prod"                       # has no default
id                = 1                            # 1 to 9999; has no default
topology          = "hub_and_spoke"              # "hub_and_spoke", "full_mesh"
routing           = "ibgp"                       # "ibgp", "static"
isolation         = "vrf"                        # "vrf", "none"
default_action    = "drop"                       # "drop", "accept" (for the overlay only)
prefix            = "fd12:34ab:cd42:1::/64"      # from the site's prefix and the id
# prefix_v4       = "100.64.1.0/24"              # 100.64.0.0/10 + id × /24 where a LAN is IPv4; absent else
# workload_prefix = "fd12:34ab:cd42:f001::/64"   # absent: workloads get addresses of `prefix`
listen_port       = 51820                        # 51819 + id
# mtu             = 1420                         # 1280 to 65455; absent: what the ways to peers take, at most 1420
keepalive_seconds = 25                           # 0: none
members = [
  # role: "spoke" unless given. By `node`, or by `tag`. lans, endpoints and listen_port are the member's own.
  { node = "hub-a1", role = "hub", lans = [] },
  { node = "spoke-a1" },
]
bgp = { hold_seconds = 90, keepalive_seconds = 30, graceful_restart = true, bfd = { rx_ms = 200, tx_ms = 200, multiplier = 3 } }

[[networks.rules]]
name     = "ping"                                # has no default
priority = 1000                                  # lower first, then by name
action   = "accept"                              # "accept", "drop", "reject"; has no default
from     = "any"                                 # { node }, { tag }, { lan_of }, { vip }, { cidr }, { federation }, "any"; no default
to       = "any"                                 # likewise
protocol = "any"                                 # "any", "tcp", "udp", "icmp"
# ports  = ["443", "8000-8010"]                  # TCP and UDP only; absent: all
log      = false
enabled  = true

[[networks.virtual_ips]]
name    = "api"                                  # has no default
address = "::100"                                # host part, or a full address; has no default
holders = ["spoke-a1"]                           # the first is active; has no default
anycast = false
# med        = 100                               # absent: none
# local_pref = 100                               # absent: none
# health     = { tcp = 6443, interval_seconds = 2, failures = 3 }   # absent: none

[[networks.port_mappings]]
name                  = "https"                  # has no default
hub                   = "hub-a1"                 # has no default
listen_port           = 443                      # has no default
protocol              = "tcp"                    # "tcp", "udp"
to                    = { vip = "api" }          # or { node }; has no default
target_port           = 443                      # listen_port
source_cidrs          = ["0.0.0.0/0", "::/0"]
max_connections       = 2000
rate_limit_per_second = 500
enabled               = true

[[networks.route_policies]]
name       = "all"                               # has no default
direction  = "import"                            # "import", "export"; has no default
# scope    = { node = "hub-a1" }                 # or { bridge }; absent: the whole network
statements = [                                   # has no default
  # match: prefix_in as_path_regex community_in tag_in peer_in; set: local_pref med prepend_as_path add_community
  { match = {}, set = {}, action = "accept" },   # "accept", "reject"
]
enabled    = true

[[networks.ovn_switches]]
name    = "vms"                                  # has no default
stretch = false
ports   = [{ name = "vm1", kind = "vm", node = "hub-a1", mac = "02:00:00:00:00:01", addresses = ["::a1"] }]   # kind: vm, container, external
acls    = [{ name = "ping", direction = "to-lport", priority = 2000, match = "icmp6", action = "allow-related", log = false }]

[[networks]]
name    = "shared"
id      = 2
members = [{ node = "hub-a1", role = "hub" }]

[[route_leaks]]
from      = "shared"                             # has no default
to        = "prod"                               # has no default
direction = "one_way"                            # "one_way", "bidirectional"
prefixes  = ["fd12:34ab:cd42:2::/64"]            # has no default

[[bridges]]
name     = "prod-b"                              # has no default
peer     = "site-b"                              # the local alias of the peer; has no default
network  = "prod"                                # has no default
# remote_network = "prod"                        # what the peer calls it; the same name unless given
gateways = ["hub-a1"]                            # has no default
import   = []
export   = []                                    # prefixes, or { vip = "api" }
enabled  = true

[[offers]]                                       # a virtual IP that the peer of a bridge may use: exported, with a rule of this name
name     = "db"                                  # what the peer calls it; has no default
bridge   = "prod-b"                              # has no default
vip      = "api"                                 # of the bridge's network; has no default
protocol = "tcp"                                 # "tcp", "udp"
ports    = ["5432"]                              # has no default
# description = "PostgreSQL 17"                  # what the peer reads of it; absent: nothing

[[subscriptions]]                                # a service of the peer: imported, with a rule of this name
name     = "logs"                                # has no default
bridge   = "prod-b"                              # has no default
service  = "logs"                                # what the peer calls it; the same name unless given
address  = "fd77:1:2:1::7"                       # has no default
protocol = "udp"                                 # "tcp" (default), "udp"
ports    = ["514"]                               # has no default
from     = "any"                                 # who may use it: { node }, { tag }, { lan_of }, { vip }, { cidr }, "any"

[[tenants]]
key     = "acme"                                 # has no default
id      = 20                                     # has no default
members = []
# cidr  = "fd12:34ab:cd42:20::/64"               # the network's prefix
"#
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::config::{parse_fleet, parse_host};
    use crate::model::Fleet;
    use crate::model::host::HostConfig;

    fn host(text: &str) -> HostConfig {
        parse_host(Path::new("/etc/sdwand/sdwand.toml"), text)
            .unwrap_or_else(|errors| panic!("{errors}"))
            .0
    }

    fn fleet(text: &str) -> Fleet {
        let fragments = [(PathBuf::from("00.toml"), text.to_owned())];
        let mut fleet = parse_fleet(&fragments)
            .unwrap_or_else(|errors| panic!("{errors}"))
            .fleet;
        fleet.digest.0 = [0; 32];
        fleet
    }

    fn uncommented(text: &str, keep: impl Fn(&str) -> bool) -> String {
        let lines = text.lines().map(|line| match line.strip_prefix("# ") {
            Some(rest) if (rest.starts_with('[') || rest.contains(" = ")) && keep(rest) => rest,
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_host_document_holds_the_defaults() {
        assert_eq!(host(host_document()), host("node = \"hub-a1\""));
    }

    #[test]
    fn the_hosts_commented_tables_hold_their_defaults() {
        let all = host(&uncommented(host_document(), |line| !line.starts_with("tls")));
        let bare = "node = \"hub-a1\"\n[ovn]\n[federation]\nurl = \"https://site-a.example.com:8443\"\n\
             metrics_listen = \"127.0.0.1:9587\"\n\
             operator_contact = \"noc@site-a.example\"\njurisdiction = \"JP\"\n\
             cluster = { kind = \"etcd\", address = \"etcd.site-a.example:2379\", credential = \"vault:sdwan/etcd\" }\n\
             [api]\nlisten = \"[::1]:8444\"\n[metrics]\nlisten = \"127.0.0.1:9586\"\n";
        assert_eq!(all, host(bare));
        let with_tls = host(&uncommented(host_document(), |_| true));
        assert!(with_tls.ovn.unwrap().tls.is_some());
    }

    #[test]
    fn the_fragment_holds_the_defaults() {
        let required = r#"
            [site]
            name = "site-a"
            prefix = "fd12:34ab:cd42::/48"
            [[nodes]]
            name = "hub-a1"
            public_key = "qyZM0n/nfE4oy3WbcOMEEEhHnPs+LsxOddSahMSLN2A="
            endpoints = ["203.0.113.5"]
            host_id = 1
            [[nodes]]
            name = "spoke-a1"
            public_key = "T5y0uKJbdJxuVgp2AQeYdoWU1DfKH5nzZJv6wYzTnkE="
            host_id = 11
            [[networks]]
            name = "prod"
            id = 1
            members = [{ node = "hub-a1", role = "hub" }, { node = "spoke-a1" }]
            rules = [{ name = "ping", action = "accept", from = "any", to = "any" }]
            virtual_ips = [{ name = "api", address = "::100", holders = ["spoke-a1"] }]
            port_mappings = [{ name = "https", hub = "hub-a1", listen_port = 443, to = { vip = "api" } }]
            route_policies = [{ name = "all", direction = "import", statements = [{ action = "accept" }] }]
            [[networks.ovn_switches]]
            name = "vms"
            ports = [{ name = "vm1", kind = "vm", node = "hub-a1", mac = "02:00:00:00:00:01", addresses = ["::a1"] }]
            acls = [{ name = "ping", direction = "to-lport", priority = 2000, match = "icmp6", action = "allow-related" }]
            [[networks]]
            name = "shared"
            id = 2
            members = [{ node = "hub-a1", role = "hub" }]
            [[route_leaks]]
            from = "shared"
            to = "prod"
            prefixes = ["fd12:34ab:cd42:2::/64"]
            [[bridges]]
            name = "prod-b"
            peer = "site-b"
            network = "prod"
            gateways = ["hub-a1"]
            [[offers]]
            name = "db"
            bridge = "prod-b"
            vip = "api"
            ports = ["5432"]
            [[subscriptions]]
            name = "logs"
            bridge = "prod-b"
            address = "fd77:1:2:1::7"
            protocol = "udp"
            ports = ["514"]
            [[tenants]]
            key = "acme"
            id = 20
        "#;
        assert_eq!(fleet(fleet_document()), fleet(required));
    }

    #[test]
    fn the_fragments_commented_keys_exist() {
        let text = uncommented(fleet_document(), |line| !line.starts_with("ports"));
        let fleet = fleet(&text);
        let prod = fleet.networks.values().next().unwrap();
        assert_eq!(prod.mtu, Some(1_420));
        assert_eq!(fleet.site.asn, 4_200_000_001);
        assert!(prod.virtual_ips[0].health.is_some());
        assert!(fleet.offers.values().all(|offer| offer.description.is_some()));
    }
}
