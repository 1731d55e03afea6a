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
  local peers rules
  peers=$(scaled 10000) rules=$(scaled 10000)
  bench_fleet "$LAB/noop.d" "$peers" 1 "$rules"
  bench_host hub "$LAB/noop.d"
  check "$peers peers, $rules rules: applied" sdw hub apply
  nothing_to_do no-op "$peers peers and $rules rules" hub
  unhost hub
}
# nothing_to_do ID WHAT HOST: `apply` again on a host that is as it should be.
nothing_to_do() {
  local id=$1 what=$2 host=$3 run writes
  on "$host" "$PYTHON" "$LAB_LIB/nft_heard.py" >"$LAB/heard.nft" 2>&1 &
  local listeners=($!)
  on "$host" ip monitor link address route rule >"$LAB/heard.ip" 2>&1 &
  listeners+=($!)
  require wait_for "both are heard" 60 both_heard "$host"
  on "$host" wg show all dump | sort >"$LAB/$id.before"
  for ((run = 1; run <= BENCH_RUNS; run++)); do
    # utime and stime of the process, in microseconds.
    on "$host" "$PYTHON" -c 'import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(round((used.ru_utime + used.ru_stime) * 1e6))' "$SDWAND_BIN" apply >>"$LAB/$id.cpu"
  done
  check "nftables is still listened to" kill -0 "${listeners[0]}"
  kill "${listeners[@]}"
  wait "${listeners[@]}" 2>/dev/null || true
  on "$host" wg show all dump | sort >"$LAB/$id.after"
  same "WireGuard is as it was" "$LAB/$id.before" "$LAB/$id.after"
  writes=$(cat <(grep -v ' heard$' "$LAB/heard.nft") <(grep -vE '192\.0\.2\.99' "$LAB/heard.ip") | wc -l)
  figure "$id-writes" "\`apply\` with nothing to do, $what: events of nftables and rtnetlink in $BENCH_RUNS runs" writes "$writes" - 'ours<=' 0
  figure "$id-cpu" "the same: CPU time of one run, files and kernel read" us "$(median "$LAB/$id.cpu")" - - -
}
both_heard() { # HOST; a change of nobody's proves that both listen
  on "$1" sh -c 'nft add table ip heard; nft delete table ip heard; ip route add 192.0.2.99/32 dev lo; ip route del 192.0.2.99/32 dev lo'
  [[ -s $LAB/heard.nft && -s $LAB/heard.ip ]]
}

# bridges: a gateway with 200 bridges of 100 prefixes each, from nothing, by `sdwand apply` and by the tools.
bridges() {
  local run count each=100
  count=$(scaled 200)
  "$PYTHON" "$LAB_LIB/bench_bridges.py" "$LAB/bridges.d" "$(<"$LAB/hub.pub")" 198.18.1.2 "$count" "$each" "$LAB/agreements.json"
  gateway probe
  check "bridges: applied" sdw probe apply
  bridged_files probe "$LAB/bridges.files"
  expect "bridges: so many routes" $((count * each)) carried_routes probe
  expect "bridges: so many AllowedIPs" $((count * each)) carried_nets probe
  nothing_to_do bridges-no-op "$count bridges with $each prefixes each" probe
  unhost probe
  for ((run = 1; run <= BENCH_RUNS; run++)); do
    gateway "ours$run"
    timed sdw "ours$run" apply >>"$LAB/bridges.ours"
    status "bridges: nothing is left to do" 0 sdw "ours$run" plan
    gateway "theirs$run"
    timed on "theirs$run" bash "$LAB/bridges.files/all.sh" >>"$LAB/bridges.theirs"
    if (( run == 1 )); then
      status "bridges: the tools made the same state" 0 sdw "theirs$run" plan
      for what in bridged_routes bridged_nets bridged_table; do
        "$what" "ours$run" >"$LAB/bridges.a"
        "$what" "theirs$run" >"$LAB/bridges.b"
        same "bridges: $what" "$LAB/bridges.a" "$LAB/bridges.b"
      done
    fi
    unhost "ours$run"
    unhost "theirs$run"
  done
  note "bridges: ours $(tr '\n' ' ' <"$LAB/bridges.ours"), theirs $(tr '\n' ' ' <"$LAB/bridges.theirs")"
  figure bridges "cold start, a gateway with $count bridges of $each prefixes each: \`sdwand apply\`, verified / \`nft -f\`, \`ip -batch\`, \`sysctl -p\`, \`wg setconf\`" \
    us "$(median "$LAB/bridges.ours")" "$(median "$LAB/bridges.theirs")" 'ratio<=' 1.2
}
# gateway NAME: a host with all the bridges, and what the other sites have agreed to.
gateway() {
  local state=$LAB/hosts/$1/run/state
  bench_host "$1" "$LAB/bridges.d" 'state_dir = "/run/state/sdwand"' '[federation]' 'listen = "[::]:8443"' \
    'url = "https://hub.example:8443"' 'allow_dial = ["198.18.0.0/15"]'
  mkdir -p "$state/sdwand-agreements"
  cp -p "$LAB/agreements.json" "$state/sdwand-agreements/"
}
# What belongs to bridges on a host, and how much of it there is.
bridged_routes() { { on "$1" ip -4 route show table 10001; on "$1" ip -6 route show table 10001; } | grep -E '^(172\.|fd77:)' | sort; }
bridged_nets() { on "$1" wg show wg-sdwan-1 allowed-ips | tr '\t' ' ' | awk '{ for (n = 2; n <= NF; n++) print $1, $n }' | grep -E ' (172\.|fd77:)' | sort; }
bridged_table() { on "$1" nft -j list table inet sdwand | table_shape; }
carried_routes() { bridged_routes "$1" | wc -l; }
carried_nets() { bridged_nets "$1" | wc -l; }
# bridged_files HOST FOLDER: others_files, with what `compile` doesn't know, since it reads no agreements: as HOST has it.
bridged_files() {
  local to=$2
  others_files "$1" "$to"
  { printf 'add table inet sdwand\ndelete table inet sdwand\n'; on "$1" nft -s list table inet sdwand; } >"$to/nft"
  on "$1" wg showconf wg-sdwan-1 >"$to/wg-sdwan-1.conf"
  as_batch() { grep ' dev wg-sdwan-1 ' | sed 's/^/route replace /; s/ *$/ table 10001 proto 241/'; }
  on "$1" ip -4 route show table 10001 proto 241 | as_batch >>"$to/routes"
  on "$1" ip -6 route show table 10001 proto 241 | as_batch >>"$to/routes6"
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
if wants bridges; then bridges; fi
