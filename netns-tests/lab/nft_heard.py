#!/usr/bin/env python3
"""Prints a line for each event of nftables in this network namespace (NFNLGRP_NFTABLES): its kind and its table.

`nft monitor` reads the whole ruleset before it listens, which with 10,000 rules takes minutes.
"""

import socket
import struct

NETLINK_NETFILTER, GROUP_NFTABLES = 12, 7
NEW_GENERATION = 15

heard = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
heard.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
heard.bind((0, 1 << (GROUP_NFTABLES - 1)))
while True:
    # Lost events are an error (ENOBUFS), which ends this: nobody takes silence for nothing.
    data = heard.recv(1 << 20)
    while data:
        length, kind = struct.unpack("=IH", data[:6])
        # Each transaction ends with its generation: what is in it came before.
        if kind & 0xFF != NEW_GENERATION:
            # The first attribute of every message that names a table (NFTA_*_TABLE), behind two headers.
            end = 20 + struct.unpack("=H", data[20:22])[0]
            print(kind & 0xFF, data[24:end].rstrip(b"\0").decode(errors="replace"), flush=True)
        data = data[(length + 3) & ~3 :]
