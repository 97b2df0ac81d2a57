import pytest

from tiedconv.cli.main import main
from tiedconv.data import Digits

FOLDER = "--data ImageFolder --data.root photos"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("fitt", "tiedconv: 'fitt' is not a subcommand. Did you mean 'fit'?"),
        ("train --epochs 3", "tiedconv: 'train' is not a subcommand. Did you mean 'fit'?"),
        ("fit", "tiedconv fit: fit needs --data and --model."),
        ("fit --data", "tiedconv fit: --data: expected one argument"),
        ("fit --data ImageFolder --model.model a", "tiedconv fit: ImageFolder needs --data.root."),
        ("fit --data ImageFoldr", "tiedconv fit: --data 'ImageFoldr' is not the name of a class. Did you mean ImageF"),
        ("fit --data Digits", "tiedconv fit: ClassificationTask needs --model.model."),
        ("fit --data /", "tiedconv fit: --data '/' is a folder. Name also what it holds, such as --data ImageFolder"),
        ("fit --data COCO", "tiedconv fit: --data 'COCO' is not the name of a class. Known are CIFAR10, "),
        ("fit --config none.yaml", "tiedconv fit: --config: File does not exist: "),
        (
            f"fit {FOLDER} --model resnet18",
            "tiedconv fit: --model is for a task, and 'resnet18' is not one. A network is ",
        ),
        ("fit --model.model resnet18", "tiedconv fit: give --data, such as --data ImageFolder --data.root photos."),
        (
            f"fit {FOLDER} --model.name resnet18",
            "Task: there is no option --model.name. It has --model.model, ",
        ),
        (f"fit {FOLDER} --model.modl resnet18", "Task: there is no option --model.modl. Did you mean --model.model?"),
        (
            f"fit {FOLDER} --model.optimization.rate 1",
            "optimization.rate. It has --model.optimization.optimizer,",
        ),
        (f"fit {FOLDER} --lr 0.1", "there is no option --lr. Did you mean --model.optimization.lr?"),
        (f"fit {FOLDER} --epochs 3", "no option --epochs. Did you mean --trainer.max_epochs or --trainer.min_epochs?"),
        (f"fit {FOLDER} --data.batchsize 3", "there is no option --data.batchsize. Did you mean --data.batch_size?"),
        (
            "fit --data Coco --data.workers 0",
            "Coco: there is no option --data.workers. Did you mean --data.num_workers?",
        ),
        (f"fit {FOLDER} --trainr.devices 1", "there is no option --trainr.devices. Did you mean --trainer.devices?"),
        (f"fit {FOLDER} --data.batch_size many", "tiedconv fit: --data.batch_size: expected int, got many"),
        (f"fit {FOLDER} --trainer.max_epochs x", "tiedconv fit: --trainer.max_epochs: expected int, got x"),
        (f"fit {FOLDER} --model.optimization.lr x", "tiedconv fit: --model.optimization.lr: expected float, got x"),
        (f"fit {FOLDER} --model.model a", "tiedconv fit: ImageFolder: photos/train is not a folder"),
        ("compare --model a", "tiedconv compare: there is no option --model. Did you mean --models?"),
        ("export", "tiedconv export: export needs --model and --output."),
        ("compare --models a --data Digits --budgt.epochs 3", "--budgt.epochs. Did you mean --budget.epochs?"),
        ("export --int9", "tiedconv export: there is no option --int9. Did you mean --int8?"),
        ("tie --model a --init b", "tiedconv tie: --init: expected one of 'project', 'data', 'random', got b"),
        ("tie --model a --blocks b", "tiedconv tie: --blocks: expected int; expected dict, got b"),
    ],
)
def test_a_mistake_ends_in_one_line_that_says_what_to_do(line, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    assert message in stop.value.code
    lines = stop.value.code.splitlines()
    assert lines[1:] in ([], ["(TIEDCONV_TRACEBACK=1 shows where it was raised)"])
    printed = capsys.readouterr()
    assert "usage" not in printed.out + printed.err


@pytest.mark.parametrize(
    ("data", "task"),
    [
        (["--data", "Digits"], "ClassificationTask"),
        ([f"--data={Digits.__module__}.Digits"], "ClassificationTask"),
        (["--data", "OcclusionScenes"], "DetectionTask"),
    ],
)
def test_the_task_follows_from_the_data(data, task, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", *data, "--print_config"])
    assert not stop.value.code
    assert f"class_path: tiedconv.tasks.{task}\n" in capsys.readouterr().out
