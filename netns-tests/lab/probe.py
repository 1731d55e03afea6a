#!/usr/bin/env python3
"""Sockets for the netns tests: echo servers, one-shot clients with an exact outcome, a steady flow.

probe.py serve [--device DEV] [--log FILE] SPEC...
probe.py ask   [--device DEV] [--source ADDR] [--transparent] [--timeout S] [--payload TEXT] SPEC...
probe.py flow  [--device DEV] [--source ADDR] --log FILE SPEC

SPEC is tcp,ADDR,PORT or udp,ADDR,PORT.
--device binds to an interface or VRF (SO_BINDTODEVICE); --transparent allows a source that isn't ours.
"""

import argparse
import errno
import os
import selectors
import socket
import sys
import threading
import time

IP_TRANSPARENT = 19
IPV6_TRANSPARENT = 75
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
OUTCOMES = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
}


def parse(spec):
    kind, address, port = spec.split(",")
    return kind, address, int(port)


def make(kind, address, args):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, KINDS[kind])
    if args.device:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, args.device.encode())
    return sock


def serve(args):
    poll = selectors.DefaultSelector()
    log = open(args.log, "a", buffering=1) if args.log else sys.stderr

    def accept(listener):
        sock, _ = listener.accept()
        poll.register(sock, selectors.EVENT_READ, echo_stream)

    def echo_stream(sock):
        try:
            data = sock.recv(65536)
            if data:
                log.write(f"tcp {data.decode(errors='replace')}\n")
                sock.sendall(data)
                return
        except OSError:
            pass
        poll.unregister(sock)
        sock.close()

    def echo_datagram(sock):
        data, peer = sock.recvfrom(65536)
        log.write(f"udp from {peer[0]} {data.decode(errors='replace')}\n")
        try:
            sock.sendto(data, peer)
        except OSError as error:  # no way back to a spoofed source
            log.write(f"udp no answer to {peer[0]}: {error}\n")

    for spec in args.specs:
        kind, address, port = parse(spec)
        everywhere = address == "*"
        address = "::" if everywhere else address
        sock = make(kind, address, args)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if everywhere else 1)
        sock.bind((address, port))
        if kind == "tcp":
            sock.listen(64)
        poll.register(sock, selectors.EVENT_READ, accept if kind == "tcp" else echo_datagram)
    print("ready", flush=True)
    while True:
        for key, _ in poll.select():
            key.data(key.fileobj)


def connect(spec, args):
    kind, address, port = parse(spec)
    sock = make(kind, address, args)
    if args.source:
        if getattr(args, "transparent", False):
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
        if args.source_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((args.source, args.source_port))
    sock.settimeout(args.timeout)
    sock.connect((address, port))
    return kind, sock


def outcome(spec, args):
    payload = args.payload.encode()
    try:
        kind, sock = connect(spec, args)
        with sock:
            tries = 1 if kind == "tcp" else 2
            for attempt in range(tries):
                try:
                    sock.send(payload)
                    return "ok" if sock.recv(65536) == payload else "garbled"
                except TimeoutError:
                    if attempt + 1 == tries:
                        raise
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return OUTCOMES.get(error.errno, f"error: {error}")


def ask(args):
    results = {}
    threads = [
        threading.Thread(target=lambda s=spec: results.__setitem__(s, outcome(s, args)))
        for spec in args.specs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for spec in args.specs:
        print(results[spec] if len(args.specs) == 1 else f"{spec} {results[spec]}")
    return 0 if all(result == "ok" for result in results.values()) else 1


def flow(args):
    _, sock = connect(args.specs[0], args)
    sock.settimeout(None)
    count = 0
    while True:
        message = f"flow {count}".encode()
        sock.sendall(message)
        if sock.recv(65536) != message:
            raise SystemExit("the flow's echo is garbled or over")
        count += 1
        with open(args.log + ".new", "w") as file:
            file.write(f"{count}\n")
        os.rename(args.log + ".new", args.log)
        time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["serve", "ask", "flow"])
    parser.add_argument("--device")
    parser.add_argument("--source")
    parser.add_argument("--source-port", type=int, default=0)  # of --source
    parser.add_argument("--transparent", action="store_true")
    parser.add_argument("--timeout", type=float, default=1.0)
    parser.add_argument("--payload", default="hello")
    parser.add_argument("--log")
    parser.add_argument("specs", nargs="+")
    args = parser.parse_args()
    return {"serve": serve, "ask": ask, "flow": flow}[args.mode](args)


if __name__ == "__main__":
    sys.exit(main())
