"""What Lightning and torch say in a training, in words that say what to do, and without those that no user needs."""

import errno
import logging
import math
import re
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

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
    """Hide what no user can act on, and turn what Lightning and torch raise in a training into what a user can act on.

    A thread that writes logs reports an OSError in one line without a trace: the training raises the same error.

    Args:
        advice: whether to leave the hints and notes of a single training.

    Raises:
        KeyboardInterrupt: for Ctrl-C and SIGTERM. Lightning turns both into exit codes, SIGTERM into that of success.
        RuntimeError: if a process that trains or loads images died, or memory ran out, with advice.
        OSError: if the disk is full, with advice.
    """
    logger = logging.getLogger("lightning.pytorch")
    notes = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level, hook = logger.level, threading.excepthook
    threading.excepthook = lambda failed: _print(failed) if issubclass(failed.exc_type, OSError) else hook(failed)
    notes.addFilter(_no_advertisement)
    try:
        with warnings.catch_warnings():
            for message in _NOISE if advice else _NOISE + _ADVICE:
                warnings.filterwarnings("ignore", message=message)
            if not advice:
                logger.setLevel(logging.WARNING)
            yield
    except SystemExit as stop:
        if isinstance(stop, SIGTERMException) or isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from stop
        raise
    except Exception as error:
        explained = _explained(error)
        if explained is None:
            raise
        raise explained from error
    finally:
        threading.excepthook = hook
        logger.setLevel(level)
        notes.removeFilter(_no_advertisement)


def check_finite(losses: Mapping[str, float], epoch: int) -> None:
    """Raise RuntimeError if a training has diverged: if one of ``losses`` is not finite.

    ``epoch`` counts from 0, as Lightning does, and the message from 1, as the lines of progress do.

    Example:
        >>> check_finite({"train/loss": 0.5}, epoch=3)
    """
    if all(map(math.isfinite, losses.values())):
        return
    listed = ", ".join(f"{name} {value}" for name, value in losses.items())
    raise RuntimeError(
        f"The training diverged in epoch {epoch + 1}: {listed}. "
        "Earlier checkpoints are kept. Lower the learning rate, warm up or clip gradients, in a new folder."
    )


def _no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For" not in record.getMessage()


def _print(failed: threading.ExceptHookArgs) -> None:
    name = failed.thread.name if failed.thread else "a thread"
    print(f"{name}: {failed.exc_value}", file=sys.stderr)


def _explained(error: Exception) -> Exception | None:
    """Return what to raise in place of ``error``, or None to raise it as it is."""
    first, _, rest = str(error).partition("\n")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return OSError(f"{error}. The disk is full. Make room and go on from the last checkpoint.")
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in first:
        return RuntimeError(f"{first} Make the batches smaller by data.batch_size, or use precision bf16-mixed.")
    if "gloo/transport" in first:
        return RuntimeError(
            f"Another process of this training ended or cannot be reached: {first} If it said why, that is above, or "
            "in the log of its machine. Start all of them again and go on from the last checkpoint."
        )
    if worker := re.match(r"Caught (\w+) in DataLoader worker process", first):
        # torch puts the whole trace into the message; it ends with what the process raised, in one line or more.
        kind, trace = worker[1], rest.rpartition("Traceback (most recent call last):")[2]
        message = re.split(rf"^(?:\S*\.)?{kind}(?:: |$)", trace, maxsplit=1, flags=re.MULTILINE)[-1].strip()
        if isinstance(error, OSError | RuntimeError | ValueError) and message:
            return RuntimeError(message)
        # Of other kinds the message alone, such as a key, says little.
        raised = f"{kind}: {message}" if message else kind
        return RuntimeError(
            f"A process that loads images raised {raised.rstrip('.')}. Set data.num_workers to 0 to see where."
        )
    if first.startswith("DataLoader worker"):
        return RuntimeError(
            f"{first.rstrip(' .')}. It loaded images; usually memory is short. Lower data.num_workers, or set it to "
            "0 to see what happens there, and go on from the last checkpoint."
        )
    return None
