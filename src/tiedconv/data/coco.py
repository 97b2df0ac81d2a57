"""Detection data in COCO's format: MS-COCO itself, and whatever annotation tools export in that form."""

from pathlib import Path
from typing import Any

from .._checks import named
from .._coco import read_json
from ._annotated import Annotated
from .detection import DetectionData

# Annotations by the folder of their images, training before validation: MS-COCO's own; the same without the year, as
# many converters write; Roboflow's export.
_LAYOUTS = (
    ("annotations/instances_{}.json", "train2017", "val2017"),
    ("annotations/instances_{}.json", "train", "val"),
    ("{}/_annotations.coco.json", "train", "valid"),
)


class Coco(DetectionData):
    """Images with a COCO JSON file for each split. Category ids may be any whole numbers, with gaps and from 0 on.

    Args:
        root: folder that the four paths below start from.
        train_annotations, val_annotations: JSON files of the two splits. Default: they and the folders of the images
            are found in the layout of MS-COCO 2017, ``annotations/instances_*.json`` beside ``train2017`` and
            ``val2017`` or ``train`` and ``val``, or in Roboflow's, ``_annotations.coco.json`` in ``train`` and
            ``valid``.
        train_images, val_images: folders that the files' ``file_name`` start from. Default: ``root``, if the JSON files
            are given.
        options: as in :class:`DetectionData`.

    Raises:
        ValueError: if only one of the two JSON files is given, or folders without them. Others as
            :class:`DetectionData`.
    """

    def __init__(
        self,
        root: str = "data/coco",
        train_annotations: str | None = None,
        train_images: str = "",
        val_annotations: str | None = None,
        val_images: str = "",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.save_hyperparameters()
        self.root = Path(root)
        self._given = {True: (train_annotations, train_images), False: (val_annotations, val_images)}
        given = {bool(train_annotations), bool(val_annotations)}
        if len(given) == 2 or ((train_images or val_images) and given == {False}):
            raise ValueError(
                "Coco: train_annotations and val_annotations belong together, and folders of images to them. Give both "
                "files, or none of the four."
            )

    def read(self, train: bool) -> Annotated:
        part = "train" if train else "val"
        annotations, images = self._given[train]
        if annotations is None:
            annotations, images = self._find(train)
        file, folder = self.root / annotations, self.root / images
        if not file.is_file():
            raise FileNotFoundError(f"Coco: {file} does not exist. Set root and {part}_annotations to the JSON file.")
        if not folder.is_dir():
            raise FileNotFoundError(f"Coco: {folder} is not a folder. Set {part}_images to the folder of the images.")
        with named(f"Coco: {file}"):
            return Annotated(read_json(file), folder, file)

    def _find(self, train: bool) -> tuple[str, str]:
        """Return annotations and images of the first known layout that ``root`` has."""
        folders = [(file, first if train else second) for file, first, second in _LAYOUTS]
        places = {file.format(folder): folder for file, folder in folders}
        for file, folder in places.items():
            if (self.root / file).is_file():
                return file, folder
        raise FileNotFoundError(
            f"Coco: none of {', '.join(places)} is in {self.root}. Set root, or train_annotations, train_images, "
            "val_annotations and val_images."
        )
