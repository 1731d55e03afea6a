#!/bin/bash
# The half of the benchmarks that any kernel does, and where throughput counts: run by bench.sh on this machine's own.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/bench.sh"

NAMES=("$@")
wants() { [[ ${#NAMES[@]} = 0 || " ${NAMES[*]} " = *" $1 "* ]]; }
bench_key

# bits NAME FROM ADDRESS [iperf3 options]: megabits per second of TCP, over BENCH_SECONDS (3).
bits() {
  local server
  on "$1" iperf3 -s -1 -B "$3" >"$LAB/iperf.server" 2>&1 &
  server=$!
  until_ok 5 listens "$1" 5201 || { cat "$LAB/iperf.server" >&2; return 1; }
  on "$2" iperf3 -c "$3" -t "${BENCH_SECONDS:-3}" -J "${@:4}" >"$LAB/iperf" || { jq -r .error "$LAB/iperf" >&2; return 1; }
  wait "$server"
  jq -r '.end.sum_received.bits_per_second / 1e6' "$LAB/iperf"
}
listens() { [[ -n $(on "$1" ss -Hltn "sport = :$2") ]]; }

# one_rule: the port of one rule among RULES changes, in the fragment that holds them all.
one_rule() {
  local rules run start salt
  rules=$(scaled 10000)
  bench_fleet "$LAB/rule.d" 100 1 "$rules" '' 1023
  bench_fleet "$LAB/rule-b.d" 100 1 "$rules" '' 1022
  bench_host hub "$LAB/rule.d" '[reconcile]' 'debounce_ms = 0' 'interval_seconds = 3600'
  for salt in rule rule-b; do
    bench_host "$salt" "$LAB/$salt.d" '[isolation]' 'backend = "rules"'
    sdw "$salt" compile --node hub --plane firewall >"$LAB/$salt.nft"
  done
  start_daemon hub
  require wait_for "the hub with $rules rules: converged" 60 converged hub
  for ((run = 1; run <= BENCH_RUNS; run++)); do
    if (( run % 2 )); then salt=rule-b; else salt=rule; fi
    cp "$LAB/$salt.d/20-net-1.toml" "$LAB/hosts/hub/etc/fleet.d/.new"
    start=$(now_us)
    mv "$LAB/hosts/hub/etc/fleet.d/.new" "$LAB/hosts/hub/etc/fleet.d/20-net-1.toml"
    until_ok 60 round_after hub "$start" || { fail "the daemon didn't take the rule"; return; }
    echo $(($(last_round hub) - start)) >>"$LAB/rule.ours"
    timed on rule nft -f "$LAB/$salt.nft" >>"$LAB/rule.theirs"
    on hub nft -j list table inet sdwand | table_shape >"$LAB/rule.hub"
    on rule nft -j list table inet sdwand | table_shape >"$LAB/rule.other"
    same "one rule, run $run: both have the same table" "$LAB/rule.hub" "$LAB/rule.other"
  done
  note "one rule: ours $(tr '\n' ' ' <"$LAB/rule.ours"), theirs $(tr '\n' ' ' <"$LAB/rule.theirs")"
  figure one-rule "one rule changed among $rules: the daemon, from the fragment's rename until it has read back (debounce 0) / \`nft -f\` of the whole" \
    us "$(median "$LAB/rule.ours")" "$(median "$LAB/rule.theirs")" 'ratio<=' 0.1
  stop_daemon hub
  unhost hub; unhost rule; unhost rule-b
}
# forward: LAN to LAN through the hub's forward path, with all the rules, with one, and with no table at all.
forward() {
  local rules run
  rules=$(scaled 10000)
  forward_fleet forward "$rules"
  forward_fleet one 0
  bench_host single "$LAB/one.d" '[isolation]' 'backend = "rules"'
  sdw single compile --node hub --plane firewall >"$LAB/one.nft"
  unhost single
  bench_host hub "$LAB/forward.d" '[reconcile]' 'interval_seconds = 3600'
  forwarding hub
  lan hub lan1 one 192.168.1.1/24
  lan hub lan2 two 192.168.2.1/24
  start_daemon hub
  require wait_for "the hub with $rules rules and two LANs: converged" 60 converged hub
  stop_daemon hub
  { printf 'add table inet sdwand\ndelete table inet sdwand\n'; on hub nft list table inet sdwand; } >"$LAB/forward.nft"
  expect "what no rule allows doesn't pass" "$NO_PING" pinged one 192.168.2.10
  for ((run = 1; run <= BENCH_RUNS; run++)); do
    bits two one 192.168.2.10 >>"$LAB/forward.ours"
    check "the rules judged what passed, run $run" judged
    on hub nft -f "$LAB/one.nft"
    bits two one 192.168.2.10 >>"$LAB/forward.one"
    check "one rule judged what passed, run $run" judged
    on hub nft delete table inet sdwand
    bits two one 192.168.2.10 >>"$LAB/forward.theirs"
    on hub nft -f "$LAB/forward.nft"
  done
  note "forward, Mbit/s: with $(tr '\n' ' ' <"$LAB/forward.ours"), with one $(tr '\n' ' ' <"$LAB/forward.one"), without $(tr '\n' ' ' <"$LAB/forward.theirs")"
  figure forward "TCP from LAN to LAN through a hub (iperf3, one connection): $rules rules / no table, and so no connection tracking" Mbit/s \
    "$(median "$LAB/forward.ours")" "$(median "$LAB/forward.theirs")" 'ratio>=' 0.95
  figure forward-one "the same: $rules rules / one rule" Mbit/s \
    "$(median "$LAB/forward.ours")" "$(median "$LAB/forward.one")" - -
}
judged() { [[ $(on hub nft list counter inet sdwand n1-r-lans) != *"packets 0 "* ]]; }
# forward_fleet NAME RULES: two LANs at the hub, which a rule of their own connects.
forward_fleet() {
  bench_fleet "$LAB/$1.d" 100 1 "$2"
  sed -i 's|{ node = "hub", role = "hub" }|{ node = "hub", role = "hub", lans = [{ subnet = "192.168.1.0/24", interface = "lan1" }, { subnet = "192.168.2.0/24", interface = "lan2" }] }|' \
    "$LAB/$1.d/20-net-1.toml"
  printf '\n[[networks.rules]]\nname = "lans"\naction = "accept"\nfrom = { lan_of = "hub" }\nto = { lan_of = "hub" }\nprotocol = "tcp"\n' \
    >>"$LAB/$1.d/20-net-1.toml"
}

# userspace: TCP over the embedded device, firewall and all, and over wireguard-go.
userspace() {
  local run
  has_tool wireguard-go || { skip "wireguard-go isn't installed"; return; }
  mkhost hub-u spoke-u
  mkns go1 go2
  underlay hub-u spoke-u go1 go2
  fleet_site
  fleet_node hub-u 1 "${V4[hub-u]}"
  fleet_node spoke-u 2
  fleet_network prod 1 hub:hub-u spoke-u
  fleet_rule prod all any any any
  for run in hub-u spoke-u; do host_config "$run" '[wireguard]' 'backend = "userspace"' '[isolation]' 'backend = "rules"'; done
  bring_up hub-u spoke-u
  go_pair
  wait_for "the embedded devices work" 10 prints reply oping spoke-u 1 "$(v4 1 1)"
  wait_for "wireguard-go works" 10 prints reply pinged go2 10.99.0.1
  for ((run = 1; run <= BENCH_RUNS; run++)); do
    bits hub-u spoke-u "$(v4 1 1)" -B "$(v4 1 2)" >>"$LAB/user.ours"
    bits go1 go2 10.99.0.1 >>"$LAB/user.theirs"
  done
  note "userspace, Mbit/s: ours $(tr '\n' ' ' <"$LAB/user.ours"), wireguard-go $(tr '\n' ' ' <"$LAB/user.theirs")"
  figure userspace "TCP over userspace WireGuard between two hosts (iperf3, one connection): embedded, with firewall / wireguard-go $(dpkg-query -W -f '${Version}' wireguard-go 2>/dev/null)" \
    Mbit/s "$(median "$LAB/user.ours")" "$(median "$LAB/user.theirs")" 'ratio>=' 1.2
  stop_daemon hub-u spoke-u
}
# Two namespaces with wireguard-go, wg0 and the MTU of ours.
go_pair() {
  local name
  for name in go1 go2; do
    (umask 077; wg genkey >"$LAB/$name.key")
    on "$name" env WG_PROCESS_FOREGROUND=1 LOG_LEVEL=error WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD=1 \
      wireguard-go -f "wg-$name" >"$LAB/$name.log" 2>&1 &
    until_ok 5 on "$name" wg show "wg-$name" || { fail "wireguard-go doesn't start"; return; }
  done
  on go1 wg set wg-go1 listen-port 51820 private-key "$LAB/go1.key" peer "$(wg pubkey <"$LAB/go2.key")" allowed-ips 10.99.0.2/32
  on go2 wg set wg-go2 private-key "$LAB/go2.key" peer "$(wg pubkey <"$LAB/go1.key")" allowed-ips 10.99.0.1/32 \
    endpoint "${V4[go1]}:51820"
  addresses go1 wg-go1 10.99.0.1/24
  addresses go2 wg-go2 10.99.0.2/24
  for name in go1 go2; do ip -n "$name" link set "wg-$name" mtu 1420 up; done
}

if wants one-rule; then one_rule; fi
if wants forward; then forward; fi
if wants userspace; then userspace; fi
