# shellcheck shell=bash
# Peers without sdwand: a stock host with `wg`, `wg-quick` and `ip`, and a tenant who does what it likes. Sourced by lib.sh.

# Whether a stock WireGuard link can be made: by the kernel, or by the wireguard-go program.
has_stock_wireguard() { has_wireguard || { has_tool wireguard-go && has_tun; }; }

# mkwg HOST LINK: a WireGuard link, not up.
mkwg() {
  if has_wireguard; then ip -n "$1" link add "$2" type wireguard; return; fi
  on "$1" env WG_PROCESS_FOREGROUND=1 wireguard-go -f "$2" >"$LAB/hosts/$1/wireguard-go.log" 2>&1 &
  until_ok 5 on "$1" wg show "$2"
}

# exported FROM NODE [LINK]: NODE's WireGuard file for one network as `sdwand compile` on host FROM exports it, without
# the private key.
exported() {
  sdw "$1" compile --node "$2" --plane wireguard
}

# stock_peer FROM HOST NETWORK LINK: HOST runs no sdwand, but is node HOST of the fleet: its link is set from the file
# that FROM exports, its overlay addresses on it, the network's prefixes routed over it in the main table. No firewall.
stock_peer() {
  local from=$1 host=$2 network=$3 link=$4
  exported "$from" "$host" >"$LAB/$host.conf"
  mkwg "$host" "$link"
  on "$host" wg setconf "$link" "$LAB/$host.conf"
  on "$host" wg set "$link" private-key "$LAB/keys/$host.key"
  addresses "$host" "$link" "$(v6 "$network" "${HOST_ID[$host]}")/128" "$(v4 "$network" "${HOST_ID[$host]}")/32"
  ip -n "$host" link set "$link" mtu 1420 up
  ip -n "$host" -6 route add "$SITE_PREFIX:$network::/64" dev "$link"
  ip -n "$host" route add "$(v4_prefix "$network")" dev "$link"
}
# rogue HOST LINK PREFIX…: from now on the stock peer sends whatever it likes to these prefixes into the tunnel.
rogue() {
  local host=$1 link=$2 hub prefix
  shift 2
  hub=$(on "$host" wg show "$link" peers)
  on "$host" wg set "$link" peer "$hub" allowed-ips ::/0,0.0.0.0/0
  for prefix; do
    case $prefix in
      *:*) ip -n "$host" -6 route replace "$prefix" dev "$link" src "$(ip -n "$host" -j -6 addr show dev "$link" scope global | jq -r '.[].addr_info[].local // empty' | head -n 1)" ;;
      *) ip -n "$host" route replace "$prefix" dev "$link" src "$(ip -n "$host" -j -4 addr show dev "$link" | jq -r '.[].addr_info[].local // empty' | head -n 1)" ;;
    esac
  done
}
