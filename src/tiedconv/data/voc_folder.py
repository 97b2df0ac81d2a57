"""Detection data in Pascal VOC's format with classes of one's own: what LabelImg, CVAT and Roboflow write."""

import warnings
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from .._checks import named
from ._annotated import Annotated, on_disk
from ._images import upright_size
from ._listing import few, files_below, images_below
from .detection import DetectionData
from .voc import Row, names_in, objects_in, parse_xml, rows_in_coco_form, size_in

_Split = tuple[Path, Sequence[Path]]  # where a split comes from, and its XML files
_SPLITS = {"train": ("train", "trainval"), "val": ("val", "valid", "validation"), "test": ("test",)}
_FOLDERS = {name: part for part, names in _SPLITS.items() for name in names}


class VocFolder(DetectionData):
    """Images with XML files of Pascal VOC's form and classes of one's own, as LabelImg, CVAT and Roboflow write them.

    XML files and images are found below ``root``, side by side or apart. Those of one name belong together. Of several
    images of one name, the XML file's is the one that it names as ``filename``, or whose path shares most folders with
    its own. A warning counts the images without an XML file, which are not read.

    The splits are what ``root`` has: lists of names, ``train.txt`` or ``trainval.txt`` and ``val.txt`` in
    ``ImageSets/Main`` or in ``root``, or folders ``train`` and ``val``, ``valid`` or ``validation`` at any depth, the
    outermost of which counts. Without a training split, all images but those of ``val`` and ``test`` are for training.
    Without a validation split, a share of the training images becomes one, always the same: it depends on their names.

    Corners are pixels from 0 on, as these tools write them: ``xmin=1, xmax=10`` is a width of 9. Difficult objects are
    treated as in :class:`Voc`. The size of an image comes from the XML file, or from the image if that says 0 or
    nothing.

    Args:
        root: folder with images and XML files.
        train, val: text file of names or folder of each split, starting from ``root``. ``--data.val
            ImageSets/Main/test.txt`` tests on the images of that list. Default: as described.
        val_share: share of the images for validation, 0-1, where there is no validation split.
        class_names: names of the classes. Default: all names in the XML files of both splits, sorted.
        options: as in :class:`DetectionData`, without ``masks``.

    Raises:
        ValueError: if ``val_share`` is not between 0 and 1; when a split is read, if an XML file is in both splits or
            beside the folders of the splits. Others as :class:`Voc`.
    """

    def __init__(
        self,
        root: str,
        train: str | None = None,
        val: str | None = None,
        val_share: float = 0.2,
        class_names: list[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(masks=False, **options)
        if not 0 < val_share < 1:
            raise ValueError(f"VocFolder: val_share must be between 0 and 1, got {val_share}.")
        self.save_hyperparameters()
        self.root = Path(root)
        self.parts = {"train": train, "val": val, "test": None}
        self.val_share = val_share
        self.class_names = class_names
        self._found: dict[bool, Annotated] = {}

    def read(self, train: bool) -> Annotated:
        if train not in self._found:
            with named("VocFolder"):
                self._found = self._read_both()
        return self._found.pop(train)  # not kept: annotations of a large set fill the memory

    def _read_both(self) -> dict[bool, Annotated]:
        """Read both splits, which together have all classes."""
        images = self._images()
        splits = self._splits_of(images)
        rows = {train: [self._row(xml, images[xml]) for xml in xmls] for train, (_, xmls) in splits.items()}
        objects = [one for part in rows.values() for _, _, found in part for one in found]
        names = self.class_names or sorted({one["category_id"] for one in objects})
        return {
            train: Annotated(rows_in_coco_form(rows[train], names), self.root, source)
            for train, (source, _) in splits.items()
        }

    def _row(self, xml: Path, image: Path | None) -> Row:
        if image is None:
            raise FileNotFoundError(
                f"{xml} has no image of its name below {self.root}. Add the image or delete the file."
            )
        root = parse_xml(xml)
        size = size_in(root, xml) or upright_size(image)
        return image.relative_to(self.root).as_posix(), size, objects_in(root, xml, self.class_names, first=0)

    def _images(self) -> dict[Path, Path | None]:
        """Return the image of each XML file below ``root``, None where there is none."""
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root} is not a folder. Set root to the folder of images and XML files.")
        images: dict[str, list[Path]] = defaultdict(list)
        for path in images_below(self.root, "VocFolder", passed_over=(".xml", ".txt")):
            images[path.stem.lower()].append(path)
        found: dict[Path, Path | None] = {}
        for xml in (path for path, is_unseen in files_below(self.root) if not is_unseen):
            if xml.suffix.lower() != ".xml":
                continue
            named_alike = images.get(xml.stem.lower(), [])
            if len(named_alike) != 1:  # otherwise the file is read only once
                file = Path(parse_xml(xml).findtext("filename", "").strip().replace("\\", "/")).name
                named_alike = named_alike or images.get(Path(file).stem.lower(), [])
                named_alike = [path for path in named_alike if path.name == file] or named_alike
            found[xml] = _nearest(named_alike, xml)
        if not found:
            raise FileNotFoundError(
                f"no XML file is below {self.root}. Set root to the folder of images and XML files."
            )
        without = sorted({str(path) for paths in images.values() for path in paths} - set(map(str, found.values())))
        if without:
            warnings.warn(
                f"VocFolder: {len(without)} images have no XML file and are not read ({few(without)}). Annotate them, "
                "also those without objects, or delete them.",
                stacklevel=2,
            )
        return found

    def _splits_of(self, images: Mapping[Path, Path | None]) -> dict[bool, _Split]:
        parts = {part: self._part(images, part) for part in _SPLITS}
        tested = set(parts["test"][1]) if parts["test"] else set()
        source, train = parts["train"] or (self.root, [xml for xml in images if xml not in tested])
        if parts["val"]:
            val_source, val = parts["val"]
            both = sorted(set(val).intersection(train)) if parts["train"] else ()
            if both:
                raise ValueError(f"{len(both)} XML files are in both splits ({few(both)}). Take them out of one.")
        else:
            order = sorted(train, key=lambda xml: zlib.crc32(xml.name.encode("utf-8", "replace")))
            count = max(1, round(self.val_share * len(order)))
            val_source, val = source, sorted(order[:count])
            rank_zero_info(f"VocFolder: {count} of {len(order)} images of {source} are taken for validation.")
        beside = sorted(set(images).difference(train, val, tested))
        if beside and parts["train"] and source == self.root:
            raise ValueError(
                f"{len(beside)} XML files are beside the folders with the names of splits ({few(beside)}). If one of "
                "these is a class, set train to '.', which takes all files; else set train and val to folders or lists."
            )
        in_val = set(val)
        train = [xml for xml in train if xml not in in_val]
        if not train or not val:
            raise ValueError(
                f"of {len(images)} XML files below {self.root} {len(train)} are for training and {len(val)} for "
                "validation. Set train and val to folders or lists of names that have some."
            )
        return {True: (source, train), False: (val_source, val)}

    def _part(self, images: Mapping[Path, Path | None], part: str) -> _Split | None:
        """Return a split that is given or that ``root`` has by name: a list of names, or folders."""
        names, given = _SPLITS[part], self.parts[part]
        lists = [f"ImageSets/Main/{name}.txt" for name in names] + [f"{name}.txt" for name in names]
        for name in lists if given is None else [given]:
            place = self.root / on_disk(self.root, name)
            if place.is_file():
                return place, _listed(place, images)
            if place.is_dir():
                return place, [xml for xml in images if place in (*xml.parents, *(images[xml] or xml).parents)]
        if given is not None:
            raise FileNotFoundError(
                f"{self.root / given} does not exist. Set {part} to a text file of names or to a folder."
            )
        found = [xml for xml in images if part in (self._named(xml), self._named(images[xml] or xml))]
        return (self.root, found) if found else None

    def _named(self, path: Path) -> str | None:
        """Return the split whose name the outermost folder with the name of one has: a class may be called train."""
        folders = (folder.lower() for folder in path.relative_to(self.root).parts[:-1])
        return next((_FOLDERS[folder] for folder in folders if folder in _FOLDERS), None)


def _nearest(found: Sequence[Path], path: Path) -> Path | None:
    """Return the file whose path shares most folders with another's, None if there is no file."""
    shared = [len(set(path.parent.parts) & set(one.parent.parts)) for one in found]
    best = [one for one, count in zip(found, shared, strict=True) if count == max(shared)]
    if len(best) > 1:
        raise ValueError(f"{path} may belong to {few(best)}. Give each image a name of its own.")
    return best[0] if best else None


def _listed(listed: Path, xmls: Iterable[Path]) -> list[Path]:
    """Return the XML files that a list names."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in xmls:
        by_name[path.stem.lower()].append(path)
    found = []
    for name in names_in(listed):
        key = Path(name).name
        xml = _nearest(by_name.get(key.lower(), []), Path(name))
        if xml is None:
            raise FileNotFoundError(f"{listed} names {name}, but there is no {key}.xml. Correct the list.")
        found.append(xml)
    return found
