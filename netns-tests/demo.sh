#!/bin/bash
# The demo: two sovereign sites federate, on this one machine, in network namespaces.
#
#     anna ── lan0 tokyo ──┐               ┌── osaka lan0 ── ben
#     10.10.0.10           ├── wan ────────┤              10.20.0.10
#                    site "east"      site "west"
#
# tokyo and osaka are each the gateway of a site of its own: WireGuard, VRF and firewall by `sdwand run`, federation by
# `sdwand serve`, which runs as nobody. Installs what is missing, builds, then shows: the fleets, plan and apply, what
# default-deny refuses, a token handed over, the peering active, one rule and the packet through, drift healed, and the
# peering revoked in the middle of a stream. About a minute after the build; nothing stays behind. Needs root. Works on
# kernels with neither WireGuard nor VRFs: then the embedded userspace WireGuard and tables with rules do their work.
if [[ -z ${LAB_INSIDE:-} ]]; then
  set -euo pipefail
  here=$(cd "$(dirname "$0")" && pwd)
  export PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin
  [[ $EUID = 0 ]] || { echo "$0: needs root, for network namespaces" >&2; exit 1; }
  echo "==> what this machine lacks"
  "$here/install.sh" demo
  if [[ -z ${SDWAND_BIN:-} ]]; then
    echo "==> the build (some minutes the first time)"
    (cd "$here/.." && cargo build --locked --profile ci --bin sdwand)
    SDWAND_BIN=$(cd "$here/.." && cargo metadata --locked --no-deps --format-version 1 | jq -r .target_directory)/ci/sdwand
    export SDWAND_BIN
  fi
fi
. "$(dirname "$0")/lab/lib.sh"

step() { printf '\n%s==> %s%s\n' "$BOLD" "$*" "$PLAIN"; }
BOLD='' PLAIN=''
if [[ -t 1 ]]; then BOLD=$'\e[1m' PLAIN=$'\e[0m'; fi
# show HOST CMD…: as if typed on that host; `sdwand` is the binary.
show() {
  local host=$1
  shift
  printf '\n%s%s# %s%s\n' "$BOLD" "$host" "$*" "$PLAIN"
  if [[ $1 = sdwand ]]; then shift; set -- "$SDWAND_BIN" "$@"; fi
  on "$host" "$@" 2>&1 | lines || true
}
# Indented; of each phase of a plan only the first lines.
lines() {
  awk -v most="${MOST:-40}" '
    function rest() { if (n > most) print "    … and " n - most " more lines" }
    /^# phase/ { rest(); n = 0; most = '"${EACH:-6}"' + 1 }
    /^(verified|note|blocked|failed|[0-9]+ changes?)/ { rest(); n = 0 }
    ++n <= most { print "  " $0 }
    END { rest() }'
}
site() { # east|west: which site's fleet the lab's functions are about
  case $1 in
    east) SITE_PREFIX=fd12:34ab:cd42 FLEET=$LAB/east ;;
    west) SITE_PREFIX=fd77:1:2 FLEET=$LAB/west ;;
  esac
}

step "Two sites and the internet between them ($(lab_features))"
mkhost tokyo osaka
underlay tokyo osaka
lan tokyo lan0 anna 10.10.0.1/24
lan osaka lan0 ben 10.20.0.1/24
ip -n wan -br -4 addr | grep to- | lines

step "Each site's fleet: a network of its own, with a LAN; nobody else is in it"
declare -A SITE=([tokyo]=east [osaka]=west) NETWORK=([tokyo]=prod [osaka]=lab) ID=([tokyo]=1 [osaka]=5) LAN=([tokyo]=10.10.0.0/24 [osaka]=10.20.0.0/24)
for host in tokyo osaka; do
  site "${SITE[$host]}"
  fleet_site "${SITE[$host]}"
  sed -i "/^prefix/a gateways = [\"$host\"]" "$FLEET/00-site.toml"
  fleet_node "$host" 1 "${V4[$host]}"
  fleet_network "${NETWORK[$host]}" "${ID[$host]}" \
    "{ node = \"$host\", role = \"hub\", lans = [{ subnet = \"${LAN[$host]}\", interface = \"lan0\" }] }"
  fleet_rule "${NETWORK[$host]}" ping any any icmp
  host_config "$host" 'state_dir = "/run/state/sdwand"' '[reconcile]' 'mode = "manual"' '[federation]' 'listen = "[::]:8443"' \
    "url = \"https://${V4[$host]}:8443\"" 'heartbeat_seconds = 1' 'allow_dial = ["198.18.0.0/15"]'
  on "$host" install -d -o 65534 -g 65534 /run/state /run/sdwand-serve
  publish "$host"
done
show tokyo cat /etc/sdwand/sdwand.toml
show tokyo cat /etc/sdwand/fleet.d/20-prod.toml
show tokyo sdwand check

step "The daemons start; in mode \"manual\" they only plan"
start_daemon tokyo osaka
show tokyo sdwand plan
for host in tokyo osaka; do EACH=0 show "$host" sdwand apply; done
for host in tokyo osaka; do require wait_for "$host: what is planned is done, the new plan is empty" 20 converged "$host"; done
start_serve tokyo
start_serve osaka

step "tokyo proposes; the token is the whole hand-over: it pins tokyo's CA, works once, and is shown once"
show tokyo sdwand peer propose "https://${V4[osaka]}:8443" --name west
sdw tokyo peer rotate-token west --json | jq -r .acceptance_token >"$LAB/token"
printf '\n  out of band, to osaka: %s\n' "$(cat "$LAB/token")"

step "osaka accepts, and the first heartbeats make the peering active on both sides"
printf '\n%sosaka# sdwand peer accept https://%s:8443 --name east --token - < token%s\n' "$BOLD" "${V4[tokyo]}" "$PLAIN"
sdw osaka peer accept "https://${V4[tokyo]}:8443" --name east --token - <"$LAB/token" 2>&1 | lines
is_active() { is "$1" active; }
require wait_for "tokyo: active" 10 is_active tokyo
require wait_for "osaka: active" 10 is_active osaka
show tokyo sdwand peer list

step "A bridge: each operator says what comes in and what goes out. Still no packet crosses"
show osaka sdwand peer bridge east --network lab --remote-network prod --import 10.10.0.0/24 --export 10.20.0.0/24 --no-wait
show tokyo sdwand peer bridge west --network prod --remote-network lab --import 10.20.0.0/24 --export 10.10.0.0/24
show tokyo cat /etc/sdwand/fleet.d/50-bridge-prod-west.toml
for host in tokyo osaka; do EACH=0 show "$host" sdwand apply; done
bridged() { [[ $(state tokyo '.networks[0].bridges[0].state') = carrying && $(state osaka '.networks[0].bridges[0].state') = carrying ]]; }
require wait_for "both gateways carry the bridge" 10 bridged
show tokyo sdwand status
serve ben tcp,*,80
expect "anna → ben, ping: default-deny, although both sites let any ping any of their own" "$NO_PING" pinged anna 10.20.0.10
expect "anna → ben, tcp 80" "$NO_TCP" asked anna tcp,10.20.0.10,80
show tokyo sdwand explain 10.10.0.10 10.20.0.10 tcp/80

step "One rule at each end that names the other site"
site east
cp "$LAB"/hosts/tokyo/etc/fleet.d/50-bridge-*.toml "$FLEET/"
fleet_rule prod to-west lan_of=tokyo federation=west tcp 80
site west
cp "$LAB"/hosts/osaka/etc/fleet.d/50-bridge-*.toml "$FLEET/"
fleet_rule lab from-east federation=east lan_of=osaka tcp 80
for host in tokyo osaka; do
  site "${SITE[$host]}"
  publish "$host"
  show "$host" sdwand apply
done
wait_for "anna → ben, tcp 80: through" 10 prints ok asked anna tcp,10.20.0.10,80
expect "anna → ben, ping: still refused" "$NO_PING" pinged anna 10.20.0.10
show tokyo sdwand explain 10.10.0.10 10.20.0.10 tcp/80

step "Drift: someone deletes our firewall"
was=$(on tokyo nft list table inet sdwand | grep -c .)
start=$(now_ms)
show tokyo nft delete table inet sdwand
until (( $(on tokyo nft list table inet sdwand 2>/dev/null | grep -c .) >= was )); do
  if (( $(now_ms) - start > 5000 )); then break; fi
done
check "all $was lines of it are back after $(( $(now_ms) - start )) ms" on tokyo nft list table inet sdwand
wait_for "and packets cross as before" 10 prints ok asked anna tcp,10.20.0.10,80

step "Revoked in the middle of a stream: one command, no network needed"
flow anna "$LAB/stream" tcp,10.20.0.10,80
echoes() { cat "$LAB/stream" 2>/dev/null || echo 0; }
runs() { local before; before=$(echoes); sleep 0.3; (( $(echoes) > before )); }
require wait_for "a stream runs" 10 runs
show tokyo sdwand peer revoke west
wait_for "it stands still" 5 not runs
expect "tokyo has no peer of the other site" '' eval 'on tokyo wg show wg-sdwan-1 allowed-ips | grep -F "$(<$LAB/keys/osaka.pub)"'
wait_for "osaka was told, and has none either" 10 prints '' eval 'on osaka wg show wg-sdwan-5 allowed-ips | grep -F "$(<$LAB/keys/tokyo.pub)"'
show tokyo sdwand peer list
show tokyo sdwand audit tail

step "Down: what is ours goes, and nothing else"
for host in tokyo osaka; do
  stop_serve "$host" TERM
  stop_daemon "$host"
  EACH=0 show "$host" sdwand down
  expect "$host: nothing of ours is left" '' left_over "$host"
done
step "The demo ends; its namespaces vanish with it"
