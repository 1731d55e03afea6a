#!/bin/bash
# A stock wg-quick host as peer, in both directions: as a spoke of our hub, and as the hub of our spoke.
#
#     q ──┐                 network prod (1): hub ::1, s1 ::2, q ::3           q is a spoke, set up by wg-quick
#     s1 ─┼── wan ── hub
#     t ──┤                 network alt (2): r ::5 is the hub, set up by wg-quick; t ::4 runs sdwand
#     r ──┘
. "$(dirname "$0")/lab/lib.sh"
has_stock_wireguard || skip_rest "no stock WireGuard: neither the kernel's nor wireguard-go"
has_tool wg-quick || skip_rest "no wg-quick"

mkhost hub s1 q r t
underlay hub s1 q r t
fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node s1 2
fleet_node q 3
fleet_node t 4
fleet_node r 5 "${V4[r]}"
fleet_network prod 1 hub:hub s1 q
fleet_network alt 2 hub:r t
fleet_rule prod all any any any
fleet_rule alt all any any any
bring_up hub s1 t

# The exported file and a private key are all that a stock host needs; addresses are the fleet's.
quick() { # HOST NETWORK NAME
  exported hub "$1" >"$LAB/$1.export"
  refute "$1: the exported file has no private key" grep -qi 'PrivateKey *= *[A-Za-z0-9+/]' "$LAB/$1.export"
  {
    sed "s|^\[Interface\]|&\nPrivateKey = $(cat "$LAB/keys/$1.key")\nAddress = $(v6 "$2" "${HOST_ID[$1]}")/128, $(v4 "$2" "${HOST_ID[$1]}")/32|" "$LAB/$1.export"
  } >"$LAB/hosts/$1/etc/$3.conf"
  chmod 600 "$LAB/hosts/$1/etc/$3.conf"
  check "$1: wg-quick up" on "$1" wg-quick up "/etc/sdwand/$3.conf"
}
quick q 1 prod
quick r 2 alt
forwarding r

serve q "tcp,*,7000"
serve r "tcp,*,7000"
for family in 4 6; do
  oserve s1 1 "tcp,$("v$family" 1 2),7000"
  oserve t 2 "tcp,$("v$family" 2 4),7000"
  wait_for "v$family: the stock spoke pings our hub" 10 prints reply pinged q "$("v$family" 1 1)"
  wait_for "v$family: and our spoke behind it" 10 prints reply pinged q "$("v$family" 1 2)"
  expect "v$family: tcp from the stock spoke to ours" ok asked q "tcp,$("v$family" 1 2),7000"
  expect "v$family: tcp from our spoke to the stock one" ok oasked s1 1 "tcp,$("v$family" 1 3),7000"
  wait_for "v$family: our spoke pings the stock hub" 10 prints reply oping t 2 "$("v$family" 2 5)"
  expect "v$family: tcp from our spoke to the stock hub" ok oasked t 2 "tcp,$("v$family" 2 5),7000"
  expect "v$family: tcp from the stock hub to our spoke" ok asked r "tcp,$("v$family" 2 4),7000"
done
check "q: wg-quick down" on q wg-quick down /etc/sdwand/prod.conf
