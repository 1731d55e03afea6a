#!/bin/bash
# A second operator's word: at B nobody is proposed or accepted, and no CA rotated, by one operator alone. By the command
# line, which is the operator of the gateway, and by curl with the tokens of two others. And a pause.
#
#     A (ga) ── wan ── B (gb)     B: [approvals] propose, accept, anchor = "require"
. "$(dirname "$0")/lab/lib.sh"
lab_binary
has_tool curl || skip_rest "no curl: install.sh test"

mkhost ga gb
underlay ga gb
mksite ga site-a "https://${V4[ga]}:8443"
mksite gb site-b "https://${V4[gb]}:8443" 'metrics_listen = "127.0.0.1:9587"' '[api]' 'listen = "127.0.0.1:3000"' \
  'plain_http = true' '[approvals]' 'propose = "require"' 'accept = "require"' 'anchor = "require"' 'bridge = "require"'
declare -A SITE=()
for host in ga gb; do
  SITE[$host]=$(sed -n 's/^prefix = "\(.*\)"/\1/p' "$LAB/hosts/$host/etc/fleet.d/00-site.toml")
  cat >"$LAB/hosts/$host/etc/fleet.d/10-prod.toml" <<TOML
format = 1
[[networks]]
name = "prod"
id = 1
routing = "static"
members = [ { node = "$host", role = "hub", endpoints = ["${V4[$host]}"] } ]
[[networks.virtual_ips]]
name = "web"
address = "::100"
holders = ["$host"]
TOML
done
start_serve ga
start_serve gb
API=http://127.0.0.1:3000/api/v1/system
token_of() { sdw gb token issue --sub "$1" --permission read,invite,manage --json | jq -r .token; }
declare -A JWT=([bob]=$(token_of bob) [carol]=$(token_of carol))
as() { local who=$1; shift; on gb curl -s -H "Authorization: Bearer ${JWT[$who]}" "$@"; }
# code FILE WHO CURL…: the answer goes to the file, its status is printed.
code() { local file=$LAB/$1; shift; as "$1" -o /dev/stderr -w '%{http_code}' "${@:2}" 2>"$file"; }
approvals=$API/platform/approvals

note "-- accept: parked by bob, approved by carol with curl"
sdw ga peer propose "https://${V4[gb]}:8443" --name site-b --json | jq -r .acceptance_token >"$LAB/token"
secret=$(cut -d . -f 2 "$LAB/token")
ask_register() { code registered bob -X POST "$API/platform/peers" -d "{ \"remote_instance_url\": \"https://${V4[ga]}:8443\", \"alias\": \"site-a\" }"; }
expect "to register A waits" 202 ask_register
expect "nothing else has happened" 0 eval 'sdw gb peer list --json | jq length'
id=$(jq -r .data.pending_id "$LAB/registered")
expect "who asked can't approve" 403 code own bob -X POST "$approvals/$id/approve"
check "and is told why" grep -q 'sub:bob asked for this' "$LAB/own"
check "the operator of the gateway approves, by the command line" sdw gb approvals approve "$id"
expect "A is registered" proposed eval 'sdw gb peer list --json | jq -r ".[0].status"'
accept() { code "$1" bob -X POST "$API/platform/peers/site-a/accept" -d "{ \"acceptance_token\": \"$2\" }"; }
expect "a damaged token isn't parked" 422 accept damaged "$(cut -c 2- "$LAB/token")"
expect "a sound one waits" 202 accept parked "$(<"$LAB/token")"
expect "and the same again is the same" 202 accept again "$(<"$LAB/token")"
check "by its id" cmp "$LAB/parked" "$LAB/again"
id=$(jq -r .data.pending_id "$LAB/parked")
expect "A hears nothing of it" proposed eval 'sdw ga peer list --json | jq -r ".[0].status"'
waits() { on gb curl -s http://127.0.0.1:9587/metrics | grep -qx 'sdwand_gateway_approvals_pending 1'; }
wait_for "monitoring sees that something waits" 20 waits
expect "carol approves" 200 code approved carol -X POST "$approvals/$id/approve"
expect "and is answered what it came to" 'approved sub:carol' jq -r '.data.approval | [.state, .decided_by] | join(" ")' "$LAB/approved"
wait_for "both sites are active" 10 is ga active
wait_for "on both sides" 10 is gb active

note "-- deny, by the command line; who asks there gets 2 and an id"
status "to propose waits" 2 sdw gb peer propose https://198.51.100.9:8443 --name site-x --json
id=$(jq -r .pending_id "$LAB/said")
status "the same user can't approve" 1 sdw gb approvals approve "$id"
expect "bob says no" 200 code denied bob -X POST "$approvals/$id/deny" -d '{ "reason": "no contract" }'
expect "it is over" 'denied no contract' eval "sdw gb approvals show $id --json | jq -r '[.state, .reason] | join(\" \")'"
expect "carol can't approve it any more" 409 code late carol -X POST "$approvals/$id/approve"

note "-- a bridge: the fleet asks, another operator approves, and until then the peer hears nothing"
check "A wants it" sdw ga peer bridge site-b --network prod --import "${SITE[gb]}" --no-wait
bridge() { sdw gb peer bridge site-a --network prod --import "${SITE[ga]}" "$@"; }
status "B's waits" 2 bridge --export vip:web --json
expect "for an approval" 'proposed approval' jq -r '.bridge | [.state, .waits_for] | join(" ")' "$LAB/said"
the_one() { sdw gb approvals list --json | jq -r '.[] | select(.action == "bridge") | .'"$1"; }
vip=${SITE[gb]%::/48}:1::100/128
expect "what it would open is listed" "${SITE[ga]} $vip" the_one 'opens | [.import[], .export[]] | join(" ")'
heard() { sdw ga peer show site-b --json | jq -r '.bridges[0].announced | if . == [] then "nothing" else join(" ") end'; }
agreed() { jq -r "[.bridges[].$2[]] | if . == [] then \"nothing\" else join(\" \") end" "$LAB/hosts/$1/run/state/sdwand-agreements/agreements.json"; }
stop_serve gb TERM
start_serve gb
expect "A has heard nothing of it, after a restart either" nothing heard
expect "and nothing is handed over" 'nothing nothing' eval 'echo $(agreed ga import) $(agreed gb import)'
id=$(the_one id)
status "whoever may write the fleet can't approve it" 1 sdw gb approvals approve "$id"
expect "carol approves" 200 code opened carol -X POST "$approvals/$id/approve"
says() { [[ $(heard) = "$1" ]]; }
wait_for "and A hears of it" 10 says "$vip"
hands() { [[ $(agreed gb export) = "$1" ]]; }
wait_for "that is handed over" 10 hands "$vip"
status "more of it waits" 2 bridge --json
expect "and what is open goes on" "active $vip" jq -r '.bridge | [.state, .export[]] | join(" ")' "$LAB/said"
expect "bob says no" 200 code no-more bob -X POST "$approvals/$(the_one id)/deny" -d '{ "reason": "too much" }'
status "as long as the fleet wants that, it isn't asked again" 2 bridge --json
expect "and that is said" denied jq -r .bridge.waits_for "$LAB/said"
expect "nothing waits" '' the_one id
check "less waits for nobody" bridge --export vip:web
expect "A has heard of no more" "$vip" heard
check "nor does the end" sdw gb peer bridge site-a --network prod --remove
wait_for "of which A hears" 10 says nothing
expect "the audit has all of it" 'approved denied requested' eval \
  'sdw gb audit tail --json | jq -r "[.[] | select(.payload.action == \"bridge\") | .kind | sub(\".*[.]\"; \"\")] | unique | join(\" \")"'

note "-- a restart: what waits without a token waits on, what has one is void"
sdw ga peer propose https://198.51.100.7:8443 --name site-y --json | jq -r .acceptance_token >"$LAB/other"
register_y() { code registered-y bob -X POST "$API/platform/peers" -d '{ "remote_instance_url": "https://198.51.100.7:8443", "alias": "site-y" }'; }
expect "to register another waits" 202 register_y
expect "carol approves" 200 code approved-y carol -X POST "$approvals/$(jq -r .data.pending_id "$LAB/registered-y")/approve"
accept_y() { code parked-y bob -X POST "$API/platform/peers/site-y/accept" -d "{ \"acceptance_token\": \"$(<"$LAB/other")\" }"; }
expect "and a token for it waits" 202 accept_y
expect "to rotate the CA waits" 202 code rotate bob -X POST "$API/federation/pki/rotate"
stop_serve gb TERM
start_serve gb
id=$(jq -r .data.pending_id "$LAB/rotate")
expect "carol approves after the restart" 200 code rotated carol -X POST "$approvals/$id/approve"

id=$(jq -r .data.pending_id "$LAB/parked-y")
expect "the token is gone with it" 409 code void carol -X POST "$approvals/$id/approve"
expect "and that is said" 'its token was lost with a restart: ask again' eval "sdw gb approvals show $id --json | jq -r .reason"

note "-- a pause"
check "pause" sdw gb federation pause --reason 'maintenance'
expect "nobody is proposed" 409 code paused carol -X POST "$API/platform/peers" -d '{ "remote_instance_url": "https://198.51.100.8:8443" }'
check "and is told who paused, and why" grep -q 'paused, by uid:.*maintenance' "$LAB/paused"
stop_serve gb TERM
start_serve gb
expect "it holds over a restart" maintenance eval 'sdw gb federation status --json | jq -r .paused.reason'
status_of() { sdw "$1" peer list --json | jq -r ".[] | select(.alias == \"$2\") | .status"; }
stands() { [[ $(status_of "$1" "$2") = "$3" ]]; }
wait_for "heartbeats go on" 10 stands gb site-a active
check "so does the list, which says so" eval 'sdw gb peer list 2>&1 | grep -q "paused by"'
check "to revoke needs neither approval nor the end of a pause" sdw gb peer revoke site-a --reason test
wait_for "the other side hears of it" 10 stands ga site-b degraded
expect "carol ends the pause" 200 code resumed carol -X POST "$API/federation/resume"
expect "the audit has all of it" 'federation.paused federation.resumed' eval \
  'sdw gb audit tail --json | jq -r "[.[].kind | select(test(\"^federation.(paused|resumed)\"))] | join(\" \")"'
check "and is whole" sdw gb audit verify
refute "no token is in the ledger or the log" grep -rF -e "$secret" "$LAB/hosts/gb/run/state" "$LAB/hosts/gb/serve.log"

note "-- another site's token, by one call: registered and accepted once carol says so"
check "A draws a token anew" sdw ga peer revoke site-b --reason test
sdw ga peer propose "https://${V4[gb]}:8443" --name site-b --json | jq -r .acceptance_token >"$LAB/token"
join() { # FILE
  code "$1" bob -X POST "$API/federation/acceptances" -d "{ \"acceptance_token\": \"$(<"$LAB/token")\", \"contract_version\": 1,
    \"capabilities\": {}, \"extension_slugs\": [], \"endpoints\": [{ \"url\": \"https://${V4[ga]}:8443\" }] }"
}
# How A stands at B: its host is no name, so the alias is made of its address.
joined() { sdw gb peer list --json | jq -r ".[] | select(.remote_instance_url == \"https://${V4[ga]}:8443\" and .status != \"revoked\") | .status"; }
expect "it waits" 202 join joining
expect "and nobody is registered meanwhile" '' joined
expect "carol approves" 200 code joined carol -X POST "$approvals/$(jq -r .data.pending_id "$LAB/joining")/approve"
expect "the sites are peers" enrolled jq -r .data.result.status "$LAB/joined"
at_ga() { sdw ga peer list --json | jq -r '.[] | select(.alias == "site-b" and .status != "revoked") | .status'; }
wait_for "both are active" 10 prints active at_ga
wait_for "on both sides" 10 prints active joined
expect "who is a peer isn't registered again" 409 join again
