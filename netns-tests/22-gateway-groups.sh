#!/bin/bash
# Who may do what on a gateway by the groups that its sockets have: operators everything, readers reads, others nothing.
. "$(dirname "$0")/lab/lib.sh"
lab_binary

mkhost ga
underlay ga
mksite ga site-a "https://${V4[ga]}:8443"
# As `systemd-sysusers` makes them.
printf '%s\n' root:x:0: sdwand:x:4241: sdwand-read:x:4242: >"$LAB/hosts/ga/run/group"
on ga mount --bind /run/group /etc/group
SERVE_GROUPS=4241,4242 start_serve ga
sockets=/run/sdwand-serve
expect "operators have api.sock" '660 4241' on ga stat -c '%a %g' "$sockets/api.sock"
expect "readers have status.sock" '660 4242' on ga stat -c '%a %g' "$sockets/status.sock"

as() { # GROUPS COMMAND…
  local groups=$1
  shift
  nsenter --target "${HOST_PID[ga]}" --net --mount -- \
    setpriv --reuid=1234 --regid=1234 "$groups" --no-new-privs "$SDWAND_BIN" "$@" </dev/null
}
propose() { as "$1" peer propose https://192.0.2.1:8443 --name site-b; }
check "an operator proposes" propose --groups=4241
sees() { as "$1" peer list --json | jq -r '.[].alias'; }
expect "an operator sees it" site-b sees --groups=4241
expect "a reader sees it" site-b sees --groups=4242
check "and what to look at" as --groups=4242 governance --json
status "a reader proposes nothing" 1 propose --groups=4242
status "nor revokes" 1 as --groups=4242 peer revoke site-b
as --groups=4242 peer revoke site-b 2>"$LAB/refused" || true
check "and is told which group does" grep -q 'in the group of api.sock' "$LAB/refused"
status "others see nothing" 1 as --clear-groups peer list
as --clear-groups peer list 2>"$LAB/refused" || true
check "and are told which group does" grep -q 'sdwand-read' "$LAB/refused"
expect "the peer is as it was" proposed eval 'sdw ga peer list --json | jq -r ".[].status"'
stop_serve ga TERM
