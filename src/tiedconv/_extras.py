"""Optional dependencies: import them where they are used, and name the extra when one is missing."""

from importlib import import_module
from types import ModuleType


def require(module: str, *, extra: str) -> ModuleType:
    """Import ``module`` or say which extra installs it.

    Raises:
        ModuleNotFoundError: if the module is not installed, with the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise  # the module is there, something that it needs is not
        raise ModuleNotFoundError(
            f"tiedconv: {module} is needed here and not installed. Run: pip install 'tiedconv[{extra}]'",
            name=error.name,
        ) from None
