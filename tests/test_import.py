import subprocess
import sys

import tiedconv


def test_import_registers_models_and_loads_no_library_of_an_extra() -> None:
    heavy = ("lightning", "pytorch_lightning", "matplotlib", "captum", "jsonargparse", "tensorboard", "sklearn")
    heavy += ("faster_coco_eval", "pycocotools")
    code = (
        "import sys, timm, tiedconv, tiedconv.analysis, tiedconv.report.plots\n"
        "timm.create_model('tiedresnet50', device='meta')\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, "[]"), run.stderr


def test_public_names_are_there() -> None:
    assert {"create_model", "list_models", "models", "nn", "ops", "__version__"} <= set(tiedconv.__all__)
    assert all(hasattr(tiedconv, name) for name in tiedconv.__all__)
    assert sorted(tiedconv.__all__) == tiedconv.__all__
