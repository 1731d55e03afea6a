#!/usr/bin/env python3
"""Random fleets: what `sdwand explain --from-fleet` says of every pair, against what packets do.

pairs.py compare --seed N --fleets N --hosts JSON --clients JSON
                                                    generates, applies, asks and compares; prints a line for each fleet
pairs.py agent                                      echo servers and probes in one namespace, told on standard input

--hosts: {name: {"pid": N, "etc": folder, "key": public key, "v4", "v6": underlay, "lan": {"pid" or "ns", "v4", "v6", …}}}.
--clients: {namespace: {"v4", "v6"}}: hosts of the underlay alone, who ask for the ports that hubs map.
A probe that `explain` lets pass is tried three times; one that it blocks must not pass the first time.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import struct
import subprocess
import sys
import time

PORTS = [7000, 7001]
PROBES = [("icmp", 0), ("tcp", 7000), ("tcp", 7001), ("udp", 7000)]
MAPPED = [("tcp", 443), ("tcp", 444), ("udp", 443)]
SLOW = int(os.environ.get("LAB_SLOW", "1"))
SITE = "fd12:34ab:cd42"


# ------------------------------------------------------------------------------------------------------------ agent


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def open_socket(kind, address, device, protocol=0):
    sock = socket.socket(family(address), kind, protocol)
    if device:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    sock.setblocking(False)
    return sock


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


class Agent:
    """Echo servers in a namespace or VRF, and probes from it."""

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.sockets = []
        self.tasks = []
        self.pings = {}
        self.sequence = 0

    def close(self):
        for task in self.tasks:
            task.cancel()
        for sock in self.sockets:
            self.loop.remove_reader(sock)
            sock.close()
        self.sockets, self.tasks = [], []

    async def serve(self, device, addresses):
        """Each address has sockets of its own: one for all would answer UDP from whichever is nearest."""
        self.close()
        for address in addresses:
            for port in PORTS:
                tcp = open_socket(socket.SOCK_STREAM, address, device)
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                udp = open_socket(socket.SOCK_DGRAM, address, device)
                for sock in (tcp, udp):
                    if sock.family == socket.AF_INET6:
                        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    sock.bind((address, port))
                    self.sockets.append(sock)
                tcp.listen(256)
                self.loop.add_reader(udp, self.echo, udp)
                self.tasks.append(self.loop.create_task(self.accept(tcp)))
            protocol = socket.IPPROTO_ICMP if family(address) == socket.AF_INET else socket.IPPROTO_ICMPV6
            raw = open_socket(socket.SOCK_RAW, address, device, protocol)
            self.sockets.append(raw)
            self.loop.add_reader(raw, self.pong, raw)

    def echo(self, sock):
        try:
            data, peer = sock.recvfrom(2048)
            sock.sendto(data, peer)
        except OSError:
            pass  # refused on the way back: the client sees no answer

    async def accept(self, listener):
        while True:
            sock, _ = await self.loop.sock_accept(listener)
            self.tasks.append(self.loop.create_task(self.answer(sock)))

    async def answer(self, sock):
        with sock:
            try:
                await self.loop.sock_sendall(sock, await self.loop.sock_recv(sock, 64))
            except OSError:
                pass  # the client has given up

    def pong(self, raw):
        try:
            data, peer = raw.recvfrom(2048)
        except OSError:
            return  # an ICMP error about an echo request
        body = data[(data[0] & 15) * 4 :] if raw.family == socket.AF_INET else data
        if len(body) >= 8 and body[0] in (0, 129):
            found = self.pings.get((peer[0], *struct.unpack("!HH", body[4:8])))
            if found and not found.done():
                found.set_result(True)

    async def ping(self, source, to, device):
        self.sequence += 1
        is_v4 = family(to) == socket.AF_INET
        protocol = socket.IPPROTO_ICMP if is_v4 else socket.IPPROTO_ICMPV6
        key = (to, os.getpid() & 0xFFFF, self.sequence & 0xFFFF)
        sent = struct.pack("!BBHHH", 8 if is_v4 else 128, 0, 0, *key[1:])
        if is_v4:
            sent = struct.pack("!BBHHH", 8, 0, checksum(sent), *key[1:])
        self.pings[key] = self.loop.create_future()
        with open_socket(socket.SOCK_RAW, to, device, protocol) as sock:
            if source:
                sock.bind((source, 0))
            sock.sendto(sent, (to, 0))
            await self.pings[key]

    async def talk(self, kind, source, to, port, device):
        with open_socket(kind, to, device) as sock:
            if source:
                sock.bind((source, 0))
            await self.loop.sock_connect(sock, (to, port))
            await self.loop.sock_sendall(sock, b"hello")
            if await self.loop.sock_recv(sock, 64) != b"hello":
                raise OSError("no echo")

    async def probe(self, kind, source, to, port, device, timeout):
        kinds = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
        if kind == "icmp":
            attempt = self.ping(source, to, device)
        else:
            attempt = self.talk(kinds[kind], source, to, port, device)
        try:
            await asyncio.wait_for(attempt, timeout)
            return True
        except (OSError, asyncio.TimeoutError):
            return False

    async def run(self):
        reader = asyncio.StreamReader()
        await self.loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            command = json.loads(line)
            device = command["device"]
            if command["do"] == "serve":
                await self.serve(device, command["addresses"])
                answer = "ready"
            else:
                probes = [self.probe(*p, device, command["timeout"]) for p in command["probes"]]
                answer = await asyncio.gather(*probes)
            print(json.dumps(answer), flush=True)


async def agent():
    await Agent().run()


# ------------------------------------------------------------------------------------------------------ coordinator


class Place:
    """A namespace: a host, or a host of a LAN."""

    def __init__(self, enter):
        self.enter = enter
        self.process = subprocess.Popen(
            [*enter, sys.executable, __file__, "agent"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, **command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def heard(self):
        return json.loads(self.process.stdout.readline())

    def run(self, *command, **options):
        return subprocess.run([*self.enter, *command], capture_output=True, text=True, **options)


class End:
    """One address that packets come from and go to."""

    def __init__(self, place, device, address, bind):
        self.place, self.device, self.address, self.bind = place, device, address, bind


def toml_selector(selector):
    return '"any"' if selector == "any" else f'{{ {selector[0]} = "{selector[1]}" }}'


def random_mappings(rng, hubs, members, clients):
    """Port mappings as text: ports of hubs that lead to other members, open to some of the clients."""
    text = []
    everyone = [f"{address}/{32 if fam == 'v4' else 128}" for client in clients.values() for fam, address in client.items()]
    everyone += ["0.0.0.0/0", "::/0"]
    for hub in hubs:
        others = [name for name in members if name != hub]
        for protocol, port in MAPPED:
            if rng.random() < 0.3:
                continue
            sources = rng.sample(everyone, rng.randint(1, 3))
            text.append(
                f'[[networks.port_mappings]]\nname = "{hub}-{protocol}-{port}"\nhub = "{hub}"\nlisten_port = {port}\n'
                f'protocol = "{protocol}"\nto = {{ node = "{rng.choice(others)}" }}\ntarget_port = {rng.choice(PORTS)}\n'
                f"source_cidrs = {json.dumps(sources)}\nenabled = {json.dumps(rng.random() < 0.85)}\n"
            )
    return "".join(text)


def random_fleet(rng, network, hosts, clients):
    """A fleet as text, its members in the order in which they are to be applied, its hubs, and who has which LAN."""
    members = sorted(rng.sample(sorted(hosts), rng.randint(3, min(5, len(hosts)))))
    mesh = rng.random() < 0.4
    hubs = [] if mesh else rng.sample(members, 2 if len(members) > 3 and rng.random() < 0.3 else 1)
    dialable = {name for name in members if name in hubs or rng.random() < (0.6 if mesh else 0.3)}
    if mesh and not dialable:
        dialable = {members[0]}
    tags = {name: [tag for tag in ("red", "blue") if rng.random() < 0.5] for name in members}
    lans, lines = {}, []
    for name in members:
        subnets = [family for family in ("v4", "v6") if "lan" in hosts[name] and rng.random() < 0.5]
        lans[name] = subnets
        shown = ", ".join(f'{{ subnet = "{hosts[name]["lan"][s + "_net"]}", interface = "lan0" }}' for s in subnets)
        role = ', role = "hub"' if name in hubs else ""
        lines.append(f'  {{ node = "{name}"{role}, lans = [{shown}] }},')
    text = [f'format = 1\n[site]\nname = "site-a"\nprefix = "{SITE}::/48"\n']
    for number, name in enumerate(sorted(hosts), 1):
        endpoints = json.dumps([hosts[name]["v4"], hosts[name]["v6"]] if name in dialable else [])
        text.append(
            f'[[nodes]]\nname = "{name}"\npublic_key = "{hosts[name]["key"]}"\nhost_id = {number}\n'
            f'endpoints = {endpoints}\ntags = {json.dumps(tags.get(name, []))}\n'
        )
    topology = "full_mesh" if mesh else "hub_and_spoke"
    default = rng.choice(["drop", "drop", "accept"])
    text.append(
        f'[[networks]]\nname = "net"\nid = {network}\nrouting = "static"\ntopology = "{topology}"\n'
        f'default_action = "{default}"\nprefix_v4 = "100.64.{network}.0/24"\nmembers = [\n' + "\n".join(lines) + "\n]\n"
    )
    selectors = ["any", ("tag", "red"), ("tag", "blue"), ("cidr", f"100.64.{network}.0/30"), ("cidr", f"{SITE}:{network}::2/127")]
    selectors += [("node", name) for name in members] + [("lan_of", name) for name in members if lans[name]]
    selectors += [("cidr", hosts[name]["lan"]["v4"] + "/32") for name in members if "v4" in lans[name]]
    for number in range(rng.randint(1, 7)):
        protocol = rng.choice(["any", "tcp", "tcp", "udp", "icmp"])
        ports = rng.choice([None, ["7000"], ["7001"], ["6990-7000"]]) if protocol in ("tcp", "udp") else None
        text.append(
            f'[[networks.rules]]\nname = "rule-{number}"\npriority = {rng.choice([1, 10, 100])}\n'
            f"from = {toml_selector(rng.choice(selectors))}\nto = {toml_selector(rng.choice(selectors))}\n"
            f'protocol = "{protocol}"\naction = "{rng.choice(["accept", "accept", "accept", "drop", "reject"])}"\n'
            + (f"ports = {json.dumps(ports)}\n" if ports else "")
        )
    # Who can be called first: the others' first call then finds them ready.
    order = sorted(members, key=lambda name: name not in dialable)
    text.append(random_mappings(rng, hubs, members, clients))
    return "".join(text), order, hubs, lans


def shake_hands(places, deadline):
    """Waits until every peer of every link has shaken hands; answers those that haven't."""
    while True:
        silent = []
        for name, place in places.items():
            for line in place.run("wg", "show", "all", "latest-handshakes").stdout.splitlines():
                link, key, when = line.split()
                if when == "0":
                    silent.append(f"{name} {link} {key}")
        if not silent or time.monotonic() > deadline:
            return silent
        time.sleep(0.05)


def ends_of(network, order, lans, hosts, places, lan_places):
    numbers = {name: number for number, name in enumerate(sorted(hosts), 1)}
    ends = {"v4": [], "v6": []}
    device = f"sdwan-{network}"
    for name in order:
        for fam, address in (("v4", f"100.64.{network}.{numbers[name]}"), ("v6", f"{SITE}:{network}::{numbers[name]}")):
            ends[fam].append(End(places[name], device, address, address))
        for fam in lans[name]:
            ends[fam].append(End(lan_places[name], None, hosts[name]["lan"][fam], None))
    return ends


def from_underlay(hosts, hubs, clients, client_places):
    """Every client asks for every port that a hub may map."""
    return [
        (End(client_places[client], None, of_client[fam], None), End(None, None, hosts[hub][fam], None), kind, port)
        for client, of_client in clients.items()
        for fam in ("v4", "v6")
        for hub in hubs
        for kind, port in MAPPED
    ]


def observe(questions, timeout):
    """Whether each got through; all namespaces probe at the same time."""
    by_place = {}
    for at, (source, to, kind, port) in enumerate(questions):
        by_place.setdefault(id(source.place), (source, []))[1].append((at, [kind, source.bind, to.address, port]))
    for source, probes in by_place.values():
        source.place.tell(do="probe", device=source.device, timeout=timeout, probes=[probe for _, probe in probes])
    outcomes = [None] * len(questions)
    for source, probes in by_place.values():
        for (at, _), outcome in zip(probes, source.place.heard()):
            outcomes[at] = outcome
    return outcomes


def explained(binary, place, questions):
    lines = [f"{source.address} {to.address} {kind if kind == 'icmp' else f'{kind}/{port}'}" for source, to, kind, port in questions]
    asked = place.run(binary, "explain", "--from-fleet", "--json", "--questions", "-", input="\n".join(lines))
    if asked.returncode not in (0, 2):
        raise SystemExit(f"explain failed: {asked.stderr}{asked.stdout}")
    answers = json.loads(asked.stdout)
    assert len(answers) == len(questions)
    return lines, answers


def compare(args):
    hosts = json.loads(args.hosts)
    binary = os.environ["SDWAND_BIN"]
    places = {name: Place(["nsenter", "--target", str(host["pid"]), "--net", "--mount", "--"]) for name, host in hosts.items()}
    lan_places = {
        name: Place(["nsenter", f"--net=/run/netns/{host['lan']['ns']}", "--"]) for name, host in hosts.items() if "lan" in host
    }
    clients = json.loads(args.clients)
    client_places = {name: Place(["nsenter", f"--net=/run/netns/{name}", "--"]) for name in clients}
    for name, place in lan_places.items():
        place.tell(do="serve", device=None, addresses=[hosts[name]["lan"]["v4"], hosts[name]["lan"]["v6"]])
        place.heard()
    rng = random.Random(args.seed)
    total = wrong = allowed = mapped = 0
    for number in range(1, args.fleets + 1):
        text, order, hubs, lans = random_fleet(rng, number, hosts, clients)
        start = time.monotonic()
        for name in hosts:
            with open(f"{hosts[name]['etc']}/fleet.d/fleet.toml", "w") as file:
                file.write(text)
        for name in order:
            applied = places[name].run(binary, "apply")
            if applied.returncode:
                raise SystemExit(f"fleet {number}: apply on {name}: {applied.stderr}{applied.stdout}\n{text}")
        in_use = {name: places[name] for name in order}
        silent = shake_hands(in_use, time.monotonic() + 10 * SLOW)
        if silent:
            raise SystemExit(f"fleet {number}: no handshake: {silent}\n{text}")
        ends = ends_of(number, order, lans, hosts, places, lan_places)
        for place in in_use.values():
            own = [end for of_family in ends.values() for end in of_family if end.place is place]
            place.tell(do="serve", device=own[0].device, addresses=[end.address for end in own])
            place.heard()
        ready = time.monotonic()
        questions = [
            (source, to, kind, port)
            for fam in ("v4", "v6")
            for source in ends[fam]
            for to in ends[fam]
            if source is not to
            for kind, port in PROBES
        ]
        inside = len(questions)
        questions += from_underlay(hosts, hubs, clients, client_places)
        lines, answers = explained(binary, places[order[0]], questions)
        said = [answer["verdict"] == "allow" for answer in answers]
        seen = observe(questions, 0.5 * SLOW)
        for _ in range(2):  # a busy machine loses time, not packets
            late = [at for at, passed in enumerate(seen) if said[at] and not passed]
            for at, passed in zip(late, observe([questions[at] for at in late], 1.5 * SLOW)):
                seen[at] = passed
        differ = [at for at in range(len(questions)) if said[at] != seen[at]]
        total, wrong, allowed = total + len(questions), wrong + len(differ), allowed + sum(seen)
        mapped += sum(seen[inside:])
        took = f"{ready - start:.1f} s to apply, {time.monotonic() - ready:.1f} s to compare"
        print(f"fleet {number}: {len(order)} nodes, {len(questions)} comparisons, {sum(seen)} pass, {sum(seen[inside:])} of them by a port mapping, {len(differ)} differ ({took})", flush=True)
        if differ:
            print(text)
            for at in differ[:20]:
                print(f"{lines[at]}: explain says {answers[at]['verdict']} ({answers[at]['rule']}, {answers[at]['blocker']}), observed {seen[at]}")
    print(f"comparisons={total} pass={allowed} mapped={mapped} differ={wrong}")
    return 1 if wrong or not mapped or allowed == total else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["compare", "agent"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fleets", type=int, default=1)
    parser.add_argument("--hosts", default="{}")
    parser.add_argument("--clients", default="{}")
    args = parser.parse_args()
    if args.mode == "agent":
        asyncio.run(agent())
        return 0
    return compare(args)


if __name__ == "__main__":
    sys.exit(main())
