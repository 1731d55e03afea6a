# shellcheck shell=bash
# The binary under test on a host, and sockets in its networks. Sourced by lib.sh.

declare -A DAEMON=()  # host → process of `sdwand run`

lab_binary() { [[ -x ${SDWAND_BIN:-} ]] || { echo "SDWAND_BIN must name the binary under test" >&2; exit 1; }; }
# sdw HOST ARG…: the real binary on that host, with the host's own /etc/sdwand; where systemd runs, what is installed there.
sdw() {
  local host=$1
  shift
  if [[ -n ${MACHINE[$host]:-} ]]; then on "$host" sdwand "$@"; return; fi
  lab_binary
  on "$host" "$SDWAND_BIN" "$@"
}
# start_daemon HOST…: `sdwand run` in the background, and wait until it answers. Its log is in $LAB/hosts/HOST/daemon.log.
start_daemon() {
  local host
  lab_binary
  for host; do
    nsenter --target "${HOST_PID[$host]}" --net --mount -- "$SDWAND_BIN" run </dev/null >>"$LAB/hosts/$host/daemon.log" 2>&1 &
    DAEMON[$host]=$!
  done
  for host; do
    require wait_for "$host: the daemon answers" 15 sdw_answers "$host"
  done
}
sdw_answers() { [[ -S $LAB/hosts/$1/run/sdwand/control.sock ]] && sdw "$1" status --json | jq -e . >/dev/null; }
# stop_daemon HOST…: SIGTERM, and wait for its end.
stop_daemon() { local host; for host; do lab_end_daemon TERM "$host"; done; }
# kill_daemon HOST…: SIGKILL.
kill_daemon() { local host; for host; do lab_end_daemon KILL "$host"; done; }
lab_end_daemon() {
  kill "-$1" "${DAEMON[$2]}"
  wait "${DAEMON[$2]}" 2>/dev/null || true
  unset "DAEMON[$2]"
}

# converged HOST…: nothing left to do, by the host's own plan.
converged() { local host; for host; do sdw "$host" plan || return 1; done; }
# bring_up HOST…: publish, start the daemon, wait until the host is as the fleet says.
bring_up() {
  local host
  publish "$@"
  start_daemon "$@"
  for host; do require wait_for "$host: converged" 20 converged "$host"; done
}
# republish HOST…: publish and wait until the daemon has applied it.
republish() {
  local host
  publish "$@"
  for host; do wait_for "$host: took the new fleet" 10 converged "$host"; done
}
# state HOST JQ-FILTER: from `status --json`.
state() { sdw "$1" status --json | jq -er "$2"; }
# conditions HOST: one line for each, `plane network state`.
conditions() { state "$1" '.conditions[] | "\(.plane) \(.network // "-") \(.state)"'; }
# counter HOST RULE: packets that the rule of this name has counted, over all networks.
counter() { sdw "$1" status --json | jq -er --arg rule "$2" '[.networks[].rules[] | select(.name == $rule) | .packets] | add // 0'; }
# dropped HOST NETWORK-NAME: packets that no rule named and the default action dropped.
dropped() { sdw "$1" status --json | jq -er --arg name "$2" '.networks[] | select(.name == $name) | .default_drops.packets'; }

# A process reaches a network by binding to its VRF, or, where the kernel has none, to the host's overlay address.
in_vrf() { ip -n "$1" link show "sdwan-$2" >/dev/null 2>&1; }

# oping HOST NETWORK ADDR: see `pinged`, in that network.
oping() {
  if in_vrf "$1" "$2"; then pinged "$1" "$3" -I "sdwan-$2"; else pinged "$1" "$3" -I "$(own_address "$1" "$2" "$3")"; fi
}
# The host's overlay address in the network, of the family of ADDR.
own_address() { case $3 in *:*) v6 "$2" "${HOST_ID[$1]}" ;; *) v4 "$2" "${HOST_ID[$1]}" ;; esac; }
# oloss HOST NETWORK COUNT INTERVAL ADDR: see `loss`.
oloss() {
  if in_vrf "$1" "$2"; then loss "$1" "$3" "$4" "$5" -I "sdwan-$2"; else loss "$1" "$3" "$4" "$5" -I "$(own_address "$1" "$2" "$5")"; fi
}
# oserve HOST NETWORK SPEC…: see `serve`; give own overlay addresses in SPEC.
oserve() { if in_vrf "$1" "$2"; then serve "$1" --device "sdwan-$2" "${@:3}"; else serve "$1" "${@:3}"; fi; }
# oasked HOST NETWORK SPEC: see `asked`; one SPEC, or several of one family.
oasked() {
  local host=$1 network=$2
  shift 2
  if in_vrf "$host" "$network"; then asked "$host" --device "sdwan-$network" "$@"
  else asked "$host" --source "$(own_address "$host" "$network" "$1")" "$@"; fi
}
# oflow HOST NETWORK FILE SPEC: see `flow`.
oflow() {
  if in_vrf "$1" "$2"; then flow "$1" "$3" --device "sdwan-$2" "$4"; else flow "$1" "$3" --source "$(own_address "$1" "$2" "$4")" "$4"; fi
}

# streams SERVER CLIENT NETWORK ADDRESS [iperf3 options]: a second of iperf3 to an overlay address of SERVER; 100,000 bytes
# must arrive there.
streams() {
  local server=$1 client=$2 network=$3 address=$4 bind=() pid
  shift 4
  if in_vrf "$server" "$network"; then bind=(--bind-dev "sdwan-$network"); fi
  on "$server" iperf3 -J -s -1 -B "$address" "${bind[@]}" >"$LAB/iperf.server" 2>&1 &
  pid=$!
  until_ok 5 eval "[[ -n \$(on $server ss -Hltn 'sport = :5201') ]]" || { cat "$LAB/iperf.server"; return 1; }
  on "$client" iperf3 -c "$address" -B "$(own_address "$client" "$network" "$address")" "${bind[@]}" -t 1 "$@" || return 1
  wait "$pid"
  jq -e '[.intervals[].sum.bytes] | add > 100000' "$LAB/iperf.server"
}

# left_over HOST: whatever of sdwand is still on the host; nothing after `down`.
left_over() {
  on "$1" sh -c '
    ip -o link | grep -E ": (wg-|d-)?sdwan-"
    nft list tables | grep -x "table inet sdwand"
    for family in -4 -6; do
      ip $family rule | grep -E "proto (241|sdwand)"
      ip $family route show table all | grep -E "proto (241|sdwand)"
    done
    ls /run/wireguard'
}
