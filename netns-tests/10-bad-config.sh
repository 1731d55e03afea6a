#!/bin/bash
# Bad configuration: clear errors inside a limit, the last good state stays, and the corrected file is picked up.
#
#     s1 ── wan ── hub        the fleet on s1 is broken in every way; the daemon runs all the time
. "$(dirname "$0")/lab/lib.sh"

mkhost hub s1
underlay hub s1
fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node s1 2
fleet_network prod 1 hub:hub s1
fleet_rule prod ping any any icmp
bring_up hub s1
wait_for "the overlay works" 10 prints reply oping s1 1 "$(v6 1 1)"
etc=$LAB/hosts/s1/etc/fleet.d
state_of_host() { on s1 nft -s list table inet sdwand; ip -n s1 addr show wg-sdwan-1; ip -n s1 route show table 10001; on s1 wg show wg-sdwan-1 allowed-ips; }
state_of_host >"$LAB/good"
rss() { awk '/^VmHWM/ { print int($2 / 1024) }' "/proc/${DAEMON[s1]}/status"; }
before=$(rss)

# broken DESC FILE PATTERN: with the fragment as it now is, `check` refuses within 10 s, naming it; the daemon says so and
# keeps what it had; with the fragment gone it is well again.
broken() {
  local desc=$1 file=$2 pattern=${3:-}
  status "$desc: check refuses" 2 timeout $((10 * LAB_SLOW)) "${SDW_S1[@]}" check
  check "$desc: and names the file" grep -q "$file" "$LAB/said"
  if [[ -n $pattern ]]; then check "$desc: and says $pattern" grep -qE "$pattern" "$LAB/said"; fi
  check "$desc: in less than 4 KiB" eval '(( $(wc -c <"$LAB/said") < 4096 ))'
  wait_for "$desc: the status of the daemon says so" 10 status_names "$file"
  state_of_host >"$LAB/now"
  same "$desc: the last good state stays" "$LAB/good" "$LAB/now"
  expect "$desc: and carries packets" reply oping s1 1 "$(v6 1 1)"
  status "$desc: plan is an error" 1 sdw s1 plan
}
status_names() { sdw s1 status --json | grep -F -- "$1" >/dev/null; }
mended() { # DESC FILE
  wait_for "$1: mended, the status is well again" 10 not status_names "$2"
  status "$1: check accepts" 0 sdw s1 check
}
SDW_S1=(nsenter --target "${HOST_PID[s1]}" --net --mount -- "$SDWAND_BIN")

printf '[[networks]]\nname = "half"\nid = 9\nmembers = [ { node = "hub-' >"$etc/30-half.toml"
broken "a half-written fragment" 30-half.toml ':[0-9]+'
cat >"$etc/30-half.toml" <<'TOML'
format = 1
[[networks]]
name = "half"
id = 9
topology = "hub_and_spoke"
routing = "static"
members = [ { node = "hub", role = "hub" }, { node = "s1" } ]
TOML
wait_for "written to the end, it is picked up by itself" 10 ip -n s1 link show wg-sdwan-9
mended "a half-written fragment" 30-half.toml
rm "$etc/30-half.toml"
wait_for "and gone again with its file" 10 not ip -n s1 link show wg-sdwan-9

head -c 4096 /dev/urandom >"$etc/30-garbage.toml"
broken "garbage" 30-garbage.toml
rm "$etc/30-garbage.toml"
mended garbage 30-garbage.toml

{ printf 'x = '; printf '[%.0s' {1..20000}; } >"$etc/30-deep.toml"
broken "deep nesting" 30-deep.toml
rm "$etc/30-deep.toml"
mended "deep nesting" 30-deep.toml

printf 'format = 1\n\n[[networks]]\nname = "prod"\nid = 1\nmembrs = []\n\n[[nodes]]\nname = "UPPER"\npublic_key = "short"\n' >"$etc/30-wrong.toml"
broken "several mistakes" 30-wrong.toml 'membrs'
status "several mistakes: check again" 2 sdw s1 check
check "all of them are named at once" eval 'grep -q membrs "$LAB/said" && grep -q UPPER "$LAB/said"'
check "with a hint" grep -q 'members' "$LAB/said"
sdw s1 plan --json >"$LAB/said" || true
check "the daemon tells them one by one, too" jq -e '[.diagnostics[].file] | length > 1' "$LAB/said"
rm "$etc/30-wrong.toml"
mended "several mistakes" 30-wrong.toml

head -c 100000000 /dev/zero | tr '\0' '#' >"$etc/30-large.toml"
broken "a file of 100 MB" 30-large.toml
rm "$etc/30-large.toml"
mended "a file of 100 MB" 30-large.toml
after=$(rss)
note "the daemon's memory peak went from $before to $after MiB"
check "it didn't read the 100 MB" eval '(( after - before < 50 ))'

# A key that others can read, and a key that isn't the node's.
chmod 644 "$LAB/hosts/s1/etc/node.key"
status "a key that others can read is refused" 2 sdw s1 check
check "by name" grep -q 'node.key' "$LAB/said"
chmod 600 "$LAB/hosts/s1/etc/node.key"
cp "$LAB/keys/hub.key" "$LAB/hosts/s1/etc/node.key"
status "a key of another node is refused" 2 sdw s1 check
cp "$LAB/keys/s1.key" "$LAB/hosts/s1/etc/node.key"
status "with its own key all is well" 0 sdw s1 check
expect "to the end it carried packets" reply oping s1 1 "$(v6 1 1)"

# A daemon whose sdwand.toml is broken, and whose sockets are elsewhere.
stop_daemon s1
host_config s1 'run_dir = "/run/elsewhere"'
nsenter --target "${HOST_PID[s1]}" --net --mount -- "$SDWAND_BIN" run </dev/null >>"$LAB/hosts/s1/daemon.log" 2>&1 &
DAEMON[s1]=$!
wait_for "a daemon with its sockets elsewhere" 10 converged s1
echo 'nodes = [' >>"$LAB/hosts/s1/etc/sdwand.toml"
says_bad() { sdw s1 status | grep 'BAD CONFIGURATION' >/dev/null; }
wait_for "is found by status, and says that the file is broken" 10 says_bad
host_config s1 'run_dir = "/run/elsewhere"'

# What isn't applied yet is said wherever a plan or a status is shown.
sed -i 's/routing = "static"/routing = "ibgp"/' "$etc/20-prod.toml"
says_later() { sdw s1 "$1" | grep 'not yet applied' >/dev/null; }
wait_for "status says what isn't applied yet" 10 says_later status
check "so does plan" says_later plan

# Whatever the files say, `down` takes down what is ours.
stop_daemon s1
echo 'node = [' >"$LAB/hosts/s1/etc/sdwand.toml"
status "check refuses a broken sdwand.toml" 2 sdw s1 check
status "down works all the same" 0 sdw s1 down
check "and says what is wrong with the file" grep -q 'sdwand.toml:1' "$LAB/said"
expect "nothing of ours is left" '' left_over s1
