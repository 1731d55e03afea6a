#!/usr/bin/env python3
"""Writes the fleet of a gateway with many bridges for the benchmarks, and what `sdwand serve` would hand over.

bench_bridges.py FOLDER HUB_KEY ENDPOINT BRIDGES PREFIXES AGREEMENTS

A hub, one spoke, one network that carries both families, and BRIDGES bridges (255 at most) into it, each to a site of its own that
imports PREFIXES prefixes, every second one IPv4, none of which can be joined with another. One rule for each site lets it
in by TCP. Every site agrees to all of it, and may be called. AGREEMENTS is the file for all of that, dated now.
"""

import base64
import hashlib
import json
import pathlib
import sys
import time

from bench_fleet import key, network, node


def imports(number, prefixes):
    for at in range(0, prefixes, 2):
        yield f"fd77:{number:x}:{at:x}::/48"
        if at + 1 < prefixes:
            yield f"172.{number}.{at}.0/24"


def main():
    folder, agreements = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[6])
    hub_key, endpoint = sys.argv[2], sys.argv[3]
    bridges, prefixes = int(sys.argv[4]), int(sys.argv[5])
    folder.mkdir(parents=True, exist_ok=True)
    exported = "fd12:34ab:cd42:1::/64", "10.1.0.0/16"
    texts = {"00-site": 'format = 1\n\n[site]\nname = "bench"\nprefix = "fd12:34ab:cd42::/48"\ngateways = ["hub"]\n'}
    texts["10-nodes"] = "format = 1\n" + node("hub", 1, hub_key, f'endpoints = ["{endpoint}"]')
    texts["10-nodes"] += node("n1", 2, key("peer 1"), 'tags = ["spoke"]')
    texts["20-net-1"] = network(1, 1, 0, 0)
    agreed = {}
    for number in range(1, bridges + 1):
        nets = list(imports(number, prefixes))
        name, peer = f"bridge-{number}", f"site-{number}"
        texts["20-net-1"] += "\n".join(
            ["", "[[networks.rules]]", f'name = "from-{peer}"', 'action = "accept"', f'from = {{ federation = "{peer}" }}']
            + ['to = "any"', 'protocol = "tcp"', 'ports = ["443"]', ""]
        )
        bridge = ["format = 1", "", "[[bridges]]", f'name = "{name}"', f'peer = "{peer}"', 'network = "net-1"']
        bridge += ['gateways = ["hub"]', f"import = {json.dumps(nets)}", f"export = {json.dumps(exported)}"]
        texts[f"50-bridge-{name}"] = "\n".join(bridge) + "\n"
        agreed[name] = dict(peer=peer, network="net-1", prefixes=nets, public_key=key(peer), endpoints=[f"198.18.2.{number}:51820"])
        agreed[name]["import"] = nets
        agreed[name]["preshared_key"] = base64.b64encode(hashlib.sha256(f"psk {peer}".encode()).digest()).decode()
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)
    agreements.write_text(json.dumps(dict(format=1, written=int(time.time()), bridges=agreed)))
    agreements.chmod(0o640)


if __name__ == "__main__":
    main()
