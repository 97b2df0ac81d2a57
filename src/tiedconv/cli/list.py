"""``tiedconv list``."""

from typing import Any

from rich.console import Console
from rich.table import Table

from ..metrics.counts import count
from ..models import create_model, list_models


def list_(filter: str = "*") -> None:
    """Print the models' names with their parameters and their multiply-adds for one image of the size they are for.

    Args:
        filter: shell-style pattern, such as "*50*".

    Raises:
        ValueError: if no name matches.
    """
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), caption="counted with 1,000 classes")
    table.add_column("model", no_wrap=True)
    for header in ("params", "MACs", "input"):
        table.add_column(header, justify="right", no_wrap=True)
    names = list_models(filter)
    if not names:
        raise ValueError(f"no model matches {filter!r}. `tiedconv list` without a filter prints all.")
    for name in names:
        model = create_model(name, num_classes=1000, device="meta")
        cfg: Any = model.default_cfg
        size = cfg["input_size"]
        counts = count(model, size)
        table.add_row(name, f"{counts.params / 1e6:.2f} M", f"{counts.macs / 1e6:.0f} M", "x".join(map(str, size)))
    Console(highlight=False).print(table)
