#!/bin/bash
# The figures of the README, measured on this machine: netns-tests/figures.sh
#
# Time is told by criterion (medians), memory by the kernel (peak resident set of the process). What a gateway under load
# does is told by benches/federation, which says how; its last part takes four minutes. nginx, if it is installed (Debian:
# nginx-light), is measured beside it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.."
export PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin CARGO_TERM_COLOR=never
profile=${PROFILE:-release}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cargo build --locked --quiet --profile "$profile" --bin sdwand
sdwand=$(cargo metadata --locked --no-deps --format-version 1 | jq -r .target_directory)/$profile/sdwand

model=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)
echo "Measured on $(date -u +%F): $(nproc) × ${model:-$(uname -m)}, Linux $(uname -r), profile $profile."
echo
echo "| what | figure |"
echo "|---|---|"
cargo bench --locked --quiet --profile "$profile" --bench fleet -- --output-format bencher 2>/dev/null |
  sed -n 's/^test \(.*\) \.\.\. bench: *\([0-9,]*\) ns.*/\1\t\2/p' | tr -d , |
  awk -F'\t' '{ printf "| %s | %.1f ms |\n", $1, $2 / 1e6 }'

# A connection for each of 10,000 sites, and for each beat to them: the callers' process needs as many files.
ulimit -n 32768 2>/dev/null || ulimit -n "$(ulimit -Hn)"
command -v nginx >/dev/null || echo "nginx isn't installed: there is nothing to compare a gateway with" >&2
cargo bench --locked --quiet --profile "$profile" --bench federation

# A fleet of 10,000 nodes on disk, and the peak memory of a process that reads, checks and compiles it.
mkdir -p "$work/fleet.d"
"$sdwand" --config "$work/sdwand.toml" init --node hub --site big >/dev/null
public=$("$sdwand" --config "$work/sdwand.toml" pubkey)
/usr/bin/python3 - "$work/fleet.d/00-site.toml" "$public" <<'P'
import base64, hashlib, sys
path, public = sys.argv[1:]
out = ["format = 1", "[site]", 'name = "big"', 'prefix = "fd12:34ab:cd42::/48"']
def node(name, n, key, extra):
    out.extend(["[[nodes]]", f'name = "{name}"', f'public_key = "{key}"', f"host_id = {n + 1}", extra])
node("hub", 0, public, 'endpoints = ["203.0.113.5"]')
for n in range(1, 10000):
    key = base64.b64encode(hashlib.sha256(str(n).encode()).digest()).decode()
    node(f"n{n}", n, key, 'tags = ["all"]')
out.extend(["[[networks]]", 'name = "prod"', "id = 1", 'topology = "hub_and_spoke"', 'routing = "static"',
            'members = [ { node = "hub", role = "hub" }, { tag = "all" } ]'])
open(path, "w").write("\n".join(out) + "\n")
P
peak() { /usr/bin/python3 -c 'import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1))' "$@"; }
echo "| 10,000 nodes: parse, check and compile all planes for the hub, peak memory | $(peak "$sdwand" --config "$work/sdwand.toml" compile --node hub) MiB |"
echo "| the same for a spoke, peak memory | $(peak "$sdwand" --config "$work/sdwand.toml" compile --node n1) MiB |"

# The daemon, idle in a namespace of its own: a hub with three spokes and two rules.
mkdir -p "$work/idle"
"$sdwand" --config "$work/idle/sdwand.toml" init --node hub --site small >/dev/null
sed -i 's/^# *endpoints.*//; s/^host_id.*/&\nendpoints = ["192.0.2.1"]/' "$work/idle/fleet.d/00-site.toml"
{
  for n in 1 2 3; do
    printf '[[nodes]]\nname = "s%s"\npublic_key = "%s"\nhost_id = %s\n' "$n" "$(head -c 32 /dev/urandom | base64)" $((n + 10))
  done
  printf '[[networks]]\nname = "prod"\nid = 1\nrouting = "static"\nmembers = [ { node = "hub", role = "hub" }'
  printf ', { node = "s%s" }' 1 2 3
  echo ' ]'
  for rule in ping web; do
    printf '[[networks.rules]]\nname = "%s"\naction = "accept"\nfrom = "any"\nto = "any"\n' "$rule"
  done
} >>"$work/idle/fleet.d/00-site.toml"
"$sdwand" --config "$work/idle/sdwand.toml" check >/dev/null
printf 'state_dir = "%s"\nrun_dir = "%s"\n' "$work/idle/state" "$work/idle/run" | cat - "$work/idle/sdwand.toml" >"$work/idle/new"
mv "$work/idle/new" "$work/idle/sdwand.toml"
unshare --net --mount bash -c '
  mkdir -p /var/run/wireguard 2>/dev/null; mount -t tmpfs none /var/run/wireguard 2>/dev/null
  ip link set lo up
  "$0" --config "$1/sdwand.toml" run 2>"$1/log" & daemon=$!
  for _ in $(seq 100); do "$0" --config "$1/sdwand.toml" status --json 2>/dev/null | jq -e .converged >/dev/null && break; sleep 0.1; done
  sleep 2
  awk "/VmRSS/ { printf \"| the daemon, idle, resident memory | %.1f MiB |\\n\", \$2 / 1024 }" "/proc/$daemon/status"
  kill "$daemon"; wait "$daemon"' "$sdwand" "$work/idle"
