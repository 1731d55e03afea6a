#!/bin/bash
# The half of the benchmarks that needs kernel WireGuard and VRFs: run by bench.sh, in a User-Mode-Linux guest where the
# running kernel has none. Everything is measured side by side in one kernel: the ratios count.
#
#     hub: one host, or as many as there are runs, each in a namespace of its own; nobody to talk to
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/bench.sh"

has_wireguard && has_vrf || skip_rest "kernel WireGuard and VRFs"
bench_key
wants() { [[ ${#NAMES[@]} = 0 || " ${NAMES[*]} " = *" $1 "* ]]; }
NAMES=("$@")

# cold ID WHAT PEERS NETWORKS RULES BOUND: the whole of it, from nothing, by `sdwand apply` and by the tools.
cold() {
  local id=$1 what=$2 run host
  bench_fleet "$LAB/$id.d" "$3" "$4" "$5"
  bench_host probe "$LAB/$id.d"
  others_files probe "$LAB/$id.files"
  unhost probe
  for ((run = 1; run <= BENCH_RUNS; run++)); do
    bench_host "ours$run" "$LAB/$id.d"
    timed sdw "ours$run" apply >>"$LAB/$id.ours"
    status "$id: nothing is left to do" 0 sdw "ours$run" plan
    unhost "ours$run"
    bench_host "theirs$run" "$LAB/$id.d"
    timed on "theirs$run" bash "$LAB/$id.files/all.sh" >>"$LAB/$id.theirs"
    # That it is the same state is what our own plan says of it.
    if (( run == 1 )); then status "$id: the tools made the same state" 0 sdw "theirs$run" plan; fi
    timed on "theirs$run" nft -f "$LAB/$id.files/nft" >>"$LAB/$id.nft"
    unhost "theirs$run"
  done
  note "$id: ours $(tr '\n' ' ' <"$LAB/$id.ours"), theirs $(tr '\n' ' ' <"$LAB/$id.theirs"), of it nft -f $(median "$LAB/$id.nft")"
  figure "$id" "$what" us "$(median "$LAB/$id.ours")" "$(median "$LAB/$id.theirs")" 'ratio<=' "$6"
}

# one_peer: the last spoke gets another key, among PEERS, in a fragment that is renamed into place.
one_peer() {
  local peers run start salt link=wg-sdwan-1
  peers=$(scaled 10000)
  bench_fleet "$LAB/peer.d" "$peers" 1 0 a
  bench_fleet "$LAB/peer-b.d" "$peers" 1 0 b
  bench_host hub "$LAB/peer.d" '[reconcile]' 'debounce_ms = 0' 'interval_seconds = 3600'
  others_files hub "$LAB/peer.files"
  start_daemon hub
  require wait_for "the hub with $peers peers: converged" 60 converged hub
  bench_host other "$LAB/peer.d"
  on other bash "$LAB/peer.files/all.sh"
  bench_host probe "$LAB/peer-b.d"
  others_files probe "$LAB/peer-b.files"
  unhost probe
  for ((run = 1; run <= BENCH_RUNS; run++)); do
    if (( run % 2 )); then salt=peer-b; else salt=peer; fi
    cp "$LAB/$salt.d/11-last.toml" "$LAB/hosts/hub/etc/fleet.d/.new"
    start=$(now_us)
    mv "$LAB/hosts/hub/etc/fleet.d/.new" "$LAB/hosts/hub/etc/fleet.d/11-last.toml"
    until_ok 60 round_after hub "$start" || { fail "the daemon didn't take the peer's key"; return; }
    echo $(($(last_round hub) - start)) >>"$LAB/peer.ours"
    timed on other wg syncconf "$link" "$LAB/$salt.files/$link.conf" >>"$LAB/peer.theirs"
    timed on hub wg show "$link" dump >>"$LAB/peer.dump"
    cut -f 1 "$LAB/timed" | tail -n +2 | sort >"$LAB/peer.hub"
    on other wg show "$link" dump | cut -f 1 | tail -n +2 | sort >"$LAB/peer.other"
    same "one peer, run $run: both have the same peers" "$LAB/peer.hub" "$LAB/peer.other"
  done
  note "one peer: ours $(tr '\n' ' ' <"$LAB/peer.ours"), theirs $(tr '\n' ' ' <"$LAB/peer.theirs"), wg show dump $(median "$LAB/peer.dump")"
  figure one-peer "one peer's key changed among $peers: the daemon, from the fragment's rename until it has read back (debounce 0) / \`wg syncconf\`" \
    us "$(median "$LAB/peer.ours")" "$(median "$LAB/peer.theirs")" 'ratio<=' 0.05
  # The same daemon, once what read the tables is gone: its threads end after a second.
  require wait_for "the daemon is idle" 20 idle hub
  figure rss "resident memory of \`sdwand run\` with $peers kernel peers" MiB \
    "$(awk '/^VmRSS/ { print $2 / 1024 }' "/proc/${DAEMON[hub]}/status")" - 'ours<=' 64
  figure rss-peak "the same, at its peak" MiB "$(awk '/^VmHWM/ { print $2 / 1024 }' "/proc/${DAEMON[hub]}/status")" - - -
  stop_daemon hub
  unhost hub
  unhost other
}

idle() { (( $(awk '/^Threads/ { print $2 }' "/proc/${DAEMON[$1]}/status") <= 3 )); }

# no_op: nothing is written, and what looking costs.
no_op() {
  local peers rules run writes
  peers=$(scaled 10000) rules=$(scaled 10000)
  bench_fleet "$LAB/noop.d" "$peers" 1 "$rules"
  bench_host hub "$LAB/noop.d"
  check "$peers peers, $rules rules: applied" sdw hub apply
  on hub "$PYTHON" "$LAB_LIB/nft_heard.py" >"$LAB/heard.nft" 2>&1 &
  local listeners=($!)
  on hub ip monitor link address route rule >"$LAB/heard.ip" 2>&1 &
  listeners+=($!)
  require wait_for "both are heard" 60 both_heard
  on hub wg show all dump | sort >"$LAB/noop.before"
  for ((run = 1; run <= BENCH_RUNS; run++)); do
    # utime and stime of the process, in microseconds.
    on hub "$PYTHON" -c 'import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(round((used.ru_utime + used.ru_stime) * 1e6))' "$SDWAND_BIN" apply >>"$LAB/noop.cpu"
  done
  check "nftables is still listened to" kill -0 "${listeners[0]}"
  kill "${listeners[@]}"
  wait "${listeners[@]}" 2>/dev/null || true
  on hub wg show all dump | sort >"$LAB/noop.after"
  same "WireGuard is as it was" "$LAB/noop.before" "$LAB/noop.after"
  writes=$(cat <(grep -v ' heard$' "$LAB/heard.nft") <(grep -vE '192\.0\.2\.99' "$LAB/heard.ip") | wc -l)
  figure no-op-writes "\`apply\` with nothing to do, $peers peers and $rules rules: events of nftables and rtnetlink in $BENCH_RUNS runs" writes "$writes" - 'ours<=' 0
  figure no-op-cpu "the same: CPU time of one run, files and kernel read" us "$(median "$LAB/noop.cpu")" - - -
  unhost hub
}
both_heard() { # a change of nobody's proves that both listen
  on hub sh -c 'nft add table ip heard; nft delete table ip heard; ip route add 192.0.2.99/32 dev lo; ip route del 192.0.2.99/32 dev lo'
  [[ -s $LAB/heard.nft && -s $LAB/heard.ip ]]
}

if wants cold; then
  cold cold "cold start, $(scaled 1000) peers and $(scaled 10000) rules: \`sdwand apply\`, verified / \`nft -f\`, \`ip -batch\`, \`sysctl -p\`, \`wg setconf\`" \
    "$(scaled 1000)" 1 "$(scaled 10000)" 1.2
fi
if wants vrfs; then
  cold vrfs "cold start, 100 networks with VRFs: the same / the same" 2 100 0 1.3
fi
if wants one-peer; then one_peer; fi
if wants no-op; then no_op; fi
