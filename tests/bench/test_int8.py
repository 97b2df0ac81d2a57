import pytest
import torch
from torch import nn

from tiedconv.bench.int8 import top1


def test_top1_counts_the_hits():
    images = torch.randn(10, 5)
    classes = images.argmax(1)
    assert top1(nn.Identity(), [(images, classes)]) == 1
    wrong = torch.cat([classes[:7], (classes[7:] + 1) % 5])
    assert top1(nn.Identity(), [(images[:4], wrong[:4]), (images[4:], wrong[4:])]) == pytest.approx(0.7)
