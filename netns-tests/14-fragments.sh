#!/bin/bash
# Halves of a datagram are put together only where both came from the same network.
#
#     l1 ── s1 ┐                ┌ s2 ── l2      network red (1)
#              ├─ wan ── hub ───┤
#     l3 ── s3 ┘                └ s4 ── l4      network blue (2), with the same LANs, in transit at the hub
#
# Conntrack puts fragments together before anything is judged: what it takes for one datagram must have come from one
# place. An underlay host without a key tries it too.
. "$(dirname "$0")/lab/lib.sh"

mkhost hub s1 s2 s3 s4
underlay hub s1 s2 s3 s4
for n in 1 3; do lan "s$n" lan0 "l$n" 10.10.0.1/24 fd00:10::1/64; done
for n in 2 4; do lan "s$n" lan0 "l$n" 10.20.0.1/24 fd00:20::1/64; done
fleet_site
fleet_node hub 1 "${V4[hub]}"
for n in 1 2 3 4; do fleet_node "s$n" $((n + 1)); done
member() { echo "{ node = \"s$1\", lans = [{ subnet = \"10.$2.0.0/24\", interface = \"lan0\" }, { subnet = \"fd00:$2::/64\", interface = \"lan0\" }] }"; }
fleet_network red 1 hub:hub "$(member 1 10)" "$(member 2 20)"
fleet_network blue 2 hub:hub "$(member 3 10)" "$(member 4 20)"
fleet_rule red all any any any
fleet_rule blue all any any any
bring_up hub s1 s2 s3 s4
declare -A FROM=([4]=10.10.0.10 [6]=fd00:10::10) TO=([4]=10.20.0.10 [6]=fd00:20::10)
for family in 4 6; do
  wait_for "red carries v$family" 15 prints reply pinged l1 "${TO[$family]}"
  wait_for "blue carries v$family" 15 prints reply pinged l3 "${TO[$family]}"
done
for host in l2 l4; do serve "$host" 'udp,*,7000'; done

# half HOST INTERFACE first|last FAMILY ID TEXT [ETHER]
half() { on "$1" "$PYTHON" "$LAB_LIB/fragment.py" "$2" "$3" "${FROM[$4]}" "${TO[$4]}" "$5" "$6" "${@:7}"; }

for family in 4 6; do
  half s1 wg-sdwan-1 first "$family" 11 "honest$family"
  half s1 wg-sdwan-1 last "$family" 11 "honest$family"
  wait_for "v$family: both halves in one network are put together" 5 arrived l2 "first-honest$family"

  # One half of each network, then the other two: each network has its own datagram, or none.
  half s1 wg-sdwan-1 first "$family" 12 "red$family+blue$family"
  half s3 wg-sdwan-2 last "$family" 12 "red$family+blue$family"
  half s3 wg-sdwan-2 first "$family" 13 "blue$family+red$family"
  half s1 wg-sdwan-1 last "$family" 13 "blue$family+red$family"
  # Later ones have come: these would have, too.
  half s3 wg-sdwan-2 first "$family" 14 "after$family"
  half s3 wg-sdwan-2 last "$family" 14 "after$family"
  wait_for "v$family: later ones come" 5 arrived l4 "first-after$family"
  refute "v$family: no half of red comes to blue" arrived l4 "red$family"
  refute "v$family: no half of blue comes to red" arrived l2 "blue$family"
done

# From the underlay, to each host that an overlay packet passes.
ether() { ip -n "$1" -j link show up0 | jq -r '.[0].address'; }
for family in 4 6; do
  for host in hub s2; do
    half wan "to-$host" first "$family" 21 "forged$family+true$family" "$(ether "$host")"
    half s1 wg-sdwan-1 last "$family" 21 "forged$family+true$family"
    half s1 wg-sdwan-1 first "$family" 22 "later$family$host"
    half s1 wg-sdwan-1 last "$family" 22 "later$family$host"
    wait_for "v$family, $host: later ones come" 5 arrived l2 "first-later$family$host"
    refute "v$family, $host: no half from the underlay comes to the overlay" arrived l2 "forged$family"
  done
done
