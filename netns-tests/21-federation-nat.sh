#!/bin/bash
# Two sites, one of them behind NAT: it calls and is never called, and both are active by its beats alone.
#
#     ga ── wan ── nat ── gb      gb: dialable = false
. "$(dirname "$0")/lab/lib.sh"
lab_binary
has_tool openssl || skip_rest "no openssl: install.sh test"

mkhost ga gb
underlay ga
nat_box nat gb
mksite ga site-a "https://${V4[ga]}:8443"
mksite gb site-b https://site-b.example.com:8443 'dialable = false'
start_serve ga
start_serve gb

sdw ga peer propose "https://${V4[nat]}:8443" --name site-b --json | jq -r .acceptance_token >"$LAB/token"
start=$(now_ms)
accept() { sdw gb peer accept "https://${V4[ga]}:8443" --name site-a --token - <"$LAB/token"; }
check "accept from behind the NAT, and wait until it is active" accept
wait_for "so it is on the other side" 10 is ga active
took=$(( $(now_ms) - start ))
note "active on both sides after $took ms"
check "within 10 s" eval '(( took < 10000 * LAB_SLOW ))'
expect "it is known that it can't be dialled" false eval 'sdw ga peer show site-b --json | jq .dialable'
on nat tcpdump -n -U -i up0 -w "$LAB/calls.pcap" "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn" \
  >"$LAB/tcpdump" 2>&1 &
dump=$!
listens() { grep -q 'listening on' "$LAB/tcpdump"; }
wait_for "tcpdump listens" 10 listens
beats() { sdw "$1" peer list --json | jq -r '.[0].last_heartbeat_at'; }
moves_on() { [[ $(beats ga) > $1 && $(beats gb) > $1 ]]; }
wait_for "beats go on, on both sides" 15 moves_on "$(date -u -d '+3 seconds' +%FT%TZ)"
status "nothing is read there, and it is said why" 1 sdw ga peer call site-b node --grant "$LAB/token"

# --- Another address and other ports, a partition, a suspension: nobody has to do anything on the hidden side.
nat_ports nat 30000 30999
wait_for "the NAT box changes its ports: beats go on" 20 moves_on "$(date -u -d '+2 seconds' +%FT%TZ)"
on wan ip link set to-ga down
wait_for "cut off, each degrades the other" 20 is ga degraded
wait_for "by itself" 20 is gb degraded
on wan ip link set to-ga up
wait_for "and heals" 30 is ga active
wait_for "by itself" 30 is gb active
check "suspend it" sdw ga peer suspend site-b --reason test
wait_for "it is refused, and says so" 10 is gb degraded
check "resume it" sdw ga peer resume site-b
wait_for "active again" 20 is ga active
wait_for "on both sides" 20 is gb active
old_ca=$(sdw ga pki show --json | jq -r .ca_fingerprint)
check "another CA" sdw ga pki rotate-ca
signs_anew() { [[ $(sdw ga pki show --json | jq -r .ca_fingerprint) != "$old_ca" ]]; }
wait_for "the hidden site hears of it in its answers" 30 signs_anew
wait_for "and stays" 10 is gb active
kill "$dump"
wait "$dump" 2>/dev/null || true
calls_of() { tcpdump -n -r "$LAB/calls.pcap" src host "$1" >"$LAB/calls" 2>"$LAB/calls.err" && wc -l <"$LAB/calls" || cat "$LAB/calls.err"; }
check "it called" eval '(( $(calls_of "${V4[nat]}") > 0 ))'
expect "and was never called" 0 calls_of "${V4[ga]}"

# --- A foreign client's look at the listener.
look() { timeout 10 openssl s_client -connect "${V4[ga]}:8443" "$@" </dev/null 2>&1; }
on_gb() { on gb bash -c "$(declare -f look); declare -A V4=([ga]=${V4[ga]}); look $*"; }
check "openssl speaks TLS 1.3 with it" eval 'on_gb -tls1_3 -showcerts >"$LAB/look" || true; grep -q "Protocol *: TLSv1.3\|New, TLSv1.3" "$LAB/look"'
expect "its root comes along" 2 grep -c 'BEGIN CERTIFICATE' "$LAB/look"
refute "no ticket to come back with" grep -q 'New Session Ticket\|TLS session ticket:' "$LAB/look"
refute "TLS 1.2 isn't spoken" eval 'on_gb -tls1_2 | grep -q "Cipher *: *[A-Z0-9]*-"'
revoked() { [[ $(sdw gb peer show site-a --json | jq -r .reason) = refused_by_peer ]]; }
check "revoke it" sdw ga peer revoke site-b
wait_for "the hidden side knows by its next beat" 3 revoked
stop_serve ga TERM
stop_serve gb TERM
