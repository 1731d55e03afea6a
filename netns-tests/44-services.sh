#!/bin/bash
# A service across a bridge: site b offers one port of a virtual IP, site a subscribes to it. That and nothing else passes, and
# not a moment longer than both say so.
#
#     lana ── a1 ──┐                        ┌── b1 (::100 api, ::101 db)
#              a2 ─┴─ ha ─────── hb ────────┴─ b2
#
#     site-a fd12:34ab:cd42::/48: prod (1), ha ::1, a1 ::2, a2 ::3, LAN 10.10.0.0/24 and fd00:10::/64 behind a1
#     site-b fd77:1:2::/48: lab (5), hb ::1, b1 ::2, b2 ::3
#     The bridge itself carries nothing of site b to site a: its import and export are empty there.
. "$(dirname "$0")/lab/lib.sh"

has_dummy || skip_rest "this kernel has no dummy links: a virtual IP can't live here"
mkhost ha a1 a2 hb b1 b2
underlay ha a1 a2 hb b1 b2
lan a1 lan0 lana 10.10.0.1/24 fd00:10::1/64

ALL_A='"fd12:34ab:cd42:1::/64", "fd00:10::/64"'
federated_site a ha
fleet_node ha 1 "${V4[ha]}"
fleet_node a1 2
fleet_node a2 3
gateway ha 'url = "https://ha.example:8443"'
fleet_network prod 1 hub:ha a2 \
  '{ node = "a1", lans = [{ subnet = "10.10.0.0/24", interface = "lan0" }, { subnet = "fd00:10::/64", interface = "lan0" }] }'
fleet_rule prod inside any any icmp
bridge prod-b site-b prod lab ha '' "$ALL_A"
federated_site b hb
fleet_node hb 1 "${V4[hb]}"
fleet_node b1 2
fleet_node b2 3
gateway hb 'url = "https://hb.example:8443"'
fleet_network lab 5 hub:hb b1 b2
for vip in api:100 db:101; do
  printf '\n[[networks.virtual_ips]]\nname = "%s"\naddress = "::%s"\nholders = ["b1"]\n' "${vip%:*}" "${vip#*:}" >>"$FLEET/20-lab.toml"
done
fleet_rule lab inside any any icmp
bridge lab-a site-a lab prod hb "$ALL_A" ''
API=fd77:1:2:5::100 DB=fd77:1:2:5::101

# What each site imports and what the other says it exports, once both are as they shall be.
agree_a() { agree ha prod-b site-b prod "\"$API/128\"" "$(<"$LAB/keys/hb.pub")" "\"${V4[hb]}:51824\"" "\"$API/128\", \"$DB/128\""; }
agree_b() { agree hb lab-a site-a lab "$ALL_A" "$(<"$LAB/keys/ha.pub")" "\"${V4[ha]}:51820\"" "$ALL_A"; }
nothing() { [[ -z $(allowed "$@") ]]; }
# made HOST FILE: what a command wrote on a host goes to the fleet's other hosts.
made() { cp "$LAB/hosts/$1/etc/fleet.d/$2" "$FLEET/$2"; }

site a; bring_up ha a1 a2
site b; bring_up hb b1 b2
oserve b1 5 "tcp,*,7000" "tcp,*,7001" "udp,*,7000"
agree_a
agree_b
wait_for "site b's gateway knows the other" 5 prints 'fd00:10::/64 fd12:34ab:cd42:1::/64 ' allowed hb wg-sdwan-5 ha
expect "site a imports nothing yet" '' allowed ha wg-sdwan-1 hb
expect "the service is out of reach" "$NO_TCP" asked lana "tcp,$API,7000"

# --- Site b offers one port. That alone opens nothing at site a.
offer=(service offer api --bridge lab-a --tcp 7000 --description "the API")
expect "a dry run shows the fragment" '*\[\[offers\]\]*"api"*' sdw hb "${offer[@]}" --dry-run
refute "and writes nothing" test -e "$LAB/hosts/hb/etc/fleet.d/50-offer-api.toml"
expect "the offer is one fragment" true eval 'sdw hb "${offer[@]}" --json | jq .changed'
expect "and the same again is nothing new" false eval 'sdw hb "${offer[@]}" --json | jq .changed'
made hb 50-offer-api.toml
republish hb b1 b2
expect "site a hasn't subscribed" "$NO_TCP" asked lana "tcp,$API,7000"

# --- Site a subscribes.
site a
cat >"$FLEET/50-subscription-api.toml" <<TOML
# By \`sdwand service\`; the same file belongs on every host of the site.
format = 1
[[subscriptions]]
name    = "api"
bridge  = "prod-b"
address = "$API"
ports   = ["7000"]
TOML
republish ha a1 a2
wait_for "the gateway takes the one address, though the peer names two" 5 prints "$API/128 " allowed ha wg-sdwan-1 hb
wait_for "from a LAN's host: tcp 7000" 15 prints ok asked lana "tcp,$API,7000"
expect "from a spoke: tcp 7000" ok oasked a2 1 "tcp,$API,7000"
expect "another port" "$NO_TCP" asked lana "tcp,$API,7001"
expect "another protocol" timeout asked lana --payload none "udp,$API,7000"
expect "another virtual IP" "$NO_TCP" asked lana "tcp,$DB,7000"
expect "another port, from a spoke" "$NO_TCP" oasked a2 1 "tcp,$API,7001"
expect "ping, which any may any inside" "$NO_PING" pinged lana "$API"
expect "show tells of it" "api fd77:1:2:5::100" eval 'sdw ha service show --json | jq -r ".subscriptions[] | \"\(.name) \(.address)\""'
expect "nothing is left to do" 0 eval 'sdw ha plan >/dev/null; echo $?'

# --- Either end takes it back.
expect "unsubscribed" true eval 'sdw ha service unsubscribe api --json | jq .changed'
rm "$FLEET/50-subscription-api.toml"
republish ha a1 a2
wait_for "the gateway takes nothing any more" 5 nothing ha wg-sdwan-1 hb
expect "out of reach again" "$NO_TCP" asked lana "tcp,$API,7000"
expect "unsubscribed already" false eval 'sdw ha service unsubscribe api --json | jq .changed'
site b
expect "withdrawn" true eval 'sdw hb service withdraw api --json | jq .changed'
rm "$FLEET/50-offer-api.toml"
republish hb b1 b2
expect "no rule of it is left" '' eval 'sdw hb status --json | jq -r ".networks[].rules[] | select(.name == \"api\") | .name"'
