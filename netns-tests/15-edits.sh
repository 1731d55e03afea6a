#!/bin/bash
# What editing a fleet must not break: ports that move or change places, a LAN that covers the underlay, networks that
# come and go, a daemon that was killed.
#
#     s1 ── wan ── hub ── s2        network red (1), and blue (2) with it
. "$(dirname "$0")/lab/lib.sh"

mkhost hub s1 s2
underlay hub s1 s2
lan s1 lan0 l1 10.10.0.1/24 fd00:10::1/64
fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node s1 2
fleet_node s2 3
red() { fleet_network red 1 hub:hub s1 s2 "$@"; fleet_rule red all any any any; }
blue() { fleet_network blue 2 hub:hub "$@"; fleet_rule blue all any any any; }
red
blue s1 s2
bring_up hub s1 s2
works() { [[ $(oping s1 "$1" "$(v6 "$1" 1)") = reply && $(oping s1 "$1" "$(v6 "$1" 3)") = reply ]]; }
wait_for "red works" 15 works 1
wait_for "blue works" 15 works 2

# --- The port of a network moves everywhere at once: nobody waits for old handshakes to go stale (180 s).
red --listen_port 51900
republish hub s1 s2
wait_for "with another port, red works" 40 works 1 # who can't be called calls when its keepalive is due: 25 s
check "blue has been left alone" works 2

# --- Two networks change places.
red --listen_port 51821
blue s1 s2 --listen_port 51820
republish hub s1 s2
wait_for "with blue's port, red works" 40 works 1
wait_for "with red's, blue" 40 works 2

# --- A LAN that covers what the hosts live on.
blue '{ node = "s1", lans = [{ subnet = "198.18.0.0/15", interface = "lan0" }] }' s2 --listen_port 51820
publish hub s1 s2
if in_vrf s1 1; then
  for host in hub s1 s2; do wait_for "$host: with VRFs the LAN is carried" 10 converged "$host"; done
else
  covered() { sdw "$1" status | grep -F '198.18.0.0/15 covers' >/dev/null; }
  for host in hub s1 s2; do wait_for "$host: says that the LAN covers its underlay" 10 covered "$host"; done
fi
expect "s1 reaches the hub on the underlay" reply pinged s1 "${V4[hub]}"
expect "so does s2" reply pinged s2 "${V4[hub]}"
check "red works" works 1
check "the rest of blue, too" works 2
blue s1 s2 --listen_port 51820
republish hub s1 s2

# --- Networks that come and go leave no memory behind.
rss() { awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/${DAEMON[hub]}/status"; }
before=$(rss)
for (( i = 0; i < 6; i++ )); do
  fleet_network "guest$i" 7 hub:hub s1
  publish hub
  require wait_for "guest $i came" 10 ip -n hub link show wg-sdwan-7
  rm "$FLEET/20-guest$i.toml"
  publish hub
  require wait_for "and went" 10 not ip -n hub link show wg-sdwan-7
done
after=$(rss)
note "the daemon's memory went from $before to $after MiB"
check "by less than 8 MiB" eval '(( after - before < 8 ))'

# --- What a killed daemon left is taken away all the same.
kill_daemon hub
status "down, after the daemon was killed" 0 sdw hub down
expect "nothing of ours is left, sockets neither" '' left_over hub
