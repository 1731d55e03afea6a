#!/usr/bin/env python3
"""Sends one half of a UDP datagram, as an IP fragment, straight to an interface: past this host's own firewall.

fragment.py INTERFACE first|last FROM TO ID TEXT [ETHER]

Both halves of a datagram to port 7000 carry their own TEXT, at most 32 bytes; who sends which half doesn't matter to
whoever puts them together. ETHER is the next hop's address on an Ethernet; tunnels have none.
"""

import socket
import struct
import sys

HALF = 32


def text(which, words):
    return f"{which}-{words} ".encode().ljust(HALF, b".")


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF) or 0xFFFF


def udp(version, source, destination, first, last):
    length = 8 + 2 * HALF
    header = struct.pack("!HHHH", 5, 7000, length, 0)
    if version == 4:
        return header + first + last  # no checksum: the other half's text isn't known
    pseudo = source + destination + struct.pack("!IHBB", length, 0, 0, 17)
    return header[:6] + struct.pack("!H", checksum(pseudo + header + first + last)) + first + last


def main():
    interface, half, source, destination, ident, words = sys.argv[1:7]
    ether = bytes.fromhex(sys.argv[7].replace(":", "")) if len(sys.argv) > 7 else b""
    version = 6 if ":" in source else 4
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    ends = [socket.inet_pton(family, end) for end in (source, destination)]
    ident = int(ident)
    # In IPv6 the checksum covers both halves: whoever sends the first one names both.
    first, last = words.split("+") if "+" in words else (words, words)
    datagram = udp(version, *ends, text("first", first), text("last", last))
    cut = 8 + HALF
    part, offset, more = (datagram[:cut], 0, 1) if half == "first" else (datagram[cut:], cut, 0)
    if version == 4:
        flags = more << 13 | offset // 8
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(part), ident, flags, 64, 17, 0) + ends[0] + ends[1]
        packet = header[:10] + struct.pack("!H", checksum(header)) + header[12:] + part
    else:
        fragment = struct.pack("!BBHI", 17, 0, offset | more, ident)
        packet = struct.pack("!IHBB", 6 << 28, len(fragment) + len(part), 44, 64) + ends[0] + ends[1] + fragment + part
    protocol = 0x86DD if version == 6 else 0x0800
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sender:
        sender.sendto(packet, (interface, protocol, 0, 1, ether))


main()
