#!/usr/bin/env python3
"""Writes a fleet of any size for the benchmarks: a hub and spokes, the same networks on all, rules spread over them.

bench_fleet.py FOLDER HUB_KEY ENDPOINT PEERS NETWORKS RULES [PEER_SALT [RULE_PORT]]

Fragments: 00-site.toml; 10-nodes.toml, the hub and all spokes but the last; 11-last.toml, the last spoke, whose key is
another one for each PEER_SALT; 20-net-N.toml, network N with its members and rules. Each rule lets one spoke reach
another by TCP; RULE_PORT is the port of the last rule of network 1. Every network carries both families.
"""

import base64
import hashlib
import pathlib
import sys


def key(text):
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def node(name, host_id, public, *extra):
    return "\n".join(["", "[[nodes]]", f'name = "{name}"', f'public_key = "{public}"', f"host_id = {host_id}", *extra, ""])


def network(number, peers, rules, last_port):
    lines = ["format = 1", "", "[[networks]]", f'name = "net-{number}"', f"id = {number}"]
    lines += ['topology = "hub_and_spoke"', 'routing = "static"', f'prefix_v4 = "10.{number}.0.0/16"']
    lines += ['members = [{ node = "hub", role = "hub" }, { tag = "spoke" }]']
    for n in range(rules):
        # Pairs differ until all are used up: none of the rules makes another one superfluous.
        source, step = n % peers, n // peers + 1
        target = (source + step) % peers
        port = last_port if n == rules - 1 else 1024 + n % 50000
        lines += ["", "[[networks.rules]]", f'name = "rule-{n:05}"', 'action = "accept"']
        lines += [f'from = {{ node = "n{source + 1}" }}', f'to = {{ node = "n{target + 1}" }}']
        lines += ['protocol = "tcp"', f'ports = ["{port}"]']
    return "\n".join(lines) + "\n"


def main():
    folder = pathlib.Path(sys.argv[1])
    hub_key, endpoint = sys.argv[2], sys.argv[3]
    peers, networks, rules = (int(word) for word in sys.argv[4:7])
    salt = sys.argv[7] if len(sys.argv) > 7 else ""
    last_port = int(sys.argv[8]) if len(sys.argv) > 8 else 1023
    folder.mkdir(parents=True, exist_ok=True)
    site = 'format = 1\n\n[site]\nname = "bench"\nprefix = "fd12:34ab:cd42::/48"\n'
    nodes = "format = 1\n" + node("hub", 1, hub_key, f'endpoints = ["{endpoint}"]')
    nodes += "".join(node(f"n{n}", n + 1, key(f"peer {n}"), 'tags = ["spoke"]') for n in range(1, peers))
    last = "format = 1\n" + node(f"n{peers}", peers + 1, key(f"peer {peers} {salt}"), 'tags = ["spoke"]')
    texts = {"00-site": site, "10-nodes": nodes, "11-last": last}
    for number in range(1, networks + 1):
        texts[f"20-net-{number}"] = network(number, peers, rules // networks, last_port)
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)


if __name__ == "__main__":
    main()
