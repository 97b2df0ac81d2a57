"""Lightning without the messages that no user can act on."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ._faults import explained_faults

_NOISE = (
    ".*isinstance\\(treespec, LeafSpec\\)",  # Lightning calls what torch deprecates
    ".*recommended to use `self.log\\('lr'",  # the same on every device
    "Found .* module\\(s\\) in eval mode at the start of training",  # norms that are frozen on purpose
    "You're using the WeightAveraging callback with a model that overrides",  # ours overrides it for FSDP alone
)
_ADVICE = (
    ".*does not have many workers",
    ".*smaller than the logging interval",
    "Checkpoint directory .* exists and is not empty",
)


@contextmanager
def quiet_lightning(*, advice: bool) -> Iterator[None]:
    """Hide what no user can act on; with ``advice=False`` also the hints and notes of a single training.

    Raises:
        KeyboardInterrupt, RuntimeError, OSError: as :func:`explained_faults`.
    """
    logger = logging.getLogger("lightning.pytorch")
    notes = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    notes.addFilter(_no_advertisement)
    try:
        with explained_faults(), warnings.catch_warnings():
            for message in _NOISE if advice else _NOISE + _ADVICE:
                warnings.filterwarnings("ignore", message=message)
            if not advice:
                logger.setLevel(logging.WARNING)
            yield
    finally:
        logger.setLevel(level)
        notes.removeFilter(_no_advertisement)


def _no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For" not in record.getMessage()
