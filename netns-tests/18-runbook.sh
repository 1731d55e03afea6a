#!/bin/bash
# The federation walk-through, line by line: curl with operators' tokens against two real gateways, then an overlay
# between them, a tenant, and a service.
#
#     sa ── A (ga) ── wan ── B (gb)      platform-a.example.com, platform-b.example.com
#
#     site A fd01:0:1::/48, ga ::1, sa ::2; site B fd02:0:1::/48, gb ::1
#
# What stands between "-- step" lines are the walk-through's own requests, up to step 6. A's operators' API is plain http
# on loopback, as there; B's is https by its own CA. Steps 7 and 8 write the fragments that the walk-through's skills
# would; the overlay is static, and nothing of OVN is in it.
. "$(dirname "$0")/lab/lib.sh"
lab_binary
has_tool curl || skip_rest "no curl: install.sh test"

mkhost ga gb sa
underlay ga gb sa
mksite ga site-a https://platform-a.example.com:8443 'allow_dial = ["198.18.0.0/15"]' '[api]' 'listen = "127.0.0.1:3000"' 'plain_http = true'
mksite gb site-b https://platform-b.example.com:8443 'allow_dial = ["198.18.0.0/15"]' '[api]' 'listen = "[::]:8444"'
for host in ga gb; do
  printf '%s\n' '127.0.0.1 localhost' "${V4[ga]} platform-a.example.com" "${V4[gb]} platform-b.example.com" >"$LAB/hosts/$host/run/hosts"
  on "$host" mount --bind /run/hosts /etc/hosts
done
start_serve ga
start_serve gb
peers=/api/v1/system/platform/peers
JWT_A=$(sdw ga token issue --sub alice --permission read,invite,manage --json | jq -r .token)
JWT_B=$(sdw gb token issue --sub bob --permission read,invite --json | jq -r .token)
sdw gb pki show --json | jq -r .ca_pem >"$LAB/hosts/gb/run/ca.pem"
a() { on ga curl -s "$@"; }
b() { on gb curl -s --cacert /run/ca.pem "$@"; }
A=http://localhost:3000$peers B=https://platform-b.example.com:8444$peers

note "-- step 1: A proposes, and gets the token"
a -X POST -H "Authorization: Bearer $JWT_A" -H "Content-Type: application/json" "$A" -d '{
    "remote_instance_url": "https://platform-b.example.com:8443",
    "spawn_role":          "symmetric",
    "spawn_mode":          "out_of_band",
    "token_ttl_seconds":   604800
  }' >"$LAB/proposed"
expect "the answer has the peer" 'platform proposed symmetric out_of_band' \
  jq -r '.data.peer | [.peer_kind, .status, .spawn_role, .spawn_mode] | join(" ")' "$LAB/proposed"
TOKEN=$(jq -r .data.acceptance_token "$LAB/proposed")
PEER_ON_A=$(jq -r .data.peer.id "$LAB/proposed")
check "and the token" grep -q '^sdw1\.' <<<"$TOKEN"
expiry() { local at; at=$(jq -r .data.peer.acceptance_token_expires_at "$LAB/proposed"); echo $(( ($(date -d "$at" +%s) - $(date +%s) + 43200) / 86400 )); }
expect "which is good for 7 days" 7 expiry
a -H "Authorization: Bearer $JWT_A" "$A" >"$LAB/listed"
refute "and never shown again" grep -F "$TOKEN" "$LAB/listed"

note "-- steps 2, 3: the token goes to B out of band"

note "-- step 4: B registers A, and accepts"
b -X POST -H "Authorization: Bearer $JWT_B" -H "Content-Type: application/json" "$B" \
  -d '{ "remote_instance_url": "https://platform-a.example.com:8443", "spawn_role": "symmetric" }' >"$LAB/registered"
PEER_ON_B=$(jq -r .data.peer.id "$LAB/registered")
expect "the peer is proposed" proposed jq -r .data.peer.status "$LAB/registered"
# platform.system_sdwan_accept_federation_peer
b -X POST -H "Authorization: Bearer $JWT_B" -H "Content-Type: application/json" "$B/$PEER_ON_B/accept" \
  -d "{ \"acceptance_token\": \"$TOKEN\" }" >"$LAB/accepted"
expect "accepted, and enrolled with it" '@(enrolled|active)' jq -r .data.peer.status "$LAB/accepted"
expect "the soft steps are told" 'scanned skipped' jq -r '[.data.governance.status, .data.sdwan_attach.status] | join(" ")' "$LAB/accepted"
on_a() { a -H "Authorization: Bearer $JWT_A" "$A" | jq -r '.data[] | select(.remote_instance_url=="https://platform-b.example.com:8443") | .status'; }
on_b() { b -H "Authorization: Bearer $JWT_B" "$B" | jq -r '.data[] | select(.remote_instance_url=="https://platform-a.example.com:8443") | .status'; }
expect "it landed on A" '@(enrolled|active)' on_a
expect "and on B" '@(enrolled|active)' on_b
b -X POST -H "Authorization: Bearer $JWT_B" "$B/$PEER_ON_B/accept" -d "{ \"acceptance_token\": \"$TOKEN\" }" >"$LAB/again"
expect "a second time it is refused" 'false conflict' jq -r '[.success, .code] | join(" ")' "$LAB/again"

note "-- step 5: the first heartbeat makes both active, by itself"
is_active() { [[ $("on_$1") = active ]]; }
wait_for "on A" 10 is_active a
wait_for "on B" 10 is_active b
a -H "Authorization: Bearer $JWT_A" "$A" | jq -r '.data[] | [.id, .status, .last_heartbeat_at, .last_handshake_at] | join(" ")' >"$LAB/beats"
check "with the times of both" grep -Eq "^$PEER_ON_A active 20[0-9T:.-]+Z 20[0-9T:.-]+Z$" "$LAB/beats"

note "-- step 6: A grants B something"
grant() { # FIELDS: the request of the walk-through, with other fields
  a -X POST -H "Authorization: Bearer $JWT_A" -H "Content-Type: application/json" "$A/$PEER_ON_A/grants" -d "{
    \"remote_subject\":    \"operator@platform-b.example.com\",
    \"resource_kind\":     \"$1\",
    \"resource_id\":       null,
    \"permission_scopes\": [\"read\"],

    \"node_instance_ids\": [],
    \"sdwan_network_ids\": [],
    \"source_cidrs\":      []
  }"
}
grant NodeModule >"$LAB/module"
expect "as it stands there" 'active read 30' jq -r '.data | [.state, .permission_scopes[0],
  (((.expires_at | sub("[.][0-9]+"; "") | fromdate) - (.issued_at | sub("[.][0-9]+"; "") | fromdate)) / 86400 | tostring)] | join(" ")' "$LAB/module"
expect "with a token, and what it leaves open" 'fg-* 3' jq -r '.data | [.bearer_token, (.unrestricted_axes | length | tostring)] | join(" ")' "$LAB/module"
call() { # KIND FILE: B calls A's federation_api with the grant
  jq -r .data.bearer_token "$2" >"$LAB/hosts/gb/run/bearer"
  sdw gb peer call "$PEER_ON_B" "$1" --grant /run/bearer --json
}
status "this site has no such kind" 1 call NodeModule "$LAB/module"
check "and says which it has" grep -q 'network, virtual_ip, node, service' "$LAB/said"
grant node >"$LAB/node"
call node "$LAB/node" >"$LAB/told"
expect "what is granted is read" 'true ga' jq -r '[.exists, .resources[0].id] | join(" ")' "$LAB/told"
a -H "Authorization: Bearer $JWT_A" "$A/$PEER_ON_A/grants?state=active" >"$LAB/grants"
expect "the grants are listed" 2 jq '.data | length' "$LAB/grants"
refute "without their tokens" grep -F "$(jq -r .data.bearer_token "$LAB/node")" "$LAB/grants"

note "-- step 7: a federation overlay, hub and spoke, static"
of() { # a|b: which site's fleet the lab's functions are about
  FLEET=$LAB/fleet-$1
  case $1 in a) SITE_PREFIX=fd01:0:1 ;; b) SITE_PREFIX=fd02:0:1 ;; esac
  mkdir -p "$FLEET"
}
hub() { echo "{ node = \"$1\", role = \"hub\", endpoints = [\"${V4[$1]}\"] }"; }
HOST_ID[ga]=1 HOST_ID[gb]=1
for site in a b; do
  of $site
  cp "$LAB/hosts/g$site/etc/fleet.d/00-site.toml" "$FLEET"
  fleet_network fed-overlay-a-b 1 "$(hub g$site)" --prefix_v4 ''
done
of a
echo 'format = 1' >"$FLEET/10-nodes.toml"
fleet_node sa 2
fleet_network fed-overlay-a-b 1 "$(hub ga)" sa --prefix_v4 ''
bring_up ga sa
of b; bring_up gb
overlay=(--network fed-overlay-a-b)
sha256sum "$LAB"/hosts/ga/etc/fleet.d/* >"$LAB/before"
expect "a dry run shows what would be" '*\[\[bridges\]\]*fd02:0:1::/48*fd01:0:1:1::/64*' sdw ga peer bridge "$PEER_ON_A" "${overlay[@]}" --dry-run
check "and writes nothing" sha256sum --quiet -c "$LAB/before"
status "A wants the bridge: it waits for B" 2 sdw ga peer bridge "$PEER_ON_A" "${overlay[@]}" --wait 1
check "B wants it too, and it is active" sdw gb peer bridge "$PEER_ON_B" "${overlay[@]}"
bridge_on() { sdw "$1" peer show "$2" --json | jq -r '.bridges[].state'; }
wait_for "on A as well" 10 prints active bridge_on ga "$PEER_ON_A"
carries() { state "$1" '.networks[] | select(.name == "fed-overlay-a-b") | .bridges[0].state'; }
wait_for "A's gateway carries it" 10 prints carrying carries ga
wait_for "and B's" 10 prints carrying carries gb
for site in a b; do of $site; cp "$LAB"/hosts/g$site/etc/fleet.d/50-bridge-*.toml "$FLEET"; done
of a; republish ga sa
expect "default-deny: nothing crosses" "$NO_PING" oping sa 1 fd02:0:1:1::1
of a; fleet_rule fed-overlay-a-b out any federation="$(sdw ga peer show "$PEER_ON_A" --json | jq -r .alias)" icmp; republish ga sa
of b; fleet_rule fed-overlay-a-b in federation="$(sdw gb peer show "$PEER_ON_B" --json | jq -r .alias)" any icmp; republish gb
of a
wait_for "one rule at each end: A's spoke reaches B" 15 prints reply oping sa 1 fd02:0:1:1::1

note "-- step 8: a tenant on the overlay"
fleet_network acme-prod 2 "$(hub ga)" sa --prefix_v4 ''
fleet_rule acme-prod own-prefix cidr=fd01:0:1:2::/64 cidr=fd01:0:1:2::/64 any - accept 100
fleet_rule acme-prod others any any any - drop 1000
republish ga sa
wait_for "inside the tenant: reached" 15 prints reply oping sa 2 fd01:0:1:2::1
expect "from the tenant to the overlay: not" "$NO_PING" oping sa 2 fd01:0:1:1::1
expect "from the tenant to B: not" "$NO_PING" oping sa 2 fd02:0:1:1::1
expect "from the overlay to the tenant: not" "$NO_PING" oping sa 1 fd01:0:1:2::1
of b
expect "from B to the tenant: not" "$NO_PING" oping gb 1 fd01:0:1:2::1
of a
expect "the overlay is as it was" reply oping sa 1 fd02:0:1:1::1
rm "$FLEET/20-acme-prod.toml"
republish ga sa
expect "taken back, nothing of it is left" '' eval 'for host in ga sa; do on $host ip -br link | grep -E "sdwan-2( |@)"; done'

note "-- step 9: a service of A's, used by B"
grant service >"$LAB/service"
call service "$LAB/service" >"$LAB/told"
expect "nothing is offered yet" 0 jq '.resources | length' "$LAB/told"
printf '\n[[networks.virtual_ips]]\nname = "api"\naddress = "::100"\nholders = ["sa"]\n' >>"$FLEET/20-fed-overlay-a-b.toml"
if ! has_dummy; then skip "this kernel has no dummy links: a virtual IP can't live here"; else
republish ga sa
oserve sa 1 tcp,*,7000 tcp,*,7001
bridge_name=$(sdw ga peer show "$PEER_ON_A" --json | jq -r '.bridges[0].name')
check "A offers it" sdw ga service offer api --bridge "$bridge_name" --tcp 7000
cp "$LAB"/hosts/ga/etc/fleet.d/50-offer-*.toml "$FLEET"
republish ga sa
expect "B finds it" 'api fd01:0:1:1::100 tcp 7000' eval \
  'sdw gb service list "$PEER_ON_B" --grant /run/bearer --json | jq -r ".[] | [.id, .address, .protocol, .ports[0]] | join(\" \")"'
of b
expect "which opens nothing" "$NO_TCP" oasked gb 1 tcp,fd01:0:1:1::100,7000
check "B subscribes" sdw gb service subscribe "$PEER_ON_B/api" --grant /run/bearer --from node:gb
wait_for "and uses it" 15 prints ok oasked gb 1 tcp,fd01:0:1:1::100,7000
expect "this port and no other" "$NO_TCP" oasked gb 1 tcp,fd01:0:1:1::100,7001
check "unsubscribed" sdw gb service unsubscribe api
wait_for "it is out of reach" 10 prints "$NO_TCP" oasked gb 1 tcp,fd01:0:1:1::100,7000
fi

note "-- and all of it taken back with the peer"
of a
check "A revokes B" a -f -X POST -H "Authorization: Bearer $JWT_A" "$A/$PEER_ON_A/revoke"
wait_for "nothing crosses any more" 5 prints "$NO_PING" oping sa 1 fd02:0:1:1::1

# --- What an operator's token doesn't allow.
code() { local who=$1; shift; "$who" -o /dev/null -w '%{http_code}' "$@"; }
expect "without a token nothing is told" 401 code a "$A"
expect "nor to A's operator on B" 401 code b -H "Authorization: Bearer $JWT_A" "$B"
expect "who may not manage doesn't revoke" 403 code b -X POST -H "Authorization: Bearer $JWT_B" "$B/$PEER_ON_B/revoke"
expect "nor does a web page" 403 code a -H "Authorization: Bearer $JWT_A" -H 'Origin: https://evil.example' "$A"
jti=$(sdw ga token list --json | jq -r '.[0].jti')
check "a token is revoked" sdw ga token revoke "$jti"
expect "and is worth nothing" 401 code a -H "Authorization: Bearer $JWT_A" "$A"
refute "no token is in the logs" grep -rF -e "$JWT_A" -e "$JWT_B" -e "$TOKEN" "$LAB/hosts/ga/serve.log" "$LAB/hosts/gb/serve.log"
