import numpy as np
import pytest
from pycocotools import mask as reference

from tiedconv._coco import decode_mask, encode_mask

RNG = np.random.default_rng(0)
MASKS = [RNG.random((7, 5)) < share for share in (0.0, 0.2, 0.5, 1.0)]


@pytest.mark.parametrize("mask", MASKS)
def test_encoded_masks_are_pycocotools(mask):
    theirs = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_mask(mask) == {"size": [7, 5], "counts": theirs["counts"].decode()}


@pytest.mark.parametrize("mask", MASKS)
def test_every_kind_of_rle_gives_the_mask_back(mask):
    runs = np.flatnonzero(np.diff(np.concatenate([[False], mask.ravel(order="F")])))
    counts = np.diff(np.concatenate([[0], runs, [mask.size]])).tolist()
    compressed = encode_mask(mask)
    for rle in (
        compressed,
        {**compressed, "counts": compressed["counts"].encode()},
        {"size": [7, 5], "counts": counts},
    ):
        assert (decode_mask(rle, (7, 5)) == mask).all()


def test_polygons_are_filled_as_pycocotools_does_and_united():
    polygons = [[1.5, 0.5, 8.2, 1.0, 6.0, 5.5], [10, 2, 14, 2, 14, 6, 10, 6], [0, 0, 3, 3]]
    theirs = reference.merge(reference.frPyObjects(polygons[:2], 9, 16))
    assert (decode_mask(polygons, (9, 16)) == reference.decode(theirs)).all()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [5, 7], "counts": "0"}, r"the RLE is of size \[5, 7\], the image of \[7, 5\]"),
        ([], "no polygon has three points"),
        ([[1, 2, 3, 4]], "no polygon has three points"),
    ],
)
def test_what_cannot_be_decoded_is_refused(segmentation, message):
    with pytest.raises(ValueError, match=message):
        decode_mask(segmentation, (7, 5))
