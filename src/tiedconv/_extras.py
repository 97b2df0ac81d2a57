"""Optional dependencies: import them where they are used, and name the extra when one is missing."""

from importlib import import_module
from types import ModuleType

# What [train] installs and whole packages, `cli`, `data` and `tasks`, import at the top.
_TRAIN = {"filelock", "fsspec", "jsonargparse", "lightning", "PIL", "rich", "sklearn", "tensorboard", "torchmetrics"}


class MissingExtraError(ModuleNotFoundError):
    """A module is missing that one of the extras of this package installs."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"{module} is needed here and not installed. Run: pip install 'tiedconv[{extra}]'",
            name=module.partition(".")[0],
        )


def require(module: str, *, extra: str) -> ModuleType:
    """Import ``module`` or say which extra installs it.

    Raises:
        MissingExtraError: if the module is not installed, with the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise  # the module is there, something that it needs is not
        raise MissingExtraError(module, extra) from None


def naming_extra(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return the error of an import at the top of a module as one that names the extra, if ``train`` is missing."""
    return MissingExtraError(error.name, "train") if error.name in _TRAIN else error
