#!/bin/bash
# umlrun.sh CMD…: runs CMD as root in a User-Mode-Linux guest, over a copy-on-write view of this machine's files.
#
# What the guest writes is gone with it, but for $OUT (a folder here, /run/out there). CMD's output goes to stdout, its
# status is the exit status; 125 when the guest didn't come to its end. KERNEL (default: what mkuml.sh built),
# MEM (1G), LIMIT (seconds, 300), APPEND (kernel options, such as time-travel) may be given.
# One CPU, no network but its own. Memory is a sparse file in /dev/shm, or $TMPDIR where that is small.
# The guest's processes are pinned to one CPU of this machine, the last one allowed or the one in $CPU: they take turns
# by ptrace, and across two CPUs each turn waits for a wake-up, which made everything ten times slower.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kernel=${KERNEL:-$("$here/mkuml.sh" --path)}
memory=${MEM:-1G}
scratch=
if [[ -z ${OUT:-} ]]; then scratch=$(mktemp -d) OUT=$scratch; fi
trap '[[ -z $scratch ]] || rm -rf "$scratch"' EXIT
room=/dev/shm
(( $(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1) > 1200000 )) || room=${TMPDIR:-/tmp}

rm -f "$OUT/status"
printf '%s\n' "$*" >"$OUT/command"
printf '%s' "$PWD" >"$OUT/folder"
printf '%s' "$PATH" >"$OUT/path"
# UML wants the memory file's folder to allow execution; a short uml_dir keeps its socket's name within 108 bytes.
if [[ -z ${CPU:-} ]]; then CPU=$(taskset -cp $$ | sed 's/.*[ ,-]//'); fi
TMPDIR=$room taskset -c "$CPU" timeout "${LIMIT:-300}" "$kernel" mem="$memory" uml_dir="$OUT" umid=u \
  root=/dev/root rootfstype=hostfs rootflags=/ ro quiet loglevel=3 con=null con0=null,fd:1 ssl=null \
  random.trust_cpu=on ${APPEND:-} init="$here/uml-init.sh" lab.out="$OUT" </dev/null \
  > >(grep --line-buffered -v '^reboot: Power down') &
guest=$!
trap 'kill $guest; exit 143' INT TERM
wait $guest
code=$?
wait # for the last of its output
if [[ -s $OUT/status ]]; then exit "$(<"$OUT/status")"; fi
echo "umlrun: the guest did not come to its end (status $code)" >&2
exit 125
