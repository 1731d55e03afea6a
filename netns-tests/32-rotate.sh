#!/bin/bash
# A spoke and then a hub change their keys under traffic: what is lost is counted.
#
#     s1 ──┐
#          ├── wan ── hub      ping every 10 ms in each direction, through the whole of both rotations
#     s2 ──┘
. "$(dirname "$0")/lab/lib.sh"

mkhost hub s1 s2
underlay hub s1 s2
fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node s1 2
fleet_node s2 3
fleet_network prod 1 hub:hub s1 s2 --keepalive_seconds 1
fleet_rule prod ping any any icmp
bring_up hub s1 s2
for spoke in 2 3; do wait_for "the hub reaches spoke $((spoke - 1))" 15 prints reply oping hub 1 "$(v6 1 $spoke)"; done

# stream NAME HOST ADDR: pings in the background until `lost NAME`.
stream() {
  local file=$LAB/stream.$1 host=$2 address=$3 source
  source=$(own_address "$host" 1 "$address")
  if in_vrf "$host" 1; then source=sdwan-1; fi
  # shellcheck disable=SC2016 # expanded there
  on "$host" sh -c 'echo $$ >"$1"; shift; exec "$@"' sh "$file.pid" \
    ping -n -q -i 0.01 -I "$source" "$address" >"$file.log" 2>&1 &
}
# lost NAME: how many of how many had no answer.
lost() {
  local file=$LAB/stream.$1
  kill -INT "$(<"$file.pid")"
  until_ok 10 grep -q 'packets transmitted' "$file.log"
  sed -n 's/^\([0-9]*\) packets transmitted, \([0-9]*\) received.*/\1 \2/p' "$file.log" | { read -r sent got; echo "$((sent - got)) of $sent"; }
}
# What a node sends between its first handshake and its peer's next look is lost. A look is due every 10 ms; ten packets leave room for a slow machine.
# An embedded device forgets its sessions with its key: it hears of its peers when they call, every 5 s (REKEY_TIMEOUT).
few=10
has_wireguard || few=550

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

stream up s1 "$(v6 1 1)"
stream down hub "$(v6 1 2)"
stream across s2 "$(v6 1 2)"
rotate s1 hub
for name in up down across; do
  lost=$(lost "$name")
  note "a spoke's rotation, $name: $lost lost"
  check "a spoke's rotation, $name: at most $few lost of many" eval "(( ${lost%% *} <= $few && ${lost##* } > 50 ))"
done
stream up s1 "$(v6 1 1)"
stream down hub "$(v6 1 2)"
stream across s2 "$(v6 1 2)"
rotate hub s1 s2
for name in up down across; do
  lost=$(lost "$name")
  note "a hub's rotation, $name: $lost lost"
  check "a hub's rotation, $name: at most $few lost of many" eval "(( ${lost%% *} <= $few && ${lost##* } > 50 ))"
done

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
