#!/bin/bash
# The kernel tests that are written in Rust (tests/*_kernel.rs, tests/*_wg.rs, the firewall's own), as one netns test.
#
# On this machine's kernel `cargo test` runs them; here their binaries, which test.sh names in SDWAND_TEST_BINARIES, run
# under a kernel that has everything. Each makes its own namespaces. A skip there is a failure.
set -uo pipefail
passed=0 failed=0
for binary in ${SDWAND_TEST_BINARIES:?the test binaries}; do
  filter=()
  # Of the library's tests only those that load real tables.
  [[ $(basename "$binary") = sdwand-* ]] && filter=(firewall::tests::kernel)
  log=$(mktemp)
  "$binary" "${filter[@]}" --test-threads=1 2>&1 | tee "$log"
  read -r p f < <(sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed;.*/\1 \2/p' "$log" | tail -n 1)
  [[ -n ${p:-} ]] || { p=0 f=1; }
  passed=$((passed + p)) failed=$((failed + f))
  p='' f=''
done
echo "RESULT passed=$passed failed=$failed skipped=0"
exit $((failed > 0))
