"""The layers of a model replaced by tied ones, and tied ones by ordinary ones."""

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
