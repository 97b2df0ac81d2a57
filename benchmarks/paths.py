"""Time every way to compute a tied convolution, beside the dispatcher's choice and the dense convolution.

All candidates of a row run in turn, once a round, in one process, so that whatever slows the machine meets all of them.
Times are medians with half the interquartile range; `x` is dense time divided by that time. Each path includes putting
its output into the input's memory format, as `tied_conv2d` does.

    python benchmarks/paths.py --rounds 20 --threads 2 --json paths.json
"""

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from tiedconv import ops
from tiedconv.ops import _paths, layout
from tiedconv.ops._dispatch import choose
from tiedconv.ops._paths import ConvArgs

CASES = {  # name → channels, height and width, kernel; the narrow 3x3 are splits of TiedResNet-50
    "3x3, 64 ch, 56²": (64, 56, 3),
    "3x3, 256 ch, 14²": (256, 14, 3),
    "1x1, 256 ch, 56²": (256, 56, 1),
    "1x1, 1024 ch, 14²": (1024, 14, 1),
    "3x3, 32 ch, 56²": (32, 56, 3),
    "3x3, 128 ch, 14²": (128, 14, 3),
    "3x3, 256 ch, 7²": (256, 7, 3),
    "1x1, 2048 ch, 7²": (2048, 7, 1),
}
FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
CANDIDATES = ("dense", "view", "grouped", "depth", "matmul", "dispatched")


@dataclass(frozen=True)
class Row:
    """Times of one shape, in milliseconds a call on the whole batch."""

    case: str
    blocks: int
    memory_format: str
    chosen: str
    median_ms: dict[str, float]
    spread_ms: dict[str, float]


def candidates(x: Tensor, weight: Tensor, dense: Tensor, args: ConvArgs) -> dict[str, Callable[[], Tensor]]:
    padding, blocks = args.padding, args.blocks

    def run(path: _paths.Path) -> Callable[[], Tensor]:
        return lambda: layout.match_format(path(x, weight, None, args), like=x)

    return {
        "dense": lambda: F.conv2d(x, dense, None, 1, padding),
        **{name: run(path) for name, path in _paths.applicable(x, weight, args).items()},
        "dispatched": lambda: ops.tied_conv2d(x, weight, None, 1, padding, blocks=blocks),
    }


def measure(calls: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds of every call in every round, after one round that is not counted.

    The order changes with the round: a call that leaves the caches full would always be paid for by the same next one.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = random.Random(0)
    for i in range(rounds + 1):
        for name in order.sample(list(calls), len(calls)):
            start = time.perf_counter()
            calls[name]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if i:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def time_case(
    case: str, blocks: int, memory_format: str, *, batch: int, rounds: int, backward: bool, device: torch.device
) -> Row:
    channels, size, kernel = CASES[case]

    def random_tensor(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).contiguous(memory_format=FORMATS[memory_format])

    x = random_tensor(batch, channels, size, size)
    weight = random_tensor(channels // blocks, channels // blocks, kernel, kernel)
    dense = random_tensor(channels, channels, kernel, kernel)
    args = ConvArgs((1, 1), (kernel // 2,) * 2, (1, 1), 1, blocks)
    forward = candidates(
        x.requires_grad_(backward), weight.requires_grad_(backward), dense.requires_grad_(backward), args
    )
    gradient = torch.randn_like(x)  # in the format of the outputs, which have the input's shape here

    def step(name: str) -> Callable[[], object]:
        if not backward:
            return forward[name]
        return lambda: torch.autograd.grad(forward[name](), [x, dense if name == "dense" else weight], gradient)

    times = measure({name: step(name) for name in forward}, rounds, device)
    quartiles = {name: statistics.quantiles(t, n=4) for name, t in times.items()}
    return Row(
        case,
        blocks,
        memory_format,
        choose(x, weight, args).__name__,
        {name: statistics.median(t) for name, t in times.items()},
        {name: (q[2] - q[0]) / 2 for name, q in quartiles.items()},
    )


def tabulate(rows: list[Row], title: str) -> Table:
    table = Table(title=title, caption="ms (± half the interquartile range, x of dense); the fastest path is bold")
    for heading in ("case", "B", "format", *CANDIDATES, "chosen"):
        table.add_column(heading)
    for row in rows:
        fastest = min(row.median_ms.keys() - {"dense", "dispatched"}, key=row.median_ms.__getitem__)
        cells = []
        for name in CANDIDATES:
            if name not in row.median_ms:
                cells.append("-")
                continue
            ms = row.median_ms[name]
            cell = f"{ms:.2f} ±{row.spread_ms[name]:.2f}"
            if name != "dense":
                cell += f" {row.median_ms['dense'] / ms:.2f}x"
            cells.append(f"[bold]{cell}[/bold]" if name == fastest else cell)
        table.add_row(row.case, str(row.blocks), row.memory_format, *cells, row.chosen)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="how often each candidate runs, at least 2 (default 20)")
    parser.add_argument("--batch", type=int, default=8, help="images in a batch (default 8)")
    parser.add_argument("--blocks", type=int, nargs="+", default=[2, 4, 8], help="numbers of blocks (default 2 4 8)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own choice)")
    parser.add_argument(
        "--backward", action="store_true", help="time a forward and a backward pass, not only a forward"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the times there as well")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds must be at least 2, for a spread")
    if options.threads:
        torch.set_num_threads(options.threads)

    if options.device.type == "cuda":
        name = torch.cuda.get_device_name(options.device)
    else:
        name = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    machine = {
        "machine": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "batch": options.batch,
        "rounds": options.rounds,
        "pass": "forward and backward" if options.backward else "forward",
    }
    settings = {name: getattr(options, name) for name in ("batch", "rounds", "backward", "device")}
    with torch.set_grad_enabled(options.backward):
        rows = [
            time_case(case, blocks, memory_format, **settings)
            for case in CASES
            for blocks in options.blocks
            for memory_format in FORMATS
        ]
    # A row does not wrap when the output goes to a file.
    console = Console(width=None if Console().is_terminal else 200)
    console.print(tabulate(rows, ", ".join(f"{key} {value}" for key, value in machine.items())))
    if options.json:
        options.json.write_text(json.dumps({**machine, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
