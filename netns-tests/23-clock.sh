#!/bin/bash
# A gateway whose clock isn't set yet, as on a host without a battery: nothing is dated, judged or written until it is.
. "$(dirname "$0")/lab/lib.sh"
lab_binary
has_tool faketime || skip_rest "no faketime: install.sh test"

mkhost ga
underlay ga
mksite ga site-a "https://${V4[ga]}:8443"
fake=$(dpkg -L libfaketime | grep libfaketimeMT)
clock() { echo "$1" >"$LAB/hosts/ga/run/clock"; }
# Starts the gateway with a clock that was never set.
start_unset() {
  clock '@2001-01-01 00:00:00'
  nsenter --target "${HOST_PID[ga]}" --net --mount -- setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs \
    --bounding-set=-all env LD_PRELOAD="$fake" FAKETIME_TIMESTAMP_FILE=/run/clock FAKETIME_NO_CACHE=1 \
    FAKETIME_DONT_FAKE_MONOTONIC=1 "$SDWAND_BIN" serve </dev/null >"$LAB/hosts/ga/serve.log" 2>&1 &
  SERVE[ga]=$!
}
start_unset
waits() { grep -q clock_unset "$LAB/hosts/ga/serve.log"; }
wait_for "it says that the clock isn't set" 10 waits
refute "no socket is there" on ga test -e /run/sdwand-serve/api.sock
refute "and no CA was dated by that clock" on ga test -e /run/state/sdwand-serve/ca.pem
clock '+0'
wait_for "once it is set, the gateway answers" 10 sdw ga peer list
check "with a CA of today" eval \
  'on ga openssl x509 -in /run/state/sdwand-serve/ca.pem -noout -startdate | grep -q "$(date -u +%Y)"'
stop_serve ga TERM
start_unset
wait_for "while it waits" 10 waits
check "it ends when it is told to" stop_serve ga TERM
