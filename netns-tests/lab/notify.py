"""A service manager's ear (sd_notify(3)): each message that comes to the socket, a line: milliseconds, text."""
import os
import socket
import sys
import time

path, log = sys.argv[1:3]
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.bind(path)
os.chmod(path, 0o666)
with open(log, "w", buffering=1) as out:
    while True:
        told = manager.recv(4096).decode().replace("\n", " ")
        print(int(time.monotonic() * 1000), told, file=out)
