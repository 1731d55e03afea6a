#!/bin/bash
# The steps of WireGuard's own selftest (Linux, tools/testing/selftests/wireguard/netns.sh) that concern who configures it,
# with a fleet and `sdwand apply` in place of `wg set`. Each line is a yes or a no.
#
#     s1 ──in0── nat ──┐          nat forgets a UDP flow after 2 s
#                      ├── wan ── hub      network prod (1): hub ::1, s1 ::2, s2 ::3
#     s2 ──────────────┘
#
# Elsewhere: sizes, sources, marks, ICMP errors, WireGuard in WireGuard and loops are 37-wg-ways, roaming 07, spoofed sources
# 02, AllowedIPs by the hundred thousand tests/split_wg.rs. Not ours: policy routes like wg-quick's (a host may have one beside
# us: 08), links that are made in one namespace and moved to another, and whether the kernel frees what it made.
. "$(dirname "$0")/lab/lib.sh"

mkhost hub s1 s2
underlay hub s2
nat_box nat s1
set_sysctl nat net.netfilter.nf_conntrack_udp_timeout=2 net.netfilter.nf_conntrack_udp_timeout_stream=2
# site HUB-ENDPOINT KEEPALIVE: the fleet; keys that were replaced are taken from their files.
site() {
  fleet_site
  fleet_node hub 1 "$1"
  fleet_node s1 2
  fleet_node s2 3
  fleet_network prod 1 hub:hub s1 s2 --keepalive_seconds "$2"
  fleet_rule prod all any any any
}
rekey() { rm "$LAB/keys/$1.key"; } # a new one is made with the next fleet
wg_of() { on "$1" wg show wg-sdwan-1 "${@:2}"; }
# of HOST PEER WHAT [FIELD]: what wg(8) says of a peer.
of() { wg_of "$1" "$3" | awk -v key="$(<"$LAB/keys/$2.pub")" -v field="${4:-2}" '$1 == key { print $field }'; }
site "${V4[hub]}" 0
for host in hub s1 s2; do host_config "$host" '[reconcile]' 'mode = "manual"'; done
publish hub s1 s2
# apply HOST…: by the command; where WireGuard is embedded it goes through the daemon, which holds the device.
start_daemon hub s1 s2
applied() { local host; for host; do check "$host: apply" sdw "$host" apply; done; }
applied hub s1 s2

# Keys and handshakes.
expect "no handshake before the first packet" 0 of s2 hub latest-handshakes
wait_for "v6: the first packet arrives" 10 prints reply oping s2 1 "$(v6 1 1)"
check "then there was one" eval '(( $(of s2 hub latest-handshakes) > 0 && $(of hub s2 latest-handshakes) > 0 ))'

# Ten pings are ten messages of 128 bytes each way (84 padded to 96, header 16, tag 16), and nothing else.
counted() {
  local rx tx
  rx=$(of s2 hub transfer 2) tx=$(of s2 hub transfer 3)
  oloss s2 1 10 0.01 "$(v4 1 1)" >"$LAB/loss" 2>/dev/null
  echo "lost $(<"$LAB/loss") rx $(($(of s2 hub transfer 2) - rx)) tx $(($(of s2 hub transfer 3) - tx))"
}
if has_wireguard; then
  expect "v4: ten pings are counted to the byte" 'lost 0 rx 1280 tx 1280' counted
else
  # The embedded device counts what it has opened: 96 of each message's 128.
  expect "v4: ten pings are counted to the byte" 'lost 0 rx 960 tx 1280' counted
fi

# TCP and UDP, one connection and many.
if has_tool iperf3; then
  check "v4: TCP" streams hub s2 1 "$(v4 1 1)"
  check "v6: TCP" streams hub s2 1 "$(v6 1 1)"
  for count in 4 5 50; do check "v4: TCP, $count connections" streams hub s2 1 "$(v4 1 1)" -P "$count"; done
  check "v4: UDP" streams hub s2 1 "$(v4 1 1)" -u -b 10M
  check "v6: UDP" streams hub s2 1 "$(v6 1 1)" -u -b 10M
else
  skip "iperf3 isn't installed"
fi

# The outer transport moves from v4 to v6 with the fleet. An endpoint that a handshake vouches for is kept, unless it is
# one that only the former fleet named.
expect "the hub is called by v4" "${V4[hub]}:51820" of s2 hub endpoints
site "${V6[hub]}" 0
publish hub s2
applied hub s2
expect "the hub is called by v6" "\[${V6[hub]}\]:51820" of s2 hub endpoints
wait_for "v4 over v6" 10 prints reply oping s2 1 "$(v4 1 1)"
wait_for "v6 over v6" 10 prints reply oping s2 1 "$(v6 1 1)"

# Another private key, and the next packet arrives: no waiting for the old session to end.
rekey s2
site "${V4[hub]}" 0
publish hub s1 s2
applied hub s1 s2
expect "s2's key is another one" "$(<"$LAB/keys/s2.pub")" wg_of s2 public-key
wait_for "s2 with another key: the first packet arrives" 5 prints reply oping s2 1 "$(v6 1 1)"
rekey hub
site "${V4[hub]}" 0
publish hub s1 s2
applied hub s1 s2
wait_for "the hub with another key: the first packet arrives" 5 prints reply oping s2 1 "$(v6 1 1)"

# A key that someone reset comes back, with all that hangs on it. (The embedded device refuses to be without its key.)
wg_of hub peers | sort >"$LAB/peers"
before=$(of hub s2 preshared-keys)
if has_wireguard; then
  on hub wg set wg-sdwan-1 private-key /dev/null
else
  (umask 077; wg genkey >"$LAB/foreign.key")
  on hub wg set wg-sdwan-1 private-key "$LAB/foreign.key"
fi
on hub wg set wg-sdwan-1 peer "$(<"$LAB/keys/s2.pub")" preshared-key <(wg genpsk)
refute "the hub has another key now" eval '[[ $(wg_of hub public-key) = "$(<"$LAB/keys/hub.pub")" ]]'
applied hub
expect "the private key is back" "$(<"$LAB/keys/hub.pub")" wg_of hub public-key
expect "the preshared key is back" "$before" of hub s2 preshared-keys
same "so are the peers" "$LAB/peers" <(wg_of hub peers | sort)
wait_for "the hub's next packet shakes hands anew" 10 prints reply oping hub 1 "$(v4 1 3)"
wait_for "and packets pass the other way" 10 prints reply oping s2 1 "$(v4 1 1)"

# Somebody gives another key what s2 carries: its packets are nobody's, until apply.
thief=$(wg genkey | wg pubkey)
on hub wg set wg-sdwan-1 peer "$thief" allowed-ips "$(v4 1 3)/32"
expect "another key has a prefix of s2's: its packets are refused" silence oping s2 1 "$(v4 1 1)"
expect "not what it still carries" reply oping s2 1 "$(v6 1 1)"
applied hub
same "only the peers of the fleet are there" "$LAB/peers" <(wg_of hub peers | sort)
expect "and s2 is heard again" reply oping s2 1 "$(v4 1 1)"

# Behind a NAT box that forgets after 2 s, only a keepalive keeps the way in.
wait_for "s1 calls from behind the NAT" 10 prints reply oping s1 1 "$(v6 1 1)"
check "the NAT box knows the flow" eval '[[ -n $(on nat conntrack -L -p udp --dport 51820 2>/dev/null) ]]'
wait_for "and forgets it" 10 eval '[[ -z $(on nat conntrack -L -p udp --dport 51820 2>/dev/null) ]]'
expect "without keepalive the hub can't reach s1 any more" "$NO_PING" oping hub 1 "$(v6 1 2)"
site "${V4[hub]}" 1
publish hub s1
applied hub s1
wait_for "with one a second it can" 10 prints reply oping hub 1 "$(v6 1 2)"
expect "the keepalive is what the fleet says" 1 of s1 hub persistent-keepalive
forgotten=0
for _ in $(seq 8); do
  [[ -n $(on nat conntrack -L -p udp --dport 51820 2>/dev/null) ]] || forgotten=$((forgotten + 1))
  sleep 0.5 # the span itself is what is asked about: twice what the box remembers
done
expect "in 4 s the NAT box never forgot" 0 echo "$forgotten"
expect "and the hub still reaches s1" reply oping hub 1 "$(v6 1 2)"

# Low-order public keys, and the own key as a peer's: they don't get near the kernel.
refused() { # DESC PUBLIC-KEY
  site "${V4[hub]}" 1
  printf '\n[[nodes]]\nname = "x"\npublic_key = "%s"\nhost_id = 9\nendpoints = ["192.0.2.9"]\n' "$2" >>"$FLEET/10-nodes.toml"
  sed -i 's/^members = \[/&\n  { node = "x" },/' "$FLEET/20-prod.toml"
  publish hub
  status "$1 is a bad configuration" 2 sdw hub check
  wg_of hub peers | sort >"$LAB/peers"
  refute "$1: apply doesn't take it" sdw hub apply
  same "$1: nothing has changed" "$LAB/peers" <(wg_of hub peers | sort)
}
for key in AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= \
  4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA= X5yVvKNQjCSx0LFVnIPvWwREXMRYHI6G2CJO3dCfEVc= \
  7P///////////////////////////////////////38= 7f///////////////////////////////////////38= \
  7v///////////////////////////////////////38=; do
  refused "a low-order key, ${key:0:6}…" "$key"
done
refused "a second node with the own key" "$(<"$LAB/keys/hub.pub")"

# Every object that was made is gone in the end.
site "${V4[hub]}" 1
publish hub
for host in hub s1 s2; do
  check "$host: down" sdw "$host" down
  expect "$host: nothing is left" '' left_over "$host"
done
