# shellcheck shell=bash
# The lab: what every test sources first.
#
#   . "$(dirname "$0")/lab/lib.sh"
#
# The test is started again inside network, mount and process namespaces of its own. Its /run is a fresh tmpfs, so
# namespaces, sockets, daemons and files vanish with it, however it ends, and tests may run side by side:
#
#   the machine ── unshare --net --mount --pid ──▶ the test
#                                                   ├─ host "hub"    own network, /etc/sdwand, /run, /var/lib/sdwand
#                                                   ├─ host "spoke"  …
#                                                   ├─ host "m"      the same with a root and systemd of its own (machine.sh)
#                                                   ├─ namespace "wan", LAN hosts: own network only
#                                                   └─ $LAB          files of the test (tmpfs)
#
# A test counts assertions: `check`, `refute`, `expect`, `wait_for`, `skip`. They print a line each and never abort;
# `require check …` ends the test when the assertion fails. Any other command that fails aborts the test, as a failure.
# The last line is `RESULT passed=N failed=N skipped=N`. Under SDWAND_NETNS_REQUIRE=all a skip is a failure.
#
# Reads: SDWAND_BIN (the binary under test), SDWAND_NETNS_REQUIRE, LAB_SLOW (factor on every timeout, default 1),
# LAB_VERBOSE=1 (logs of all hosts at the end, also when all passed).

if [[ -z ${LAB_INSIDE:-} ]]; then
  [[ $EUID = 0 ]] || { echo "$0: needs root, for network namespaces" >&2; exit 1; }
  exec unshare --net --mount --propagation private --pid --fork --kill-child --mount-proc \
    env LAB_INSIDE=1 bash "$0" "$@"
fi

set -Eeuo pipefail
shopt -s extglob
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C WG_COLOR_MODE=never
LAB_LIB=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
LAB=/run/lab
LAB_SLOW=${LAB_SLOW:-1}
PYTHON=/usr/bin/python3
PASSED=0 FAILED=0 SKIPPED=0 ABORTED=

# ---------------------------------------------------------------------------------------------------- the test's end

exec {LAB_STDOUT}>&1 # for the last lines, wherever output goes when the test ends
trap 'ABORTED="${BASH_SOURCE[0]##*/}:$LINENO: $BASH_COMMAND"' ERR

lab_end() {
  local code=$?
  trap - EXIT ERR
  set +e
  exec 1>&"$LAB_STDOUT" 2>&1
  if (( code != 0 && FAILED == 0 )); then
    fail "aborted with status $code at ${ABORTED:-an unknown line}"
  fi
  if (( FAILED > 0 )) || [[ -n ${LAB_VERBOSE:-} ]]; then lab_logs; fi
  lab_end_machines
  echo "RESULT passed=$PASSED failed=$FAILED skipped=$SKIPPED"
  exit $(( FAILED > 0 ))
}
trap lab_end EXIT

# The tail of what every host wrote.
lab_logs() {
  local file name
  for name in "${!MACHINE[@]}"; do on "$name" journalctl --no-pager >"$LAB/hosts/$name/journal.log" 2>&1; done
  for file in "$LAB"/hosts/*/*.log "$LAB"/*.log; do
    [[ -s $file ]] || continue
    echo "  ---- ${file#"$LAB"/}"
    tail -n "${LAB_LOG_LINES:-25}" "$file" | cut -c -400 | sed 's/^/  | /'
  done
}

# ------------------------------------------------------------------------------------------------------- assertions

# What a packet meets that the firewall, a missing route or a missing key refuses, for `expect`: here or on the way.
# shellcheck disable=SC2034 # the tests use them
NO_PING='@(silence|unreachable)' NO_TCP='@(timeout|unreachable|denied)' NO_UDP='@(timeout|unreachable|denied)'

now_ms() { echo $(( ${EPOCHREALTIME/./} / 1000 )); }
LAB_T0=$(now_ms)

lab_line() {
  local ms=$(( $(now_ms) - LAB_T0 )) word=$1
  shift
  printf '  %-4s %3d.%d s  %s\n' "$word" $((ms / 1000)) $((ms / 100 % 10)) "$*"
}
pass() { PASSED=$((PASSED + 1)); lab_line pass "$@"; }
fail() { FAILED=$((FAILED + 1)); lab_line FAIL "$@"; }
# A line that is no verdict: a figure, a step.
note() { lab_line '' "$@"; }

# skip REASON: one thing this kernel can't show.
skip() {
  if [[ ${SDWAND_NETNS_REQUIRE:-} = all ]]; then fail "skipped where nothing may skip: $*"; return; fi
  SKIPPED=$((SKIPPED + 1))
  lab_line skip "$@"
}
# skip_rest REASON: the whole rest of the test.
skip_rest() { skip "$@"; exit 0; }

lab_output() { cut -c -300 "$LAB/out" | tail -n "${1:-8}" | sed 's/^/        | /'; }

# check DESC CMD…: CMD succeeds.
check() {
  local desc=$1
  shift
  if "$@" >"$LAB/out" 2>&1; then pass "$desc"; else fail "$desc: \`$*\` gave $?"; lab_output; fi
}
# refute DESC CMD…: CMD fails. Only where any failure is the right one; for packets use `expect`.
refute() {
  local desc=$1
  shift
  if "$@" >"$LAB/out" 2>&1; then fail "$desc: \`$*\` succeeded"; lab_output; else pass "$desc"; fi
}
# expect DESC PATTERN CMD…: what CMD prints is PATTERN (extglob), whatever its status.
expect() {
  local desc=$1 want=$2 got
  shift 2
  got=$("$@" 2>&1) || true
  # shellcheck disable=SC2053 # a pattern on purpose
  if [[ $got = $want ]]; then
    pass "$desc"
  else
    printf '%s\n' "$got" >"$LAB/out"
    fail "$desc: wanted \`$want\` from \`$*\`, got:"
    lab_output
  fi
}
# status DESC N CMD…: CMD exits with N. What it said is in $LAB/said.
status() {
  local desc=$1 want=$2 got=0
  shift 2
  "$@" >"$LAB/said" 2>&1 || got=$?
  cp "$LAB/said" "$LAB/out"
  if (( got == want )); then pass "$desc"; else fail "$desc: wanted exit status $want from \`$*\`, got $got"; lab_output; fi
}
# same DESC FILE FILE: byte for byte.
same() {
  if diff -u "$2" "$3" >"$LAB/out"; then pass "$1"; else fail "$1"; lab_output 30; fi
}
# until_ok SECONDS CMD…: polls until CMD succeeds; no verdict.
until_ok() {
  local end=$(( $(now_ms) + $1 * 1000 * LAB_SLOW ))
  shift
  until "$@" >"$LAB/out" 2>&1; do
    (( $(now_ms) < end )) || return 1
    sleep 0.05
  done
}
# wait_for DESC SECONDS CMD…: CMD succeeds within SECONDS (times LAB_SLOW).
wait_for() {
  local desc=$1 seconds=$2
  shift 2
  if until_ok "$seconds" "$@"; then pass "$desc"; else fail "$desc: not within $((seconds * LAB_SLOW)) s: \`$*\`"; lab_output; fi
}
# require ASSERTION…: the rest of the test needs this one.
require() {
  local before=$FAILED
  "$@"
  (( FAILED == before )) || { note "the rest needs this: stopping"; exit 1; }
}
# not CMD…: the opposite, for `wait_for`.
not() { ! "$@"; }
# prints PATTERN CMD…: for `wait_for`; CMD's output matches PATTERN (extglob).
prints() {
  local want=$1 got
  shift
  got=$("$@" 2>&1) || true
  printf '%s\n' "$got"
  # shellcheck disable=SC2053
  [[ $got = $want ]]
}

# ---------------------------------------------------------------------------------------- what this kernel can do

# A link of this type can be made in a namespace that nobody sees.
lab_can_link() { unshare --net ip link add probe0 type "$@" >/dev/null 2>&1; }
has_wireguard() { [[ ${HAS_WIREGUARD:=$(lab_can_link wireguard && echo yes || echo no)} = yes ]]; }
has_vrf()       { [[ ${HAS_VRF:=$(lab_can_link vrf table 10 && echo yes || echo no)} = yes ]]; }
has_dummy()     { [[ ${HAS_DUMMY:=$(lab_can_link dummy && echo yes || echo no)} = yes ]]; }
has_tun()       { [[ ${HAS_TUN:=$(unshare --net ip tuntap add probe0 mode tun >/dev/null 2>&1 && echo yes || echo no)} = yes ]]; }
has_tool()      { command -v "$1" >/dev/null; }
lab_features() {
  local feature line=
  for feature in wireguard vrf dummy tun; do
    if "has_$feature"; then line+=" $feature"; else line+=" no-$feature"; fi
  done
  echo "kernel $(uname -r):$line"
}

# ------------------------------------------------------------------------------------------------- the private world

lab_mountpoint() { # parent folder: makes room for <parent>/sdwand without a trace on the machine
  local parent=$1 layer=$LAB/layers$1
  [[ -d $parent/sdwand ]] && return
  mkdir -p "$layer/upper/sdwand" "$layer/work"
  mount -t overlay -o "lowerdir=$parent,upperdir=$layer/upper,workdir=$layer/work" overlay "$parent" 2>/dev/null ||
    mkdir -p "$parent/sdwand"
}
mount -t tmpfs -o mode=755 lab /run
mkdir -p /run/netns /run/lock /run/wireguard "$LAB/hosts"
mount -t sysfs sysfs /sys
lab_mountpoint /etc
lab_mountpoint /var/lib
if [[ ! -c /dev/net/tun ]]; then
  mkdir -p /dev/net
  mknod /dev/net/tun c 10 200 || true
fi
ip link set lo up

# shellcheck source=netns-tests/lab/hosts.sh
. "$LAB_LIB/hosts.sh"
# shellcheck source=netns-tests/lab/machine.sh
. "$LAB_LIB/machine.sh"
# shellcheck source=netns-tests/lab/fleet.sh
. "$LAB_LIB/fleet.sh"
# shellcheck source=netns-tests/lab/sdwand.sh
. "$LAB_LIB/sdwand.sh"
# shellcheck source=netns-tests/lab/sites.sh
. "$LAB_LIB/sites.sh"
# shellcheck source=netns-tests/lab/stock.sh
. "$LAB_LIB/stock.sh"
