#!/bin/bash
# What sdwand costs beside the tools that do the same, measured side by side in one run: netns-tests/bench.sh
#
#   netns-tests/bench.sh [--json] [--no-fail] [--runs N] [--scale N] [NAME…]
#
#   --json      the figures as JSON, one array
#   --no-fail   exit 0 also where a bound is missed
#   --runs N    medians of N runs (5)
#   --scale N   an Nth of the peers and rules: to try the script, not to measure
#   NAME        only these: cold vrfs one-peer no-op bridges (kernel WireGuard and VRFs), one-rule forward userspace (any kernel)
#
# Kernel WireGuard and VRFs are measured on the running kernel if it has them, else in a User-Mode-Linux guest
# (lab/mkuml.sh builds it once): there only ratios of like with like, counts and memory mean something, and a process takes
# longer to start than on hardware, for both sides. Throughput is measured on the running kernel.
#
# Both sides are given the same state: after the tools have made what `sdwand compile` prints, `sdwand plan` must find
# nothing left to do. A command's time is all of it: its start, reading the files, looking at the host, changing it, and
# reading back, which the tools don't do. Root; profile release, or SDWAND_BIN.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.." || exit 1
export PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin CARGO_TERM_COLOR=never

json='' fail=1 names=()
export BENCH_RUNS=5 BENCH_SCALE=1
while (( $# > 0 )); do
  case $1 in
    --json) json=1; shift ;;
    --no-fail) fail=0; shift ;;
    --runs) BENCH_RUNS=${2:?--runs needs a number}; shift 2 ;;
    --scale) BENCH_SCALE=${2:?--scale needs a number}; shift 2 ;;
    --help | -h) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    cold | vrfs | one-peer | no-op | bridges | one-rule | forward | userspace) names+=("$1"); shift ;;
    *) echo "$0: no option or benchmark $1" >&2; exit 1 ;;
  esac
done
[[ $EUID = 0 ]] || { echo "$0: needs root, for network namespaces" >&2; exit 1; }
for tool in wg nft ip iperf3 jq ss wireguard-go; do
  command -v "$tool" >/dev/null || { echo "$0: needs $tool: netns-tests/install.sh test, and Debian's iperf3, wireguard-go" >&2; exit 1; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [[ -z ${SDWAND_BIN:-} ]]; then
  cargo build --locked --quiet --release --bin sdwand || exit 1
  SDWAND_BIN=$(cargo metadata --locked --no-deps --format-version 1 | jq -r .target_directory)/release/sdwand
fi
export SDWAND_BIN

# those NAME…: which of them are asked for, all of them by default; none: nothing to run.
those() {
  local name
  for name; do
    if [[ ${#names[@]} = 0 || " ${names[*]} " = *" $name "* ]]; then echo "$name"; fi
  done
}
mapfile -t kernel < <(those cold vrfs one-peer no-op bridges)
mapfile -t native < <(those one-rule forward userspace)
broken=0
can_link() { unshare --net ip link add probe0 type "$@" >/dev/null 2>&1; }
run_kernel() { # NAME
  if can_link wireguard && can_link vrf table 10; then
    "$here/lab/bench-kernel.sh" "$1"
    return
  fi
  KERNEL=$("$here/lab/mkuml.sh") || return
  export KERNEL
  # Each in a guest of its own: what one leaves behind doesn't weigh on the next.
  MEM=${MEM:-2G} LIMIT=${SDWAND_UML_LIMIT:-1800} "$here/lab/umlrun.sh" \
    "export SDWAND_BIN=$SDWAND_BIN LAB_SLOW=2 BENCH_RUNS=$BENCH_RUNS BENCH_SCALE=$BENCH_SCALE
     exec $here/lab/bench-kernel.sh $1"
}
# part NAME CMD…: its output goes to a log, which is shown where it failed.
part() {
  local log=$work/$1.log
  shift
  "$@" >"$log" 2>&1 || { broken=1; grep -v '^FIGURE ' "$log" >&2; }
  sed -n 's/^FIGURE //p' "$log" >>"$work/figures"
}
for name in "${kernel[@]}"; do part "$name" run_kernel "$name"; done
if (( ${#native[@]} > 0 )); then part native "$here/lab/bench-native.sh" "${native[@]}"; fi
[[ -z ${BENCH_LOGS:-} ]] || cp "$work"/*.log "$BENCH_LOGS"
[[ -s $work/figures ]] || { echo "$0: nothing was measured" >&2; exit 1; }

if [[ -n $json ]]; then
  jq -s . "$work/figures"
else
  model=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)
  echo "Measured on $(date -u +%F): $(nproc) × ${model:-$(uname -m)}, Linux $(uname -r), medians of $BENCH_RUNS."
  /usr/bin/python3 - "$work/figures" <<'PYTHON'
import json, sys
def shown(value, unit):
    if value is None:
        return "–"
    if unit == "us":
        return f"{value / 1000:.0f} ms" if value >= 10000 else f"{value / 1000:.1f} ms"
    return f"{value:.0f} {unit}" if value >= 100 or value == int(value) else f"{value:.1f} {unit}"
print("\n| what: ours / the others' | ours | theirs | ratio | bound |\n|---|---|---|---|---|")
for line in open(sys.argv[1]):
    row = json.loads(line)
    ratio = "–" if row["ratio"] is None else f"{row['ratio']:.3f}" if row["ratio"] < 0.2 else f"{row['ratio']:.2f}"
    sign = "≥" if row["rule"].endswith(">=") else "≤"
    bound = "–" if row["bound"] is None else f"{sign} {row['bound']:g}"
    if row["ok"] is False:
        bound = f"**{bound}, missed**"
    print(f"| {row['what']} | {shown(row['ours'], row['unit'])} | {shown(row['theirs'], row['unit'])} | {ratio} | {bound} |")
PYTHON
fi
missed=$(jq -s 'map(select(.ok == false)) | length' "$work/figures")
(( broken == 0 )) || { echo "$0: a benchmark didn't come to its end, or an assertion in it failed: see above" >&2; exit 1; }
if (( missed > 0 )); then
  echo "$0: $missed bounds are missed" >&2
  (( fail == 0 )) || exit 1
fi
