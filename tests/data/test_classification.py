import pytest
import torch
from PIL import Image

from tiedconv.data import Digits


def test_predict_reads_a_folder_of_images_in_any_mode_and_size(tmp_path):
    (tmp_path / "sub").mkdir()
    Image.new("RGBA", (40, 30), "white").save(tmp_path / "b.png")
    Image.new("L", (8, 8), 0).save(tmp_path / "sub" / "a.jpg")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.warns(
        UserWarning, match=r"ImageFiles: 1 files of other suffixes \(1 \.txt: notes\.txt\) in .* not read"
    ):
        images, paths, _ = next(iter(Digits(predict_path=str(tmp_path)).predict_dataloader()))
    assert images.shape == (2, 1, 16, 16)
    assert [p.removeprefix(str(tmp_path)) for p in paths] == ["/b.png", "/sub/a.jpg"]
    assert images[0].mean() > 0 > images[1].mean()


def test_predict_reads_one_image(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "one.png")
    _, paths, _ = next(iter(Digits(predict_path=str(tmp_path / "one.png")).predict_dataloader()))
    assert paths == (str(tmp_path / "one.png"),)


def test_predict_takes_folders_with_an_images_name_and_linked_ones(tmp_path):
    root = tmp_path / "root"
    (root / "album.jpg").mkdir(parents=True)
    Image.new("L", (8, 8)).save(root / "album.jpg" / "a.png")
    (tmp_path / "photos").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "photos" / "b.png")
    (root / "linked").symlink_to("../photos")
    (tmp_path / "photos" / "back").symlink_to("../root")  # a loop
    _, paths, _ = next(iter(Digits(predict_path=str(root)).predict_dataloader()))
    assert [p.removeprefix(str(root)) for p in paths] == ["/album.jpg/a.png", "/linked/b.png"]


def test_predict_falls_back_to_the_validation_images():
    data = Digits(batch_size=4)
    images, numbers, _ = next(iter(data.predict_dataloader()))
    assert numbers == ("0", "1", "2", "3")
    assert torch.equal(images[2], data.split(train=False)[2][0])


def test_predict_says_when_there_is_no_image(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no image in .* Known suffixes: \.jpg"):
        Digits(predict_path=str(tmp_path)).predict_dataloader()
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        Digits(predict_path="nowhere").predict_dataloader()


def test_training_images_stop_at_their_number():
    batches = list(Digits(batch_size=100).training_images(250))
    assert [len(batch) for batch in batches] == [100, 100, 50]
    assert sum(map(len, Digits(batch_size=1000).training_images(5000))) == 1000  # the last, smaller batch is dropped
