#!/bin/bash
# First packets: a ping that a rule allows, a connection that none allows.
#
#     s1 ──┐                    network prod (1), hub and spoke:
#     s2 ──┼── wan ── hub         hub ::1, s1 ::2, s2 ::3, s3 ::4
#     s3 ──┘                    rules: ping for all; s1 → s2 tcp 7000 and udp 7000
#
# s3 is a stock WireGuard host without a firewall: what it is refused, the hub or the receiver refuses.
. "$(dirname "$0")/lab/lib.sh"

mkhost hub s1 s2 s3
underlay hub s1 s2 s3
fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node s1 2
fleet_node s2 3
fleet_node s3 4
fleet_network prod 1 hub:hub s1 s2 s3
fleet_rule prod ping any any icmp
fleet_rule prod web node=s1 node=s2 tcp 7000
fleet_rule prod dns node=s1 node=s2 udp 7000

# Before anything runs: the configuration is sound, the plan says what is to come and does nothing.
publish hub s1 s2
status "check accepts the fleet" 0 sdw hub check
ip -n hub link >"$LAB/before"
status "plan: changes are pending" 2 sdw hub plan
check "plan names the link" grep -q 'wg-sdwan-1' "$LAB/said"
ip -n hub link >"$LAB/after"
same "plan changes nothing" "$LAB/before" "$LAB/after"

bring_up hub s1 s2
status "plan: nothing is pending any more" 0 sdw hub plan
note "backend: $(on hub ip -o link show wg-sdwan-1 | cut -c -60), $(in_vrf hub 1 && echo VRF || echo 'tables and rules')"

for family in 4 6; do
  hub=$("v$family" 1 1) s1=$("v$family" 1 2) s2=$("v$family" 1 3)
  oserve s2 1 "tcp,$s2,7000" "udp,$s2,7000" "tcp,$s2,7001" "udp,$s2,7001"
  oserve s1 1 "tcp,$s1,7000"
  oserve hub 1 "tcp,$hub,7000"
  wait_for "v$family: spoke to hub, ping" 10 prints reply oping s1 1 "$hub"
  expect "v$family: hub to spoke, ping" reply oping hub 1 "$s1"
  wait_for "v$family: spoke to spoke over the hub, ping" 10 prints reply oping s1 1 "$s2"
  expect "v$family: s1 → s2 tcp 7000, allowed, and its replies pass" ok oasked s1 1 "tcp,$s2,7000"
  expect "v$family: s1 → s2 udp 7000, allowed" ok oasked s1 1 "udp,$s2,7000"
  expect "v$family: s1 → s2 tcp 7001, no rule" "$NO_TCP" oasked s1 1 "tcp,$s2,7001"
  expect "v$family: s1 → s2 udp 7001, no rule" "$NO_UDP" oasked s1 1 "udp,$s2,7001"
  expect "v$family: s2 → s1 tcp 7000, the other way round" "$NO_TCP" oasked s2 1 "tcp,$s1,7000"
  expect "v$family: s1 → hub tcp 7000, no rule" "$NO_TCP" oasked s1 1 "tcp,$hub,7000"
done
check "status counts what the rule let pass, on the hub" eval '(( $(counter hub web) > 0 ))'
check "and what no rule named, at the source" eval '(( $(dropped s1 prod) > 0 ))'

# A tenant with no firewall of its own.
if has_stock_wireguard; then
  stock_peer hub s3 1 wg0
  for family in 4 6; do
    hub=$("v$family" 1 1) s2=$("v$family" 1 3)
    wait_for "v$family: a stock host pings the hub" 10 prints reply pinged s3 "$hub"
    expect "v$family: and a spoke" reply pinged s3 "$s2"
    expect "v$family: the hub refuses its tcp for a spoke" timeout asked s3 "tcp,$s2,7000"
    expect "v$family: the hub refuses its udp for a spoke" timeout asked s3 --payload "rogue$family" "udp,$s2,7000"
    refute "v$family: which never arrives" arrived s2 "rogue$family"
    expect "v$family: the hub refuses its tcp for itself" timeout asked s3 "tcp,$hub,7000"
  done
  check "status counts what the hub dropped" eval '(( $(dropped hub prod) > 0 ))'
else
  skip "no stock WireGuard: neither the kernel's nor wireguard-go"
fi

# And away.
stop_daemon hub s1 s2
for host in hub s1 s2; do
  check "$host: down" sdw "$host" down
  expect "$host: nothing of ours is left" '' left_over "$host"
done
