#!/bin/bash
# What a bridge imports never takes a network away that the gateway is in itself: where it would, the bridge is left out, by
# name, and the rest goes on. Where a VRF keeps them apart it is carried.
#
#     office ── HOST ── wan        HOST: hub of site a, ::1; one for each way of keeping a network apart
#     10.20.7.7/16                 prod-b imports 10.20.7.0/24 and fd77:1:2::/48, prod-c fd88:1:2::/48
. "$(dirname "$0")/lab/lib.sh"

agreed() { # HOST: what `serve` writes
  local folder=$LAB/hosts/$1/run/state/sdwand-agreements
  mkdir -p "$folder"
  jq -n --arg b "$(<"$LAB/b.pub")" --arg c "$(<"$LAB/c.pub")" --arg psk "$(wg genpsk)" --argjson now "$(date +%s)" '
    def one(peer; key; nets): { peer: peer, network: "prod", import: nets, prefixes: nets, public_key: key, preshared_key: $psk };
    { format: 1, written: $now, bridges: {
      "prod-b": one("site-b"; $b; ["10.20.7.0/24", "fd77:1:2::/48"]), "prod-c": one("site-c"; $c; ["fd88:1:2::/48"]) } }' >"$folder/.new"
  chmod 0640 "$folder/.new"
  mv "$folder/.new" "$folder/agreements.json"
}
for site in b c; do wg genkey | wg pubkey >"$LAB/$site.pub"; done
# What the other site's gateway may send, and where this host sends it.
carries() { { on "$1" wg show wg-sdwan-1 allowed-ips | grep -F "$(<"$LAB/$2.pub")" || true; } | cut -f 2 | tr ' ' '\n' | sort | tr '\n' ' '; }
routed() { { on "$1" ip -4 route show table all proto 241; on "$1" ip -6 route show table all proto 241; } | grep -cE '^(unreachable )?(10\.20\.7\.0|fd77:1:2:)' || true; }
bridge_state() { state "$1" '[.networks[].bridges[] | "\(.name) \(.state)"] | join(", ")'; }
named() { sdw "$1" status | grep ImportOverlapsUnderlay; }
office() { pinged "$1" 10.20.7.7; }

# scene HOST ISOLATION [LINE…]: the host with an office beside it.
scene() {
  local host=$1 isolation=$2
  shift 2
  mkhost "$host"
  mkns "of-$host"
  underlay "$host"
  mklink "$host" lan9 "of-$host" up0
  addresses "$host" lan9 10.20.0.1/16
  addresses "of-$host" up0 10.20.7.7/16
  FLEET=$LAB/fleet-$host
  fleet_site site-a
  sed -i "/^prefix/a gateways = [\"$host\"]" "$FLEET/00-site.toml"
  fleet_node "$host" 1 "${V4[$host]}"
  host_config "$host" 'state_dir = "/run/state/sdwand"' '[federation]' 'listen = "[::]:8443"' 'url = "https://a.example:8443"' "$@"
  fleet_network prod 1 "hub:$host" --isolation "\"$isolation\""
  fleet_rule prod from-b federation=site-b any icmp
  fleet_rule prod from-c federation=site-c any icmp
  for site in b c; do
    printf 'format = 1\n[[bridges]]\nname = "prod-%s"\npeer = "site-%s"\nnetwork = "prod"\ngateways = ["%s"]\nexport = ["fd12:34ab:cd42:1::/64"]\nimport = [%s]\n' \
      "$site" "$site" "$host" "$([[ $site = b ]] && echo '"10.20.7.0/24", "fd77:1:2::/48"' || echo '"fd88:1:2::/48"')" >"$FLEET/50-bridge-prod-$site.toml"
  done
  agreed "$host"
  publish "$host"
}

left_out() { # HOST
  local host=$1
  expect "$host: the office answers before" reply office "$host"
  if [[ $host != apart ]]; then
    start_daemon "$host"
    wait_for "$host: what stands in the way is named, both ranges" 20 \
      prints '*bridge prod-b is left out*10.20.7.0/24*10.20.0.0/16*lan9*' named "$host"
    wait_for "$host: the other bridge is carried" 20 prints 'fd88:1:2::/48 ' carries "$host" c
    expect "$host: of that one nothing is" '' carries "$host" b
    expect "$host: no route, either" 0 routed "$host"
    refute "$host: nor in the firewall" grep -E '10\.20\.7\.|fd77:1:2:' <(on "$host" nft list table inet sdwand)
    expect "$host: and both say so" 'prod-b refused, prod-c carrying' bridge_state "$host"
    expect "$host: the office answers" reply office "$host"
    status "$host: plan says that not all can be made true" 1 sdw "$host" plan
    check "$host: by name" grep -q 'ImportOverlapsUnderlay: bridge prod-b' <(sdw "$host" plan)
  fi
}

scene main none
left_out main
# The network goes, and the bridge comes; the network comes back, and is not taken away.
ip -n main addr del 10.20.0.1/16 dev lan9
wait_for "main: without that network the bridge is carried" 45 prints '10.20.7.0/24 fd77:1:2::/48 ' carries main b
expect "main: with its routes" 2 routed main
addresses main lan9 10.20.0.1/16
wait_for "main: with it, it is left out again" 45 prints '' carries main b
wait_for "main: and the routes are gone" 10 prints 0 routed main
wait_for "main: so that the office answers" 10 prints reply office main
stop_daemon main

scene rules vrf '[isolation]' 'backend = "rules"'
left_out rules
stop_daemon rules

if has_vrf; then
  scene apart vrf
  bring_up apart
  wait_for "apart: a VRF keeps them apart: carried" 20 prints '10.20.7.0/24 fd77:1:2::/48 ' carries apart b
  expect "apart: the office answers, too" reply office apart
  refute "apart: nothing is named" named apart
else
  skip "apart: this kernel has no VRFs"
fi
