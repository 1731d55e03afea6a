# shellcheck shell=bash
# Federated sites: a host is the gateway of a site of its own, and `sdwand serve` runs there as nobody. Sourced by lib.sh.

declare -A SERVE=()      # host → process of its `sdwand serve`
LAB_SITES=0

# mksite HOST NAME URL [LINE…]: the configuration of a gateway; the lines stand in [federation] and behind it.
mksite() {
  local host=$1 name=$2 url=$3 etc=$LAB/hosts/$1/etc
  shift 3
  LAB_SITES=$((LAB_SITES + 1))
  {
    printf '%s\n' 'format = 1' "node = \"$host\"" 'state_dir = "/run/state/sdwand"' '[federation]' 'listen = "[::]:8443"' \
      "url = \"$url\"" 'heartbeat_seconds = 1' 'stale_after_seconds = 4' 'jurisdiction = "JP"' "$@"
  } >"$etc/sdwand.toml"
  cat >"$etc/fleet.d/00-site.toml" <<TOML
format = 1
[site]
name = "$name"
prefix = "fd0$LAB_SITES:0:1::/48"
gateways = ["$host"]
[[nodes]]
name = "$host"
public_key = "$(wg genkey | wg pubkey)"
host_id = 1
TOML
  on "$host" install -d -o 65534 -g 65534 /run/state /run/sdwand-serve
}
# As a user who is nobody, and without any way to become more; SERVE_GROUPS are other groups of theirs.
start_serve() {
  local groups=--clear-groups
  [[ -z ${SERVE_GROUPS:-} ]] || groups=--groups=$SERVE_GROUPS
  nsenter --target "${HOST_PID[$1]}" --net --mount -- setpriv --reuid=65534 --regid=65534 "$groups" --no-new-privs \
    --bounding-set=-all "$SDWAND_BIN" serve </dev/null >>"$LAB/hosts/$1/serve.log" 2>&1 &
  SERVE[$1]=$!
  require wait_for "$1: the gateway answers" 10 sdw "$1" peer list
}
stop_serve() { # HOST SIGNAL
  kill "-$2" "${SERVE[$1]}"
  wait "${SERVE[$1]}" 2>/dev/null || true
}
# is HOST STATUS: of its live peer.
is() {
  [[ $(sdw "$1" peer list --json | jq -r '.[] | select(.status != "revoked") | .status') = "$2" ]]
}
