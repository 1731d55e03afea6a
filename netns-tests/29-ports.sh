#!/bin/bash
# Port mappings: from the hub's underlay to a spoke, both families, and nothing beside them.
#
#     client ── wan ── hub ── s1      network prod (1): hub ::1, s1 ::2, s2 ::3
#     other  ──┘          └── s2      a LAN behind s2 has the client's own addresses
#
#     web  tcp 443  → s1:8443       dns udp 53 → s1:5353
#     few  tcp 4430 → s1:8443, 200 connections     slow tcp 4431 → s1:8443, 5 a second
#     only tcp 4432 → s1:8443, from the client alone
. "$(dirname "$0")/lab/lib.sh"

mkhost hub s1 s2
mkns client other
underlay hub s1 s2 client other
forwarding hub # what the underlay forwards is the operator's affair: see below
fleet_site
fleet_node hub 1 "${V4[hub]}" "${V6[hub]}"
fleet_node s1 2
fleet_node s2 3
mapping() { # NAME PORT PROTOCOL TARGET-PORT [KEY = VALUE]…
  printf '\n[[networks.port_mappings]]\nname = "%s"\nhub = "hub"\nlisten_port = %s\nprotocol = "%s"\nto = { node = "s1" }\ntarget_port = %s\n' "$1" "$2" "$3" "$4"
  shift 4
  (( $# == 0 )) || printf '%s\n' "$@"
}
# The network's own table has a route to where the clients are: answers must not take it. (Without VRF, the end of these
# prefixes in the main table would be in the way of the underlay's default route: see README.)
covering='{ node = "s2" }'
if has_vrf; then
  covering="{ node = \"s2\", lans = [{ subnet = \"198.18.4.0/24\", interface = \"lan0\" }, { subnet = \"2001:db8:0:4::/64\", interface = \"lan0\" }] }"
  lan s2 lan0 behind 198.18.4.1/24 2001:db8:0:4::1/64
fi
fleet() { # NAME of each mapping to have
  local name
  fleet_network prod 1 hub:hub s1 "$covering"
  for name; do
    case $name in
      web) mapping web 443 tcp 8443 ;;
      dns) mapping dns 53 udp 5353 ;;
      few) mapping few 4430 tcp 8443 'max_connections = 200' ;;
      slow) mapping slow 4431 tcp 8443 'rate_limit_per_second = 5' ;;
      only) mapping only 4432 tcp 8443 "source_cidrs = [\"${V4[client]}/32\", \"${V6[client]}/128\"]" ;;
      v4-only) mapping v4-only 4433 tcp 8443 'source_cidrs = ["0.0.0.0/0"]' ;;
      off) mapping off 4434 tcp 8443 'enabled = false' ;;
      elsewhere) mapping web 443 tcp 8444 ;;
      narrow) mapping web 443 tcp 8443 "source_cidrs = [\"${V4[other]}/32\", \"${V6[other]}/128\"]" ;;
    esac
  done >>"$FLEET/20-prod.toml"
}
hub_of() { case $1 in 4) echo "${V4[hub]}" ;; 6) echo "${V6[hub]}" ;; esac; }
mapped() { state hub ".networks[] | select(.name == \"prod\") | .port_mappings[] | select(.name == \"$1\") | .$2"; }
# explained HOST [--from-fleet] SRC DST PROTO/PORT: the verdict, the mapping, and where it is blocked by what.
explained() {
  local host=$1
  shift
  { sdw "$host" explain "$@" --json || true; } | jq -r '"\(.verdict) \(.mapping.name // "-") \(.blocker.node // "-") \(.blocker.check // "-")"'
}
underlay_of() { case $2 in 4) echo "${V4[$1]}" ;; 6) echo "${V6[$1]}" ;; esac; }
said() { cat "$LAB/$1" 2>/dev/null || echo 0; }
everyone=(hub s1 s2)

fleet web dns few slow only v4-only off
bring_up "${everyone[@]}"
for family in 4 6; do
  target=$("v$family" 1 2)
  oserve s1 1 "tcp,$target,8443" "tcp,$target,8444" "udp,$target,5353"
done
wait_for "v4: tcp, from the underlay" 10 prints ok asked client "tcp,${V4[hub]},443"
for family in 4 6; do
  to=$(hub_of $family) target=$("v$family" 1 2)
  expect "v$family: tcp" ok asked client "tcp,$to,443"
  expect "v$family: udp" ok asked client "udp,$to,53"
  expect "v$family: another port of the hub isn't mapped" refused asked client "tcp,$to,8443"
  expect "v$family: a disabled mapping isn't there" refused asked client "tcp,$to,4434"
  expect "v$family: the allowed source" ok asked client "tcp,$to,4432"
  expect "v$family: another source is refused" timeout asked other "tcp,$to,4432"
  # The same, as explain says it: on the hub, on the target, and by the fleet.
  from=$(underlay_of client $family) stranger=$(underlay_of other $family)
  for how in hub s1 "hub --from-fleet"; do
    # shellcheck disable=SC2086
    {
      expect "v$family, explain on $how: tcp" 'allow web - -' explained $how "$from" "$to" tcp/443
      expect "v$family, explain on $how: udp" 'allow dns - -' explained $how "$from" "$to" udp/53
      expect "v$family, explain on $how: another port of the hub" 'unreachable - - port_mapping' explained $how "$from" "$to" tcp/8443
      expect "v$family, explain on $how: a disabled mapping" 'unreachable - hub port_mapping' explained $how "$from" "$to" tcp/4434
      expect "v$family, explain on $how: the allowed source" 'allow only - -' explained $how "$from" "$to" tcp/4432
      expect "v$family, explain on $how: another source" 'deny only hub source_cidrs' explained $how "$stranger" "$to" tcp/4432
    }
  done
  expect "v$family, explain: nothing differs from the fleet" 0 eval 'sdw hub explain "$from" "$to" tcp/443 --json | jq ".disagreements | length"'
  expect "v$family, explain: what the target sees" "$(v$family 1 1) s1" eval 'sdw s1 explain "$from" "$to" tcp/443 --json | jq -r ".mapping | .seen_source + \" \" + .node"'
  # Straight at the overlay, from a neighbour that routes it to the hub.
  case $family in
    4) ip -n wan route add "$(v4_prefix 1)" via "$to" ;;
    6) ip -n wan -6 route add "$(v6 1 "")/64" via "$to" ;;
  esac
  expect "v$family: the target itself stays out of reach of the underlay" "$NO_TCP" asked client "tcp,$target,8443"
  expect "v$family: so does the hub's overlay address" "$NO_TCP" asked client "tcp,$("v$family" 1 1),443"
  expect "v$family: and from the overlay the client can't be reached" "$NO_TCP" oasked s1 1 "tcp,$([[ $family = 4 ]] && echo "${V4[client]}" || echo "${V6[client]}"),443"
  expect "v$family: from the hub's overlay address no other port of the target is open" "$NO_TCP" oasked hub 1 "tcp,$target,8444"
done
expect "a family without an entry in source_cidrs: v4 may" ok asked client "tcp,${V4[hub]},4433"
expect "a family without an entry in source_cidrs: v6 may not" timeout asked client "tcp,${V6[hub]},4433"
expect "explain: v4 may" 'allow v4-only - -' explained hub "${V4[client]}" "${V4[hub]}" tcp/4433
expect "explain: v6 may not" 'deny v4-only hub source_cidrs' explained hub "${V6[client]}" "${V6[hub]}" tcp/4433
check "the target sees the hub's overlay address" eval "arrived s1 'udp from $(v6 1 1)' && arrived s1 'udp from $(v4 1 1)'"
check "refused sources are counted" eval '(( $(mapped only refused_source) > 0 ))'
check "what was let in is counted" eval '(( $(mapped web connections) >= 3 ))'

# Guards, under a thousand connections.
for family in 4 6; do
  to=$(hub_of $family)
  before=$(mapped few refused_connections)
  expect "v$family: of 1,000 connections at once 200 are let in" 200 on client "$PYTHON" "$LAB_LIB/crowd.py" 1000 5 "$to" 4430
  check "v$family: the others are counted" eval '(( $(mapped few refused_connections) >= before + 800 ))'
  wait_for "v$family: when they are gone, others may" 30 prints ok asked client "tcp,$to,4430"
  before=$(mapped slow refused_rate)
  expect "v$family: of 100 connections in half a second 5 to 10 are let in" '@([5-9]|10)' on client "$PYTHON" "$LAB_LIB/crowd.py" 100 0.5 "$to" 4431
  check "v$family: the others are counted" eval '(( $(mapped slow refused_rate) > before + 80 ))'
done

# A no-op is silent; one changed mapping leaves the others, their guards and their flows alone.
check "nothing is left to do" converged "${everyone[@]}"
for family in 4 6; do
  to=$(hub_of $family)
  fleet web dns few
  republish "${everyone[@]}"
  flow client "$LAB/kept$family" "tcp,$to,4430"
  flow client "$LAB/cut$family" "tcp,$to,443"
  wait_for "v$family: two flows run" 10 eval "(( \$(said kept$family) > 5 && \$(said cut$family) > 5 ))"
  fleet narrow dns few
  republish "${everyone[@]}"
  cut=$(said "cut$family") kept=$(said "kept$family")
  wait_for "v$family: the flow of another mapping goes on" 10 eval "(( \$(said kept$family) > kept + 10 ))"
  expect "v$family: whose source may no longer connect stands still" "@($cut|$((cut + 1)))" said "cut$family"
  expect "v$family: and can't come back" timeout asked client "tcp,$to,443"
  expect "v$family: who may now, can" ok asked other "tcp,$to,443"

  fleet web dns few
  republish "${everyone[@]}"
  flow client "$LAB/gone$family" "tcp,$to,443"
  wait_for "v$family: a flow runs" 10 eval "(( \$(said gone$family) > 5 ))"
  fleet elsewhere dns few
  republish "${everyone[@]}"
  gone=$(said "gone$family") kept=$(said "kept$family")
  wait_for "v$family: the flow of another mapping goes on" 10 eval "(( \$(said kept$family) > kept + 10 ))"
  expect "v$family: with another target the flow to the old one stands still" "@($gone|$((gone + 1)))" said "gone$family"
  expect "v$family: the new target answers" ok asked client "tcp,$to,443"
done

# The last mapping goes: its flow too, and every trace of it.
flow client "$LAB/last" "tcp,${V4[hub]},4430"
wait_for "a flow runs" 10 eval '(( $(said last) > 5 ))'
fleet
republish "${everyone[@]}"
last=$(said last)
expect "the port is closed" refused asked client "tcp,${V4[hub]},4430"
expect "its flow stands still" "@($last|$((last + 1)))" said last
refute "no mark is left in the rules" eval 'on hub sh -c "ip rule; ip -6 rule" | grep fwmark'
refute "no chain is left in the table" eval 'on hub nft list table inet sdwand | grep "chain port"'

# What is there isn't what the fleet says: what packets do, explain says, with the same first blocker.
fleet web
republish "${everyone[@]}"
on hub nft -f - <<'NFT'
table ip filter {
  chain FORWARD { type filter hook forward priority filter; policy drop; }
}
NFT
expect "a chain of somebody else's: v4 is dropped" timeout asked client "tcp,${V4[hub]},443"
expect "explain names it" 'deny web hub foreign_chains' explained hub "${V4[client]}" "${V4[hub]}" tcp/443
expect "v6 isn't its business" ok asked client "tcp,${V6[hub]},443"
expect "explain: v6 isn't" 'allow web - -' explained hub "${V6[client]}" "${V6[hub]}" tcp/443
on hub nft add rule ip filter FORWARD ct status dnat accept # as firewalld has it
expect "what is translated may pass: so it does" ok asked client "tcp,${V4[hub]},443"
expect "explain knows that it is" 'allow web - -' explained hub "${V4[client]}" "${V4[hub]}" tcp/443
on hub nft delete table ip filter
if has_wireguard && has_vrf; then
  differs() { sdw hub explain "$1" "$2" tcp/443 --json | jq -r '[.disagreements[].check] | unique | join(" ")'; }
  stop_daemon hub
  for family in 4 6; do
    to=$(hub_of $family) from=$(underlay_of client $family)
    on hub ip "-$family" rule del priority 901
    expect "v$family: answers have no rule: none comes" timeout asked client "tcp,$to,443"
    expect "v$family: explain says so" 'unreachable web hub route' explained hub "$from" "$to" tcp/443
    expect "v$family: that it is the answer" true eval 'sdw hub explain "$from" "$to" tcp/443 --json | jq .blocker.of_answer'
    expect "v$family: and that it isn't as the fleet says" route differs "$from" "$to"
    on hub ip "-$family" rule del priority 900
    expect "v$family: nor have requests: explain says so" 'unreachable web hub route' explained hub "$from" "$to" tcp/443
    expect "v$family: not of the answer" false eval 'sdw hub explain "$from" "$to" tcp/443 --json | jq .blocker.of_answer'
    check "v$family: apply" sdw hub apply
    expect "v$family: it is well again" ok asked client "tcp,$to,443"
    expect "v$family: by explain, too" 'allow web - -' explained hub "$from" "$to" tcp/443
    on hub nft flush chain inet sdwand ports
    expect "v$family: the port isn't in our table" refused asked client "tcp,$to,443"
    expect "v$family: explain says so" 'unreachable - hub port_mapping' explained hub "$from" "$to" tcp/443
    expect "v$family: and that it isn't as the fleet says" port_mapping differs "$from" "$to"
    expect "v$family: s1 knows only of the fleet" 'allow web - -' explained s1 "$from" "$to" tcp/443
    check "v$family: apply" sdw hub apply
  done
  start_daemon hub
  stop_daemon s1
  to=${V6[hub]} from=${V6[client]}
  rule=$(on s1 nft -a list chain inet sdwand n1-in | sed -n 's/.*"admit tcp 8443 fd12.*# handle \([0-9]*\)$/\1/p')
  on s1 nft delete rule inet sdwand n1-in handle "$rule"
  expect "a target that doesn't let it in: no answer" timeout asked client "tcp,$to,443"
  expect "explain on the target says so" 'deny web s1 firewall' explained s1 "$from" "$to" tcp/443
  expect "on the hub it knows only of the fleet" 'allow web - -' explained hub "$from" "$to" tcp/443
  start_daemon s1
  wait_for "s1 is healed" 20 prints ok asked client "tcp,$to,443"
else
  skip "what others do to a host without its daemon needs kernel WireGuard and VRFs"
fi

# Where the underlay doesn't forward, that is said with the fix, and nothing else is held up.
fleet web
set_sysctl hub net.ipv4.ip_forward=0
publish "${everyone[@]}"
wait_for "a hub whose underlay doesn't forward says so" 10 prints '*sysctl -w net.ipv4.ip_forward=1*' sdw hub plan
expect "so does explain" 'unreachable web hub forwarding' explained hub "${V4[client]}" "${V4[hub]}" tcp/443
expect "and no packet comes through" "$NO_TCP" asked client "tcp,${V4[hub]},443"
set_sysctl hub net.ipv4.ip_forward=1
wait_for "and carries when it does" 10 prints ok asked client "tcp,${V4[hub]},443"
stop_daemon "${everyone[@]}"
check "hub: down" sdw hub down
expect "nothing of sdwand is left on the hub" "" left_over hub
