# shellcheck shell=bash
# Fleet documents and each host's own file. Sourced by lib.sh.
#
# The site's fragments are written to $LAB/fleet.d; `publish` copies them to hosts, as an operator's git or ssh would.
# The site is fd12:34ab:cd42::/48 unless said otherwise, so node `::n` of network N is $(v6 N n) and $(v4 N n).

SITE_PREFIX=fd12:34ab:cd42
FLEET=$LAB/fleet.d
declare -A HOST_ID=()

v6() { echo "$SITE_PREFIX:$1::$2"; }                                        # network, host id
v4() { echo "100.$((64 + $1 / 256)).$(($1 % 256)).$2"; }
v4_prefix() { echo "100.$((64 + $1 / 256)).$(($1 % 256)).0/24"; }

# fleet_site [NAME]: an empty fleet.
fleet_site() {
  rm -rf "$FLEET"
  mkdir -p "$FLEET"
  cat >"$FLEET/00-site.toml" <<TOML
format = 1

[site]
name   = "${1:-site-a}"
prefix = "$SITE_PREFIX::/48"
TOML
  echo 'format = 1' >"$FLEET/10-nodes.toml"
}
# fleet_node NAME HOST_ID [ENDPOINT…] [tags=a,b]: a node, its key made if it has none. Where NAME is a lab host, its
# sdwand.toml and key file are written too.
fleet_node() {
  local name=$1 id=$2 argument endpoints='' tags='' folder=$LAB/keys
  shift 2
  HOST_ID[$name]=$id
  mkdir -p "$folder"
  if [[ ! -e $folder/$name.key ]]; then
    (umask 077; wg genkey >"$folder/$name.key")
    wg pubkey <"$folder/$name.key" >"$folder/$name.pub"
  fi
  for argument; do
    case $argument in
      tags=*) tags="\"${argument#tags=}\"" tags=${tags//,/\", \"} ;;
      *) endpoints+="${endpoints:+, }\"$argument\"" ;;
    esac
  done
  {
    printf '\n[[nodes]]\nname       = "%s"\npublic_key = "%s"\nhost_id    = %s\n' "$name" "$(<"$folder/$name.pub")" "$id"
    [[ -z $endpoints ]] || echo "endpoints  = [$endpoints]"
    [[ -z $tags ]] || echo "tags       = [$tags]"
  } >>"$FLEET/10-nodes.toml"
  if [[ -n ${HOST_PID[$name]:-} ]]; then host_config "$name"; fi
}
# host_config NAME [TABLE…]: the host's sdwand.toml, and its key file. Further arguments are lines of TOML.
host_config() {
  local name=$1 etc=$LAB/hosts/$1/etc
  shift
  (umask 077; cat "$LAB/keys/$name.key" >"$etc/node.key")
  {
    echo 'format = 1'
    echo "node = \"$name\""
    [[ $# = 0 ]] || printf '%s\n' "$@"
  } >"$etc/sdwand.toml"
}
# fleet_network NAME ID MEMBER… [--key VALUE]…: a network that carries both families, static, hub and spoke. MEMBER is
# `hub:NODE`, `NODE`, or an inline table; `--topology full_mesh` and so on replace or add keys, values as in TOML.
fleet_network() {
  local name=$1 id=$2 member
  shift 2
  declare -A key=([topology]='"hub_and_spoke"' [routing]='"static"' [prefix_v4]="\"$(v4_prefix "$id")\"")
  local members=''
  while (( $# > 0 )); do
    case $1 in
      --*) key[${1#--}]=$2; shift 2; continue ;;
      hub:*) member="{ node = \"${1#hub:}\", role = \"hub\" }" ;;
      '{'*) member=$1 ;;
      *) member="{ node = \"$1\" }" ;;
    esac
    members+="  $member,"$'\n'
    shift
  done
  {
    printf 'format = 1\n\n[[networks]]\nname = "%s"\nid = %s\nmembers = [\n%s]\n' "$name" "$id" "$members"
    for member in "${!key[@]}"; do [[ -z ${key[$member]} ]] || echo "$member = ${key[$member]}"; done | sort
  } >"$FLEET/20-$name.toml"
}
# fleet_rule NETWORK NAME FROM TO PROTOCOL [PORTS] [ACTION] [PRIORITY]: appends a rule. FROM and TO: `any`, `node=x`,
# `tag=x`, `lan_of=x`, `cidr=…`; PORTS: `-` or empty = all, else comma separated.
fleet_rule() {
  local network=$1 name=$2 from=$3 to=$4 protocol=$5 ports=${6:--} action=${7:-accept} priority=${8:-}
  {
    printf '\n[[networks.rules]]\nname = "%s"\nfrom = %s\nto = %s\nprotocol = "%s"\n' \
      "$name" "$(fleet_selector "$from")" "$(fleet_selector "$to")" "$protocol"
    [[ $ports = - ]] || echo "ports = [\"${ports//,/\", \"}\"]"
    echo "action = \"$action\""
    [[ -z $priority ]] || echo "priority = $priority"
  } >>"$FLEET/20-$network.toml"
}
fleet_selector() {
  case $1 in
    any) echo '"any"' ;;
    *) echo "{ ${1%%=*} = \"${1#*=}\" }" ;;
  esac
}
# publish HOST…: the fleet as it is now, to these hosts. Each file is renamed into place; files that are gone go.
publish() {
  local host file to
  for host; do
    to=$LAB/hosts/$host/etc/fleet.d
    for file in "$FLEET"/*.toml; do
      cmp -s "$file" "$to/${file##*/}" && continue
      cp "$file" "$to/.new"
      mv "$to/.new" "$to/${file##*/}"
    done
    for file in "$to"/*.toml; do
      if [[ ! -e $FLEET/${file##*/} ]]; then rm "$file"; fi
    done
  done
}
