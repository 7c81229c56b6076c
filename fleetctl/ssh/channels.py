"""Channels of an SSH connection: bytes between them and our sockets and files."""

import os
import socket
import threading
from contextlib import suppress

import paramiko

CHUNK = 65536
CHANNEL_ERRORS = (paramiko.SSHException, EOFError, OSError)
"""What the operations of a channel raise if it or its connection has ended."""


def close_channel(channel: paramiko.Channel) -> None:
    """Close a channel, ignoring errors if its connection has just ended."""
    with suppress(*CHANNEL_ERRORS):
        channel.close()


def feed(channel: paramiko.Channel, source: int) -> None:
    """Copy from a file descriptor until it or the channel ends; the other end of the channel sees that it ended."""
    with suppress(*CHANNEL_ERRORS):
        while data := os.read(source, CHUNK):
            channel.sendall(data)
        channel.shutdown_write()


def splice(channel: paramiko.Channel, stream: socket.socket) -> None:
    """Copy both ways between a channel and a socket until both have ended; closes the socket."""
    with stream:
        feeding = threading.Thread(target=feed, args=(channel, stream.fileno()), daemon=True)
        feeding.start()
        with suppress(*CHANNEL_ERRORS):
            while data := channel.recv(CHUNK):
                stream.sendall(data)
        with suppress(OSError):
            stream.shutdown(socket.SHUT_WR)
        feeding.join()
