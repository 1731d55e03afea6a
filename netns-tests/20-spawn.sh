#!/bin/bash
# A site spawns another: a payload is left for its first start, its parent signs for it and reads there without a token,
# until it is emancipated. A third one joins a cluster.
#
#     ga ── wan ── gb, gc        ga is the parent of both
. "$(dirname "$0")/lab/lib.sh"
lab_binary
has_tool curl || skip_rest "no curl: install.sh test"
has_tool openssl || skip_rest "no openssl: install.sh test"

mkhost ga gb gc
underlay ga gb gc
cluster='{ kind = "postgresql", address = "db.site-a.example:5432", credential = "vault:sdwan/db" }'
mksite ga site-a "https://${V4[ga]}:8443" "cluster = $cluster"
for host in gb gc; do mksite "$host" "site-${host#g}" "https://${V4[$host]}:8443"; done
start_serve ga

# --- The payload: a file with a token in it that is good once.
payload=/etc/sdwand/federation-payload.json
propose_b() {
  sdw ga peer propose "https://${V4[gb]}:8443" --name site-b --role parent --mode managed_child --payload "$1" --json
}
propose_b "$LAB/payload" >"$LAB/proposed"
expect "only its owner reads it" 600 stat -c %a "$LAB/payload"
refute "and the token is shown nowhere else" grep -F sdw1. "$LAB/proposed"
expect "it names the parent" "https://${V4[ga]}:8443" jq -r .parent_url "$LAB/payload"
status "a payload is never written over another's" 1 propose_b "$LAB/payload"
install -m 0640 -g 65534 "$LAB/payload" "$LAB/hosts/gb/etc/federation-payload.json"
expect "it lies where the child looks" "$(jq -r .acceptance_token "$LAB/payload")" on gb jq -r .acceptance_token "$payload"

# --- The child's first start. Its parent isn't there yet, and is tried on.
stop_serve ga TERM
start_serve gb
waits() { jq -eRn '[inputs | (fromjson | .event)?] | any(. == "parent.not_reached")' "$LAB/hosts/gb/serve.log"; }
wait_for "the child says that its parent isn't reached" 10 waits
start_serve ga
wait_for "the parent has taken the child up" 30 is ga active
wait_for "and the child its parent" 10 is gb active
refute "no token is in the log" grep -F "$(jq -r .acceptance_token "$LAB/payload" | cut -d . -f 2)" "$LAB/hosts/gb/serve.log"
field() { sdw "$1" peer show "$2" --json | jq -r ".$3"; }
expect "the parent signs for it" true field ga site-b signed_here
expect "the child knows what it is" 'child managed_child' \
  eval 'echo "$(field gb site-a spawn_role)" "$(field gb site-a spawn_mode)"'
expect "until when it is managed is shown on both sides" 2 eval \
  'for host in "ga site-b" "gb site-a"; do field $host managed_until; done | grep -c "^$(date -u -d "+365 days" +%Y-%m)"'
expect "both see the same words" "$(field ga site-b verification_words)" field gb site-a verification_words
expect "what was signed is its user's alone" '600 65534' \
  on gb stat -c '%a %u' "/run/state/sdwand-serve/issued-$(field gb site-a id).pem"
check "openssl reads who may call with it" eval \
  'on gb openssl x509 -in "/run/state/sdwand-serve/issued-$(field gb site-a id).pem" -noout -ext extendedKeyUsage | grep -q "Client Authentication"'
stop_serve gb TERM
start_serve gb
wait_for "a second start finds the payload used" 10 is gb active
expect "and registers nobody" 1 eval 'sdw gb peer list --json | jq length'

# --- The parent's authority, and its end.
read_b() { sdw ga peer call site-b node --json | jq -r '.resources[].id'; }
reads_b() { [[ $(read_b) = gb ]]; }
wait_for "the parent reads at its child without a grant's token" 15 reads_b
status "the child doesn't at its parent" 1 sdw gb peer call site-a node
grant_of() { sdw "$1" grant list "$2" --json | jq -r '.[0].id'; }
expect "it is a grant for a year" 365 eval \
  'sdw gb grant list site-a --json | jq -r ".[0] | ((.expires_at[:19] + \"Z\" | fromdate) - (.issued_at[:19] + \"Z\" | fromdate)) / 86400"'
check "the child's operator takes it back" sdw gb grant revoke site-a "$(grant_of gb site-a)" --reason 'on our own'
status "the parent reads nothing any more" 1 sdw ga peer call site-b node
autonomous() { [[ $(field ga site-b spawn_mode) = autonomous_peer ]]; }
wait_for "and hears of it with a beat" 10 autonomous
expect "the record of it is closed" revoked eval 'sdw ga grant list site-b --json | jq -r ".[0].state"'
expect "nothing is managed any more" 'null null' \
  eval 'echo "$(field ga site-b managed_until)" "$(field gb site-a managed_until)"'
check "the peering stays" is ga active

# --- A foreign child: curl and openssl, and nothing of ours.
site_x=$(sdw ga pki show --json | jq -r .site_id | sed 's/^site-a\.fd01/site-x.fd7a/')
sdw ga peer propose https://198.51.100.7:8443 --name site-x --role parent --mode managed_child --json >"$LAB/x"
api="https://${V4[ga]}:8443/api/v1/system/federation_api"
foreign() { on gc curl -sk --max-time 10 -H 'content-type: application/json' "$@"; }
jq '{acceptance_token, contract_version: "v1"}' "$LAB/x" >"$LAB/accept.json"
foreign -d @- "$api/accept" <"$LAB/accept.json" >"$LAB/accepted"
expect "accepted, and nothing is exchanged yet" accepted jq -r .data.status "$LAB/accepted"
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$LAB/x.key" -out "$LAB/x.csr" \
  -subj /CN=whoever -addext "subjectAltName=URI:spiffe://$site_x/gateway/x1" 2>/dev/null
jq -n --rawfile csr "$LAB/x.csr" --slurpfile a "$LAB/accepted" \
  '{csr_pem: $csr, bootstrap_token: $a[0].data.node_enrollment.bootstrap_token}' >"$LAB/renew.json"
foreign -d @- "$api/renew" <"$LAB/renew.json" >"$LAB/renewed"
expect "its node has its certificate" enrolled jq -r .data.status "$LAB/renewed"
jq -r '.data.federation_certificate | .cert_pem, .ca_chain_pem' "$LAB/renewed" >"$LAB/x.pem"
expect "under the name that it was given" "subject=CN = fed:$(jq -r .peer.id "$LAB/x")" openssl x509 -in "$LAB/x.pem" -noout -subject
cp "$LAB/x.key" "$LAB/x.pem" "$LAB/hosts/gc/etc/"
beat_x() { foreign --cert /etc/sdwand/x.pem --key /etc/sdwand/x.key -d '{}' "$api/heartbeat" | jq -r .data.status; }
expect "and beats" active beat_x
check "revoke it" sdw ga peer revoke site-x
expect "it is nobody" null beat_x

# --- A member of a cluster is told where it is.
sdw ga peer propose "https://${V4[gc]}:8443" --name site-c --role parent --mode cluster_member --json >"$LAB/c"
start_serve gc
accept_c() {
  jq -r .acceptance_token "$LAB/c" |
    sdw gc peer accept "https://${V4[ga]}:8443" --name site-a --role child --mode cluster_member --token -
}
check "the member accepts" accept_c
expect "and knows where the cluster is" 'postgresql db.site-a.example:5432 vault:sdwan/db' \
  eval 'sdw gc peer show site-a --json | jq -r ".cluster | [.kind, .address, .credential] | join(\" \")"'
status "who has no certificate is turned away in the handshake while nobody is awaited" 56 \
  on gc curl -sk --max-time 10 "https://${V4[ga]}:8443/api/v1/system/federation_api/trust_bundle"
for host in ga gb gc; do check "$host: the audit is whole" sdw "$host" audit verify; done
stop_serve ga TERM
stop_serve gb TERM
stop_serve gc TERM
