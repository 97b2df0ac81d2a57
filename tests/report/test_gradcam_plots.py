import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from tiedconv.analysis.gradcam import GradCam
from tiedconv.report.gradcam_plots import draw_cams, overlay, plot_cam


def cam(count, size=24):
    heat = torch.rand(count, 3, 3)
    return GradCam(
        "layer4", heat, torch.arange(count), torch.ones(count), torch.full((count,), 0.4567), 9, (size, size)
    )


def titles(figure):
    return [ax.get_title() for ax in figure.axes if ax.images]


def test_heat_lies_where_it_is_and_cold_places_stay_grey():
    image, heat = torch.rand(3, 20, 30), torch.zeros(2, 3)
    heat[0, 2] = 5.0  # the upper right corner
    pixels = np.asarray(overlay(image, heat)).astype(int)
    assert pixels.shape == (20, 30, 3)
    coloured = np.ptp(pixels, axis=2) > 8
    assert coloured[:5, 25:].all()
    assert not coloured[15:, :10].any()


def test_without_heat_the_overlay_is_the_grey_photo_and_scale_does_not_matter():
    image, heat = torch.rand(3, 8, 8), torch.rand(4, 4)
    grey = np.asarray(overlay(image, torch.zeros(4, 4))).astype(int)
    assert not np.ptp(grey, axis=2).any()
    luma = (image * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=0).numpy() * 255
    assert np.abs(grey[..., 0] - luma).max() < 2
    assert np.array_equal(overlay(image, heat), overlay(image, 1000 * heat))


def test_one_channel_is_drawn_in_grey():
    assert np.asarray(overlay(torch.rand(1, 6, 5), torch.rand(2, 2))).shape == (6, 5, 3)


def test_the_photo_keeps_its_pixels():
    image = torch.randint(0, 256, (3, 9, 7)) / 255
    drawn = plot_cam(image, None).images[0].get_array()
    assert np.array_equal(drawn, (image * 255).round().byte().permute(1, 2, 0).numpy())


def test_the_given_axes_are_drawn_on_and_returned():
    ax = Figure().add_subplot()
    assert plot_cam(torch.rand(3, 4, 4), torch.rand(2, 2), ax, title="a") is ax
    assert ax.get_title() == "a"


@pytest.mark.parametrize(("images", "models"), [(1, 1), (7, 1), (2, 6)])
def test_every_image_has_its_photo_and_one_picture_a_model(images, models):
    cams = {f"model_{i}": cam(images) for i in range(models)}
    photos = dict.fromkeys(cams, torch.rand(images, 3, 24, 24))
    names = [f"{i}.jpg" for i in range(images)]
    figure = draw_cams(photos, cams, names=names, classes=["cat", "dog"])
    drawn = titles(figure)
    assert len(drawn) == images * (1 + models)
    assert [title.strip() for title in drawn if ".jpg" in title] == names
    assert "model_0\ncat, 45.7\u202f%" in drawn
    assert ("model_0\nclass 3, 45.7\u202f%" in drawn) == (images > 3)


def test_titles_of_neighbours_do_not_touch():
    cams = {f"tiedresnext101_32x8d_s.some_tag_{i}": cam(2) for i in range(3)}
    photos = dict.fromkeys(cams, torch.rand(2, 3, 24, 24))
    figure = draw_cams(
        photos, cams, names=["a_very_long_name_of_a_photo_0001.jpg"] * 2, classes=["great white shark"] * 9
    )
    figure.draw_without_rendering()
    boxes = [ax.title.get_window_extent() for ax in figure.axes if ax.images]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
