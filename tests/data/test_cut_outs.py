"""Scenes of one's own cut-outs and photographs."""

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_masks
from tests.data.test_scenes import annotations, contents

from tiedconv.analysis import occlusion_ratios
from tiedconv.data import OcclusionScenes, SceneOptions
from tiedconv.data._compose import outlines
from tiedconv.data.scenes import write_scenes

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

GREY = 128  # the photographs


def draw_disc(path, colour, size=60, margin=10):
    """Save a disc with transparent margins."""
    image = Image.new("RGBA", (size + 2 * margin,) * 2)
    ImageDraw.Draw(image).ellipse([margin, margin, margin + size - 1, margin + size - 1], (*colour, 255))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def options(tmp_path):
    """Small scenes of 5 red and 5 blue discs, each of a shade of its own, on grey photographs."""
    for shade in range(5):
        draw_disc(tmp_path / "cut" / "red" / f"{shade}.png", (250 - 10 * shade, 0, 0))
        draw_disc(tmp_path / "cut" / "blue" / "more" / f"{shade}.png", (0, 0, 250 - 10 * shade))
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.png"):
        Image.new("RGB", (150, 110), (GREY,) * 3).save(tmp_path / "photos" / name)
    return SceneOptions(
        objects=str(tmp_path / "cut"),
        backgrounds=str(tmp_path / "photos"),
        image_size=96,
        train_images=6,
        val_images=4,
        min_size=20,
        max_size=30,
        max_overlap=0.5,
        noise=0,
    )


def scenes_of(root, part):
    """Of every scene: its pixels, and its annotations with their visible masks."""
    found = annotations(root, part)
    for record in found["images"]:
        with Image.open(root / part / record["file_name"]) as image:
            pixels = np.asarray(image)
        of_image = [a for a in found["annotations"] if a["image_id"] == record["id"]]
        yield pixels, [(a, coco_masks.decode(a["segmentation"]).astype(bool)) for a in of_image]


def shades(root, part):
    """The usual colour of every object of which much is visible."""
    found = set()
    for pixels, objects in scenes_of(root, part):
        found |= {tuple(np.median(pixels[mask], 0).tolist()) for _, mask in objects if mask.sum() > 150}
    return found


def test_masks_and_names_are_of_what_was_pasted(options, tmp_path):
    write_scenes(tmp_path / "out", options)
    found = annotations(tmp_path / "out", "train")
    assert [(c["id"], c["name"]) for c in found["categories"]] == [(1, "blue"), (2, "red")]
    for pixels, objects in scenes_of(tmp_path / "out", "train"):
        assert 2 <= len(objects) <= 5
        coloured = np.zeros((96, 96), dtype=bool)
        for annotation, mask in objects:
            channel = {1: 2, 2: 0}[annotation["category_id"]]
            assert np.median(pixels[mask][:, channel]) > 200
            assert np.median(pixels[mask][:, 1]) == 0
            coloured |= mask
        differs = (np.abs(pixels.astype(int) - GREY) > 70).any(-1)  # half of a soft edge
        assert (differs & ~coloured).sum() <= 0.02 * coloured.sum()
        assert (coloured & ~differs).sum() <= 0.02 * coloured.sum()


def test_objects_have_the_size_that_was_asked_for(options, tmp_path):
    write_scenes(tmp_path / "out", dataclasses.replace(options, max_overlap=0, min_visible=1, rotation=180, flip=0.5))
    boxes = [a["bbox"] for a in annotations(tmp_path / "out", "train")["annotations"]]
    sides = np.array([box[2:] for box in boxes])
    assert sides.min() >= 19
    assert sides.max() <= 30
    assert len(np.unique(sides)) > 4


@pytest.mark.parametrize(("rotation", "flip"), [(0, 0), (0, 1), (20, 0)])
def test_objects_are_turned_and_mirrored(rotation, flip, options, tmp_path):
    """Of a bar, black in its left half."""
    shutil.rmtree(options.objects)
    bar = Image.new("RGBA", (100, 30))
    ImageDraw.Draw(bar).rectangle([10, 10, 89, 19], (255, 255, 255, 255))
    ImageDraw.Draw(bar).rectangle([10, 10, 49, 19], (0, 0, 0, 255))
    (tmp_path / "cut" / "bar").mkdir(parents=True)
    bar.save(tmp_path / "cut" / "bar" / "bar.png")
    options = dataclasses.replace(options, val_share=0, min_size=40, max_size=40, rotation=rotation, flip=flip)
    write_scenes(tmp_path / "out", dataclasses.replace(options, max_overlap=0, min_visible=1))
    angles = []
    for pixels, objects in scenes_of(tmp_path / "out", "train"):
        for _, mask in objects:
            rows, columns = np.nonzero(mask)
            dark = pixels[mask][:, 0] < 100
            assert (columns[dark].mean() < columns[~dark].mean()) == (not flip)
            angles.append(np.degrees(np.arctan(np.polyfit(columns, rows, 1)[0])))
    assert np.abs(angles).max() <= rotation + 1
    assert np.ptp(angles) >= 0.8 * rotation


def test_the_number_of_workers_does_not_matter(options, tmp_path):
    options = dataclasses.replace(options, rotation=20, flip=0.5, file_type="jpg")
    finished = []
    write_scenes(tmp_path / "one", options, 1, lambda done, total: finished.append((done, total)))
    write_scenes(tmp_path / "many", options, 7)
    assert contents(tmp_path / "one") == contents(tmp_path / "many")
    assert finished == [(i, 10) for i in range(11)]
    with pytest.raises(ValueError, match=r"write_scenes: workers must be at least 1, got 0\."):
        write_scenes(tmp_path / "none", options, 0)


def test_splits_share_no_cut_out_and_keep_them_for_any_seed(options, tmp_path):
    options = dataclasses.replace(options, val_share=0.4, train_images=20, val_images=20)
    seen = {}
    for seed in (0, 1):
        write_scenes(tmp_path / str(seed), dataclasses.replace(options, seed=seed))
        for part in ("train", "val"):
            seen[part, seed] = shades(tmp_path / str(seed), part)
    assert len(seen["train", 0]) == 6
    assert len(seen["val", 0]) == 4
    assert not seen["train", 0] & seen["val", 0]
    assert seen["train", 0] == seen["train", 1]
    write_scenes(tmp_path / "all", dataclasses.replace(options, val_share=0))
    assert len(shades(tmp_path / "all", "train")) == len(shades(tmp_path / "all", "val")) == 10


def test_polygons_are_the_outlines_of_the_masks(options, tmp_path):
    """An object that a bar divides has two, and pycocotools fills them as the mask is."""
    write_scenes(tmp_path / "rle", options)
    write_scenes(tmp_path / "polygons", dataclasses.replace(options, mask_format="polygons"))
    for part in ("train", "val"):
        expected, found = (annotations(tmp_path / name, part)["annotations"] for name in ("rle", "polygons"))
        for one, other in zip(expected, found, strict=True):
            assert {k: v for k, v in one.items() if "seg" not in k} == {
                k: v for k, v in other.items() if "seg" not in k
            }
            for key in ("segmentation", "amodal_segmentation"):
                filled = coco_masks.merge(coco_masks.frPyObjects(other[key], 96, 96))
                assert coco_masks.iou([filled], [one[key]], [0]).item() > 0.93
    mask = np.zeros((9, 12), dtype=bool)
    mask[0:4, 0:5] = mask[6:9, 2:12] = True
    mask[1, 1] = False
    corners = [[x, y] for polygon in outlines(mask) for x, y in np.reshape(polygon, (-1, 2)).tolist()]
    assert len(outlines(mask)) == 2
    assert np.min(corners, 0).tolist() == [0, 0]
    assert np.max(corners, 0).tolist() == [12, 9]
    assert len(corners) == 16  # of either rectangle the four corners, each cut


def test_a_single_cut_out_is_in_both_splits_and_said_so(options, tmp_path):
    draw_disc(tmp_path / "cut" / "green" / "only.png", (0, 250, 0))
    with pytest.warns(UserWarning, match=r"a single cut-out have it in both splits: green, 1 in all\. Add"):
        write_scenes(tmp_path / "out", options)
    for part in ("train", "val"):
        assert 2 in {a["category_id"] for a in annotations(tmp_path / "out", part)["annotations"]}


def test_a_single_photograph_is_in_both_splits_and_said_so(options, tmp_path):
    """A link is another name of it, and no second one."""
    (tmp_path / "photos" / "b.png").unlink()
    (tmp_path / "photos" / "b.jpg").symlink_to("a.jpg")
    with pytest.warns(UserWarning, match=r"write_scenes: .*photos has a single photograph, which is in both splits\."):
        write_scenes(tmp_path / "out", options)


def test_splits_share_no_cut_out_by_a_link(options, tmp_path):
    for number in range(8):
        (tmp_path / "cut" / "red" / f"link{number}.png").symlink_to(f"{number % 5}.png")
    write_scenes(tmp_path / "out", dataclasses.replace(options, train_images=20, val_images=20, val_share=0.4))
    train, val = (shades(tmp_path / "out", part) for part in ("train", "val"))
    assert len(train) == 6
    assert len(val) == 4
    assert not train & val


def test_pictures_that_were_changed_are_read_again(options, tmp_path, monkeypatch):
    """Also those of another folder by the same name."""
    monkeypatch.chdir(tmp_path)
    options = dataclasses.replace(options, objects="cut")
    write_scenes("one", options)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    shutil.copytree(tmp_path / "cut", "cut")
    for name in ("red", "blue/more"):
        for shade in range(5):
            draw_disc(tmp_path / "other" / "cut" / name / f"{shade}.png", (0, 250, 0))
    write_scenes("two", options)
    assert shades(tmp_path / "one", "train") != {(0, 250, 0)}
    assert shades(tmp_path / "other" / "two", "train") == {(0, 250, 0)}


def test_paths_are_taken_and_one_spelling_of_them_is_the_other(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = dataclasses.replace(options, objects=tmp_path / "cut", backgrounds=tmp_path / "photos")
    assert paths == options
    assert dataclasses.replace(options, objects="./cut/") == dataclasses.replace(options, objects="cut")
    write_scenes("out", paths)
    assert len(annotations(tmp_path / "out", "train")["images"]) == 6


@pytest.mark.parametrize("place", ["cut/out", "photos/out"])
def test_scenes_among_what_they_are_made_of_are_refused(place, options, tmp_path):
    with pytest.raises(ValueError, match=rf"write_scenes: .*{place} lies in .*, from which .* a folder outside"):
        write_scenes(tmp_path / place, options)
    assert not (tmp_path / place).exists()


@pytest.mark.parametrize(("place", "reason"), [("file", "Not a directory"), ("file/out", ".*")])
def test_a_folder_that_cannot_be_made_is_named(place, reason, options, tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ValueError, match=rf"write_scenes: cannot write to .*{place}: {reason}\. Choose another folder"):
        write_scenes(tmp_path / place, options)
    with pytest.raises(ValueError, match=r"write_scenes: the name of the folder for the scenes is empty\. Choose one"):
        write_scenes("", options)


def test_classes_are_equally_frequent_however_many_cut_outs_they_have(options, tmp_path):
    for shade in range(40):
        draw_disc(tmp_path / "cut" / "red" / f"more{shade}.png", (200, 0, shade))
    write_scenes(tmp_path / "out", dataclasses.replace(options, train_images=60, min_objects=4))
    found = [a["category_id"] for a in annotations(tmp_path / "out", "train")["annotations"]]
    assert np.mean(np.equal(found, 1)) == pytest.approx(0.5, abs=0.12)


def test_enough_of_every_object_is_visible_even_in_a_crowd(options, tmp_path):
    crowd = dataclasses.replace(options, min_objects=8, max_objects=8, min_size=48, max_size=60, max_overlap=0.9)
    write_scenes(tmp_path / "out", dataclasses.replace(crowd, min_visible=0.5))
    found = annotations(tmp_path / "out", "train")
    assert len(found["annotations"]) < 8 * 6
    for a in found["annotations"]:
        share = coco_masks.area(a["segmentation"]) / coco_masks.area(a["amodal_segmentation"])
        assert a["visible_fraction"] == pytest.approx(share, abs=1e-4)
        assert share >= 0.5
    ratios = occlusion_ratios(found, "amodal")
    assert [image["occlusion_ratio"] for image in found["images"]] == pytest.approx(list(ratios.values()), abs=1e-4)
    assert max(ratios.values()) > 0.2


@pytest.mark.parametrize("name", ["grey.png", "palette.png", "palette.webp"])
def test_other_kinds_of_transparent_pictures_are_read(name, options, tmp_path):
    shutil.rmtree(options.objects)
    draw_disc(tmp_path / "cut" / "red" / name, (250, 250, 250))
    with Image.open(tmp_path / "cut" / "red" / name) as image:
        other = image.convert("LA") if name == "grey.png" else image.quantize(4)
    other.save(tmp_path / "cut" / "red" / name)
    write_scenes(tmp_path / "out", dataclasses.replace(options, val_share=0, max_overlap=0, min_visible=1))
    for pixels, objects in scenes_of(tmp_path / "out", "train"):
        for annotation, mask in objects:
            assert mask.sum() == pytest.approx(np.pi / 4 * np.prod(annotation["bbox"][2:]), rel=0.05)
            assert np.median(pixels[mask]) > 240


def test_translucent_objects_have_masks(options, tmp_path):
    shutil.rmtree(options.objects)
    (tmp_path / "cut" / "faint").mkdir(parents=True)
    faint = Image.new("RGBA", (300, 300))
    ImageDraw.Draw(faint).line([20, 20, 280, 200], (255, 0, 0, 60), width=12)
    faint.putpixel((299, 0), (0, 0, 0, 2))  # a speck that a program left
    faint.save(tmp_path / "cut" / "faint" / "a.png")
    write_scenes(tmp_path / "out", dataclasses.replace(options, val_share=0))
    sides = [max(a["bbox"][2:]) for a in annotations(tmp_path / "out", "train")["annotations"]]
    assert min(sides) >= 18


def test_finished_scenes_need_their_objects_no_more(options, tmp_path):
    data = OcclusionScenes(str(tmp_path / "out"), options)
    assert data.classes == ["blue", "red"]
    data.prepare_data()
    shutil.rmtree(options.objects)
    data = OcclusionScenes(str(tmp_path / "out"), options, num_workers=0)
    data.prepare_data()
    assert data.classes == ["blue", "red"]
    data.setup("fit")
    images, targets = next(iter(data.train_dataloader()))
    assert images[0].shape == (3, 96, 96)
    assert set(torch_labels(targets)) <= {1, 2}


def torch_labels(targets):
    return [label for target in targets for label in target["labels"].tolist()]


def _damage(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def _opaque(folder):
    Image.new("RGB", (30, 30), "red").save(folder / "cut" / "red" / "9.jpg")


def _invisible(folder):
    Image.new("RGBA", (30, 30)).save(folder / "cut" / "red" / "9.png")


def _speck(folder):
    image = Image.new("RGBA", (50, 50), (255, 0, 0, 0))
    image.putpixel((20, 20), (255, 0, 0, 1))
    image.save(folder / "cut" / "red" / "9.png")


def _far_specks(folder):
    image = Image.new("RGBA", (900, 900), (255, 0, 0, 0))
    for place in (0, 899):
        image.putpixel((place, place), (255, 0, 0, 255))
    image.save(folder / "cut" / "red" / "9.png")


def _of_32_bits(folder):
    Image.new("F", (120, 120)).save(folder / "photos" / "c.tif")


def _nearly_constant(folder):
    pixels = np.linspace(1000, 1031, 120 * 120).reshape(120, 120).astype(np.uint16)
    Image.fromarray(pixels).save(folder / "photos" / "c.png")


def _small(folder):
    Image.new("RGB", (300, 95)).save(folder / "photos" / "c.png")


def _noisy_photo(folder, name):
    noise = np.random.default_rng(0).integers(0, 255, (120, 120, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "photos" / name)
    _damage(folder / "photos" / name)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda f: _damage(f / "cut" / "red" / "1.png"), OSError, r"red/1\.png cannot be read as an image: .* Replace"),
        (_opaque, ValueError, r"red/9\.jpg has no transparent pixel: .* Cut the object out and save it as PNG"),
        (_invisible, ValueError, r"red/9\.png is barely visible: .* opacity is 0 of 255, and 26 is needed\. Take"),
        (_speck, ValueError, r"red/9\.png is barely visible: at 20 pixels its highest opacity is 1 of 255"),
        (_far_specks, ValueError, r"red/9\.png is barely visible: at 20 pixels its highest opacity is 0 of 255"),
        (lambda f: (f / "cut" / "dog").mkdir(), FileNotFoundError, r"cut hold no image of their own: dog\. Put images"),
        (
            lambda f: (f / "cut" / "blue" / "link").symlink_to("../red"),
            FileNotFoundError,
            r"hold no image of their own: red\. .* or links in other classes that lead to them",
        ),
        (
            lambda f: (f / "cut" / "red" / "9.png").symlink_to("../blue/more/1.png"),
            ValueError,
            r"that links put in two classes: .*red/9\.png, 1 in all\. Remove the links",
        ),
        (_of_32_bits, OSError, r"photos/c\.tif cannot be read as an image: it has 32 bits"),
        (_nearly_constant, OSError, r"photos/c\.png cannot be read as an image: its values lie so near"),
        (lambda f: shutil.rmtree(f / "cut"), FileNotFoundError, r"objects must be digits, .*; '.*cut' is not a folder"),
        (
            _small,
            ValueError,
            r"c\.png is 300 x 95 pixels, too small for scenes of 96 x 96\. .* image_size to at most 95",
        ),
        (lambda f: _noisy_photo(f, "c.jpg"), OSError, r"photos/c\.jpg cannot be read as an image"),
        (lambda f: _noisy_photo(f, "c.png"), OSError, r"photos/c\.png cannot be read as an image"),
        (lambda f: shutil.rmtree(f / "photos"), FileNotFoundError, r"backgrounds must be a folder of photographs;"),
    ],
)
def test_what_cannot_be_used_is_named_before_anything_is_written(spoil, error, message, options, tmp_path):
    spoil(tmp_path)
    with pytest.raises(error, match=message):
        write_scenes(tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_classes_says_how_they_are_laid_out(options, tmp_path):
    flat = dataclasses.replace(options, objects=str(tmp_path / "cut" / "red"))
    with pytest.raises(
        FileNotFoundError, match=r"red holds no folders\. Move its pictures to .*red/<class>, one folder"
    ):
        write_scenes(tmp_path / "out", flat)
    with pytest.raises(FileNotFoundError, match=r"OcclusionScenes: .*red holds no folders"):
        OcclusionScenes(str(tmp_path / "out"), flat).classes  # noqa: B018
