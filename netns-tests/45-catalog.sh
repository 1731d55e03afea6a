#!/bin/bash
# A peer's catalog over mTLS, and a subscription out of it: what the command writes is what the peer offers, and no more.
#
#     ga ── wan ── gb        each the gateway of a site of its own; gb offers, ga subscribes
. "$(dirname "$0")/lab/lib.sh"
lab_binary

mkhost ga gb
underlay ga gb
for host in ga gb; do mksite "$host" "site-${host#g}" "https://${V4[$host]}:8443"; done
# network HOST NAME: a network with a virtual IP.
network() {
  printf 'format = 1\n[[networks]]\nname = "%s"\nid = 1\nrouting = "static"\nmembers = [{ node = "%s", role = "hub", endpoints = ["192.0.2.1"] }]\n' "$2" "$1"
  printf '[[networks.virtual_ips]]\nname = "web"\naddress = "::100"\nholders = ["%s"]\n' "$1"
}
bridge() { # NAME PEER NETWORK REMOTE GATEWAY
  printf 'format = 1\n[[bridges]]\nname = "%s"\npeer = "%s"\nnetwork = "%s"\nremote_network = "%s"\ngateways = ["%s"]\n' "$@"
}
fleet_of() { echo "$LAB/hosts/$1/etc/fleet.d"; }
network ga prod >"$(fleet_of ga)/10-prod.toml"
network gb lab >"$(fleet_of gb)/10-lab.toml"
bridge lab-a site-a lab prod gb >"$(fleet_of gb)/50-bridge-lab-a.toml"
start_serve ga
start_serve gb
sdw ga peer propose "https://${V4[gb]}:8443" --name site-b --json | jq -r .acceptance_token >"$LAB/token"
accept() { sdw gb peer accept "https://${V4[ga]}:8443" --name site-a --token - <"$LAB/token"; }
check "two sites know each other" accept
wait_for "on both sides" 10 is ga active

sdw gb grant create site-a --kind service --subject operator@site-a --json | jq -r .bearer_token >"$LAB/bearer"
listed() { sdw ga service list site-b --grant "$LAB/bearer" --json | jq -c '[.[] | [.id, .address, .protocol, .ports]]'; }
address=$(sdw ga peer show site-b --json | jq -r .remote_prefix_advertisement)
address=${address%::/48}:1::100
expect "nothing is offered yet" '[]' listed
status "nor is anything told without a grant" 1 sdw ga service list site-b
check "site b offers a service" sdw gb service offer web --bridge lab-a --tcp 443 8000-8010 --name pages --description "the intranet"
wait_for "site a reads how to speak to it" 15 prints "\[\[\"pages\",\"$address\",\"tcp\",\[\"443\",\"8000-8010\"\]\]\]" listed

subscribe=(service subscribe site-b/pages --grant "$LAB/bearer" --from node:ga)
status "without a bridge there is no subscription" 1 sdw ga "${subscribe[@]}"
check "and the command that makes one is named" grep -qF 'sdwand peer bridge site-b --network NETWORK --remote-network lab' "$LAB/said"
bridge prod-b site-b prod lab ga >"$(fleet_of ga)/50-bridge-prod-b.toml"
sha256sum "$(fleet_of ga)"/* >"$LAB/before"
status "what isn't offered can't be subscribed to" 1 sdw ga service subscribe site-b/other --grant "$LAB/bearer"
check "a dry run" sdw ga "${subscribe[@]}" --dry-run
check "writes nothing" sha256sum --quiet -c "$LAB/before"
expect "subscribed" true eval 'sdw ga "${subscribe[@]}" --json | jq .changed'
expect "and the same again is nothing new" false eval 'sdw ga "${subscribe[@]}" --json | jq .changed'
expect "as it was offered" "pages $address tcp 443,8000-8010 ga" eval \
  'sdw ga service show --json | jq -r ".subscriptions[] | \"\(.name) \(.address) \(.protocol) \(.ports | join(\",\")) \(.from.node)\""'
used() { sdw gb service offers --json | jq -r '.[] | "\(.service) \(.subscribers | map(.peer) | join(","))"'; }
wait_for "site b learns by itself who uses its offer" 15 prints 'pages site-a' used
check "and since when, in words" eval 'sdw gb service offers | grep -q "^pages .*used by site-a since 20"'
stop_serve gb TERM
start_serve gb
expect "which it doesn't forget" 'pages site-a' used
check "unsubscribe" sdw ga service unsubscribe pages
wait_for "site b learns of that, too" 15 prints 'pages ' used
check "subscribed again" sdw ga "${subscribe[@]}"
wait_for "it is told again" 15 prints 'pages site-a' used
check "the offer is withdrawn" sdw gb service withdraw pages
wait_for "and nothing is offered" 15 prints '' used
happened() { sdw gb audit tail --json | jq -r '[.[].kind | select(startswith("federation.subscription.")) | sub(".*[.]"; "")] | join(" ")'; }
wait_for "the audit has all of it" 15 prints 'subscribed unsubscribed subscribed withdrawn' happened
check "unsubscribe for good" sdw ga service unsubscribe pages
files() { find "$(fleet_of ga)" -type f | wc -l; }
check "the fleet is byte for byte as before" sha256sum --quiet -c "$LAB/before"
expect "with no file more" "$(wc -l <"$LAB/before")" files
