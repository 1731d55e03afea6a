#!/bin/bash
# Metrics and events: what a scrape tells is so, and whoever scrapes, however often and however slowly, changes and holds up
# nothing; what happens is an event, in the log and for who asks.
#
#     s1 ── wan ── hub        network prod (1); s1 is scraped on its loopback
. "$(dirname "$0")/lab/lib.sh"

PORT=9586
mkhost hub s1
underlay hub s1
fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node s1 2
fleet_network prod 1 hub:hub s1
fleet_rule prod ping any any icmp
host_config s1 '[reconcile]' 'interval_seconds = 1' '[metrics]' "listen = \"127.0.0.1:$PORT\""
bring_up hub s1
wait_for "the overlay works" 10 prints reply oping s1 1 "$(v6 1 1)"

scrape() { on s1 curl -sS --fail --max-time 5 "http://127.0.0.1:$PORT/metrics"; }
# metric SERIES: its value, as a whole number.
metric() { scrape | awk -v series="$1" 'index($0, series " ") == 1 { printf "%d\n", $NF; found = 1 } END { exit !found }'; }
at_least() { (( $(metric "$1") >= $2 )); }
more_than() { (( $(metric "$1") > $2 )); }
metric_is() { [[ $(metric "$1") = "$2" ]]; }
http_code() { on s1 curl -s -o /dev/null --max-time 5 -w '%{http_code}' "$@" "http://127.0.0.1:$PORT/metrics"; }

check "there is something to scrape" scrape
scrape >"$LAB/page"
if command -v promtool >/dev/null; then
  check "promtool has nothing to say against it" eval "promtool check metrics <$LAB/page"
  check "nor against the alert rules" promtool check rules "$LAB_LIB/../../config/sdwand.alerts.yaml"
else
  skip "no promtool: the page's form, and the alert rules"
fi
expect "it says which format it is" 'text/plain; version=0.0.4; charset=utf-8' \
  on s1 curl -s -o /dev/null -w '%{content_type}' "http://127.0.0.1:$PORT/metrics"
expect "a page names the fleet that status names" "$(state s1 .fleet_digest)" \
  sed -n 's/^sdwand_fleet_info{.*digest="\([0-9a-f]*\)".*/\1/p' "$LAB/page"

# --- What it tells.
peer='{network="prod",link="wg-sdwan-1",peer="hub"}'
wait_for "the hub is up" 5 metric_is "sdwand_peer_up$peer" 1
expect "so is the uplink" 1 metric 'sdwand_network_uplinks_up{network="prod"}'
sent=$(metric "sdwand_peer_sent_bytes_total$peer")
pings=$(metric 'sdwand_rule_packets_total{network="prod",rule="ping"}')
bind=$(in_vrf s1 1 && echo sdwan-1 || v6 1 2)
check "20 pings of 1,000 bytes" on s1 ping -n -q -c 20 -i 0.05 -s 1000 -I "$bind" "$(v6 1 1)"
wait_for "are 20,000 bytes more, and some" 10 at_least "sdwand_peer_sent_bytes_total$peer" $(( sent + 20000 ))
wait_for "and count at the rule" 10 more_than 'sdwand_rule_packets_total{network="prod",rule="ping"}' "$pings"
drops=$(metric 'sdwand_dropped_packets_total{network="prod",reason="out-deny"}')
expect "what no rule allows" "$NO_TCP" oasked s1 1 "tcp,$(v6 1 1),81"
wait_for "counts as dropped" 10 more_than 'sdwand_dropped_packets_total{network="prod",reason="out-deny"}' "$drops"

# event ID JQ-FILTER: there is an event with this id in the log for which that is so.
event() { jq -eRn --arg id "$1" "[inputs | fromjson? | select(.event == \$id)] | any($2)" "$LAB/hosts/s1/daemon.log"; }
check "the log says which fleet is in force" event config.in_force ".digest == \"$(state s1 .fleet_digest)\""
healed=$(metric 'sdwand_drift_healed_total{plane="firewall"}')
on s1 nft delete table inet sdwand
wait_for "drift that was healed counts" 10 more_than 'sdwand_drift_healed_total{plane="firewall"}' "$healed"
check "and is an event" event drift.healed '.plane == "firewall" and .level == "WARN"'
check "which is counted" more_than 'sdwand_events_total{event="drift.healed"}' 0
expect "as what never was is counted, too" 0 metric 'sdwand_events_total{event="daemon.down"}'

echo 'nonsense = 1' >"$LAB/hosts/s1/etc/fleet.d/99-bad.toml"
wait_for "a bad configuration shows" 10 metric_is sdwand_config_errors 1
check "and is an event, with its place" event config.bad '.level == "ERROR" and .count == 1 and (.first | test("99-bad.toml:1: "))'
refute "it isn't good again yet" event config.good_again true
rm "$LAB/hosts/s1/etc/fleet.d/99-bad.toml"
wait_for "and that it is good again" 10 metric_is sdwand_config_errors 0
check "which is one, too" event config.good_again '.level == "INFO"'
sdw s1 events --json >"$LAB/events"
check "whoever asks hears them in their order" jq -e '[.[].event] as $ids | [.[].time] as $times |
  ($ids | index("daemon.started") == 0 and index("drift.healed") < index("config.bad") and index("config.bad") < index("config.good_again"))
  and $times == ($times | sort)' "$LAB/events"
sdw s1 events --catalogue --json >"$LAB/catalogue"
check "and all are in the catalogue" jq -en --slurpfile all "$LAB/catalogue" --slurpfile happened "$LAB/events" \
  '($happened[0] | map(.event) | unique) - ($all[0] | map(.id)) == []'

# --- Whoever scrapes changes nothing.
on s1 nft monitor >"$LAB/monitor.nft" 2>&1 &
watch=($!)
on s1 ip monitor link address route rule >"$LAB/monitor.ip" 2>&1 &
watch+=($!)
monitors_hear() { # a change of nobody's proves that both listen
  on s1 sh -c 'nft add table ip heard; nft delete table ip heard; ip route add 192.0.2.99/32 dev lo; ip route del 192.0.2.99/32 dev lo'
  [[ -s $LAB/monitor.nft && -s $LAB/monitor.ip ]]
}
require until_ok 5 monitors_hear
start=$(now_ms)
thousand() {
  on s1 curl -sS --fail --max-time 60 "http://127.0.0.1:$PORT/metrics?[1-1000]" | grep -c '^sdwand_build_info'
}
expect "1,000 scrapes are answered" 1000 thousand
note "in $(( $(now_ms) - start )) ms"
kill "${watch[@]}"
wait "${watch[@]}" 2>/dev/null || true
writes() { grep -vE 'table ip heard|^# new generation' "$LAB/monitor.nft"; grep -vE '192\.0\.2\.99' "$LAB/monitor.ip"; }
expect "and write nothing to the kernel" '' writes

# --- Nor can anything be done here but read.
for method in POST PUT DELETE PATCH OPTIONS; do expect "$method is refused" 405 http_code -X "$method"; done
expect "another path isn't there" 404 on s1 curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$PORT/"
expect "a head of 20 KiB is refused" '@(431|400|000)' http_code -H "x: $(head -c 20000 /dev/zero | tr '\0' x)"
refute "nobody listens on the underlay" on hub curl -s --max-time 2 "http://${V4[s1]}:$PORT/metrics"

# --- Who sends slowly holds up nobody: all connections that one source may have, a byte at a time.
on s1 "$PYTHON" -c "
import socket, time
open_ = [socket.create_connection(('127.0.0.1', $PORT)) for _ in range(64)]
print('open', flush=True)
while True:
    for s in open_:
        try: s.send(b'G')
        except OSError: pass
    time.sleep(0.2)" >"$LAB/slow" 2>&1 &
slow=$!
require until_ok 5 grep -q open "$LAB/slow"
start=$(now_ms)
on s1 nft delete table inet sdwand
table_is_back() { on s1 nft list table inet sdwand; }
wait_for "meanwhile a flushed firewall is back" 5 table_is_back
note "after $(( $(now_ms) - start )) ms"
check "and commands are answered" sdw s1 status --json
kill "$slow"
wait "$slow" 2>/dev/null || true
wait_for "and scrapes again, once they are gone" 10 scrape

# --- A hub that is gone shows: no packet, no handshake, and after 180 s it is down.
ip -n hub link set up0 down
last=$(metric "sdwand_peer_last_handshake_timestamp_seconds$peer")
check "it says when the last handshake was" eval '(( last > $(date +%s) - 180 && last <= $(date +%s) ))'
gone=$(( last + 180 - $(date +%s) ))
note "waiting up to $(( gone + 30 )) s"
wait_for "a hub that is gone is down" $(( gone + 30 )) metric_is "sdwand_peer_up$peer" 0
expect "and there is no live hub" 0 metric 'sdwand_network_uplinks_up{network="prod"}'

# --- Down, and without it.
check "down" sdw s1 down
wait_for "shows" 5 metric_is sdwand_down 1
refute "and no peer any more" metric "sdwand_peer_up$peer"
host_config s1 '[reconcile]' 'interval_seconds = 1'
nobody_listens() { [[ $(http_code) = 000 ]]; }
wait_for "without the address nobody listens" 10 nobody_listens
stop_daemon s1
check "its end is the last event" jq -eRn '[inputs | fromjson? | select(.event)] | last.event == "daemon.stopped"' "$LAB/hosts/s1/daemon.log"
status "and nobody is left to ask" 1 sdw s1 events
