#!/bin/bash
# Only in the native lane: what is tested is HTTP, and the slow kernel adds nothing to it.
#
# schemathesis against the documents of both APIs: whatever is asked, in shape and out of it, gets an answer that the
# document names, of the shape that it names, and never a fault.
#
#     A (ga) ── wan ── B (gb)     A's operators ask over plain http on loopback and over api.sock, B as a peer by mTLS
. "$(dirname "$0")/lab/lib.sh"
lab_binary
ST=${SDWAND_SCHEMATHESIS:-$HOME/.cache/sdwand/schemathesis/bin/schemathesis}
[[ -x $ST ]] || skip_rest "no schemathesis: install.sh test"

mkhost ga gb
underlay ga gb
mksite ga site-a "https://${V4[ga]}:8443" '[api]' 'listen = "127.0.0.1:3000"' 'plain_http = true'
start_serve ga
# tested NAME DOCUMENT HOST [OPTION…]: nothing is found.
tested() {
  local name=$1 document=$2 host=$3 code=0
  shift 3
  on "$host" env HOME=/run "$ST" --config-file "$LAB_LIB/schemathesis.toml" run "/run/$document" --checks all \
    --max-examples "${SDWAND_EXAMPLES:-25}" --seed 20 --warnings off --no-color --output-sanitize false \
    --report ndjson --report-ndjson-path "/run/$name.ndjson" "$@" >"$LAB/hosts/$host/$name.log" 2>&1 || code=$?
  sed -i "s/${JWT:-none}/TOKEN/g" "$LAB/hosts/$host/$name.log"
  return "$code"
}
# never_done NAME DOCUMENT HOST BUT: the operations that were only refused. What becomes of one peer doesn't count: that
# needs another site, a peer that is more than proposed, or the moment after another change; nor do approvals, of which none is
# asked here, and what needs another site's token or bridge, an offer, or a grant of another kind.
never_done() {
  "$PYTHON" "$LAB_LIB/answered.py" "$LAB/hosts/$3/run/$2" "$LAB/hosts/$3/run/$1.ndjson" |
    grep -Ev "^(POST|PATCH|DELETE) .*/peers/\{peer\}(/|\$)| .*/($4)\$" || true
}

note "-- peers: a foreign child of A's, which has a key and a certificate to call with, and nothing else of ours"
site_x=$(sdw ga pki show --json | jq -r .site_id | sed 's/^site-a\.fd01/site-x.fd7a/')
sdw ga peer propose https://198.51.100.7:8443 --name site-x --role parent --mode managed_child --json >"$LAB/x"
api="https://${V4[ga]}:8443/api/v1/system/federation_api"
foreign() { on gb curl -sk --max-time 10 -H 'content-type: application/json' "$@"; }
jq '{acceptance_token, contract_version: "v1"}' "$LAB/x" | foreign -d @- "$api/accept" >"$LAB/accepted"
x=$LAB/hosts/gb/run/x
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$x.key" -out "$LAB/x.csr" \
  -subj /CN=whoever -addext "subjectAltName=URI:spiffe://$site_x/gateway/x1" 2>/dev/null
jq -n --rawfile csr "$LAB/x.csr" --slurpfile a "$LAB/accepted" \
  '{csr_pem: $csr, bootstrap_token: $a[0].data.node_enrollment.bootstrap_token}' | foreign -d @- "$api/renew" >"$LAB/renewed"
jq -r '.data.federation_certificate | .cert_pem, .ca_chain_pem' "$LAB/renewed" >"$x.pem"
expect "it beats" active eval 'foreign --cert /run/x.pem --key /run/x.key -d "{}" "$api/heartbeat" | jq -r .data.status'
sdw ga openapi --peer-facing >"$LAB/hosts/gb/run/peers.json"
GRANT=$(sdw ga grant create site-x --kind node --subject ops --json | jq -r .bearer_token)
peers() {
  tested "$1" peers.json gb --url "https://${V4[ga]}:8443" --tls-verify false --request-cert /run/x.pem \
    --request-cert-key /run/x.key --header "Authorization: Bearer $GRANT" "${@:2}"
}
# A notice may end the peering: that comes last.
check "nothing is found by mTLS" peers peers --exclude-path-regex 'notices$'
expect "all has been done that needs no more than a request" '' never_done peers peers.json gb 'accept|renew|notices|bridges/\{bridge\}|service_catalog|subscriptions'
check "nor with notices" peers notices --include-path-regex 'notices$'

note "-- operators, with a token that allows everything a token can"
on ga curl -s --unix-socket /run/sdwand-serve/status.sock http://localhost/api/v1/openapi.json >"$LAB/hosts/ga/run/operators.json"
check "the served document is the printed one" eval \
  'diff <(jq -S . "$LAB/hosts/ga/run/operators.json") <(sdw ga openapi | jq -S .)'
JWT=$(sdw ga token issue --sub alice --permission read,invite,manage --json | jq -r .token)
http() { tested http operators.json ga --url http://127.0.0.1:3000 --header "Authorization: Bearer $JWT"; }
check "nothing is found over http" http
expect "all has been done that needs no more than a request" '' never_done http operators.json ga 'acceptances|approvals/\{approval\}(/approve|/deny)?|pki/rotate|tokens|tokens/\{jti\}/revoke|ledger/backup'

note "-- on the gateway, where everything is allowed"
on ga socat TCP-LISTEN:3001,bind=127.0.0.1,fork,reuseaddr UNIX-CONNECT:/run/sdwand-serve/api.sock 2>"$LAB/hosts/ga/socat.log" &
relay() { on ga curl -sf http://127.0.0.1:3001/api/v1/openapi.json -o /dev/null; }
require wait_for "the socket is relayed" 5 relay
# Nobody is asked who they are there: that is what the socket is for. (jq would round the integers.)
"$PYTHON" - "$LAB/hosts/ga/run" <<'PY'
import json, sys
document = json.load(open(f"{sys.argv[1]}/operators.json"))
for item in document["paths"].values():
    for operation in item.values():
        del operation["security"]
json.dump(document, open(f"{sys.argv[1]}/socket.json", "w"))
PY
socket() { tested socket socket.json ga --url http://127.0.0.1:3001; }
check "nothing is found over api.sock" socket
expect "all has been done that needs no more than a request" '' never_done socket socket.json ga 'acceptances|approvals/\{approval\}(/approve|/deny)?|pki/rotate|tokens/\{jti\}/revoke'
check "the gateway still answers" sdw ga peer list
check "and its audit is whole" sdw ga audit verify
stop_serve ga TERM
