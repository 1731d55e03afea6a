#!/bin/bash
# `sdwand doctor` on a host where one thing after another is wrong: each is named with its fix, and nothing else.
#
#     s1 ── wan ── hub        s2 is in the fleet, and never comes
. "$(dirname "$0")/lab/lib.sh"

mkhost hub s1
underlay hub s1
fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node s1 2
fleet_node s2 3
fleet_network prod 1 hub:hub s1 s2
fleet_rule prod ping any any icmp
fleet_rule prod web any node=s1 tcp 7000
bring_up hub s1
wait_for "s1 → hub, ping" 15 prints reply oping s1 1 "$(v6 1 1)"
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
# What the fix does, in nft's words: there may be no iptables here.
for way in 'iifname "sdwan-*"' 'iifname "wg-sdwan-*"' 'oifname "wg-sdwan-*"'; do
  check "the way through it has $way" eval '[[ $(fix foreign_chains) = *" -${way:0:1} $(cut -d\" -f2 <<<"$way" | tr "*" +) -j ACCEPT"* ]]'
done
for way in 'iifname "sdwan-*"' 'iifname "wg-sdwan-*"' 'oifname "wg-sdwan-*"'; do on s1 nft insert rule ip filter DOCKER-USER "$way" counter accept; done
expect "once that is done, it is in nobody's way" '' found
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
expect "and is the end of it" '' found
on s1 nft delete table inet mine

# The hub carries what is others'; s2 never calls it.
told() { sdw hub doctor --json | jq -r --arg check "$1" '.checks[] | select(.check == $check) | "\(.verdict) \(.text)"'; }
expect "a peer that never shook hands is named" '*warning*s2 of prod: never*' told handshakes
set_sysctl hub net.ipv4.conf.wg-sdwan-1.forwarding=0
expect "forwarding that is off" '*failure*net.ipv4.conf.wg-sdwan-1.forwarding*' told forwarding
check "and its fix, done as it is written," on hub sh -c "$(sdw hub doctor --json | jq -r '.checks[] | select(.check == "forwarding") | .fix // "true"')"
expect "ends it" 'ok*' told forwarding
if has_vrf; then
  serve s1 'tcp,*,7000'
  expect "a service that a rule names and that is in no VRF" 'listeners warning' found
  check "with the way into it" eval 'fix listeners | grep -q "ip vrf exec sdwan-1"'
  pkill -P "$LAST_PID" # the server itself: LAST_PID is the shell around it
  oserve s1 1 'tcp,*,7000'
  wait_for "one in the VRF is right" 5 prints '' found
else
  skip "without VRFs every service is in reach"
fi

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
