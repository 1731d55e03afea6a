#!/bin/bash
# A bridge as two gateways agree on it, down to the file that `sdwand run` reads: proposed by command on one side, wanted by
# a fragment on the other, narrowed, suspended, taken back, revoked; and with one of them gone. No traffic: that is 43-bridge.
#
#     ga ── wan ── gb        each the gateway of a site of its own, with a network prod
. "$(dirname "$0")/lab/lib.sh"
lab_binary

mkhost ga gb
underlay ga gb
declare -A SITE=()
for host in ga gb; do
  mksite "$host" "site-${host#g}" "https://${V4[$host]}:8443" 'allow_dial = ["0.0.0.0/0"]'
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

file() { echo "$LAB/hosts/$1/run/state/sdwand-agreements/agreements.json"; }
has() { [[ $(jq '.bridges | length' "$(file "$1")") = "$2" ]]; }
of() { jq -c ".bridges[] | $2" "$(file "$1")"; }
bridge_of() { sdw "$1" peer show "$2" --json | jq -r ".bridges[0].$3"; }
# exactly WANT CMD…: what CMD prints, where a pattern would see brackets.
exactly() {
  local want=$1
  shift
  [[ $("$@") = "$want" ]]
}
check "there is a file before there is a bridge" has ga 0
expect "for its group, and for nobody else" '640 65534' on ga stat -c '%a %u' /run/state/sdwand-agreements/agreements.json
expect "nor may anybody else enter its folder" '750 65534' on ga stat -c '%a %u' /run/state/sdwand-agreements

# --- Both fleets want it before the peering: the acceptance ends with an agreement.
sdw ga peer propose "https://${V4[gb]}:8443" --name site-b --json | jq -r .acceptance_token >"$LAB/token"
narrow() { sdw ga peer bridge site-b --network prod "$@"; }
propose() { narrow --import "${SITE[gb]}" "$@"; }
check "a dry run shows the fragment" eval 'propose --dry-run | grep -q "would write"'
refute "and writes nothing" test -e "$LAB/hosts/ga/etc/fleet.d/50-bridge-prod-site-b.toml"
check "the bridge is proposed" propose --no-wait
cat >"$LAB/hosts/gb/etc/fleet.d/60-mine.toml" <<TOML
format = 1
[[bridges]]
name = "to-a"
peer = "site-a"
network = "prod"
gateways = ["gb"]
import = ["${SITE[ga]}"]
export = ["${SITE[gb]%::/48}:1::/64"]
TOML
needs_trust() { [[ $(bridge_of ga site-b waits_for) = trust ]]; }
wait_for "what it waits for is said" 5 needs_trust
start=$(now_ms)
check "accept" eval 'sdw gb peer accept "https://${V4[ga]}:8443" --name site-a --token - <"$LAB/token" >"$LAB/accepted.json"'
both() { has ga 1 && has gb 1; }
wait_for "both have the agreement" 10 both
took=$(( $(now_ms) - start ))
note "from accept to an agreement in both files: $took ms"
check "within 3 s" eval '(( took < 3000 * LAB_SLOW ))'
check "with one preshared key" eval '[[ -n $(of ga .preshared_key) && $(of ga .preshared_key) = "$(of gb .preshared_key)" ]]'
check "and each other's WireGuard key" exactly "\"$(sed -n 's/^public_key = "\(.*\)"/\1/p' "$LAB/hosts/gb/etc/fleet.d/00-site.toml")\"" of ga .public_key
check "where the other is" exactly "[\"${V4[gb]}:51820\"]" of ga .endpoints
check "and what it exports" exactly "[\"${SITE[gb]%::/48}:1::/64\"]" of ga .prefixes
check "the listener inside is named, too" exactly "\"[${SITE[gb]%::/48}:1::1]:8443\"" of ga .listener
key=$(jq -r '.bridges[].preshared_key' "$(file ga)")
refute "no secret is in the logs" grep -F "$key" "$LAB/hosts/ga/serve.log" "$LAB/hosts/gb/serve.log"
sdw ga peer show site-b --json >"$LAB/shown"
refute "nor shown" grep -F "$key" "$LAB/shown"
check "what is agreed is shown" exactly "[\"${SITE[gb]%::/48}:1::/64\"]" jq -c '.bridges[0].agreed' "$LAB/shown"

# --- The same call twice, and less.
status "the same call again finds it active" 0 propose
expect "and changes nothing" false eval 'propose --json | jq .changed'
check "less is exported" propose --export vip:web
follows() { [[ $(of gb .prefixes) = "[\"${SITE[ga]%::/48}:1::100/128\"]" ]]; }
wait_for "the other follows" 5 follows
check "less is imported" narrow --export vip:web --import "${SITE[gb]%::/48}:1::/64"
check "that is this site's own word" exactly "[\"${SITE[gb]%::/48}:1::/64\"]" of ga .import
status "what a person wrote is theirs" 1 sdw gb peer bridge site-a --network prod --name another

# --- Suspended, and on again.
check "suspend" sdw ga peer suspend site-b
wait_for "nothing is agreed" 2 has ga 0
wait_for "nor at the other side, once it is told" 5 has gb 0
check "resume" sdw ga peer resume site-b
wait_for "agreed again" 15 both

# --- One of them is gone: what is agreed stays, and its file is kept fresh.
kill -KILL "${SERVE[gb]}"
wait "${SERVE[gb]}" 2>/dev/null || true
check "the file of who is gone stays" has gb 1
written=$(jq .written "$(file ga)")
newer() { (( $(jq .written "$(file ga)") > written )); }
wait_for "the other's is written anew" 45 newer
check "with the agreement in it" has ga 1

# --- Taken back while the other is away: it hears of it when it is there again.
check "remove it" sdw ga peer bridge site-b --network prod --remove
wait_for "nothing is agreed here" 5 has ga 0
start_serve gb
wait_for "nor there" 20 has gb 0
expect "which still wants it" proposed bridge_of gb site-a state
waits() { [[ $(bridge_of gb site-a waits_for) = peer ]]; }
wait_for "and says what it waits for" 5 waits
offered() { [[ $(bridge_of ga site-b state) = offered ]]; }
wait_for "what it offers is shown here" 10 offered
status "a bridge that is there no more is removed once" 0 sdw ga peer bridge site-b --network prod --remove

# --- A full disk: what can't be written isn't in force any more.
check "once more" propose
wait_for "agreed by both" 10 both
check "the agreements are on a disk of their own" on ga mount -t tmpfs -o "size=64k,uid=65534,gid=65534,mode=0750" tmpfs /run/state/sdwand-agreements
wait_for "the file is written again" 45 eval 'on ga test -e /run/state/sdwand-agreements/agreements.json'
on ga dd if=/dev/zero of=/run/state/sdwand-agreements/full bs=4k 2>/dev/null || true
refute "nothing more can be written there" on ga sh -c 'echo x >/run/state/sdwand-agreements/x && test -s /run/state/sdwand-agreements/x'
check "suspend" sdw ga peer suspend site-b
wait_for "the file is gone, and nothing in force" 5 eval '! on ga test -e /run/state/sdwand-agreements/agreements.json'
check "what is wrong is in the log" grep -q 'agreements.json' "$LAB/hosts/ga/serve.log"
on ga rm /run/state/sdwand-agreements/full
there() { on ga jq -e ".bridges | length == $1" /run/state/sdwand-agreements/agreements.json; }
wait_for "with space, it is written" 5 there 0
check "resume" sdw ga peer resume site-b
wait_for "agreed again" 15 there 1
check "the disk is gone" on ga umount /run/state/sdwand-agreements
check "and so is the folder" on ga rm -r /run/state/sdwand-agreements
wait_for "it is made again, with the next look at what gets old" 45 eval 'test -e "$(file ga)"'
check "and what is agreed is in it" has ga 1

# --- The end.
before=$(now_ms)
check "revoke" sdw ga peer revoke site-b
revoked=$(now_ms)
wait_for "nothing is agreed any more" 2 has ga 0
took=$(( $(now_ms) - revoked ))
note "revoke took $(( revoked - before )) ms, the file another $took ms"
check "within 250 ms" eval '(( took < 250 * LAB_SLOW ))'
wait_for "nor at the other side" 10 has gb 0
written() { jq .written "$LAB/hosts/ga/run/state/sdwand-agreements/agreements.json"; }
was=$(written)
stop_serve ga KILL
until_ok 5 eval '(( $(date +%s) > was ))'
start_serve ga
check "a crash brings nothing back: the file was written anew" eval '(( $(written) > was ))'
check "and nothing is in it" has ga 0
