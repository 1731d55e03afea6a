# shellcheck shell=bash
# Hosts, links between them, and packets. Sourced by lib.sh.
#
# The underlay is a router, `wan`, with one routed link to each host that `underlay` attaches. Link n is
# 198.18.n.0/24 and 2001:db8:0:n::/64: the router is .1 and ::1, the host .2 and ::2, its port is called `up0`.

declare -A HOST_PID=()   # host → process that holds its namespaces
declare -A V4=() V6=()   # host → underlay addresses
LAB_LINKS=0

# mkns NAME…: a network namespace only, for LAN hosts, routers, NAT boxes.
mkns() {
  local name
  for name; do
    ip netns add "$name"
    ip -n "$name" link set lo up
    lab_quick_addresses "$name"
  done
}
# mkhost NAME…: a host with its own network, /etc/sdwand, /run and /var/lib/sdwand. From outside, they are
# $LAB/hosts/NAME/{etc,run,lib}.
mkhost() {
  local name folder
  for name; do
    folder=$LAB/hosts/$name
    mkdir -p "$folder"/{etc/fleet.d,run,lib}
    # Of a former host of this name: before its holder is in a namespace of its own, it is in ours.
    rm -f "$folder/ready"
    unshare --net --mount --propagation private bash "$LAB_LIB/holder.sh" "$folder" "$LAB" </dev/null >"$folder/holder.log" 2>&1 &
    HOST_PID[$name]=$!
    until [[ -e $folder/ready ]]; do
      kill -0 "${HOST_PID[$name]}" || { cat "$folder/holder.log" >&2; return 1; }
      sleep 0.01
    done
    ip netns attach "$name" "${HOST_PID[$name]}"
    lab_quick_addresses "$name"
  done
}
# Addresses are usable at once: duplicate detection has nobody to find here.
lab_quick_addresses() { set_sysctl "$1" net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0; }

# on NAME CMD…: run CMD on that host or namespace.
on() {
  local name=$1
  shift
  if [[ -n ${MACHINE[$name]:-} ]]; then
    nsenter --target "${HOST_PID[$name]}" --all -- "$@"
  elif [[ -n ${HOST_PID[$name]:-} ]]; then
    nsenter --target "${HOST_PID[$name]}" --net --mount -- "$@"
  else
    nsenter --net="/run/netns/$name" -- "$@"
  fi
}
set_sysctl() { local name=$1; shift; on "$name" sysctl -qw "$@"; }
forwarding() { local name; for name; do set_sysctl "$name" net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1; done; }

# mklink A IFA B IFB: a veth pair, both ends up.
mklink() {
  ip link add "$2" netns "$1" type veth peer name "$4" netns "$3"
  ip -n "$1" link set "$2" up
  ip -n "$3" link set "$4" up
}
# addresses NAME IF ADDR…
addresses() {
  local name=$1 port=$2 address
  shift 2
  for address; do
    case $address in
      *:*) ip -n "$name" addr add "$address" dev "$port" nodad ;;
      *) ip -n "$name" addr add "$address" dev "$port" ;;
    esac
  done
}

# underlay NAME…: a link to the router `wan`, which is made with the first, and default routes over it.
underlay() {
  local name
  [[ -e /run/netns/wan ]] || { mkns wan; forwarding wan; }
  for name; do
    LAB_LINKS=$((LAB_LINKS + 1))
    mklink "$name" up0 wan "to-$name"
    addresses wan "to-$name" "198.18.$LAB_LINKS.1/24" "2001:db8:0:$LAB_LINKS::1/64"
    V4[$name]=198.18.$LAB_LINKS.2
    V6[$name]=2001:db8:0:$LAB_LINKS::2
    addresses "$name" up0 "${V4[$name]}/24" "${V6[$name]}/64"
    ip -n "$name" route add default via "198.18.$LAB_LINKS.1"
    ip -n "$name" -6 route add default via "2001:db8:0:$LAB_LINKS::1"
  done
}
# nat_box NAT NAME: NAT (made here) between the router and NAME, IPv4 only. NAME is 192.168.77.2 behind it, its port
# `up0`. `nat_ports NAT LOW HIGH [ADDR]` makes the box use other source ports, or another address, from now on, for flows old
# and new.
nat_box() {
  local nat=$1 name=$2
  mkns "$nat"
  forwarding "$nat"
  underlay "$nat"
  mklink "$name" up0 "$nat" in0
  addresses "$nat" in0 192.168.77.1/24
  addresses "$name" up0 192.168.77.2/24
  ip -n "$name" route add default via 192.168.77.1
  V4[$name]=192.168.77.2
  nat_ports "$nat" 20000 20999
}
nat_ports() {
  local address=${4:-${V4[$1]}}
  on "$1" nft -f - <<NFT
table ip nat
delete table ip nat
table ip nat {
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "up0" meta l4proto { tcp, udp } snat to $address:$2-$3
    oifname "up0" snat to $address
  }
}
NFT
  on "$1" conntrack -F >/dev/null 2>&1
}

# lan HOST IF LANHOST ADDR/LEN…: a LAN behind HOST with one host in it. HOST's port IF gets the given addresses;
# LANHOST's `eth0` gets the same with host part 10 (.10, ::10), and default routes to HOST.
lan() {
  local host=$1 port=$2 member=$3 address
  shift 3
  mkns "$member"
  mklink "$host" "$port" "$member" eth0
  for address; do
    addresses "$host" "$port" "$address"
    case $address in
      *:*)
        addresses "$member" eth0 "${address%::*}::10/${address#*/}"
        ip -n "$member" -6 route add default via "${address%/*}" ;;
      *)
        addresses "$member" eth0 "${address%.*}.10/${address#*/}"
        ip -n "$member" route add default via "${address%/*}" ;;
    esac
  done
}

# --------------------------------------------------------------------------------------------------------- packets

# pinged NAME ADDR [ping options]: prints `reply`, `silence`, `unreachable` or `error: …`. One packet, one second.
pinged() {
  local name=$1 address=$2 out code=0
  shift 2
  out=$(on "$name" ping -n -c 1 -W "$LAB_SLOW" "$@" "$address" 2>&1) || code=$?
  case $code in
    0) echo reply ;;
    1) if [[ $out = *[Uu]nreachable* || $out = *prohibited* ]]; then echo unreachable; else echo silence; fi ;;
    *) if [[ $out = *nreachable* || $out = *'No route to host'* || $out = *'Permission denied'* || $out = *'not permitted'* ]]; then echo unreachable; else echo "error: ${out##*$'\n'}"; fi ;;
  esac
}
# loss NAME COUNT INTERVAL ADDR [ping options]: prints how many of COUNT pings had no answer.
loss() {
  local name=$1 count=$2 interval=$3 address=$4
  shift 4
  on "$name" ping -n -q -c "$count" -i "$interval" -W 2 "$@" "$address" |
    sed -n 's/^\([0-9]*\) packets transmitted, \([0-9]*\) received.*/\1 \2/p' | { read -r sent got; echo $((sent - got)); }
}
# unanswered FILE: from the lines of a ping that was interrupted (without -q): `LOST SENT`. Up to three at the end may have
# been on their way, and aren't lost.
unanswered() {
  awk '/bytes from/ && match($0, /icmp_seq=[0-9]+/) { seq = substr($0, RSTART + 9, RLENGTH - 9) + 0; if (!seen[seq]++) got++; if (seq > last) last = seq }
    /packets transmitted/ { sent = $1 } END { late = sent - last; print last - got + (late > 3 ? late : 0), sent + 0 }' "$1"
}
# serve NAME [probe options] SPEC…: echo servers on NAME until the test ends; SPEC is tcp,ADDR,PORT or udp,ADDR,PORT,
# with `*` for every address. What arrives is logged: see `arrived`.
serve() {
  local name=$1 log=$LAB/serve.$1.$RANDOM
  shift
  on "$name" "$PYTHON" "$LAB_LIB/probe.py" serve --log "$log.got" "$@" >"$log.log" 2>&1 &
  LAST_PID=$!
  until grep -qs ready "$log.log"; do
    kill -0 "$LAST_PID" 2>/dev/null || { cat "$log.log" >&2; return 1; }
    sleep 0.02
  done
}
# arrived NAME TEXT: a server on NAME received a message with this text.
arrived() { grep -sqF -- "$2" "$LAB"/serve."$1".*.got; }
# asked NAME [probe options] SPEC…: asks the servers named by SPEC, all at once. Prints one outcome for each, a line
# each (a single SPEC: the word alone): `ok` (the echo came back), `refused`, `reset`, `timeout`, `unreachable`, `denied`.
asked() {
  local name=$1
  shift
  on "$name" "$PYTHON" "$LAB_LIB/probe.py" ask --timeout "$LAB_SLOW" "$@"
}
# flow NAME FILE [probe options] tcp,ADDR,PORT: a TCP connection that says something every 50 ms, in the background. FILE
# holds the number of echoes so far. Its process is $LAST_PID.
flow() {
  local name=$1 file=$2
  shift 2
  on "$name" "$PYTHON" "$LAB_LIB/probe.py" flow --log "$file" "$@" >"$file.log" 2>&1 &
  LAST_PID=$!
}
