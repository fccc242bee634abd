"""A cluster that is not there is told at once."""

from __future__ import annotations

import socket

import pytest

from slimrl.cluster.ray_session import ray_session
from slimrl.errors import UsageError


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_an_address_at_which_nobody_listens_is_refused_at_once(prefix: str) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else takes the port
        taken.bind(("127.0.0.1", 0))
        address = f"{prefix}127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(UsageError, match=rf"--ray-address {address}: no Ray cluster answers there .*refused"),
            ray_session(address, num_threads=1),
        ):
            pass


def test_an_address_whose_port_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="--ray-address host:port: no Ray"), ray_session("host:port", num_threads=1):
        pass
