#!/bin/bash
# What operators do to the daemon: clients that never stop asking, names that never resolve, a session on a LAN interface,
# a changed key, folders replaced, commands without a daemon, output cut short.
#
#     s1 ── wan ── hub        network prod (1); s1 has a LAN on lan0, in manual mode later
. "$(dirname "$0")/lab/lib.sh"

mkhost hub s1
underlay hub s1
fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node s1 2
fleet_network prod 1 hub:hub '{ node = "s1", lans = [{ subnet = "10.9.0.0/24", interface = "lan0" }] }'
fleet_rule prod ping any any icmp
etc=$LAB/hosts/s1/etc
S1=(nsenter --target "${HOST_PID[s1]}" --net --mount --)
on s1 ip link add lan0 type veth peer name lan1
for link in lan0 lan1; do on s1 ip link set "$link" up; done
on s1 ip addr add 10.9.0.1/24 dev lan0
has_table() { on s1 nft list table inet sdwand; }
rule_is_there() { on s1 nft list table inet sdwand | grep "n1-r-$1" >/dev/null; }
said() { sdw s1 status | grep "$1" >/dev/null; }
# healed SECONDS: the table, deleted now, is back in that time.
healed() { on s1 nft delete table inet sdwand; until_ok "$1" has_table; }

# --- In manual mode, what was applied last counts, whoever applied it.
host_config s1 '[reconcile]' 'mode = "manual"'
publish hub s1
start_daemon s1
status "down before anything was applied" 0 sdw s1 down
stop_daemon s1
# A host on which no daemon has run yet has no state folder.
sed '/^format/a state_dir = "/var/lib/sdwand/of/its/own"' "$etc/sdwand.toml" >"$etc/other.toml"
sdw s1 --config /etc/sdwand/other.toml apply >/dev/null || true  # without a daemon userspace WireGuard is blocked
check "apply makes the state folder, for root alone" prints 700 on s1 stat -c %a /var/lib/sdwand/of/its/own
status "down" 0 sdw s1 --config /etc/sdwand/other.toml down
sdw s1 apply >/dev/null || true
sed -i 's/"ping"/"echo"/' "$etc/fleet.d/20-prod.toml"
sdw s1 apply >/dev/null || true
check "apply without a daemon takes the changed fleet" rule_is_there echo
start_daemon s1
check "a daemon in manual mode keeps it, and heals towards it" healed 5
check "with the rule as it was applied" rule_is_there echo
refute "nothing waits" grep -q pending <(sdw s1 status)
status "down" 0 sdw s1 down

# --- The session that asks stays, also in the rounds after.
in_network() { on s1 ip -o link show lan0 | grep 'master sdwan-1' >/dev/null || on s1 ip rule | grep lan0 >/dev/null; }
status "apply by a session on the LAN interface: it is left alone" 1 \
  on s1 env SSH_CONNECTION='10.9.0.9 5000 10.9.0.1 22' "$SDWAND_BIN" apply
refute "it didn't join" in_network
check "after a round of the daemon" healed 5
sleep 1.5 # the round that retries: nothing else shows that it didn't happen
refute "it still didn't" in_network
status "by a session elsewhere" 0 sdw s1 apply
check "it joins" in_network
stop_daemon s1

# --- Clients that never stop asking.
host_config s1
start_daemon s1
"${S1[@]}" "$PYTHON" - <<'PY' &
import socket, threading, time
end = time.time() + 8
def ask():
    while time.time() < end:
        client = socket.socket(socket.AF_UNIX)
        client.connect('/run/sdwand/control.sock')
        client.send(b'{"request":"status"}\n')
        while client.recv(65536): pass
for _ in range(8): threading.Thread(target=ask).start()
PY
flood=$!
sleep 0.5
check "the firewall is healed while clients never stop asking" healed 2
wait "$flood"

# --- What is read just now counts.
peer=$(on s1 wg show wg-sdwan-1 peers)
# A round may come in between: then once more.
drift_shows() { on s1 wg set wg-sdwan-1 peer "$peer" remove; said 'Drifted: wireguard prod'; }
wait_for "status shows drift that no round has seen" 10 drift_shows
check "apply heals it" sdw s1 apply

# --- A folder that is made again is seen at once, and so is what changes in it.
rm -r "$etc/fleet.d"
wait_for "a folder that is gone is an error" 5 said 'BAD CONFIGURATION'
mkdir "$etc/fleet.d"
sleep 0.7 # longer than the debounce: the empty folder has been looked at
cp "$FLEET"/*.toml "$etc/fleet.d"
wait_for "made again, it is picked up" 5 not said 'BAD CONFIGURATION'
sed -i 's/"ping"/"pong"/' "$etc/fleet.d/20-prod.toml"
wait_for "and what changes in it" 5 rule_is_there pong

# --- A broken sdwand.toml.
cp "$etc/sdwand.toml" "$LAB/good.toml"
echo 'nde = [' >>"$etc/sdwand.toml"
wait_for "status still tells, with a broken sdwand.toml" 5 said 'BAD CONFIGURATION'
cp "$LAB/good.toml" "$etc/sdwand.toml"
wait_for "and is well when it is mended" 5 not said 'BAD CONFIGURATION'

# --- A second daemon, with another fleet on the same state folder.
mkdir "$etc/other.d"
cp "$etc/fleet.d"/*.toml "$etc/other.d"
sed -i 's/"pong"/"other"/' "$etc/other.d/20-prod.toml"
{ cat "$etc/sdwand.toml"; printf '[fleet]\ndir = "other.d"\n'; } >"$etc/other.toml"
status "a second daemon refuses to start" 1 on s1 timeout 10 "$SDWAND_BIN" --config /etc/sdwand/other.toml run
refute "and leaves no trace in the kept copy" on s1 grep -rq '"other"' /var/lib/sdwand/applied

# --- A name server that never answers.
on hub nft -f - <<'NFT'
table inet silent { chain input { type filter hook input priority 0; udp dport 53 drop; }; }
NFT
echo "nameserver ${V4[hub]}" >"$LAB/resolv.conf"
on s1 mount --bind "$LAB/resolv.conf" /etc/resolv.conf
sed -i 's/^endpoints .*/endpoints = ["hub.example.test"]/' "$etc/fleet.d/10-nodes.toml"
on s1 ip link delete wg-sdwan-1
wait_for "a name that isn't resolved is said" 10 said "doesn't resolve"
start=$(now_ms)
check "a name server that never answers: the firewall is healed" healed 2
took=$(( $(now_ms) - start ))
check "in $took ms, within a second" eval '(( took <= 1000 * LAB_SLOW ))'
start=$(now_ms)
check "status answers" sdw s1 status
took=$(( $(now_ms) - start ))
check "in $took ms, within a second" eval '(( took <= 1000 * LAB_SLOW ))'
stop_daemon s1

# --- Folders don't depend on the umask.
rm -r "$LAB/hosts/s1/run/sdwand" "$LAB/hosts/s1/lib"/* 2>/dev/null || true
umask 0
start_daemon s1
umask 022
expect "nobody else may write to what the daemon believes" '' on s1 find /run/sdwand /var/lib/sdwand -type d -perm /022

# --- A tool that hangs doesn't keep the daemon from stopping.
printf '#!/bin/sh\nexec sleep 100\n' >"$LAB/nft"
chmod 755 "$LAB/nft"
on s1 mount --bind "$LAB/nft" "$(readlink -f "$(command -v nft)")"
on s1 timeout 20 "$SDWAND_BIN" plan >/dev/null 2>&1 &
plan=$!
sleep 0.5 # until the round hangs in nft
start=$(now_ms)
stop_daemon s1
took=$(( $(now_ms) - start ))
check "with an nft that hangs the daemon stops in $took ms, within 8 s" eval '(( took <= 8000 * LAB_SLOW ))'
wait "$plan" || true
on s1 umount "$(readlink -f "$(command -v nft)")"

# --- The command line.
status "a mistyped option is no pending change" 1 sdw s1 plan --bogus
status "nor under --json" 1 sdw s1 --json plan --bogus
check "where it is JSON" jq -e .error "$LAB/said"
status "help is no error" 0 sdw s1 plan --help
status "a full disk is an error" 1 on s1 sh -c '"$0" completions bash >/dev/full' "$SDWAND_BIN"
refute "and no panic" grep -q panicked "$LAB/said"
status "status --watch ends with its reader" 0 on s1 timeout 15 sh -c '"$0" status --watch | head -n 1' "$SDWAND_BIN"
