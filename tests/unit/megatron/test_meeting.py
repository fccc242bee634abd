"""Where processes meet: at an address of this machine that is reached by its own interface alone."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from slimrl.megatron.meeting import Host, interface_to, open_store


def test_what_one_process_says_at_an_address_another_reads() -> None:
    host = Host("127.0.0.1")
    first, second = open_store(host.address, 2), open_store(host.address, 2)
    first.set("name", "value")
    assert second.get("name") == b"value"


def test_a_host_listens_on_its_address_alone() -> None:
    host = Host("127.0.0.1")
    with pytest.raises(OSError, match=r"refused|unreachable"):
        socket.create_connection(("127.0.0.2", host.address.port), timeout=5)


def test_processes_of_one_machine_talk_through_loopback(tmp_path: Path) -> None:
    names = {name for _, name in socket.if_nameindex()}
    assert {interface_to(tmp_path), interface_to(None), interface_to(Host("127.0.0.1").address)} <= {
        "lo",
        "lo0",
    } & names
