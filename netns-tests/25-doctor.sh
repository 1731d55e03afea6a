#!/bin/bash
# `sdwand doctor` on a host where one thing after another is wrong: each is named with its fix, and nothing else.
#
#     s1 ── wan ── hub
. "$(dirname "$0")/lab/lib.sh"

mkhost hub s1
underlay hub s1
fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node s1 2
fleet_network prod 1 hub:hub s1
fleet_rule prod ping any any icmp
bring_up hub s1
on s1 chmod 0700 /var/lib/sdwand # as tmpfiles.d makes it
# The checks that aren't ok, but for what the kernel of this lane lacks.
found() {
  sdw s1 doctor --json | jq -r '.checks[] | select(.verdict != "ok" and .check != "wireguard" and .check != "vrf") | "\(.check) \(.verdict)"' | sort
}
fix() { sdw s1 doctor --json | jq -r --arg check "$1" '.checks[] | select(.check == $check) | .fix'; }
expect "a healthy host has nothing" '' found
check "and the exit status says so" sdw s1 doctor

# As docker leaves it.
on s1 nft -f - <<'NFT'
table ip filter {
  chain DOCKER-USER { }
  chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER; }
}
NFT
expect "a chain like docker's is found" 'foreign_chains warning' found
check "with the way through it" eval 'fix foreign_chains | grep -q "iptables -I DOCKER-USER -i sdwan-+ -j ACCEPT"'
check "it may be in the way: no failure" sdw s1 doctor
on s1 nft delete table ip filter
# An input chain of the operator's own, which closes the port of the overlay.
on s1 nft -f - <<'NFT'
table inet mine {
  chain input { type filter hook input priority filter; policy drop; iif lo accept; }
}
NFT
expect "one that closes the port is found" 'foreign_chains warning' found
way=$(fix foreign_chains)
check "and its fix, done as it is written," on s1 sh -c "$way"
wait_for "lets the overlay through" 10 prints reply oping s1 1 "$(v6 1 1)"
on s1 nft delete table inet mine

on s1 sysctl -qw net.ipv4.conf.up0.rp_filter=1
expect "a strict reverse path filter" 'rp_filter warning' found
on s1 sysctl -qw net.ipv4.conf.up0.rp_filter=0
chmod 0644 "$LAB/hosts/s1/etc/node.key"
expect "a key that others can read" 'files failure' eval 'found | grep files'
status "is a failure" 2 sdw s1 doctor
check "and its fix, done as it is written," on s1 sh -c "$(fix files)"
expect "ends it" '' found
echo 'nonsense = 1' >"$LAB/hosts/s1/etc/fleet.d/99-bad.toml"
expect "a bad configuration" 'config failure' found
rm "$LAB/hosts/s1/etc/fleet.d/99-bad.toml"
stop_daemon s1
expect "a daemon that doesn't run" 'daemon warning' found
