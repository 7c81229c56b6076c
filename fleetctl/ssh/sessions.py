"""One command or shell over an SSH connection: streams, terminal, exit status, agent forwarding."""

import os
import select
import signal
import socket
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import paramiko

from fleetctl import output
from fleetctl.errors import SshFailed
from fleetctl.ssh.channels import CHANNEL_ERRORS, CHUNK, close_channel, feed, splice
from fleetctl.ssh.connection import Connection
from fleetctl.terminal import measure

USUAL_TERMINAL = "xterm-256color"
SIGNALLED_STATUS = 255  # a command that ended without an exit status, by a signal

Sink = Callable[[bytes], None]


def to_stdout(data: bytes) -> None:
    output.write_to(sys.stdout.buffer, data)


def to_stderr(data: bytes) -> None:
    output.write_to(sys.stderr.buffer, data)


def run_command(
    connection: Connection,
    command: str,
    *,
    stdin: int | None = None,
    stdout: Sink = to_stdout,
    stderr: Sink = to_stderr,
    terminal: bool = False,
    forward_agent: bool = False,
) -> int:
    """Run a command ('' for the user's shell), pass on its output as it comes, and return its exit status.

    `stdin` is the file descriptor of its input, None for none. With `terminal`, it gets a terminal of our size, and
    ours is raw meanwhile. Raises SshFailed if the connection is lost.
    """
    channel = connection.open_session()
    try:
        if forward_agent:
            channel.request_forward_agent(partial(_join_to_agent, connection.agent_socket))
        if terminal:
            size = measure(sys.stdout)
            channel.get_pty(os.environ.get("TERM") or USUAL_TERMINAL, size.columns, size.lines)
        if command:
            channel.exec_command(command)
        else:
            channel.invoke_shell()
        with _raw(stdin) if terminal and stdin is not None else nullcontext(), _resizing(terminal) as resized:
            if stdin is None:
                channel.shutdown_write()
            else:
                threading.Thread(target=feed, args=(channel, stdin), daemon=True).start()
            _drain(channel, resized, stdout, stderr)
        status = channel.recv_exit_status()
    except CHANNEL_ERRORS as error:
        if connection.has_broken():
            raise connection.lost() from error
        raise SshFailed(f"{connection.where} did not let it run: {error}") from error
    finally:
        close_channel(channel)
    if status < 0 and connection.has_broken():
        raise connection.lost()
    return status if status >= 0 else SIGNALLED_STATUS


def _drain(channel: paramiko.Channel, resized: int, stdout: Sink, stderr: Sink) -> None:
    """Pass on output until it ends; follow changes of the terminal's size meanwhile."""
    while True:
        readable, _, _ = select.select([channel, resized], [], [])
        if resized in readable:
            os.read(resized, CHUNK)
            size = measure(sys.stdout)
            channel.resize_pty(size.columns, size.lines)
        # Asked before the buffers are read: all output before the end is in them now.
        has_ended = channel.eof_received or channel.closed
        if channel.recv_ready():
            stdout(channel.recv(CHUNK))
        elif channel.recv_stderr_ready():
            stderr(channel.recv_stderr(CHUNK))
        elif has_ended:
            return


@contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """Raw mode: every key goes to the other end, Ctrl-C too."""
    before = termios.tcgetattr(terminal)
    tty.setraw(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


@contextmanager
def _resizing(wanted: bool) -> Iterator[int]:
    """A pipe that becomes readable when our terminal's size changes.

    The signal handler only writes to it: it may interrupt code that holds a lock.
    """
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.signal(signal.SIGWINCH, lambda number, frame: _wake(writer)) if wanted else None
    try:
        yield reader
    finally:
        if wanted:
            signal.signal(signal.SIGWINCH, before)
        os.close(reader)
        os.close(writer)


def _wake(writer: int) -> None:
    try:
        os.write(writer, b"x")
    except BlockingIOError:
        return  # it is readable already


def _join_to_agent(agent_socket: str, channel: paramiko.Channel) -> None:
    """Connect a forwarded agent channel to our agent, without blocking the connection's thread."""
    threading.Thread(target=_serve_agent, args=(agent_socket, channel), daemon=True).start()


def _serve_agent(agent_socket: str, channel: paramiko.Channel) -> None:
    agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        agent.connect(agent_socket)
        splice(channel, agent)
    except OSError:
        agent.close()  # the other end sees a closed channel
    finally:
        close_channel(channel)
