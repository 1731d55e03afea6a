#!/bin/bash
# A spoke and then a hub change their keys under traffic: what is lost is counted.
#
#     s1 ──┐
#          ├── wan ── hub      ping every 10 ms in each direction, through the whole of both rotations
#     s2 ──┘                  (where the kernel has WireGuard, s2 has an embedded device)
. "$(dirname "$0")/lab/lib.sh"

mkhost hub s1 s2
underlay hub s1 s2
fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node s1 2
fleet_node s2 3
fleet_network prod 1 hub:hub s1 s2 --keepalive_seconds 1
fleet_rule prod ping any any icmp
if has_wireguard; then host_config s2 '[wireguard]' 'backend = "userspace"'; fi
bring_up hub s1 s2
for spoke in 2 3; do wait_for "the hub reaches spoke $((spoke - 1))" 15 prints reply oping hub 1 "$(v6 1 $spoke)"; done

# stream NAME HOST ADDR [SECONDS]: pings in the background until `lost NAME`, one every SECONDS (0.005).
stream() {
  local file=$LAB/stream.$1 host=$2 address=$3 gap=${4:-0.005} source
  source=$(own_address "$host" 1 "$address")
  if in_vrf "$host" 1; then source=sdwan-1; fi
  # shellcheck disable=SC2016 # expanded there
  on "$host" sh -c 'echo $$ >"$1"; shift; exec "$@"' sh "$file.pid" \
    ping -n -i "$gap" -I "$source" "$address" >"$file.log" 2>&1 &
}
# lost NAME: how many of how many had no answer; up to three at the end may have been on their way.
lost() {
  local file=$LAB/stream.$1
  kill -INT "$(<"$file.pid")"
  until_ok 10 grep -q 'packets transmitted' "$file.log"
  unanswered "$file.log" | { read -r lost sent; echo "$lost of $sent"; }
}

pub() { cat "$LAB/keys/$1.pub"; }
carries() { on "$1" wg show wg-sdwan-1 allowed-ips | awk -v key="$2" '$1 == key && $2 != "(none)" { found = 1 } END { exit !found }'; }
keys_of() { on "$1" wg show wg-sdwan-1 peers | sort | tr '\n' ' '; }

# rotate NODE PEERS…: all of it, with the pings running.
rotate() {
  local node=$1 old next peer
  shift
  old=$(pub "$node")
  status "$node: nothing to use yet" 1 sdw "$node" key rotate
  next=$(sdw "$node" key rotate --begin --json | jq -r .public_key)
  expect "$node: the next key is its owner's alone" 600 on "$node" stat -c %a /etc/sdwand/node.key.next
  status "$node: the fleet doesn't announce it" 1 sdw "$node" key rotate
  check "$node: and it is said what to do" grep -F "next_public_key = \"$next\"" "$LAB/said"
  sed -i "s|^public_key = \"$old\"|&\nnext_public_key = \"$next\"|" "$FLEET/10-nodes.toml"
  republish hub s1 s2
  for peer; do
    check "$peer: has both keys of $node" eval "[[ \$(keys_of $peer) = *'$old'* && \$(keys_of $peer) = *'$next'* ]]"
    check "$peer: says that it isn't in use" eval "sdw $peer plan | grep -F 'note: node $node: it announces a next key'"
  done
  status "$node: not yet over" 1 sdw "$node" key rotate --finish
  check "$node: use it" sdw "$node" key rotate
  for peer; do wait_for "$peer: what $node carries is on its next key" 15 carries "$peer" "$next"; done
  for peer; do
    wait_for "$peer: nothing is left to do" 10 converged "$peer"
    check "$peer: says how it goes on" eval "sdw $peer status --json | jq -e '.notices[] | select(.object == \"node $node\") | .text | contains(\"$next\")'"
    expect "$peer: status shows the key in use" true eval "state $peer '[.networks[].links[].peers[].public_key] | any(. == \"$next\")'"
  done
  sed -i "/^next_public_key = /d; s|\"$old\"|\"$next\"|" "$FLEET/10-nodes.toml"
  republish hub s1 s2
  for peer; do check "$peer: the former key is gone" eval "[[ \$(keys_of $peer) != *'$old'* ]]"; done
  check "$node: and on the node" sdw "$node" key rotate --finish
  expect "$node: one key file is left" node.key on "$node" sh -c 'cd /etc/sdwand; ls node.key*'
}

# turns WHAT NODE PEERS…: a rotation under three streams.
turns() {
  local what=$1 name lost
  shift
  stream up s1 "$(v6 1 1)"
  stream down hub "$(v6 1 2)"
  stream across s2 "$(v6 1 2)"
  rotate "$@"
  for name in up down across; do
    lost=$(lost "$name")
    note "$what, $name: $lost lost"
    check "$what, $name: none of many is lost" eval "(( ${lost%% *} == 0 && ${lost##* } > 50 ))"
  done
}
turns "a spoke's rotation" s1 hub
turns "a hub's rotation" hub s1 s2
turns "the other spoke's rotation" s2 hub

# announce NODE: draws its next key and has it announced in the fleet. Prints it.
announce() {
  local node=$1 old next
  old=$(sdw "$node" pubkey)
  next=$(sdw "$node" key rotate --begin --json | jq -r .public_key)
  sed -i "s|^public_key = \"$old\"|&\nnext_public_key = \"$next\"|" "$FLEET/10-nodes.toml"
  grep -qF "next_public_key = \"$next\"" "$FLEET/10-nodes.toml"
  echo "$old" >"$LAB/former.$node"
  echo "$next"
}
# confirm NODE NEXT: has everyone take the key that it uses for its only one.
confirm() {
  sed -i "\|^next_public_key = \"$2\"|d; s|\"$(<"$LAB/former.$1")\"|\"$2\"|" "$FLEET/10-nodes.toml"
  republish hub s1 s2
  check "$1: it is over" sdw "$1" key rotate --finish
}
uses() { [[ $(on "$1" wg show wg-sdwan-1 public-key) = "$2" ]]; }
reaches() { [[ $(oping "$1" 1 "$2") = reply ]]; }

# --- The peer doesn't look while the node turns, and the node's daemon is killed before it does. What the node sends waits in
# its kernel, 128 packets; an embedded device ends with its daemon.
next=$(announce s1)
republish hub s1 s2
stream up s1 "$(v6 1 1)" 0.05
stream down hub "$(v6 1 2)" 0.05
kill -STOP "${DAEMON[hub]}"
check "s1: use it" sdw s1 key rotate
wait_for "s1 uses its next key" 10 uses s1 "$next"
kill_daemon s1
kill -CONT "${DAEMON[hub]}"
if has_wireguard; then
  wait_for "hub: what s1 carries is on its next key" 15 carries hub "$next"
  wait_for "it goes on without s1's daemon" 10 reaches hub "$(v6 1 2)"
  start_daemon s1
  for name in up down; do
    lost=$(lost "$name")
    note "a daemon killed while it turns, $name: $lost lost"
    check "a daemon killed while it turns, $name: none of many is lost" eval "(( ${lost%% *} == 0 && ${lost##* } > 10 ))"
  done
else
  start_daemon s1
  wait_for "hub: what s1 carries is on its next key" 15 carries hub "$next"
  wait_for "they reach each other" 20 reaches hub "$(v6 1 2)"
  for name in up down; do note "a daemon killed while it turns, $name: $(lost "$name") lost"; done
fi
confirm s1 "$next"

# --- The peer's daemon is killed before it looks.
next=$(announce s1)
republish hub s1 s2
kill_daemon hub
check "s1: use it" sdw s1 key rotate
wait_for "s1 uses its next key" 10 uses s1 "$next"
start_daemon hub
wait_for "hub: what s1 carries is on its next key" 20 carries hub "$next"
wait_for "they reach each other" 20 reaches s1 "$(v6 1 1)"
wait_for "the other way, too" 20 reaches hub "$(v6 1 2)"
# An embedded device forgets its sessions with its daemon: a spoke finds out when nothing answers for 15 s.
wait_for "s2 reaches the hub again" 40 reaches s2 "$(v6 1 1)"
confirm s1 "$next"

# --- Both ends turn at the same time.
next=$(announce s1)
next_of_hub=$(announce hub)
republish hub s1 s2
stream up s1 "$(v6 1 1)" 0.05
stream down hub "$(v6 1 2)" 0.05
sdw s1 key rotate >/dev/null &
sdw hub key rotate >/dev/null &
wait_for "s1 uses its next key" 10 uses s1 "$next"
wait_for "hub uses its next key" 10 uses hub "$next_of_hub"
wait_for "hub: what s1 carries is on its next key" 20 carries hub "$next"
wait_for "s1: what hub carries is on its next key" 20 carries s1 "$next_of_hub"
wait_for "s2: what hub carries is on its next key" 20 carries s2 "$next_of_hub"
wait_for "they reach each other" 20 reaches s1 "$(v6 1 1)"
wait_for "the other way, too" 20 reaches hub "$(v6 1 2)"
for name in up down; do note "both ends turn at the same time, $name: $(lost "$name") lost"; done
confirm s1 "$next"
confirm hub "$next_of_hub"

# --- A node goes back to its former key: by hand, for instance from a backup.
next=$(announce s1)
republish hub s1 s2
check "s1: use it" sdw s1 key rotate
wait_for "hub: what s1 carries is on its next key" 15 carries hub "$next"
was=$(on s1 cat /etc/sdwand/node.key.former)
printf '%s\n' "$was" | on s1 sh -c 'cat >/etc/sdwand/node.key.again; chmod 600 /etc/sdwand/node.key.again; mv /etc/sdwand/node.key.again /etc/sdwand/node.key'
before=$(sdw s1 pubkey)
wait_for "s1 uses its former key" 10 uses s1 "$before"
wait_for "hub: what s1 carries is on its former key" 20 carries hub "$before"
wait_for "they reach each other" 20 reaches s1 "$(v6 1 1)"
wait_for "the other way, too" 20 reaches hub "$(v6 1 2)"
on s1 rm /etc/sdwand/node.key.former
sed -i '/^next_public_key = /d' "$FLEET/10-nodes.toml"
republish hub s1 s2

# --- Only one side has the fragment.
old=$(sdw s2 pubkey)
next=$(sdw s2 key rotate --begin --json | jq -r .public_key)
sed -i "s|^public_key = \"$old\"|&\nnext_public_key = \"$next\"|" "$FLEET/10-nodes.toml"
republish s2
check "s2 uses a key that the hub doesn't know" sdw s2 key rotate
silent() { [[ $(oping s2 1 "$(v6 1 1)") = silence ]]; }
wait_for "it is cut off" 15 silent
check "it says what it uses, and what comes next" eval "sdw s2 plan | grep -F 'note: node s2: it uses its next key: give it public_key = \"$next\"'"
republish hub
wait_for "the hub gets the fragment: back again" 20 prints reply oping s2 1 "$(v6 1 1)"
