"""Models made of ordinary layers, tied, and tied ones made ordinary again."""

from .norms import recalibrate_norms_
from .released import from_released, released_order
from .report import LayerReport, TieReport
from .search import BlockSearch, search_blocks
from .tie import tie_
from .untie import untie_

__all__ = [
    "BlockSearch",
    "LayerReport",
    "TieReport",
    "from_released",
    "recalibrate_norms_",
    "released_order",
    "search_blocks",
    "tie_",
    "untie_",
]
