#!/bin/bash
# Runs netns tests one after the other; the same on the machine and in a guest.
#
#   runner.sh FOLDER TEST…
#
# A line for each goes to FOLDER/results: name, passed, failed, skipped, seconds. Several runners may share FOLDER: each
# test is run by who is first to make FOLDER/claims/NAME. A test that ends without its RESULT line counts as one failure.
# SDWAND_TEST_LIMIT is the most a test may take, in seconds (300).
set -uo pipefail
folder=$1
shift
mkdir -p "$folder/claims"
for test; do
  name=$(basename "$test" .sh)
  mkdir "$folder/claims/$name" 2>/dev/null || continue
  log=$folder/$name.log
  echo "-- $name"
  start=$SECONDS
  timeout -s KILL "${SDWAND_TEST_LIMIT:-300}" bash "$test" </dev/null 2>&1 | tee "$log"
  line=$(grep -a '^RESULT ' "$log" | tail -n 1)
  seconds=$((SECONDS - start))
  if [[ $line =~ passed=([0-9]+)\ failed=([0-9]+)\ skipped=([0-9]+) ]]; then
    echo "$name ${BASH_REMATCH[1]} ${BASH_REMATCH[2]} ${BASH_REMATCH[3]} $seconds" >>"$folder/results"
  else
    echo "   $name: no RESULT after $seconds s"
    echo "$name 0 1 0 $seconds" >>"$folder/results"
  fi
done
