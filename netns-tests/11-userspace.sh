#!/bin/bash
# The embedded userspace WireGuard: with the standard tools, with kernel peers, through changes.
#
#     s1 ──┐                  s1 and hub run the userspace device (`backend = "userspace"`);
#     s2 ──┼── wan ── hub     s2 and s3 whatever the kernel has
#     s3 ──┘
. "$(dirname "$0")/lab/lib.sh"
has_tun || skip_rest "no TUN devices"

mkhost hub s1 s2 s3
underlay hub s1 s2 s3
fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node s1 2
fleet_node s2 3
fleet_node s3 4
network_of() { fleet_network prod 1 hub:hub "$@" && fleet_rule prod all any any any; }
network_of s1 s2
for host in hub s1; do host_config "$host" '[wireguard]' 'backend = "userspace"'; done
bring_up hub s1 s2
check "status names the backend" eval 'sdw hub status --json | grep -i userspace >/dev/null'
wait_for "userspace to userspace" 10 prints reply oping s1 1 "$(v6 1 1)"
wait_for "the other spoke to the hub" 10 prints reply oping s2 1 "$(v6 1 1)"
expect "spoke to spoke, v4" reply oping s1 1 "$(v4 1 3)"
oserve s2 1 "tcp,$(v6 1 3),7000"
expect "spoke to spoke, tcp" ok oasked s1 1 "tcp,$(v6 1 3),7000"

# The standard UAPI socket.
check "wg show lists the link" eval 'on hub wg show interfaces | grep -w wg-sdwan-1 >/dev/null'
peers() { on hub wg show wg-sdwan-1 peers | sort; }
keys() { local name; for name; do cat "$LAB/keys/$name.pub"; done | sort; }
expect "wg show lists the peers" "$(keys s1 s2)" peers
check "wg show knows recent handshakes" eval 'on hub wg show wg-sdwan-1 latest-handshakes | awk -v now="$(date +%s)" "{ if (now - \$2 > 120 || \$2 > now + 1) bad = 1 } END { exit bad || NR != 2 }"'
check "and traffic" eval 'on hub wg show wg-sdwan-1 transfer | awk "{ if (\$2 == 0 || \$3 == 0) bad = 1 } END { exit bad || NR != 2 }"'
check "and every peer's preshared key" eval '[[ $(on hub wg show wg-sdwan-1 preshared-keys | grep -c "=$") = 2 ]]'
refute "the socket is closed to others" eval '[[ $(stat -c %a "$LAB/hosts/hub/run/wireguard/wg-sdwan-1.sock") = *[1-7] ]]'

# Changes that a known userspace device gets wrong.
network_of s1 s2 --keepalive_seconds 3
republish hub s1 s2
expect "an existing peer modified: packets flow" reply oping s1 1 "$(v6 1 1)"
expect "and wg show answers" "$(keys s1 s2)" peers
network_of s1 s3
publish s3
republish hub
expect "one peer removed, one added, in one change" "$(keys s1 s3)" peers
start_daemon s3
wait_for "the new one reaches the hub" 15 prints reply oping s3 1 "$(v6 1 1)"
expect "the removed one doesn't" "$NO_PING" oping s2 1 "$(v6 1 1)"
expect "the one that stayed does" reply oping s1 1 "$(v6 1 1)"
expect "each peer has the network's preshared key" 1 eval 'on hub wg show wg-sdwan-1 preshared-keys | cut -f 2 | sort -u | wc -l'
network_of
republish hub
expect "all peers removed" '' peers
expect "nobody gets in any more" "$NO_PING" oping s1 1 "$(v6 1 1)"
network_of s1 s3
republish hub
wait_for "back again" 15 prints reply oping s1 1 "$(v6 1 1)"

# What is not WireGuard (type 1, wrong size).
asked s1 --timeout 0.2 --payload "$(head -c 1000 /dev/zero | tr "\0" "\1")" "udp,${V4[hub]},51820" >/dev/null || true
expect "noise on the port doesn't hurt" reply oping s1 1 "$(v6 1 1)"
start=$(now_ms)
stop_daemon hub
check "SIGTERM is obeyed within 5 s" eval '(( $(now_ms) - start < 5000 * LAB_SLOW ))'
