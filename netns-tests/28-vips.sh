#!/bin/bash
# Virtual IPs on the network's dummy: reached from spokes and LANs as the rules say, moved by the order of holders.
#
#     lana ──eth0── lan0 s1 ──┐
#                             ├── wan ── hub      network prod (1): hub ::1, s1 ::2, s2 ::3, s3 ::4
#                        s2 ──┤                   VIP api ::100 and 100.64.1.100: s2, then s3
#                        s3 ──┘
#
#     rules: any → vip api, api4: tcp 7000
. "$(dirname "$0")/lab/lib.sh"

has_dummy || skip_rest "this kernel has no dummy links: a virtual IP can't live here"
mkhost hub s1 s2 s3
underlay hub s1 s2 s3
lan s1 lan0 lana 10.10.0.1/24 fd00:10::1/64
fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node s1 2
fleet_node s2 3
fleet_node s3 4
fleet() { # HOLDERS: as in TOML; empty for no VIPs
  fleet_network prod 1 hub:hub \
    '{ node = "s1", lans = [{ subnet = "10.10.0.0/24", interface = "lan0" }, { subnet = "fd00:10::/64", interface = "lan0" }] }' s2 s3
  if [[ -n $1 ]]; then
    cat >>"$FLEET/20-prod.toml" <<TOML

[[networks.virtual_ips]]
name    = "api"
address = "::100"
holders = [$1]

[[networks.virtual_ips]]
name    = "api4"
address = "100.64.1.100"
holders = [$1]
TOML
    fleet_rule prod to-api any vip=api tcp 7000
    fleet_rule prod to-api4 any vip=api4 tcp 7000
  fi
}
everyone=(hub s1 s2 s3)
vip6=$(v6 1 100) vip4=$(v4 1 100)
has_vips() { [[ $(ip -n "$1" -o addr show dev d-sdwan-1 2>/dev/null | awk '{ print $4 }' | sort | tr '\n' ' ') = "$vip4/32 $vip6/128 " ]]; }
no_dummy() { ! ip -n "$1" link show d-sdwan-1 >/dev/null 2>&1; }
reached() { # FROM: both VIPs, by the rule and not otherwise
  local to
  for to in "$vip6" "$vip4"; do
    case $1 in
      lana)
        expect "$to from a LAN's host: tcp 7000, by the rule" ok asked lana "tcp,$to,7000"
        expect "$to from a LAN's host: tcp 7001, no rule" "$NO_TCP" asked lana "tcp,$to,7001" ;;
      *)
        expect "$to from $1: tcp 7000, by the rule" ok oasked "$1" 1 "tcp,$to,7000"
        expect "$to from $1: tcp 7001, no rule" "$NO_TCP" oasked "$1" 1 "tcp,$to,7001" ;;
    esac
  done
}

fleet '"s2", "s3"'
bring_up "${everyone[@]}"
check "s2 has both addresses, and nothing else, on the dummy" has_vips s2
check "s3 waits without a dummy" no_dummy s3
check "the dummy is up, marked as ours, and in the VRF where there is one" eval '
  link=$(ip -n s2 -j -d link show d-sdwan-1)
  jq -e ".[0] | .ifalias == \"sdwand\" and (.flags | index(\"UP\"))" <<<"$link"
  ! has_vrf || jq -e ".[0].master == \"sdwan-1\"" <<<"$link"'
for host in s2 s3; do oserve "$host" 1 "tcp,*,7000" "tcp,*,7001"; done
wait_for "the overlay works" 10 prints ok oasked s1 1 "tcp,$vip6,7000"
reached s1
reached lana
reached s3
expect "the node itself isn't named by the rule" "$NO_TCP" oasked s1 1 "tcp,$(v6 1 3),7000"
expect "status on another host says who holds it" s2 state s1 '.networks[0].virtual_ips[] | select(.name == "api") | .holders | join(" ")'
expect "and on the holder that it is there" true state s2 '.networks[0].virtual_ips | all(.here)'

# Drift: an address goes, then the whole dummy.
ip -n s2 addr del "$vip6/128" dev d-sdwan-1
wait_for "a deleted address comes back" 10 has_vips s2
ip -n s2 link del d-sdwan-1
wait_for "a deleted dummy comes back" 10 has_vips s2
ip -n s2 addr add fd99::1/128 dev d-sdwan-1
wait_for "a foreign address on it goes" 10 has_vips s2
wait_for "s2 is converged" 10 converged s2
reached s1

# The order of holders moves it.
fleet '"s3", "s2"'
republish "${everyone[@]}"
check "s3 has both addresses" has_vips s3
check "s2 has no dummy any more" no_dummy s2
reached s1
reached s2
reached lana
expect "status follows" s3 state hub '.networks[0].virtual_ips[] | select(.name == "api") | .holders | join(" ")'

# The last one goes.
fleet ''
republish "${everyone[@]}"
for host in "${everyone[@]}"; do check "$host: without virtual IPs, no dummy" no_dummy "$host"; done
refute "the address isn't reached any more" oasked s1 1 "tcp,$vip6,7000"

# `down` takes what is ours.
fleet '"s3", "s2"'
republish "${everyone[@]}"
check "s3 has them again" has_vips s3
stop_daemon "${everyone[@]}"
check "s3: down" sdw s3 down
expect "nothing of sdwand is left on s3" "" left_over s3
