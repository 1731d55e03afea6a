#!/bin/bash
# No overlay packet crosses the underlay unencrypted: while it runs, while it comes, while it breaks.
#
#     lana ── lan0 s1 ──┐
#                       ├── wan ── hub      tcpdump listens on every port of wan
#     lanb ── lan0 s2 ──┘
. "$(dirname "$0")/lab/lib.sh"
has_tool tcpdump || skip_rest "no tcpdump"

mkhost hub s1 s2
underlay hub s1 s2
lan s1 lan0 lana 10.10.0.1/24 fd00:10::1/64
lan s2 lan0 lanb 10.20.0.1/24 fd00:20::1/64
fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node s1 2
fleet_node s2 3
fleet_network prod 1 hub:hub \
  '{ node = "s1", lans = [{ subnet = "10.10.0.0/24", interface = "lan0" }, { subnet = "fd00:10::/64", interface = "lan0" }] }' \
  '{ node = "s2", lans = [{ subnet = "10.20.0.0/24", interface = "lan0" }, { subnet = "fd00:20::/64", interface = "lan0" }] }'
fleet_rule prod all any any any

on wan tcpdump -U -n -i any -w "$LAB/underlay.pcap" >"$LAB/tcpdump.log" 2>&1 &
tcpdump=$!
wait_for "tcpdump listens" 10 grep -q 'listening on' "$LAB/tcpdump.log"

bring_up hub s1 s2
serve lanb "tcp,*,7000" "udp,*,7000"
talk() { # everything that may go over the overlay, with a text that is easy to find
  asked lana --timeout 0.3 --payload "plaintext-$1" tcp,10.20.0.10,7000 udp,10.20.0.10,7000 tcp,fd00:20::10,7000 udp,fd00:20::10,7000 || true
  pinged lana fd00:20::10 -p 706c61696e -W 0.3 || true
}
wait_for "v4: LAN to LAN" 10 prints reply pinged lana 10.20.0.10
wait_for "v6: LAN to LAN" 10 prints reply pinged lana fd00:20::10
expect "all of it arrives" "*ok*ok*ok*ok*" talk running
for _ in 1 2 3; do
  on s1 ip link del wg-sdwan-1
  talk broken >/dev/null
done
on s1 ip -6 route flush table 10001 proto 241
on s1 ip route flush table 10001 proto 241
talk routes >/dev/null
wait_for "healed" 15 prints reply pinged lana fd00:20::10
stop_daemon hub
talk hub-stopped >/dev/null
start_daemon hub
wait_for "running again" 30 prints reply pinged lana fd00:20::10

sleep 0.3 # tcpdump reads in batches
kill $tcpdump
wait $tcpdump || true
captured() { tcpdump -n -r "$LAB/underlay.pcap" "$@" 2>/dev/null; }
check "the capture has the tunnel's packets" eval '(( $(captured udp port 51820 | wc -l) > 20 ))'
refute "the capture has no text of ours" grep -qa -e plaintext -e plainplain "$LAB/underlay.pcap"
overlay="net 10.10.0.0/24 or net 10.20.0.0/24 or net $(v4_prefix 1) or net fd00:10::/64 or net fd00:20::/64 or net $SITE_PREFIX::/48"
captured "$overlay" >"$LAB/leaks" || true
expect "nor a packet from or to an overlay address" '' head -n 5 "$LAB/leaks"
underlay="(icmp and src net 198.18.0.0/16 and dst net 198.18.0.0/16) or arp or icmp6 or ip6 multicast" # of the routers
captured "not udp port 51820 and not ($underlay)" >"$LAB/others" || true
expect "nor anything but the tunnel" '' head -n 5 "$LAB/others"
