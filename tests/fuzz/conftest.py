"""Counts the fuzz cases. ``TIEDCONV_FUZZ`` is the profile: "ci", the default, or "nightly", what ``make fuzz`` runs."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.fuzz import cases

_counts: dict[str, int] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-minimum", type=int, default=0, help="fail if fewer fuzz cases than this ran")


@pytest.fixture(autouse=True)
def _count(request: pytest.FixtureRequest) -> Iterator[None]:
    cases.RAN.clear()
    yield
    # With the report of the test, which pytest-xdist brings from its workers too.
    request.node.user_properties.append(("fuzz cases", sum(cases.RAN.values())))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    count = dict(report.user_properties).get("fuzz cases")
    if report.when == "teardown" and isinstance(count, int):
        area = report.nodeid.partition("::")[0].rpartition("/")[2].removeprefix("test_").removesuffix(".py")
        _counts[area] = _counts.get(area, 0) + count


def pytest_sessionfinish(session: pytest.Session) -> None:
    if sum(_counts.values()) < session.config.getoption("--fuzz-minimum", default=0):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _counts:
        minimum = terminalreporter.config.getoption("--fuzz-minimum", default=0)
        listed = ", ".join(f"{area} {count}" for area, count in sorted(_counts.items()))
        wanted = f", at least {minimum} wanted" if minimum else ""
        terminalreporter.write_line(
            f'fuzz cases, profile "{cases.PROFILE}": {sum(_counts.values())} ({listed}){wanted}'
        )
