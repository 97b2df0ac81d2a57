"""Cells of the reports' tables."""

from ..report.page import thousands
from .results import Quartiles


def spread(spread: Quartiles | None) -> str:
    """Return a median with its quartiles below."""
    if spread is None:
        return "–"
    median, q1, q3 = (
        thousands(value) if value >= 100 else f"{value:.1f}" for value in (spread.median, spread.q1, spread.q3)
    )
    return f"{median}<small>{q1}–{q3}</small>"
