import platform
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

from tiedconv.bench.machine import check_device, describe_machine


def test_machine_is_described_in_text():
    machine = describe_machine()
    assert machine["torch"] == torch.__version__
    assert machine["threads"] == str(torch.get_num_threads())
    assert all(isinstance(value, str) and value for value in machine.values())
    assert describe_machine(packages=["onnxruntime"]) == {**machine, "onnxruntime": version("onnxruntime")}


def test_devices_that_times_can_be_taken_on(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(check_device(name)) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda:1"]
    with pytest.raises(ValueError, match=r"bench: device=cuda:2, but torch sees 2 CUDA devices here\. Take"):
        check_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "meta", ""])
def test_other_devices_are_refused(name):
    with pytest.raises(ValueError, match=f"bench: device must be cpu, cuda or cuda:<number>, got '{name}'"):
        check_device(name)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of other C libraries has no such switch")
def test_freed_memory_is_kept_for_the_next_tensor():
    program = """
import resource, torch
from tiedconv.bench.machine import keep_freed_memory
assert keep_freed_memory()
def faults():
    torch.ones(16 * 2**20)  # 64 MiB, 16384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
counts = [faults() for _ in range(6)]
print(min(later - earlier for earlier, later in zip(counts, counts[1:])))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 1000
