#!/bin/bash
# The lab can tell apart what the other tests assert: an answer, a refusal, silence, no route.
#
#     a ──up0── wan ──up0── b            a, b: hosts, own /etc/sdwand and /run
#                │                       nat: masquerades c, IPv4
#               nat ──in0── up0 c        lanb: a LAN host behind b
#     b ──lan0── eth0 lanb
. "$(dirname "$0")/lab/lib.sh"
note "$(lab_features)"

mkhost a b c
underlay a b
nat_box nat c
lan b lan0 lanb 10.20.0.1/24 fd00:20::1/64
forwarding b
ip -n wan route add 10.20.0.0/24 via "${V4[b]}"
ip -n wan -6 route add fd00:20::/64 via "${V6[b]}"

# Each host has its own folders.
on a sh -c 'echo a >/etc/sdwand/who; echo a >/run/who; echo a >/var/lib/sdwand/who'
expect "a sees its own files" $'a\na\na' on a cat /etc/sdwand/who /run/who /var/lib/sdwand/who
refute "b doesn't see a's" on b cat /etc/sdwand/who /run/who /var/lib/sdwand/who
expect "and they are in \$LAB" a cat "$LAB/hosts/a/etc/who"

# Packets.
expect "ping, v4" reply pinged a "${V4[b]}"
expect "ping, v6" reply pinged a "${V6[b]}"
expect "ping to a LAN, v4" reply pinged a 10.20.0.10
expect "ping to a LAN, v6" reply pinged a fd00:20::10
expect "ping from behind the NAT box" reply pinged c "${V4[a]}"
expect "ping to behind the NAT box" 'unreachable' pinged a 192.168.77.2

serve b "tcp,*,7000" "udp,*,7000" "tcp,*,7001" "udp,*,7001" "tcp,*,7002"
on b nft -f - <<'NFT'
table inet t {
  chain in {
    type filter hook input priority 0; policy accept;
    tcp dport 7001 drop
    udp dport 7001 drop
    tcp dport 7002 reject with tcp reset
  }
}
NFT
expect "tcp: an answer" ok asked a "tcp,${V4[b]},7000"
expect "tcp: silence" timeout asked a "tcp,${V4[b]},7001"
expect "tcp: nobody listens" refused asked a "tcp,${V4[b]},7009"
expect "udp: an answer" ok asked a "udp,${V6[b]},7000"
expect "udp: silence" timeout asked a "udp,${V6[b]},7001"
expect "udp: nobody listens" refused asked a "udp,${V6[b]},7009"
expect "several at once" "tcp,${V6[b]},7000 ok
udp,${V6[b]},7001 timeout
tcp,${V6[b]},7002 refused" asked a "tcp,${V6[b]},7000" "udp,${V6[b]},7001" "tcp,${V6[b]},7002"

# A source that isn't ours goes out, and the server says what arrived.
expect "a spoofed source has no answer, v4" timeout asked a --source 203.0.113.9 --transparent --payload spoof4 "udp,${V4[b]},7000"
expect "a spoofed source has no answer, v6" timeout asked a --source 2001:db8:ff::9 --transparent --payload spoof6 "udp,${V6[b]},7000"
check "it arrived, v4" arrived b "from ::ffff:203.0.113.9 spoof4"
check "it arrived, v6" arrived b "from 2001:db8:ff::9 spoof6"

# A flow that is cut stands still.
flow a "$LAB/flow" "tcp,${V4[b]},7000"
wait_for "a flow runs" 5 eval '(( $(cat "$LAB/flow") > 3 ))'
expect "pings count their losses" 0 loss a 10 0.02 "${V4[b]}"

# The NAT box moves a flow to other ports.
on nat nft list chain ip nat postrouting >"$LAB/nat"
check "the NAT box uses its ports" grep -q 'snat to .*:20000-20999' "$LAB/nat"
expect "udp through the NAT box" ok asked c "udp,${V4[b]},7000"
nat_ports nat 30000 30999
expect "and through other ports" ok asked c "udp,${V4[b]},7000"
