"""Detection data in COCO's format: MS-COCO itself, and whatever an annotation tool exports in that form."""

import json
from pathlib import Path

from .detection import Annotated, DetectionData


class Coco(DetectionData):
    """Images with a COCO JSON file for each split.

    The defaults are MS-COCO 2017's own layout. Category ids may be any integers, with gaps and from 0 on.

    Args:
        root: folder that the four paths below start from.
        train_annotations, val_annotations: JSON files of the two splits.
        train_images, val_images: folders that the files' ``file_name`` start from.
        masks, flip, batch_size, num_workers, predict_path: as in :class:`DetectionData`.

    Raises:
        FileNotFoundError: when a split is read, if its JSON file or its folder of images is missing.
        ValueError: when a split is read, if the JSON is broken, with the file and the entry's id.
    """

    def __init__(
        self,
        root: str = "data/coco",
        train_annotations: str = "annotations/instances_train2017.json",
        train_images: str = "train2017",
        val_annotations: str = "annotations/instances_val2017.json",
        val_images: str = "val2017",
        masks: bool = True,
        flip: float = 0.5,
        batch_size: int = 2,
        num_workers: int = 4,
        predict_path: str | None = None,
    ) -> None:
        super().__init__(masks, flip, batch_size, num_workers, predict_path)
        self.save_hyperparameters()
        self.root = Path(root)
        self.files = {True: (train_annotations, train_images), False: (val_annotations, val_images)}

    def read(self, train: bool) -> Annotated:
        file, images = (self.root / name for name in self.files[train])
        part = "train" if train else "val"
        if not file.is_file():
            raise FileNotFoundError(f"Coco: {file} does not exist. Set root and {part}_annotations to the JSON file.")
        if not images.is_dir():
            raise FileNotFoundError(f"Coco: {images} is not a folder. Set {part}_images to the folder of the images.")
        return Annotated(read_json(file), images, file)


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON file that must hold an object.

    Raises:
        ValueError: if it does not, with the place of the mistake.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(  # noqa: TRY004  the file is at fault, not an argument's type
            f"{path} must hold a JSON object, got a {type(content).__name__}."
        )
    return content
