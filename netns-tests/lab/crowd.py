#!/usr/bin/env python3
"""Many TCP connections at once, for the netns tests of guards.

crowd.py COUNT SECONDS ADDR PORT

Opens COUNT connections, keeps them all open, says something on each that comes about, and prints how many heard the echo
within SECONDS.
"""

import errno
import selectors
import socket
import sys
import time


def main():
    count, seconds, address, port = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    poll = selectors.DefaultSelector()
    heard = 0
    for _ in range(count):
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        code = sock.connect_ex((address, port))
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, "connect")
        poll.register(sock, selectors.EVENT_WRITE)
    end = time.monotonic() + seconds
    while heard < count and (left := end - time.monotonic()) > 0:
        for key, events in poll.select(left):
            sock = key.fileobj
            try:
                if events & selectors.EVENT_WRITE:
                    sock.send(b"hello")
                    poll.modify(sock, selectors.EVENT_READ)
                elif sock.recv(64) == b"hello":
                    heard += 1
                    poll.unregister(sock)
                    kept.append(sock)
                else:
                    poll.unregister(sock)
            except OSError:
                poll.unregister(sock)
    print(heard)


kept = []
main()
