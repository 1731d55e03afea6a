#!/bin/bash
# A bridge between two sites, by their fleets and what `serve` would hand over: LANs and spokes of both reach each other
# through their hubs, as far as both sites say and a rule names the peer.
#
#     lana ── a1 ──┐                                    ┌── b1 ── lanb
#              a2 ─┴─ ha ── wan ── nat ── hb ───────────┴─ b2
#
#     site-a fd12:34ab:cd42::/48: prod (1), ha ::1, a1 ::2, a2 ::3, LAN 10.10.0.0/24 and fd00:10::/64 behind a1
#     site-b fd77:1:2::/48: lab (5), hb ::1, b1 ::2, b2 ::3, LAN 10.20.0.0/24 and fd00:20::/64 behind b1
#     hb is behind NAT: only it can call. Each site imports the other's overlay and LAN.
. "$(dirname "$0")/lab/lib.sh"

mkhost ha a1 a2 hb b1 b2
underlay ha a1 a2
# Site b has an underlay of its own, behind one address.
mkns lanbr
forwarding lanbr
underlay lanbr
n=0
for host in hb b1 b2; do
  n=$((n + 1))
  mklink "$host" up0 lanbr "to-$host"
  addresses lanbr "to-$host" "192.168.$n.1/24"
  addresses "$host" up0 "192.168.$n.2/24"
  ip -n "$host" route add default via "192.168.$n.1"
  V4[$host]=192.168.$n.2
done
nat_ports lanbr 20000 20999
lan a1 lan0 lana 10.10.0.1/24 fd00:10::1/64
lan b1 lan0 lanb 10.20.0.1/24 fd00:20::1/64

site() { # a|b: which site's fleet the lab's functions are about
  case $1 in
    a) SITE_PREFIX=fd12:34ab:cd42 FLEET=$LAB/fleet-a ;;
    b) SITE_PREFIX=fd77:1:2 FLEET=$LAB/fleet-b ;;
  esac
}
gateway() { host_config "$1" 'state_dir = "/run/state/sdwand"' '[federation]' 'listen = "[::]:8443"' "url = \"https://$1.example:8443\""; }
bridge() { # NAME PEER NETWORK GATEWAY IMPORT EXPORT [REMOTE]
  printf 'format = 1\n[[bridges]]\nname = "%s"\npeer = "%s"\nnetwork = "%s"\ngateways = ["%s"]\nimport = [%s]\nexport = [%s]\n' \
    "$1" "$2" "$3" "$4" "$5" "$6" >"$FLEET/50-bridge-$1.toml"
  [[ -z ${7:-} ]] || echo "remote_network = \"$7\"" >>"$FLEET/50-bridge-$1.toml"
}
site a
fleet_site site-a
sed -i '/^prefix/a gateways = ["ha"]' "$FLEET/00-site.toml"
fleet_node ha 1 "${V4[ha]}"
fleet_node a1 2
fleet_node a2 3
gateway ha
fleet_network prod 1 hub:ha a2 \
  '{ node = "a1", lans = [{ subnet = "10.10.0.0/24", interface = "lan0" }, { subnet = "fd00:10::/64", interface = "lan0" }] }'
fleet_rule prod inside any any icmp
bridge prod-b site-b prod ha '"fd77:1:2::/48", "10.20.0.0/24", "fd00:20::/64"' '"fd12:34ab:cd42:1::/64", "10.10.0.0/24", "fd00:10::/64"' lab
site b
fleet_site site-b
sed -i '/^prefix/a gateways = ["hb"]' "$FLEET/00-site.toml"
fleet_node hb 1 "${V4[hb]}"
fleet_node b1 2
fleet_node b2 3
gateway hb
fleet_network lab 5 hub:hb b2 \
  '{ node = "b1", lans = [{ subnet = "10.20.0.0/24", interface = "lan0" }, { subnet = "fd00:20::/64", interface = "lan0" }] }'
fleet_rule lab inside any any icmp
bridge lab-a site-a lab hb '"fd12:34ab:cd42::/48", "10.10.0.0/24", "fd00:10::/64"' '"fd77:1:2:5::/64", "10.20.0.0/24", "fd00:20::/64"' prod

# agree HOST BRIDGE PEER NETWORK IMPORT KEY ENDPOINTS PREFIXES: what `serve` writes; lists are JSON.
psk=$(wg genpsk)
agree() {
  local folder=$LAB/hosts/$1/run/state/sdwand-agreements
  mkdir -p "$folder"
  jq -n --arg name "$2" --arg peer "$3" --arg network "$4" --argjson imports "[$5]" --arg key "$6" --argjson endpoints "[$7]" \
    --argjson prefixes "[$8]" --arg psk "$psk" --argjson now "$(date +%s)" \
    '{ format: 1, written: $now, bridges: { ($name): { peer: $peer, network: $network, import: $imports, public_key: $key,
       preshared_key: $psk, endpoints: $endpoints, prefixes: $prefixes } } }' >"$folder/.new"
  chmod 0640 "$folder/.new"
  mv "$folder/.new" "$folder/agreements.json"
}
agree_a() { agree ha prod-b site-b prod '"fd77:1:2::/48", "10.20.0.0/24", "fd00:20::/64"' "$(<"$LAB/keys/hb.pub")" '' "$1"; }
agree_b() {
  agree hb lab-a site-a lab '"fd12:34ab:cd42::/48", "10.10.0.0/24", "fd00:10::/64"' "$(<"$LAB/keys/ha.pub")" "\"${V4[ha]}:51820\"" "$1"
}
retract() { rm "$LAB/hosts/$1/run/state/sdwand-agreements/agreements.json"; }
ALL_A='"fd12:34ab:cd42:1::/64", "10.10.0.0/24", "fd00:10::/64"'
ALL_B='"fd77:1:2:5::/64", "10.20.0.0/24", "fd00:20::/64"'
peers() { on "$1" wg show "$2" allowed-ips | grep -F "$(<"$LAB/keys/$3.pub")" | cut -f 2 | tr ' ' '\n' | sort | tr '\n' ' '; }

site a; bring_up ha a1 a2
site b; bring_up hb b1 b2
serve lana tcp,*,7000 udp,*,7000
serve lanb tcp,*,7000 udp,*,7000
expect "without an agreement the gateway carries nothing" '' peers ha wg-sdwan-1 hb
expect "and says so" '*no agreement with site-b*' sdw ha status
expect "LAN to LAN: no way" "$NO_PING" pinged lana 10.20.0.10

# --- Both agree.
agree_a "$ALL_B"
agree_b "$ALL_A"
wait_for "the gateway of site a knows the other" 5 prints '10.20.0.0/24 fd00:20::/64 fd77:1:2:5::/64 ' peers ha wg-sdwan-1 hb
wait_for "and that of site b" 5 prints '10.10.0.0/24 fd00:10::/64 fd12:34ab:cd42:1::/64 ' peers hb wg-sdwan-5 ha
handshaken() { (( $(on "$1" wg show "$2" latest-handshakes | grep -F "$(<"$LAB/keys/$3.pub")" | cut -f 2) > 0 )); }
wait_for "the one behind NAT calls" 15 handshaken ha wg-sdwan-1 hb
for to in 10.20.0.10 fd00:20::10; do
  expect "LAN to LAN, $to: refused, although each site lets any ping any" "$NO_PING" pinged lana "$to"
done

# --- One rule on each site that names the peer.
rule() { # NETWORK NAME FROM TO PROTOCOL [PORTS]
  fleet_rule "$@"
}
site a; rule prod to-b lan_of=a1 federation=site-b icmp; rule prod to-b-web any federation=site-b tcp 7000
republish ha a1 a2
site b; rule lab from-a federation=site-a lan_of=b1 icmp; rule lab from-a-web federation=site-a lan_of=b1 tcp 7000
republish hb b1 b2
for to in 10.20.0.10 fd00:20::10; do
  wait_for "LAN to LAN, $to: ping" 10 prints reply pinged lana "$to"
  expect "LAN to LAN, $to: tcp 7000" ok asked lana "tcp,$to,7000"
  expect "LAN to LAN, $to: udp 7000, which no rule names" timeout asked lana --payload none "udp,$to,7000"
done
for to in 10.10.0.10 fd00:10::10; do expect "the other way, $to: no rule" "$NO_PING" pinged lanb "$to"; done
site a
expect "a spoke of site a reaches the LAN of site b: tcp 7000" ok oasked a2 1 tcp,fd00:20::10,7000
expect "and ping isn't its rule's" "$NO_PING" oping a2 1 fd00:20::10
expect "a2 plans nothing more" 0 eval 'sdw a2 plan >/dev/null; echo $?'

# --- The peer announces more than was agreed: it reaches nothing.
agree_a "$ALL_B, \"10.99.0.0/24\", \"fd12:34ab:cd42:1::/64\", \"::/0\", \"10.20.0.0/16\""
sleep 0.3
wait_for "more than is imported never reaches AllowedIPs" 5 prints '10.20.0.0/24 fd00:20::/64 fd77:1:2:5::/64 ' peers ha wg-sdwan-1 hb
refute "nor a route" eval 'on ha ip route show table all | grep -F 10.99'
agree_a '"fd77:1:2:5::/64", "10.20.0.0/25"'
wait_for "a peer that announces less has less" 5 prints '10.20.0.0/25 fd77:1:2:5::/64 ' peers ha wg-sdwan-1 hb
agree_a "$ALL_B"
wait_for "and all of it again" 5 prints '10.20.0.0/24 fd00:20::/64 fd77:1:2:5::/64 ' peers ha wg-sdwan-1 hb

# --- Taken back in the middle of a stream.
flow lana "$LAB/stream" tcp,10.20.0.10,7000
echoes() { cat "$LAB/stream" 2>/dev/null || echo 0; }
wait_for "a stream runs" 5 eval '(( $(echoes) > 5 ))'
start=$(now_ms)
retract ha
stopped() { local before; before=$(echoes); sleep 0.3; (( $(echoes) == before )); }
wait_for "the stream is cut" 5 stopped
note "after $(( $(now_ms) - start - 300 )) ms"
expect "the other's gateway is no peer any more" '' peers ha wg-sdwan-1 hb
expect "nothing is left to do" 0 eval 'sdw ha plan >/dev/null; echo $?'
