#!/bin/bash
# Two tenants with the same addresses share a hub, and nothing else.
#
#     red1  10.10.0.10 ── s1 ┐                ┌ s2 ── 10.20.0.10  red2     network red (1)
#                            ├─ wan ── hub ───┤
#     blue1 10.10.0.10 ── s3 ┘                └ s4 ── 10.20.0.10  blue2    network blue (2), the same LANs
#                     here 10.60.0.10 ─┘       └──── 10.40.0.10  only     a LAN of red at the hub, one that only blue has
#
# Both families. What one tenant has open, tracked or cut is nothing to the other, also where an operator's own route leads
# from one network to the other. A host that can't keep two networks apart says which, and opens neither to the other.
. "$(dirname "$0")/lab/lib.sh"

mkhost hub s1 s2 s3 s4
underlay hub s1 s2 s3 s4
lan s1 lan0 red1 10.10.0.1/24 fd00:10::1/64
lan s2 lan0 red2 10.20.0.1/24 fd00:20::1/64
lan s3 lan0 blue1 10.10.0.1/24 fd00:10::1/64
lan s4 lan0 blue2 10.20.0.1/24 fd00:20::1/64
lan s4 lan1 only 10.40.0.1/24 fd00:40::1/64
lan hub lan0 here 10.60.0.1/24 fd00:60::1/64
forwarding hub s1 s2 s3 s4 # the worst case: everyone routes
fleet_site
fleet_node hub 1 "${V4[hub]}"
for n in 1 2 3 4; do fleet_node "s$n" $((n + 1)); done
port() { echo "{ subnet = \"10.$2.0.0/24\", interface = \"$1\" }, { subnet = \"fd00:$2::/64\", interface = \"$1\" }"; } # IF N
behind() { echo '{ subnet = "10.60.0.0/24", via = "10.10.0.254" }, { subnet = "fd00:60::/64", via = "fd00:10::254" }'; }
# networks RED-RULES BLUE-RULES: words out of `all`, `ping`, `web` (tcp 7000). Blue has red's LAN at the hub among its
# prefixes, too: were it let through, nothing further on would stop it.
networks() {
  local network word
  fleet_network red 1 "{ node = \"hub\", role = \"hub\", lans = [$(port lan0 60)] }" \
    "{ node = \"s1\", lans = [$(port lan0 10)] }" "{ node = \"s2\", lans = [$(port lan0 20)] }"
  fleet_network blue 2 hub:hub "{ node = \"s3\", lans = [$(port lan0 10), $(behind)] }" \
    "{ node = \"s4\", lans = [$(port lan0 20), $(port lan1 40)] }"
  for network in red blue; do
    for word in $1; do
      case $word in
        all) fleet_rule "$network" all any any any ;;
        web) fleet_rule "$network" web any any tcp 7000 ;;
        ping) fleet_rule "$network" ping any any icmp ;;
      esac
    done
    shift
  done
}
everyone=(hub s1 s2 s3 s4)
networks 'ping web' 'ping'
bring_up "${everyone[@]}"
declare -A FROM=([4]=10.10.0.10 [6]=fd00:10::10) TO=([4]=10.20.0.10 [6]=fd00:20::10) ONLY=([4]=10.40.0.10 [6]=fd00:40::10)
for host in red2 blue2 only; do serve "$host" 'tcp,*,7000' 'udp,*,7000'; done
for family in 4 6; do
  wait_for "red carries v$family" 15 prints reply pinged red1 "${TO[$family]}"
  wait_for "blue carries v$family" 15 prints reply pinged blue1 "${TO[$family]}"
done

# What passes in red is tracked there. The same addresses and ports in blue are another connection, which no rule allows.
# from TENANT FAMILY PORT PAYLOAD SPEC: asked from the tenant's address and this port of it.
from() { asked "$1" --source "${FROM[$2]}" --source-port "$3" --payload "$4" "$5"; }
# twin TENANT: a connection that goes on, from the same address and port in both; `said` is how many echoes it has had.
twin() { flow "$1" "$LAB/flow-$1-$family" --source "${FROM[$family]}" --source-port 40000 "tcp,${TO[$family]},7000"; }
said() { cat "$LAB/flow-$1-$family" 2>/dev/null || echo 0; }
for family in 4 6; do
  to=${TO[$family]}
  # Blue's spokes allow it already, the hub doesn't: were the state in the hub shared, it would pass there as established.
  networks 'ping web' 'ping web'
  republish s1 s2 s3 s4
  networks 'ping web' 'ping'
  republish hub
  twin red1
  wait_for "v$family: a connection runs in red" 10 eval '(( $(said red1) > 5 ))'
  expect "v$family: its twin of blue is nobody's: no rule, no answer" "$NO_TCP" from blue1 "$family" 40000 twin "tcp,$to,7000"
  refute "v$family: and nothing of it arrives, at either" eval "arrived blue2 twin || arrived red2 twin"
  # With a rule of its own, each tenant talks to its own, at once and by the same addresses and ports.
  networks 'ping web' 'ping web'
  republish hub
  twin blue1
  wait_for "v$family: with a rule in blue, its twin runs, too" 10 eval '(( $(said blue1) > 5 ))'
  expect "v$family: red hears red" ok from red1 "$family" 40001 "red-$family" "tcp,$to,7000"
  expect "v$family: blue hears blue" ok from blue1 "$family" 40001 "blue-$family" "tcp,$to,7000"
  check "v$family: each at its own" eval "arrived red2 red-$family && arrived blue2 blue-$family"
  refute "v$family: and not at the other" eval "arrived red2 blue-$family || arrived blue2 red-$family"

  # What is narrowed in red is cut in red.
  networks 'ping' 'ping web'
  republish "${everyone[@]}"
  red=$(said red1) blue=$(said blue1)
  wait_for "v$family: red's rule is gone: its twin of blue goes on" 10 eval '(( $(said blue1) > blue + 10 ))'
  expect "v$family: and the connection in red stands still" "@($red|$((red + 1)))" said red1
done

# An operator's own route leads from red into blue, at the hub. An accept in one network, or in both, opens nothing of the
# other: what enters by red leaves by red.
ip -n hub route add 10.40.0.0/24 dev wg-sdwan-2 table 10001 metric 5
ip -n hub -6 route add fd00:40::/64 dev wg-sdwan-2 table 10001 metric 5
crossed() { asked here --timeout 0.3 --payload "$1-$2" "udp,${ONLY[$2]},7000" >/dev/null || true; }
guarded() { on hub nft -j list counter inet sdwand n1-from-guard | jq -e '.nftables[] | .counter.packets // empty'; }
for way in 'all none' 'none all' 'all all'; do
  read -r red blue <<<"$way"
  networks "ping $red" "ping $blue"
  republish "${everyone[@]}"
  for family in 4 6; do
    before=$(guarded)
    crossed "$red-$blue" "$family"
    check "v$family: red $red, blue $blue: the hub refuses what leads from red into blue" eval '(( $(guarded) > before ))'
    refute "v$family: red $red, blue $blue: nothing of it arrives" arrived only "$red-$blue-$family"
  done
done
# It was the hub's firewall: without it, all that is on the way lets it through.
if has_wireguard; then
  stop_daemon hub
  on hub nft delete table inet sdwand
  for family in 4 6; do
    crossed open "$family"
    wait_for "v$family: without the hub's firewall it arrives" 5 arrived only "open-$family"
  done
  start_daemon hub
  require wait_for "hub: converged" 20 converged hub
else
  skip "without the hub's firewall it would arrive: embedded WireGuard goes with the daemon that heals the firewall"
fi
ip -n hub route del 10.40.0.0/24 table 10001 metric 5
ip -n hub -6 route del fd00:40::/64 table 10001 metric 5

# A tenant sees nothing of the hosts on its way but what is the network's.
networks 'all' 'all'
republish "${everyone[@]}"
for host in s1 hub; do serve "$host" 'tcp,*,7100' 'udp,*,7100'; done
for host in s1 hub; do
  expect "v4: red's LAN → $host's underlay address" "$NO_TCP" asked red1 --payload under "tcp,${V4[$host]},7100"
  expect "v6: red's LAN → $host's underlay address" "$NO_TCP" asked red1 --payload under "tcp,${V6[$host]},7100"
  asked red1 --timeout 0.3 --payload under "udp,${V4[$host]},7100" "udp,${V6[$host]},7100" >/dev/null || true
  refute "$host: nothing arrived" arrived "$host" under
done

# Both networks' LANs on one host: with VRFs it would do, without it is refused, by name.
fleet_network red 1 hub:hub "{ node = \"s1\", lans = [$(port lan0 10)] }"
fleet_network blue 2 hub:hub '{ node = "s1", lans = [{ subnet = "10.10.0.0/25", interface = "lan1" }] }'
publish s1
host_config s1 '[isolation]' 'backend = "rules"'
status "without VRFs, two LANs that overlap on one host are a bad configuration" 2 sdw s1 check
check "which names both networks and the addresses" grep -E 'networks "(red|blue)" and "(red|blue)" share local addresses \(10\.10\.0\.0/2[45]\)' "$LAB/said"
wait_for "and the daemon keeps what it had" 5 prints '*red*' sdw s1 status
host_config s1
if has_vrf; then
  status "with VRFs it is a good one" 0 sdw s1 check
fi
