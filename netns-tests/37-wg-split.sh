#!/bin/bash
# The steps of WireGuard's own selftest (Linux, tools/testing/selftests/wireguard/netns.sh) about devices so large that what is
# asked and answered goes in many messages, with a fleet: what `wg` shows is what the fleet gives, to the last prefix.
#
#     hub ── wan      network prod (1): the hub, and spokes that never come, with that many LANs
#
# tests/split_wg.rs has the selftest's own prefixes, all 130,560 on either kernel, of the device alone.
. "$(dirname "$0")/lab/lib.sh"

mkhost hub
underlay hub
# fleet SPOKES PYTHON: spokes s1, s2 …; PYTHON gives the LANs of number n.
fleet() {
  local n
  fleet_site
  fleet_node hub 1 "${V4[hub]}"
  for (( n = 1; n <= $1; n++ )); do fleet_node "s$n" $((n + 1)); done
  "$PYTHON" - "$1" "$LAB/keys" "$SITE_PREFIX" "$FLEET/20-prod.toml" "$LAB/wanted" <<PYTHON
import ipaddress, sys
count, keys, site, fragment, wanted = sys.argv[1:]
members, peers = ['{ node = "hub", role = "hub" }'], []
for n in range(1, int(count) + 1):
    lans = [str(ipaddress.ip_network(net)) for net in ($2)]
    lines = ",\n".join(f'{{subnet="{lan}",interface="lan0"}}' for lan in lans)
    members.append(f'{{ node = "s{n}", lans = [{lines}] }}')
    own = [f"{site}:1::{n + 1:x}/128", f"100.64.1.{n + 1}/32", f"fe80::{n + 1:x}/128"]
    peers += [f"{open(f'{keys}/s{n}.pub').read().strip()} {net}" for net in lans + own]
with open(fragment, "w") as file:
    file.write('format = 1\n[[networks]]\nname = "prod"\nid = 1\nrouting = "static"\nprefix_v4 = "100.64.1.0/24"\n')
    file.write("members = [" + ",\n".join(members) + "]\n")
with open(wanted, "w") as file:
    file.write("\n".join(sorted(peers)) + "\n")
PYTHON
  fleet_rule prod all any any any
}
shown() { on hub wg show wg-sdwan-1 allowed-ips | awk '{ for (i = 2; i <= NF; i++) if ($i != "(none)") print $1, $i }' | sort; }
# holds WHAT: the device has what is wanted, and nothing else.
holds() {
  shown >"$LAB/shown"
  same "$1: wg shows what the fleet gives, $(wc -l <"$LAB/wanted") prefixes" "$LAB/wanted" "$LAB/shown"
  check "$1: and can write it down" on hub wg showconf wg-sdwan-1
}
takes() { # WHAT SPOKES PYTHON
  local start
  fleet "$2" "$3"
  publish hub
  start=$(now_ms)
  wait_for "$1: there is nothing left to do" 120 converged hub
  note "after $(($(now_ms) - start)) ms"
  holds "$1"
}

fleet 1 '[]'
bring_up hub
# In the User-Mode kernel a thirtieth, which takes seconds where all would take minutes.
rows=255
if (( LAB_SLOW > 1 )); then rows=8; fi
takes "$((rows * 512)) of one peer" 1 \
  "[net for a in range($rows) for b in range(256) for net in (f'10.{a}.{b}.0/24', f'fd00:{a:x}::{b:x}/128')]"
takes "all but one are gone" 1 '["10.0.0.0/24"]'
takes "52 of each of 40" 40 '[f"10.{n}.{b}.0/24" for b in range(1, 53)]'
takes "29 without any, and one" 30 '["10.1.2.0/24", "fd00::255/128"] if n == 30 else []'
takes "one without any, and 197 of another" 2 '[f"fd00:abcd::{i}/128" for i in range(1, 198)] if n == 2 else []'
stop_daemon hub
check "down" sdw hub down
expect "nothing of ours is left" '' left_over hub
