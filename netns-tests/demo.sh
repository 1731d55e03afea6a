#!/bin/bash
# The demo: a hub and three spokes in two isolated networks, on this one machine, in network namespaces.
#
#     anna ──┐                     network office (1): hub, anna, ben      ping for all; anna → ben: web, iperf3
#     ben  ──┼── wan ── hub        network guests (2): hub, carl           ping for all
#     carl ──┘
#
# Installs what is missing, builds, then shows: the fleet, plan and apply, ping and throughput, what default-deny refused,
# drift healed, and the cleanup. About a minute after the build; nothing stays behind. Needs root. Works on kernels with
# neither WireGuard nor VRFs: then the embedded userspace WireGuard and tables with rules do their work.
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
bound() { # HOST NETWORK: how a program of the host reaches the network, for ping
  if in_vrf "$1" "$2"; then echo "sdwan-$2"; else v6 "$2" "${HOST_ID[$1]}"; fi
}

step "Four hosts and a router between them ($(lab_features))"
mkhost hub anna ben carl
underlay hub anna ben carl
ip -n wan -br -4 addr | grep to- | lines

step "The fleet: the same files on every host"
fleet_site demo
fleet_node hub 1 "${V4[hub]}"
fleet_node anna 2
fleet_node ben 3
fleet_node carl 4
fleet_network office 1 hub:hub anna ben
fleet_network guests 2 hub:hub carl
fleet_rule office ping any any icmp
fleet_rule office web node=anna node=ben tcp 80,5201
fleet_rule guests ping any any icmp
hosts=(hub anna ben carl)
for host in "${hosts[@]}"; do host_config "$host" '[reconcile]' 'mode = "manual"'; done
publish "${hosts[@]}"
show anna cat /etc/sdwand/sdwand.toml
show anna cat /etc/sdwand/fleet.d/20-office.toml
show anna sdwand check

step "The daemons start; in mode \"manual\" they only plan"
start_daemon "${hosts[@]}"
show anna sdwand plan

step "Apply, everywhere"
show anna sdwand apply
for host in hub ben carl; do EACH=0 show "$host" sdwand apply; done
for host in "${hosts[@]}"; do require wait_for "$host: what is planned is done, the new plan is empty" 20 converged "$host"; done

step "Packets: anna → ben, both spokes, over the hub"
wait_for "the tunnels are up" 15 prints reply oping anna 1 "$(v6 1 3)"
show anna ping -n -c 3 -i 0.2 -I "$(bound anna 1)" "$(v6 1 3)"
expect "v4 too" reply oping anna 1 "$(v4 1 3)"

step "Throughput: anna → ben, tcp port 5201, allowed by the rule \"web\""
at=''
if in_vrf ben 1; then at=%sdwan-1; fi
on ben iperf3 -s -1 -B "$(v6 1 3)$at" >"$LAB/iperf.log" 2>&1 &
wait_for "iperf3 listens" 5 eval 'on ben ss -ltn | grep :5201 >/dev/null'
on anna timeout 30 iperf3 -6 -c "$(v6 1 3)" -B "$(v6 1 2)$at" -t 5 -J >"$LAB/iperf.json" 2>&1 || true
jq -r '"  \(.end.sum_received.bits_per_second / 1e6 | floor) Mbit/s over two tunnels, \(.end.sum_sent.retransmits) retransmits"' "$LAB/iperf.json" || lines <"$LAB/iperf.json"
check "bytes went through" jq -e '.end.sum_received.bytes > 0' "$LAB/iperf.json"

step "What default-deny refuses"
oserve ben 1 "tcp,$(v6 1 3),80" "tcp,$(v6 1 3),22"
expect "anna → ben tcp 80: the rule \"web\" lets it in" ok oasked anna 1 "tcp,$(v6 1 3),80"
expect "anna → ben tcp 22: no rule" "$NO_TCP" oasked anna 1 "tcp,$(v6 1 3),22"
expect "ben → anna tcp 80: the rule is for the other way" "$NO_TCP" oasked ben 1 "tcp,$(v6 1 2),80"
expect "carl → ben: another network, not even a ping" "$NO_PING" oping carl 2 "$(v6 1 3)"
expect "carl → hub: his own network" reply oping carl 2 "$(v6 2 1)"
show anna sdwand status

step "Drift: someone deletes our firewall, then our link"
was=$(on anna nft list table inet sdwand | grep -c .)
start=$(now_ms)
show anna nft delete table inet sdwand
until (( $(on anna nft list table inet sdwand 2>/dev/null | grep -c .) >= was )); do
  if (( $(now_ms) - start > 5000 )); then break; fi
done
check "all $was lines of it are back after $(( $(now_ms) - start )) ms" on anna nft list table inet sdwand
start=$(now_ms)
show anna ip link delete wg-sdwan-1
wait_for "the link is back" 5 ip -n anna link show wg-sdwan-1
wait_for "and carries packets" 15 prints reply oping anna 1 "$(v6 1 3)"
note "$(( $(now_ms) - start )) ms after it was deleted, the new handshake included"

step "Down: what is ours goes, and nothing else"
for host in "${hosts[@]}"; do
  stop_daemon "$host"
  EACH=0 show "$host" sdwand down
  expect "$host: nothing of ours is left" '' left_over "$host"
done
step "The demo ends; its namespaces vanish with it"
