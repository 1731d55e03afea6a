#!/bin/bash
# The project's tests, all of them: the one command of the README, and what CI runs.
#
#   netns-tests/test.sh                    everything
#   netns-tests/test.sh --lane LANE        unit | native | uml | all
#   netns-tests/test.sh [--lane …] NAME…   only the netns tests whose names contain one of NAME
#
#   lane    what                                                                    where
#   checks  format, clippy with warnings denied, cargo deny (with the lane "unit")  cargo
#   unit    unit, golden, property tests and examples in the documentation          cargo
#   native  netns-tests/NN-*.sh on this machine's kernel; what it lacks is skipped   network namespaces
#   uml     the same under a full kernel, where nothing may be skipped              User-Mode-Linux, lab/umlrun.sh
#
# A test whose second line says "Only in the native lane", and why, isn't of the kernel: the lane uml leaves it out.
# Root, Debian 12, Rust. A failure doesn't stop the rest; each lane's counts stand at the end.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.." || exit 1
export PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin CARGO_TERM_COLOR=never

lane=all names=()
while (( $# > 0 )); do
  case $1 in
    --lane) lane=${2:?--lane needs a name}; shift 2 ;;
    --help | -h) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    -*) echo "$0: no option $1" >&2; exit 1 ;;
    *) names+=("$1"); shift ;;
  esac
done
case $lane in
  unit | native | uml | all) ;;
  *) echo "$0: lanes are unit, native, uml, all" >&2; exit 1 ;;
esac
wants() { [[ $lane = all || $lane = "$1" ]] && [[ ${#names[@]} = 0 || $1 != unit ]]; }
[[ $EUID = 0 ]] || { echo "$0: needs root, for network namespaces" >&2; exit 1; }

tests=()
for test in "$here"/[0-9][0-9]-*.sh; do
  if [[ ${#names[@]} = 0 ]]; then tests+=("$test"); continue; fi
  for name in "${names[@]}"; do
    if [[ $(basename "$test") = *"$name"* ]]; then tests+=("$test"); break; fi
  done
done
(( ${#tests[@]} > 0 )) || { echo "$0: no test is called ${names[*]}" >&2; exit 1; }

work=$(mktemp -d)
trap 'exit 130' INT TERM
trap 'mapfile -t jobs < <(jobs -p); (( ${#jobs[@]} == 0 )) || kill "${jobs[@]}"; rm -rf "$work"' EXIT
declare -A passed=() failed=() skipped=() took=()
lanes=()
clock() { printf '%d:%02d' $((SECONDS / 60)) $((SECONDS % 60)); }
say() { printf '\n==> [%s] %s\n' "$(clock)" "$*"; }
# count LANE PASSED FAILED SKIPPED SECONDS
count() {
  [[ -n ${took[$1]:-} ]] || { lanes+=("$1"); passed[$1]=0 failed[$1]=0 skipped[$1]=0 took[$1]=0; }
  passed[$1]=$((passed[$1] + $2)) failed[$1]=$((failed[$1] + $3))
  skipped[$1]=$((skipped[$1] + $4)) took[$1]=$((took[$1] + $5))
}
failures=()
# step LANE DESC CMD…: one check.
step() {
  local which=$1 desc=$2 start=$SECONDS
  shift 2
  say "$desc"
  if "$@"; then count "$which" 1 0 0 $((SECONDS - start)); return 0; fi
  count "$which" 0 1 0 $((SECONDS - start))
  failures+=("$which: $desc")
  return 1
}
finish() {
  local p=0 f=0 s=0 which
  printf '\n%-8s %7s %7s %8s %6s\n' lane passed failed skipped time
  for which in "${lanes[@]}"; do
    printf '%-8s %7d %7d %8d %6s\n' "$which" "${passed[$which]}" "${failed[$which]}" "${skipped[$which]}" \
      "$((took[$which] / 60)):$(printf '%02d' $((took[$which] % 60)))"
    p=$((p + passed[$which])) f=$((f + failed[$which])) s=$((s + skipped[$which]))
  done
  if (( ${#failures[@]} > 0 )); then printf '\nfailed:\n'; printf '  %s\n' "${failures[@]}"; fi
  printf '%d passed, %d failed, %d skipped, in %s\n' "$p" "$f" "$s" "$(clock)"
  exit $((f > 0 || p == 0))
}

# The advisories are fetched: where that can't be done, this check says so and is skipped.
advisories() {
  if timeout 60 cargo deny --locked --config .deny.toml fetch db >"$work/fetch" 2>&1; then
    step checks "cargo deny: advisories" cargo deny --locked --config .deny.toml check advisories
  else
    say "cargo deny: advisories: skipped, their database is out of reach"
    count checks 0 0 1 0
  fi
}
cargo_tests() {
  local start=$SECONDS code=0 p f i
  say "unit, golden and property tests"
  cargo test --locked --no-fail-fast </dev/null 2>&1 | tee "$work/cargo"
  code=${PIPESTATUS[0]}
  # A test that runs itself again in a namespace prints a result of its own, with the others filtered out: it counts once.
  read -r p f i < <(sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed; \([0-9]*\) ignored;.* 0 filtered out;.*/\1 \2 \3/p' "$work/cargo" |
    awk '{ p += $1; f += $2; i += $3 } END { print p + 0, f + 0, i + 0 }')
  if (( code != 0 && f == 0 )); then f=1; fi # it didn't compile
  count unit "$p" "$f" "$i" $((SECONDS - start))
  (( f == 0 )) || failures+=("unit: cargo test")
}
# collect LANE SECONDS: takes $work/LANE/results into the counts; a test that left no line has failed.
collect() {
  local which=$1 seconds=$2 test name line
  for test in "${tests[@]}"; do
    name=$(basename "$test" .sh)
    line=$(grep -s "^$name " "$work/$which/results" | tail -n 1)
    # shellcheck disable=SC2086 # name, passed, failed, skipped, seconds
    set -- ${line:-$name 0 1 0 0}
    count "$which" "$2" "$3" "$4" 0
    (( $3 == 0 )) || failures+=("$which: $name ($3)")
  done
  took[$which]=$seconds
}
native() {
  local start=$SECONDS
  say "netns tests on this kernel, $(uname -r)"
  mkdir -p "$work/native"
  "$here/lab/runner.sh" "$work/native" "${tests[@]}"
  collect native $((SECONDS - start))
}
# The Rust tests of real kernels that come along into the guests.
rust_binaries() {
  cargo test --locked --no-run --message-format=json 2>/dev/null </dev/null |
    jq -r 'select(.executable != null and .profile.test and .target.kind[0] != "bin") |
      select(.target.name | test("_kernel$|_wg$|^sdwand$")) | .executable' | tr '\n' ' '
}
# without_result FOLDER: the tests that left no line there.
without_result() {
  local test
  for test in "${tests[@]}"; do
    grep -qs "^$(basename "$test" .sh) " "$1/results" || echo "$test"
  done
}
for_uml() {
  local test
  for test in "${tests[@]}"; do
    sed -n 2p "$test" | grep -q '^# Only in the native lane' || echo "$test"
  done
}
# One guest for each of the first four CPUs; each takes the next test that nobody has. A guest can die of its own (User-
# Mode-Linux panics now and then in its page tables under threads): what it left undone goes to another, three times at
# the most, and is said. A test's own failure is never tried again.
uml() {
  local start=$SECONDS cpus cpu guests rust try todo
  say "netns tests under a full kernel"
  export KERNEL
  KERNEL=$("$here/lab/mkuml.sh") || { count uml 0 1 0 $((SECONDS - start)); failures+=("uml: mkuml.sh"); return; }
  mkdir -p "$work/uml"
  rust=$(rust_binaries)
  mapfile -t tests < <(for_uml)
  if [[ ${#names[@]} = 0 ]]; then tests=("$here/lab/rust-tests.sh" "${tests[@]}"); fi
  mapfile -t cpus < <(/usr/bin/python3 -c 'import os; print(*sorted(os.sched_getaffinity(0))[:4], sep="\n")')
  for try in 1 2 3; do
    mapfile -t todo < <(without_result "$work/uml")
    (( ${#todo[@]} > 0 )) || break
    (( try == 1 )) || say "a guest died: ${#todo[@]} tests go to another"
    rm -rf "$work/uml/claims"
    guests=()
    for cpu in "${cpus[@]:0:${#todo[@]}}"; do
      rm -rf "$work/guest$cpu" && mkdir "$work/guest$cpu"
      CPU=$cpu OUT=$work/guest$cpu LIMIT=${SDWAND_UML_LIMIT:-1500} "$here/lab/umlrun.sh" "
        mkdir -p /run/shared && mount -t hostfs -o $work/uml shared /run/shared
        export SDWAND_BIN=$SDWAND_BIN SDWAND_NETNS_REQUIRE=all LAB_SLOW=2 SDWAND_TEST_LIMIT=600
        export SDWAND_TEST_BINARIES='$rust'
        exec $here/lab/runner.sh /run/shared ${todo[*]}" &
      guests+=($!)
    done
    wait "${guests[@]}"
  done
  collect uml $((SECONDS - start))
}

say "what this machine lacks"
"$here/install.sh" test || { count checks 0 1 0 $SECONDS; failures+=("install.sh"); finish; }
if wants unit; then
  step checks "cargo fmt --check" cargo fmt --check
  step checks "cargo clippy, warnings denied" cargo clippy --all-targets --locked --quiet -- -D warnings
  step checks "cargo deny: bans, licences, sources" cargo deny --locked --config .deny.toml check bans licenses sources
  advisories
  cargo_tests
fi
if wants native || wants uml; then
  step checks "the binary (profile ci)" cargo build --locked --quiet --profile ci --bin sdwand || finish
  SDWAND_BIN=$(cargo metadata --locked --no-deps --format-version 1 | jq -r .target_directory)/ci/sdwand
  export SDWAND_BIN
  if wants native; then native; fi
  if wants uml; then uml; fi
fi
finish
