"""Where the trainer's processes find each other: a file on one machine, an address where there are several."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import distributed

GET_ADDRESS = 0x8915
"""Linux's SIOCGIFADDR: the address of a network interface."""


@dataclass(frozen=True)
class Address:
    """Where a host answers."""

    host: str
    port: int


Meeting = Path | Address


class Host:
    """A store in this process that others reach at an address of this machine, and at no other of its addresses."""

    def __init__(self, host: str) -> None:
        listening = socket.create_server((host, 0))
        self.address = Address(host, listening.getsockname()[1])
        self._store = distributed.TCPStore(  # type: ignore[attr-defined]  # made in C++
            host, self.address.port, None, True, wait_for_workers=False, master_listen_fd=listening.detach()
        )


def open_store(meeting: Meeting | None, world_size: int) -> Any:
    """The store that torch's process groups start from; of a single process it is in its memory.

    torch's stores are made in C++ and have no types.
    """
    if meeting is None:
        return distributed.HashStore()  # type: ignore[attr-defined]
    if isinstance(meeting, Address):
        return distributed.TCPStore(meeting.host, meeting.port, None, False)  # type: ignore[attr-defined]
    return distributed.FileStore(str(meeting), world_size)  # type: ignore[attr-defined]


def interface_to(meeting: Meeting | None) -> str | None:
    """The network interface that the processes talk through: loopback where all are on this machine.

    None leaves the choice to gloo, where the interface of the way to the address cannot be found out.
    """
    names = [name for _, name in socket.if_nameindex()]
    if not isinstance(meeting, Address):
        return next((name for name in names if name in ("lo", "lo0")), None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect((meeting.host, meeting.port))  # sends nothing
        own = way.getsockname()[0]
    return next((name for name in names if _address_of(name) == own), None)


def _address_of(interface: str) -> str | None:
    """The IPv4 address of an interface, on Linux."""
    try:
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            asked = struct.pack("256s", interface.encode()[:15])
            return socket.inet_ntoa(fcntl.ioctl(any_socket.fileno(), GET_ADDRESS, asked)[20:24])
    except (ImportError, OSError):
        return None
