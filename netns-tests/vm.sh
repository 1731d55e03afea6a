#!/bin/bash
# The netns tests under Debian's own, unmodified kernel with two CPUs, in a virtual machine: slow, and not part of
# test.sh; for what a stock or SMP kernel may do otherwise than the test kernel of the lane `uml`.
#
#   netns-tests/vm.sh [NAME…]   only tests whose names contain one of NAME
#
# SDWAND_BIN (default: target/ci/sdwand, as test.sh builds it). Nothing may be skipped.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.."
export PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin
[[ $EUID = 0 ]] || { echo "$0: needs root" >&2; exit 1; }
"$here/install.sh" vm
if [[ -z ${SDWAND_BIN:-} ]]; then
  cargo build --locked --profile ci --bin sdwand
  SDWAND_BIN=$(cargo metadata --locked --no-deps --format-version 1 | jq -r .target_directory)/ci/sdwand
fi
tests=()
for test in "$here"/[0-9][0-9]-*.sh; do
  if [[ $# = 0 ]]; then tests+=("$test"); continue; fi
  for name; do
    if [[ $(basename "$test") = *"$name"* ]]; then tests+=("$test"); break; fi
  done
done
OUT=$(mktemp -d)
export OUT
trap 'rm -rf "$OUT"' EXIT
"$here/lab/vmrun.sh" "
  export SDWAND_BIN=$SDWAND_BIN SDWAND_NETNS_REQUIRE=all LAB_SLOW=5 SDWAND_TEST_LIMIT=1200
  exec $here/lab/runner.sh /run/out ${tests[*]}"
echo
awk '{ print; passed += $2; failed += $3; skipped += $4 } END { print passed + 0 " passed, " failed + 0 " failed, " skipped + 0 " skipped"; exit failed > 0 || NR == 0 }' "$OUT/results"
