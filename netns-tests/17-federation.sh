#!/bin/bash
# Two sovereign sites, from a token to an active peering, by the command line; serve runs as nobody.
#
#     ga ── wan ── gb        each the gateway of a site of its own, with its own CA and ledger
. "$(dirname "$0")/lab/lib.sh"
lab_binary

mkhost ga gb
underlay ga gb
for host in ga gb; do mksite "$host" "site-${host#g}" "https://${V4[$host]}:8443" 'metrics_listen = "127.0.0.1:9587"'; done
start_serve ga
start_serve gb
check "serve has no capability" grep -qx $'CapEff:\t0000000000000000' "/proc/${SERVE[ga]}/status"
expect "the CA's key is its user's alone" '600 65534' on ga stat -c '%a %u' /run/state/sdwand-serve/ca.key

scrape() { on "$1" curl -sS --fail --max-time 5 http://127.0.0.1:9587/metrics; }
# metric HOST SERIES: its value, as a whole number.
metric() { scrape "$1" | awk -v series="$2" 'index($0, series " ") == 1 { printf "%d\n", $NF; found = 1 } END { exit !found }'; }
metric_is() { [[ $(metric "$1" "$2") = "$3" ]]; }
at_least() { (( $(metric "$1" "$2") >= $3 )); }
wait_for "there is something to scrape" 10 scrape ga
refute "and nothing from elsewhere" on gb curl -s --max-time 2 "http://${V4[ga]}:9587/metrics"
days=$(( ($(metric ga 'sdwand_gateway_certificate_expiry_timestamp_seconds{certificate="listener",peer=""}') - $(date +%s)) / 86400 ))
check "it says when the certificate ends" eval '(( days >= 88 && days <= 90 ))'

# --- From a token to an active peering.
sdw ga peer propose "https://${V4[gb]}:8443" --name site-b --json >"$LAB/proposed"
jq -r .acceptance_token "$LAB/proposed" >"$LAB/token"
secret=$(cut -d . -f 2 "$LAB/token")
check "the proposal has a token" grep -q '^sdw1\.' "$LAB/token"
sdw ga peer show site-b --json >"$LAB/shown"
refute "which nobody is shown again" grep -F "$secret" "$LAB/shown"
refute "nor is it in the ledger" grep -rF "$secret" "$LAB/hosts/ga/run/state"
status "a damaged token is refused before anything is dialled" 1 \
  sdw gb peer accept "https://${V4[ga]}:8443" --token "$(cut -c 2- "$LAB/token")"
expect "and nothing is registered" '[]' sdw gb peer list --json
start=$(now_ms)
accept() { sdw gb peer accept "https://${V4[ga]}:8443" --name site-a --token - <"$LAB/token"; }
check "accept, and wait until it is active" accept
took=$(( $(now_ms) - start ))
note "active after $took ms"
check "within 10 s" eval '(( took < 10000 * LAB_SLOW ))'
wait_for "so it is on the other side" 10 is ga active
wait_for "monitoring sees it, and that it isn't degraded" 20 metric_is ga 'sdwand_gateway_peer_degraded{peer="site-b"}' 0
expect "with its proposal taken" 0 metric ga sdwand_gateway_proposals
wait_for "and the heartbeats" 20 at_least ga 'sdwand_gateway_heartbeats_sent_total{outcome="answered"}' 1
heard=$(metric ga 'sdwand_gateway_peer_last_heartbeat_timestamp_seconds{peer="site-b"}')
check "the last one was just now" eval '(( heard > $(date +%s) - 20 * LAB_SLOW && heard <= $(date +%s) ))'
words() { sdw "$1" peer show "$2" --json | jq -r .verification_words; }
check "both operators see the same six words" eval '[[ $(words ga site-b) = "$(words gb site-a)" && $(words ga site-b | wc -w) = 6 ]]'
status "the token is used" 1 accept

# --- What a peer may read: nothing, until it is granted; and nothing again once that is revoked.
cat >"$LAB/hosts/ga/etc/fleet.d/10-prod.toml" <<TOML
format = 1
[[networks]]
name = "prod"
id = 1
members = [ { node = "ga", role = "hub", endpoints = ["192.0.2.1"] } ]
[[networks.virtual_ips]]
name = "web"
address = "::100"
holders = ["ga"]
TOML
sdw ga grant create site-b --kind network --subject operator@site-b --json >"$LAB/granted"
jq -r .bearer_token "$LAB/granted" >"$LAB/bearer"
secret_of_grant=$(cut -d . -f 2 "$LAB/bearer")
expect "its open axes are named" 'node_instance_ids sdwan_network_ids source_cidrs' \
  jq -r '.unrestricted_axes | join(" ")' "$LAB/granted"
reads() { # KIND [ID]: prints the ids
  sdw gb peer call site-a "$@" --grant "$LAB/bearer" --json >"$LAB/told" && jq -r '.resources[].id' "$LAB/told"
}
reads_prod() { [[ $(reads network prod) = prod ]]; }
wait_for "the peer reads the network, which is newer than the gateway's start" 10 reads_prod
status "another kind it doesn't" 1 reads node ga
status "nor anything with another token" 1 sdw gb peer call site-a network --grant "$LAB/token"
refute "no grant's token is shown again" eval 'sdw ga grant list site-b --json | grep -F "$secret_of_grant"'
refute "nor is it in the ledger" grep -rF "$secret_of_grant" "$LAB/hosts/ga/run/state"
echo 'nonsense' >"$LAB/hosts/ga/etc/fleet.d/20-bad.toml"
bad_fleet() { grep -q 'the fleet is bad' "$LAB/hosts/ga/serve.log"; }
wait_for "a bad fleet is said" 15 bad_fleet
check "and the last good one is told on" reads_prod
rm "$LAB/hosts/ga/etc/fleet.d/20-bad.toml"
check "revoke the grant" sdw ga grant revoke site-b "$(jq -r .id "$LAB/granted")"
status "it is worth nothing at once" 1 reads network prod

# --- Another CA, and nobody has to do anything.
ca_of() { sdw "$1" pki show --json | jq -r .ca_fingerprint; }
old_ca=$(ca_of ga)
check "rotate the CA" sdw ga pki rotate-ca
signs_anew() { [[ $(ca_of ga) != "$old_ca" ]]; }
wait_for "it signs once the peer knows it" 30 signs_anew
wait_for "the peering is as active as before" 10 is ga active
wait_for "on both sides" 10 is gb active
anchors() { sdw gb peer show site-a --json | jq '.trust_anchors | length'; }
expect "the old anchor stays for a week" 2 anchors

# --- Suspended and resumed.
check "suspend" sdw ga peer suspend site-b --reason test
wait_for "the other side is refused, and says so" 10 is gb degraded
check "resume" sdw ga peer resume site-b
wait_for "active again" 10 is ga active
wait_for "on both sides" 20 is gb active

# --- Restarts, also by force: nobody has to do anything.
heard_since() { # HOST TIME
  [[ $(sdw "$1" peer list --json | jq -r '.[] | select(.status == "active") | .last_heartbeat_at') > $2 ]]
}
stop_serve gb KILL
at=$(date -u +%FT%TZ)
start_serve gb
wait_for "after a kill, the beats go on" 20 heard_since gb "$at"
stop_serve ga TERM
at=$(date -u +%FT%TZ)
start_serve ga
wait_for "after a stop, too" 20 heard_since ga "$at"
wait_for "on both sides" 20 heard_since gb "$at"

# --- A partition.
on wan ip link set to-gb down
wait_for "cut off, each degrades the other" 20 is ga degraded
wait_for "by itself" 20 is gb degraded
reason() { sdw "$1" peer list --json | jq -r '.[] | select(.status != "revoked") | .reason'; }
expect "it was asked before, and says what was seen" 'heartbeat_stale: unreachable' reason ga
wait_for "monitoring sees that it is degraded" 20 metric_is ga 'sdwand_gateway_peer_degraded{peer="site-b"}' 1
expect "and how many are" 1 metric ga 'sdwand_gateway_peers{status="degraded"}'
wait_for "and that nobody answers" 20 at_least ga 'sdwand_gateway_heartbeats_sent_total{outcome="failed"}' 1
scrape ga >"$LAB/page"
if command -v promtool >/dev/null; then
  check "promtool has nothing to say against the page" eval "promtool check metrics <$LAB/page"
else
  skip "no promtool: the page's form"
fi
check "it names the site, and the fleet that is told" grep -qE '^sdwand_gateway_info\{site="site-a[^"]*",node="ga",digest="[0-9a-f]{64}"\} 1$' "$LAB/page"
refute "no secret is in it" grep -F -e "$secret" -e "$secret_of_grant" "$LAB/page"
on wan ip link set to-gb up
wait_for "and heals" 30 is ga active
wait_for "by itself" 30 is gb active
check "a sweep finds all well" sdw ga peer sweep --dry-run
status "and tells who has been silent for no time at all" 1 sdw ga peer sweep --dry-run --stale-after 0
sdw ga peer sweep --stale-after 0 --json >"$LAB/swept" || true
check "who answers a probe stays active" jq -e '.swept == 1 and .degraded_ids == [] and .silent[0].probe == "answers"' "$LAB/swept"

# --- The end.
check "revoke" sdw ga peer revoke site-b --reason over
knows() { [[ $(sdw gb peer show site-a --json | jq -r .reason) = revoked_by_peer ]]; }
wait_for "the other side knows" 3 knows
check "and is refused" is gb degraded
status "nothing brings it back" 1 sdw ga peer resume site-b
for host in ga gb; do check "$host: the audit is whole" sdw "$host" audit verify; done
sdw ga audit tail --json >"$LAB/audit"
for happened in peer.{proposed,enrolled,active,suspended,degraded,revoked} grant.{created,revoked} pki.rotated; do
  check "it tells of $happened" jq -e --arg kind "federation.$happened" 'any(.[]; .kind == $kind)' "$LAB/audit"
done
event() { # HOST ID JQ-FILTER: there is an event with this id in the log for which that is so
  jq -eRn --arg id "$2" "[inputs | fromjson? | select(.event == \$id)] | any($3)" "$LAB/hosts/$1/serve.log"
}
for happened in peer.{proposed,enrolled,active,suspended,revoked} grant.{created,revoked} pki.rotated; do
  check "$happened is an event" event ga "federation.$happened" true
done
check "of a peer, and says why" event ga federation.peer.degraded '.alias == "site-b" and .level == "WARN" and (.reason | test("unreachable"))'
check "so is a bad fleet" event ga fleet.bad '.level == "ERROR" and (.first | test("20-bad.toml"))'
for word in "$secret" "$secret_of_grant"; do
  refute "no secret is in the logs" grep -F "$word" "$LAB/hosts/ga/serve.log" "$LAB/hosts/gb/serve.log"
done
