import shlex

import pytest
from tests.data.test_cut_outs import draw_disc
from tests.data.test_scenes import annotations, contents

from tiedconv.cli.main import main
from tiedconv.data import Coco


@pytest.fixture
def line(tmp_path, monkeypatch):
    """A command that makes two scenes and one, of discs on a texture."""
    monkeypatch.chdir(tmp_path)
    for name in ("ant/1.png", "ant/2.png", "bee/1.png", "bee/2.png"):
        draw_disc(tmp_path / "cut" / name, (0, 200, 0))
    small = "--image_size 64 --min_size 12 --max_size 30 --max_objects 3"
    return shlex.split(f"scenes --objects cut --images 2 --val_images 1 {small} --output out")


def test_scenes_are_written_and_the_printed_command_reads_them(line, capsys):
    main(line)
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == "Scenes: 2 in out/train, 1 in out/val"
    assert "tiedconv fit --data Coco --data.root out --model.detector" in printed.out
    assert "drawing scenes" in printed.err
    data = Coco("out")
    assert data.classes == ["ant", "bee"]
    assert len(data.split(train=True)) == 2
    assert len(data.split(train=False)) == 1
    assert {record["file_name"] for record in annotations(data.root, "train")["images"]} == {"000000.jpg", "000001.jpg"}


def test_a_folder_that_is_not_empty_is_left_alone(line, tmp_path):
    main(line)
    before = contents(tmp_path)
    with pytest.raises(SystemExit, match=r"tiedconv scenes: write_scenes: out is not empty, it holds annotations\."):
        main(line)
    assert contents(tmp_path) == before


def test_a_mistake_of_an_option_ends_in_a_message(line):
    with pytest.raises(SystemExit, match=r"tiedconv scenes: SceneOptions: flip must be from 0 to 1, got 3\.0\."):
        main([*line, "--flip", "3"])
    with pytest.raises(SystemExit, match=r"tiedconv scenes: images must be at least 1, got 0\."):
        main([*line, "--images", "0"])
    with pytest.raises(SystemExit, match=r"tiedconv scenes: write_scenes: the name of the folder .* is empty\."):
        main([*line, "--output", ""])
