import copy
from typing import NamedTuple

import pytest
import torch
from tests.export.export_cases import EveryLayer, every_layer

from tiedconv.export import ExportedFile, to_onnx


class Exported(NamedTuple):
    """A model that was exported, a copy of it from before, and the file."""

    model: EveryLayer
    before: EveryLayer
    file: ExportedFile


@pytest.fixture(scope="session")  # the exporter takes seconds
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(0)
    model = every_layer().train().to(memory_format=torch.channels_last)
    before = copy.deepcopy(model)
    file = to_onnx(model, tmp_path_factory.mktemp("onnx") / "new" / "model.onnx", input_size=(4, 12, 10))
    return Exported(model, before, file)
