#!/bin/bash
# The gateway's listener inside a bridged network: what a grant restricts to that network is read there and nowhere else, by
# the bridge's peer, from where the bridge leads; and the listener comes and goes with its place and its bridge.
#
#     a1 ── ha ── wan ── hb ── b1
#
#     site-a fd12:34ab:cd42::/48: prod (1), ha ::1, a1 ::2          site-b fd77:1:2::/48: lab (5), hb ::1, b1 ::2
#     ha and hb run `sdwand run` and, as nobody and without a capability, `sdwand serve` on [::]:8443; hb isn't to be dialled.
. "$(dirname "$0")/lab/lib.sh"
lab_binary

mkhost ha a1 hb b1
underlay ha a1 hb b1
site() { # a|b: which site's fleet the lab's functions are about
  case $1 in
    a) SITE_PREFIX=fd12:34ab:cd42 FLEET=$LAB/fleet-a ;;
    b) SITE_PREFIX=fd77:1:2 FLEET=$LAB/fleet-b ;;
  esac
}
gateway() { # HOST REACHED
  host_config "$1" 'state_dir = "/run/state/sdwand"' '[federation]' 'listen = "[::]:8443"' "$2" 'allow_dial = ["198.18.0.0/15"]' \
    'heartbeat_seconds = 1' 'stale_after_seconds = 4'
  on "$1" install -d -o 65534 -g 65534 /run/state /run/sdwand-serve
}
site a
fleet_site site-a
sed -i '/^prefix/a gateways = ["ha"]' "$FLEET/00-site.toml"
fleet_node ha 1 "${V4[ha]}"
fleet_node a1 2
gateway ha "url = \"https://${V4[ha]}:8443\""
fleet_network prod 1 hub:ha a1
fleet_rule prod inside any any icmp
A=$(v6 1 1)
site b
fleet_site site-b
sed -i '/^prefix/a gateways = ["hb"]' "$FLEET/00-site.toml"
fleet_node hb 1 "${V4[hb]}"
fleet_node b1 2
gateway hb 'dialable = false'
fleet_network lab 5 hub:hb b1
fleet_rule lab inside any any icmp
B=$(v6 5 1) B1=$(v6 5 2)
bridge() { # NAME PEER NETWORK REMOTE GATEWAY IMPORT EXPORT
  printf 'format = 1\n[[bridges]]\nname = "%s"\npeer = "%s"\nnetwork = "%s"\nremote_network = "%s"\ngateways = ["%s"]\nimport = [%s]\nexport = [%s]\n' \
    "$@" >"$FLEET/50-bridge-$1.toml"
}
bridge_a() { bridge prod-b site-b prod lab ha '"fd77:1:2::/48"' '"fd12:34ab:cd42:1::/64"'; }
site a; bridge_a; bring_up ha a1
site b; bridge lab-a site-a lab prod hb '"fd12:34ab:cd42::/48"' '"fd77:1:2:5::/64"'; bring_up hb b1
start_serve ha
start_serve hb

# --- Trust, a bridge, and a listener at each end of it.
listens() { sdw "$1" federation status --json | jq -r '.overlay_listeners[] | "\(.network) \(.address) \(.is_listening)"'; }
expect "without a bridge that is active nothing listens" '' listens ha
sdw ha peer propose "https://${V4[hb]}:8443" --name site-b --json | jq -r .acceptance_token >"$LAB/token"
check "site b accepts" sdw hb peer accept "https://${V4[ha]}:8443" --name site-a --token - <"$LAB/token"
wait_for "site a listens inside prod" 15 prints "prod \[$A\]:8443 true" listens ha
wait_for "site b listens inside lab" 15 prints "lab \[$B\]:8443 true" listens hb
if in_vrf ha 1; then
  expect "bound to the VRF, by a process without a capability" "\[$A\]%sdwan-1:8443" \
    eval 'on ha ss -Hltn "sport = :8443" | grep -o -F "['"$A"']%sdwan-1:8443"'
fi
expect "and on every address of the underlay as before" 1 eval 'on ha ss -Hltn "sport = :8443" | grep -c -E "[*]:8443|::\]:8443"'
expect "the peer's row says where both ends listen" "\[$A\]:8443 true \[$B\]:8443" eval \
  'sdw ha peer show site-b --json | jq -r ".bridges[0] | \"\(.listener.address) \(.listener.is_listening) \(.peer_listener)\""'

# --- A grant that names the network.
sdw ha grant create site-b --kind node --subject ci@site-b --network prod --json | jq -r .bearer_token >"$LAB/bearer"
called() { # [OPTION…]: what site b reads at site a; one line
  sdw hb peer call site-a node --grant "$LAB/bearer" --json "$@" 2>&1 | jq -r '.resources | map(.id) | join(" ")' 2>/dev/null || refusal "$@"
}
refusal() { sdw hb peer call site-a node --grant "$LAB/bearer" "$@" 2>&1 | tail -n 1; }
expect "over the underlay it gives nothing" '*refused (403)*' called
wait_for "through the bridge it does" 10 prints 'a1 ha' called --network lab
expect "not from a network without a bridge" '*no network other*' called --network other

# --- A peer that can't be dialled is called through the bridge.
sdw hb grant create site-a --kind network --subject ci@site-a --network lab --json | jq -r .bearer_token >"$LAB/bearer-b"
status "site b says that it can't be dialled" 1 sdw ha peer call site-b network --grant "$LAB/bearer-b"
read_b() { sdw ha peer call site-b network --grant "$LAB/bearer-b" --network prod --json | jq -r '.resources[].id'; }
wait_for "through the bridge it is called" 10 prints lab read_b

# --- Who else gets there: nobody, until a rule lets it; and then it must be the bridge's peer.
expect "a workload of site b doesn't reach the listener" timeout oasked b1 5 "tcp,$A,8443"
site b; fleet_rule lab out node=b1 federation=site-a tcp 8443; republish hb b1
expect "nor where its own site lets it out" timeout oasked b1 5 "tcp,$A,8443"
site a
expect "nor a workload of our own site" timeout oasked a1 1 "tcp,$A,8443"
fleet_rule prod let-in federation=site-b node=ha tcp 8443; republish ha a1
tls() { # HOST NETWORK: the first line of what a TLS client without a certificate comes to
  if in_vrf "$1" "$2"; then on "$1" curl -sk --interface "sdwan-$2" -m 5 "https://[$A]:8443/" -o /dev/null -w '%{http_code}' || echo " closed"
  else on "$1" curl -sk --interface "$(own_address "$1" "$2" "$A")" -m 5 "https://[$A]:8443/" -o /dev/null -w '%{http_code}' || echo " closed"; fi
}
expect "a rule may let it in, and without the peer's certificate it hears nothing" '000 closed' tls b1 5
fleet_rule prod own-in node=a1 node=ha tcp 8443; republish ha a1
expect "nor does who is behind no bridge" '000 closed' tls a1 1

# --- serve and run start again; the bridge goes and comes.
stop_serve ha TERM
start_serve ha
counted() { sdw ha audit export 2>/dev/null | jq -r 'select(.kind? == "federation.stranger.refused") | .payload | fromjson? // . | "\(.source) \(.reasons | keys | join(","))"' | sort -u; }
expect "who is behind no bridge is counted" "${A%:*}:/64 outside_bridge" counted
wait_for "serve starts again: it listens again" 10 prints "prod \[$A\]:8443 true" listens ha
wait_for "and answers" 10 prints 'a1 ha' called --network lab
kill_daemon ha
start_daemon ha
wait_for "run is killed and starts again: it answers" 15 prints 'a1 ha' called --network lab
check "run's work is taken down" sdw ha down
wait_for "the address is gone, and so is the listener" 10 prints "prod \[$A\]:8443 false" listens ha
check "and why is said" eval 'sdw ha federation status | grep -F "prod" | grep -q -i -e "no such device" -e "cannot assign"'
expect "the main listener goes on" active eval 'sdw hb peer show site-a --json | jq -r .status'
check "it is made again" sdw ha apply
wait_for "and the listener is back" 10 prints "prod \[$A\]:8443 true" listens ha
wait_for "and answers" 15 prints 'a1 ha' called --network lab
site a; rm "$FLEET/50-bridge-prod-b.toml"; republish ha a1
wait_for "the bridge is taken out of the fleet: nothing listens" 10 prints '' listens ha
wait_for "and a call says what is missing" 5 prints '*bridge lab-a to site-a is*not active*' called --network lab
bridge_a; republish ha a1
wait_for "it is back: it listens" 15 prints "prod \[$A\]:8443 true" listens ha
wait_for "and answers" 15 prints 'a1 ha' called --network lab

# --- Revoked, with a connection open.
port_open() { [[ -n $(on ha ss -Hltn "src [$A]:8443") ]]; }
check "before: a socket listens there" port_open
start=$(now_ms)
check "revoke" sdw ha peer revoke site-b
until_ok 5 not port_open
took=$(( $(now_ms) - start ))
note "revoke → no listener: $took ms"
check "within a second" eval '(( took <= 1000 * LAB_SLOW ))'
expect "nothing listens inside prod" '' listens ha
