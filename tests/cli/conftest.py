"""Shared by the tests of the command line."""

import pytest
from tests.cli.trainings import train


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """:func:`tests.cli.trainings.train`, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return train
