"""Models made of ordinary layers, tied, and tied ones made ordinary again."""

from .report import LayerReport, TieReport
from .tie import tie_
from .untie import untie_

__all__ = ["LayerReport", "TieReport", "tie_", "untie_"]
