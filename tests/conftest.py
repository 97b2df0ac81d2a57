"""Settings that every test shares."""

import socket
from typing import Any

import pytest
import torch
from hypothesis import settings

# Examples are the same on every run, so that a red run can be repeated; `--hypothesis-profile=thorough` draws new ones.
settings.register_profile("default", deadline=None, max_examples=100, derandomize=True, database=None)
settings.register_profile("thorough", deadline=None, max_examples=1000, database=None)
settings.load_profile("default")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", 'slow: takes seconds; leave out with -m "not slow"')
    config.addinivalue_line("markers", "alone: needs a process without other tests, which it could crash")
    config.addinivalue_line("markers", "stress: takes minutes, or repeats at length what others show; `make stress`")
    # The tensors here are tiny: threads would cost more than they compute, and disturb the other pytest-xdist workers.
    torch.set_num_threads(1)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that connects to anything."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        pytest.fail("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
