"""``tiedconv scenes``."""

from pathlib import Path

from ..data.scenes import FileType, MaskFormat, SceneOptions, write_scenes
from ._console import Progress, table_console


def scenes(
    objects: str,
    output: str,
    backgrounds: str | None = None,
    images: int = 800,
    val_images: int = 200,
    val_share: float = 0.2,
    image_size: int = 640,
    min_objects: int = 2,
    max_objects: int = 8,
    min_size: int = 64,
    max_size: int = 256,
    rotation: float = 15.0,
    flip: float = 0.5,
    max_overlap: float = 0.5,
    min_visible: float = 0.25,
    noise: float = 0.0,
    file_type: FileType = "jpg",
    mask_format: MaskFormat = "rle",
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Make a data set for detection by copy and paste: cut-outs on photographs, with boxes and masks in COCO's format.

    Objects cover each other. Boxes and masks are of what is visible; whole masks, the visible share of each object and
    the occlusion ratio of each image are written, too. The same files, options and seed give the same images.

    Args:
        objects: folder with a folder for each class, of pictures with a transparent background (PNG, WebP). Its name is
            the class's. Or digits or fashion_mnist, whose images are built in.
        output: folder to write to, which must be new or empty.
        backgrounds: folder of photographs, of which random pieces become backgrounds. Default: a texture.
        images: scenes to train on.
        val_images: scenes to validate on.
        val_share: share of the cut-outs of each class, and of the photographs, that only the validation scenes show,
            0-1. What has only one file is in both splits; with 0, everything is.
        image_size: side of a scene in pixels.
        min_objects: least number of objects in a scene; fewer where they would hide each other.
        max_objects: greatest number.
        min_size: least length of an object's longer side, in pixels.
        max_size: greatest length.
        rotation: degrees by which an object is turned at most, either way.
        flip: probability with which an object is mirrored. 0 for letters and signs.
        max_overlap: scenes are spread evenly over overlaps from 0 to this share of the objects' area.
        min_visible: share of each object that remains visible at least.
        noise: standard deviation of noise on the pixels, which go from 0 to 255.
        file_type: of the images.
        mask_format: RLE, or polygons for tools that read nothing else. Polygons fill holes.
        seed: of everything that is random.
        workers: threads that draw; the images do not depend on it. Default: one per CPU core.
    """
    if images < 1:  # which is called train_images below
        raise ValueError(f"images must be at least 1, got {images}.")
    options = SceneOptions(
        objects=objects,
        backgrounds=backgrounds,
        image_size=image_size,
        train_images=images,
        val_images=val_images,
        val_share=val_share,
        min_objects=min_objects,
        max_objects=max_objects,
        min_size=min_size,
        max_size=max_size,
        rotation=rotation,
        flip=flip,
        max_overlap=max_overlap,
        min_visible=min_visible,
        noise=noise,
        file_type=file_type,
        mask_format=mask_format,
        seed=seed,
    )
    with Progress() as progress:
        write_scenes(output, options, workers, lambda done, total: progress("drawing scenes", done, total))
    table_console().print(
        f"Scenes: {images} in {Path(output, 'train')}, {val_images} in {Path(output, 'val')}\n"
        f"Train:  tiedconv fit --data Coco --data.root {output} --model.detector mask_rcnn "
        "--model.backbone tiedresnet50_s --trainer.max_epochs 12",
        markup=False,
        soft_wrap=True,
    )
