# shellcheck shell=bash
# What both halves of the benchmarks share. Sourced after lib.sh by bench-kernel.sh and bench-native.sh.
#
# A figure is a line of output, `FIGURE` and JSON: {id, what, ours, theirs, unit, ratio, bound, rule, ok}; `theirs` and `ratio`
# are null where there is nothing beside it. Times are medians of $BENCH_RUNS runs, ours and theirs in turn.
#
# Reads: SDWAND_BIN, BENCH_RUNS (5), BENCH_SCALE (1: divides peers and rules, to try the script).

BENCH_RUNS=${BENCH_RUNS:-5}
BENCH_SCALE=${BENCH_SCALE:-1}

now_us() { echo "${EPOCHREALTIME/./}"; }
# timed CMD…: runs it, and prints how many microseconds it took. What it says is in $LAB/timed.
timed() {
  local start end
  start=$(now_us)
  "$@" >"$LAB/timed" 2>&1 || { cat "$LAB/timed" >&2; return 1; }
  end=$(now_us)
  echo $((end - start))
}
# median FILE: of its numbers.
median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
# figure ID WHAT UNIT OURS THEIRS RULE BOUND: RULE says what is bound: `ratio<=`, `ratio>=`, `ours<=`, or `-`, nothing.
figure() {
  "$PYTHON" - "$@" <<'PYTHON'
import json, sys
ident, what, unit, ours, theirs, rule, bound = sys.argv[1:]
ours, theirs = float(ours), float(theirs) if theirs != "-" else None
ratio = ours / theirs if theirs else None
bound = float(bound) if rule != "-" else None
value = ratio if rule.startswith("ratio") else ours
ok = None if rule == "-" else value <= bound if rule.endswith("<=") else value >= bound
print("FIGURE", json.dumps(dict(id=ident, what=what, unit=unit, ours=ours, theirs=theirs, ratio=ratio, rule=rule, bound=bound, ok=ok)))
PYTHON
}
# scaled N
scaled() { echo $(($1 / BENCH_SCALE)); }

# bench_key: the hub's key, once.
bench_key() { (umask 077; wg genkey >"$LAB/hub.key"); wg pubkey <"$LAB/hub.key" >"$LAB/hub.pub"; }
# bench_fleet FOLDER PEERS NETWORKS RULES [SALT [PORT]]: see bench_fleet.py.
bench_fleet() { "$PYTHON" "$LAB_LIB/bench_fleet.py" "$1" "$(<"$LAB/hub.pub")" 198.18.1.2 "${@:2}"; }
# bench_host NAME FOLDER [LINE…]: a host that is the fleet's hub; LINE of TOML for its sdwand.toml.
bench_host() {
  local name=$1 etc=$LAB/hosts/$1/etc
  mkhost "$name"
  cp "$2"/*.toml "$etc/fleet.d/"
  (umask 077; cat "$LAB/hub.key" >"$etc/node.key")
  printf '%s\n' 'format = 1' 'node = "hub"' "${@:3}" >"$etc/sdwand.toml"
}
# unhost NAME: the host's namespaces go.
unhost() {
  kill "${HOST_PID[$1]}"
  wait "${HOST_PID[$1]}" 2>/dev/null || true
  ip netns del "$1"
  unset "HOST_PID[$1]"
}
# others_files HOST FOLDER: what HOST should be like, as files for ip(8), sysctl(8), wg(8) and nft(8), and `all.sh`, which
# applies them: the state that `sdwand compile` prints, in as few processes as the tools allow.
others_files() {
  local to=$2 line link
  mkdir -p "$to"
  sdw "$1" compile --node hub --plane firewall >"$to/nft"
  sdw "$1" compile --node hub --plane l3 >"$to/l3"
  : >"$to/links"; : >"$to/sysctl"; : >"$to/up"; : >"$to/routes"; : >"$to/routes6"
  while IFS= read -r line; do
    case $line in
      'ip link add '* | 'ip link set '*' alias '*) echo "${line#ip }" >>"$to/links" ;;
      'sysctl -w '*) echo "${line#sysctl -w }" >>"$to/sysctl" ;;
      'ip link '* | 'ip address '*) echo "${line#ip }" >>"$to/up" ;;
      'ip -6 '*) echo "${line#ip -6 }" >>"$to/routes6" ;;
      'ip '*) echo "${line#ip }" >>"$to/routes" ;;
      *) fail "a line of \`compile\` that nobody takes: $line"; return 1 ;;
    esac
  done <"$to/l3"
  # An interface that IPv6 is off on takes no route: the parameters of links come between their making and their start.
  {
    echo set -e
    echo "nft -f $to/nft"
    echo "ip -batch $to/links"
    echo "sysctl -q -p $to/sysctl"
    while read -r link; do
      { sdw "$1" compile --node hub --plane wireguard --link "$link"; } |
        sed "s|^\[Interface\]\$|&\nPrivateKey = $(<"$LAB/hub.key")|" >"$to/$link.conf"
      echo "wg setconf $link $to/$link.conf"
    done < <(sed -n 's/^link add \(wg-sdwan-[^ ]*\) .*/\1/p' "$to/links")
    echo "ip -batch $to/up"
    echo "ip -batch $to/routes"
    echo "ip -6 -batch $to/routes6"
  } >"$to/all.sh"
}

# What a table says, whatever was counted and in which order it came.
table_shape() {
  jq -cS '.nftables[] | del(.. | .handle?, .packets?, .bytes?, .index?) | select(.metainfo | not) |
    if .map.elem then .map.elem |= sort else . end' | sort
}

# The daemon's own word that a round is over, in microseconds since 1970; rounds that changed nothing say nothing.
last_round() {
  sed -n 's/^{"timestamp":"\([^"]*\)".*"the host was changed".*/\1/p' "$LAB/hosts/$1/daemon.log" | tail -n 1 |
    { read -r at && date -d "$at" +%s%6N || echo 0; }
}
round_after() { (( $(last_round "$1") > $2 )); }
