# shellcheck shell=bash
# Federated sites: a host is the gateway of a site of its own, and `sdwand serve` runs there as nobody. Sourced by lib.sh.

declare -A SERVE=()      # host → process of its `sdwand serve`
LAB_SITES=0

# mksite HOST NAME URL [LINE…]: the configuration of a gateway that is all of its site, fd01:0:1::/48 for the first one and so on;
# the lines stand in [federation] and behind it.
mksite() {
  local host=$1 name=$2 url=$3 etc=$LAB/hosts/$1/etc
  shift 3
  LAB_SITES=$((LAB_SITES + 1))
  mkdir -p "$LAB/keys"
  (umask 077; wg genkey >"$LAB/keys/$host.key"; cat "$LAB/keys/$host.key" >"$etc/node.key")
  wg pubkey <"$LAB/keys/$host.key" >"$LAB/keys/$host.pub"
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
public_key = "$(<"$LAB/keys/$host.pub")"
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

# Federated sites of several hosts, each with a fleet of its own: $LAB/fleet-a and so on.
declare -A LAB_SITE_PREFIX=([a]=fd12:34ab:cd42 [b]=fd77:1:2 [c]=fd88:1:2)
# site a|b|c: which site's fleet the lab's functions are about.
site() { SITE_PREFIX=${LAB_SITE_PREFIX[$1]} FLEET=$LAB/fleet-$1; }
# federated_site a|b|c GATEWAY: its empty fleet, named site-a and so on.
federated_site() {
  site "$1"
  fleet_site "site-$1"
  sed -i "/^prefix/a gateways = [\"$2\"]" "$FLEET/00-site.toml"
}
# gateway HOST [LINE…]: the configuration of a site's gateway, after its fleet_node; the lines stand in [federation] and
# behind it.
gateway() {
  local host=$1
  shift
  host_config "$host" 'state_dir = "/run/state/sdwand"' '[federation]' 'listen = "[::]:8443"' 'allow_dial = ["198.18.0.0/15"]' \
    'heartbeat_seconds = 1' 'stale_after_seconds = 4' "$@"
  on "$host" install -d -o 65534 -g 65534 /run/state /run/sdwand-serve
}
# bridge NAME PEER NETWORK REMOTE GATEWAY IMPORT EXPORT: a fragment of the fleet; both lists as in TOML, without brackets.
bridge() {
  printf 'format = 1\n[[bridges]]\nname = "%s"\npeer = "%s"\nnetwork = "%s"\nremote_network = "%s"\ngateways = ["%s"]\nimport = [%s]\nexport = [%s]\n' \
    "$@" >"$FLEET/50-bridge-$1.toml"
}
# agree HOST BRIDGE PEER NETWORK IMPORT KEY ENDPOINTS PREFIXES: what `serve` would write for `run`, beside the other bridges
# there; lists are JSON, without brackets.
agree() {
  local folder=$LAB/hosts/$1/run/state/sdwand-agreements
  [[ -n ${LAB_PSK:-} ]] || LAB_PSK=$(wg genpsk)
  mkdir -p "$folder"
  jq -n --arg name "$2" --arg peer "$3" --arg network "$4" --argjson imports "[$5]" --arg key "$6" --argjson endpoints "[$7]" \
    --argjson prefixes "[$8]" --arg psk "$LAB_PSK" --argjson now "$(date +%s)" \
    --argjson others "$(jq -c .bridges "$folder/agreements.json" 2>/dev/null || echo '{}')" \
    '{ format: 1, written: $now, bridges: ($others + { ($name): { peer: $peer, network: $network, import: $imports, public_key: $key,
       preshared_key: $psk, endpoints: $endpoints, prefixes: $prefixes } }) }' >"$folder/.new"
  chmod 0640 "$folder/.new"
  mv "$folder/.new" "$folder/agreements.json"
}
retract() { rm "$LAB/hosts/$1/run/state/sdwand-agreements/agreements.json"; }
# allowed HOST DEVICE OTHER: the AllowedIPs of OTHER's peer on the device, sorted.
allowed() { on "$1" wg show "$2" allowed-ips | grep -F "$(<"$LAB/keys/$3.pub")" | cut -f 2 | tr ' ' '\n' | sort | tr '\n' ' '; }
