"""Detection data in Pascal VOC's format with classes of one's own: what LabelImg, CVAT and Roboflow write."""

import warnings
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from .._checks import named
from ._annotated import Annotated, on_disk
from ._images import upright_size
from ._listing import few, files_below, images_below
from ._voc_xml import Row, names_in, objects_in, parse_xml, rows_in_coco_form, size_in
from .detection import DetectionData

_Pairs = dict[Path, Path | None]  # XML files and their images
_SPLITS = {"train": ("train", "trainval"), "val": ("val", "valid", "validation"), "test": ("test",)}
_FOLDERS = {name: part for part, names in _SPLITS.items() for name in names}


class VocFolder(DetectionData):
    """Images with XML files of Pascal VOC's form and classes of one's own, as LabelImg, CVAT and Roboflow write them.

    XML files and images are found below ``root``, side by side or apart. Those of one name belong together; of several
    images of that name, the one whose path shares most folders with that of the XML file, or which it names as
    ``filename``. A warning counts the images without an XML file, which are not read.

    The splits are what ``root`` has: lists of names, ``train.txt`` or ``trainval.txt`` and ``val.txt`` in
    ``ImageSets/Main`` or in ``root``, or folders ``train`` and ``val``, ``valid`` or ``validation`` at any depth.
    Without a training split, all images are for training but those of ``val`` and ``test``. Without a validation split,
    a share of the training images becomes one. The choice depends on their names alone, so every training has the same.

    Corners are pixels from 0 on, as these tools write them: ``xmin=1, xmax=10`` is a width of 9. Difficult objects are
    treated as in :class:`Voc`. The size of an image comes from the XML file, or from the image if that says 0 or
    nothing.

    Args:
        root: folder with images and XML files.
        train, val: text file of names or folder of each split, starting from ``root``. ``--data.val
            ImageSets/Main/test.txt`` tests on the images of that list. Default: as described.
        val_share: share of the images that validate, 0-1, where there is no validation split.
        class_names: names of the classes. Default: all names in the XML files of both splits, sorted.
        options: as in :class:`DetectionData`, without ``masks``.

    Raises:
        ValueError: if ``val_share`` is not between 0 and 1; when a split is read, if an XML file is broken, with the
            file and the number of the object, the first being 1, or if an XML file is in both splits.
        FileNotFoundError: when a split is read, if its files are missing.
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
        """Read both splits: only together do they tell the classes."""
        rows: dict[bool, list[Row]] = {}
        sources = {}
        for train, (source, pairs) in self._split(self._pairs()).items():
            sources[train], rows[train] = source, [self._row(xml, image) for xml, image in pairs.items()]
        objects = [one for part in rows.values() for _, _, found in part for one in found]
        names = self.class_names or sorted({one["category_id"] for one in objects})
        return {train: Annotated(rows_in_coco_form(rows[train], names), self.root, sources[train]) for train in rows}

    def _row(self, xml: Path, image: Path | None) -> Row:
        if image is None:
            raise FileNotFoundError(
                f"{xml} has no image of its name below {self.root}. Add the image or delete the file."
            )
        root = parse_xml(xml)
        size = size_in(root, xml) or upright_size(image)
        return image.relative_to(self.root).as_posix(), size, objects_in(root, xml, self.class_names, first=0)

    def _pairs(self) -> _Pairs:
        """Return the XML files below ``root`` with their images, sorted by path."""
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root} is not a folder. Set root to the folder of images and XML files.")
        images: dict[str, list[Path]] = defaultdict(list)
        for path in images_below(self.root, "VocFolder", passed_over=(".xml", ".txt")):
            images[path.stem.lower()].append(path)
        xmls = [path for path, is_unseen in files_below(self.root) if path.suffix.lower() == ".xml" and not is_unseen]
        if not xmls:
            raise FileNotFoundError(
                f"no XML file is below {self.root}. Set root to the folder of images and XML files."
            )
        pairs: _Pairs = {}
        for xml in xmls:
            found = images.get(xml.stem.lower(), [])
            if len(found) != 1:  # looked at twice only if need be
                file = Path(parse_xml(xml).findtext("filename", "").strip().replace("\\", "/")).name
                found = found or images.get(Path(file).stem.lower(), [])
                found = [path for path in found if path.name == file] or found
            pairs[xml] = _nearest(found, xml)
        without = sorted({str(path) for paths in images.values() for path in paths} - {str(i) for i in pairs.values()})
        if without:
            warnings.warn(
                f"VocFolder: {len(without)} images have no XML file and are not read ({few(without)}). Annotate them, "
                "also those without objects, or delete them.",
                stacklevel=2,
            )
        return pairs

    def _split(self, pairs: _Pairs) -> dict[bool, tuple[Path, _Pairs]]:
        """Return where each split comes from, and its part of the files."""
        given = {part: self._part(pairs, part) for part in _SPLITS}
        tested = given["test"][1] if given["test"] else {}
        source, candidates = given["train"] or (self.root, {xml: i for xml, i in pairs.items() if xml not in tested})
        if given["val"]:
            val_source, val = given["val"]
            both = [xml for xml in val if given["train"] and xml in candidates]
            if both:
                raise ValueError(f"{len(both)} XML files are in both splits ({few(both)}). Take them out of one.")
        else:
            order = sorted(candidates, key=lambda xml: zlib.crc32(xml.name.encode("utf-8", "replace")))
            count = max(1, round(self.val_share * len(order)))
            val_source, val = source, {xml: candidates[xml] for xml in sorted(order[:count])}
            rank_zero_info(f"VocFolder: {count} of {len(order)} images of {source} are taken for validation.")
        lost = [xml for xml in pairs if not (xml in candidates or xml in val or xml in tested)]
        if lost and given["train"] and source == self.root:
            raise ValueError(
                f"{len(lost)} XML files are beside the folders with the names of splits ({few(lost)}). If one of these "
                "is a class, set train to '.', which takes all files; else set train and val to folders or lists."
            )
        train = {xml: image for xml, image in candidates.items() if xml not in val}
        if not train or not val:
            raise ValueError(
                f"of {len(pairs)} XML files below {self.root} {len(train)} are for training and {len(val)} for "
                "validation. Set train and val to folders or lists of names that have some."
            )
        return {True: (source, train), False: (val_source, val)}

    def _part(self, pairs: _Pairs, part: str) -> tuple[Path, _Pairs] | None:
        """Return a split that is given or that ``root`` has by name: a list of names, or folders."""
        names, given = _SPLITS[part], self.parts[part]
        lists = [f"ImageSets/Main/{name}.txt" for name in names] + [f"{name}.txt" for name in names]
        for name in lists if given is None else [given]:
            place = self.root / on_disk(self.root, name)
            if place.is_file():
                return place, _listed_pairs(place, pairs)
            if place.is_dir():
                below = {x: i for x, i in pairs.items() if place in x.parents or (i is not None and place in i.parents)}
                return place, below
        if given is not None:
            raise FileNotFoundError(
                f"{self.root / given} does not exist. Set {part} to a text file of names or to a folder."
            )

        found = {xml: image for xml, image in pairs.items() if part in (self._named(xml), image and self._named(image))}
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


def _listed_pairs(listed: Path, pairs: _Pairs) -> _Pairs:
    """Return the pairs that a list names by their XML files."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in pairs:
        by_name[path.stem.lower()].append(path)
    found: _Pairs = {}
    for name in names_in(listed):
        key = Path(name).name
        xml = _nearest(by_name.get(key.lower(), []), Path(name))
        if xml is None:
            raise FileNotFoundError(f"{listed} names {name}, but there is no {key}.xml. Correct the list.")
        found[xml] = pairs[xml]
    return found
