#!/bin/bash
# Rules that resolve to nothing grant nothing, and a narrower rule cuts what already flows.
#
#     s1 ──┐                 network prod (1): hub ::1, s1 ::2, s2 ::3
#     s2 ──┼── wan ── hub    ghost is a node with the tag `web`, but no member
. "$(dirname "$0")/lab/lib.sh"

mkhost hub s1 s2
underlay hub s1 s2
fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node s1 2
fleet_node s2 3
fleet_node ghost 9 tags=web
rules() { # name of each rule to have
  fleet_network prod 1 hub:hub s1 s2
  local rule
  for rule; do
    case $rule in
      ping) fleet_rule prod ping any any icmp ;;
      web) fleet_rule prod web node=s1 node=s2 tcp 7000 ;;
      other) fleet_rule prod other node=s1 node=s2 tcp 7001 ;;
      deny) fleet_rule prod deny node=s1 node=s2 tcp 7000 drop 10 ;;
      ghost-from) fleet_rule prod ghost-from tag=web node=s2 tcp 7002 ;;
      ghost-to) fleet_rule prod ghost-to node=s1 tag=web tcp 7002 ;;
      no-lan) fleet_rule prod no-lan lan_of=s1 node=s2 tcp 7002 ;;
    esac
  done
}
said() { cat "$LAB/$1" 2>/dev/null || echo 0; } # how many echoes a flow has had
everyone=(hub s1 s2)
rules ping ghost-from ghost-to no-lan
bring_up "${everyone[@]}"
for family in 4 6; do oserve s2 1 "tcp,$("v$family" 1 3),7000" "tcp,$("v$family" 1 3),7001" "tcp,$("v$family" 1 3),7002"; done
wait_for "the overlay works" 10 prints reply oping s1 1 "$(v6 1 3)"

for family in 4 6; do
  to=$("v$family" 1 3)
  expect "v$family: rules for a tag without members and a LAN that isn't there grant nothing" "$NO_TCP" oasked s1 1 "tcp,$to,7002"
done
check "the plan or the status says that they match nothing" eval 'sdw hub status --json | grep ghost-from >/dev/null || sdw hub plan | grep ghost-from >/dev/null'

for family in 4 6; do
  to=$("v$family" 1 3)
  rules ping web other
  republish "${everyone[@]}"
  expect "v$family: a new rule grants" ok oasked s1 1 "tcp,$to,7000"
  oflow s1 1 "$LAB/flow-a$family" "tcp,$to,7000"
  oflow s1 1 "$LAB/flow-b$family" "tcp,$to,7001"
  wait_for "v$family: two flows run" 10 eval '(( $(said flow-a$family) > 5 && $(said flow-b$family) > 5 ))'

  # The rule goes: the flow it carried stands still, the other goes on.
  rules ping other
  republish "${everyone[@]}"
  a=$(said flow-a$family) b=$(said flow-b$family)
  wait_for "v$family: the other flow goes on" 10 eval '(( $(said flow-b$family) > b + 10 ))'
  expect "v$family: the flow whose rule is gone stands still" "@($a|$((a + 1)))" said flow-a$family
  expect "v$family: and can't be made again" "$NO_TCP" oasked s1 1 "tcp,$to,7000"

  # Granted again, then denied by a rule that comes first.
  rules ping web other
  republish "${everyone[@]}"
  oflow s1 1 "$LAB/flow-c$family" "tcp,$to,7000"
  wait_for "v$family: a new flow runs" 10 eval '(( $(said flow-c$family) > 5 ))'
  rules ping web other deny
  republish "${everyone[@]}"
  c=$(said flow-c$family) b=$(said flow-b$family)
  wait_for "v$family: the other flow goes on" 10 eval '(( $(said flow-b$family) > b + 10 ))'
  expect "v$family: a drop ahead of it cuts the flow" "@($c|$((c + 1)))" said flow-c$family
done

# Narrowing on the hub alone is enough: what a spoke still allows, the hub refuses.
rules ping web other
republish "${everyone[@]}"
expect "before" ok oasked s1 1 "tcp,$(v6 1 3),7000"
rules ping other
republish hub
expect "the hub alone refuses" timeout oasked s1 1 "tcp,$(v6 1 3),7000"
