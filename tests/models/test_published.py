import pytest
import timm

from tiedconv.metrics.counts import Comparison, compare_with_paper, count
from tiedconv.models.published import PUBLISHED

# Built counts: parameters in millions, 10^9 multiply-adds, and whether they are the paper's to the last printed digit.
BUILT = {
    "tiedresnet50": (22.027, 4.391, True),
    "tiedresnet101": (39.426, 8.615, True),
    "tiedresnet50_s": (13.561, 2.495, False),
    "tiedresnet101_s": (23.319, 4.759, False),
    "tiedresnet50_4s16w": (12.121, 2.201, False),
    "tiedresnet101_4s16w": (20.583, 4.159, False),
    "tiedresnet50_lite": (10.657, 1.848, False),
    "tiedresnet50_2s48w": (25.307, 4.934, False),
    "tiedresnet50_6s24w": (23.040, 4.553, True),
    "tiedresnet50_8s18w": (22.692, 4.387, False),
    "tiedresnet50_concat": (24.149, 5.085, False),
    "tiedresnext101_32x8d": (64.857, 14.546, False),
    "tiedsenet101": (40.629, 8.617, False),
    "tiedsenet101_s": (24.522, 4.762, False),
    "tiedresnest50_s": (16.501, 3.682, False),
}


@pytest.fixture(scope="module")
def comparisons() -> list[Comparison]:
    return list(compare_with_paper())


def test_every_row_is_compared_in_order(comparisons: list[Comparison]) -> None:
    assert [c.published for c in comparisons] == list(PUBLISHED)
    assert [c.published.name for c in comparisons if c.params is None] == [
        "Taylor-FO-BN-ResNet50",
        "ShuffleNet-50",
        "GhostNet-50 (s=2)",
    ]


@pytest.mark.parametrize("name", BUILT)
def test_built_counts(comparisons: list[Comparison], name: str) -> None:
    params, gmacs, exact = BUILT[name]
    rows = [c for c in comparisons if c.published.model == name]

    assert rows
    for c in rows:
        assert c.params == pytest.approx(params, abs=5e-4)
        assert c.gmacs == pytest.approx(gmacs, abs=5e-4)
        if exact:
            assert c.published.params == pytest.approx(c.params, abs=0.05)
            assert c.published.gmacs is None or c.published.gmacs == pytest.approx(c.gmacs, abs=0.05)


def test_every_tied_network_of_the_tables_is_pinned() -> None:
    networks = {row.model for row in PUBLISHED if row.counted == "network" and row.model}
    assert {name for name in networks if name.startswith("tied")} == set(BUILT)


def test_untied_baselines_are_the_papers(comparisons: list[Comparison]) -> None:
    baselines = [c for c in comparisons if c.published.model and not c.published.model.startswith("tied")]
    for c in baselines:
        if c.published.counted == "network":
            assert c.params == pytest.approx(c.published.params, rel=0.005)
            assert c.gmacs == pytest.approx(c.published.gmacs, rel=0.03)


def test_attention_counts(comparisons: list[Comparison]) -> None:
    for c in comparisons:
        if c.published.counted == "attention" and not (c.published.table == "4" and "B=4" in c.published.name):
            assert c.params == pytest.approx(c.published.params, rel=0.025, abs=0.0016), c.published.name


def test_context_block_with_four_blocks_follows_the_papers_text(comparisons: list[Comparison]) -> None:
    gcb, _, four = (c for c in comparisons if c.published.table == "4")
    assert gcb.params / four.params == pytest.approx(16, rel=0.04)
    assert "16 times" in four.published.remark


def test_what_differs_by_more_than_two_per_cent_is_remarked(comparisons: list[Comparison]) -> None:
    silent = [
        c.published.name
        for c in comparisons
        if c.published.model and c.published.model.startswith("tied") and c.published.counted == "network"
        if max(abs(c.params_difference or 0), abs(c.gmacs_difference or 0)) > 2 and not c.published.remark
    ]
    assert silent == []


def test_small_pair_has_the_counts_of_its_docstrings_and_pays() -> None:
    untied, tied = (
        count(timm.create_model(name, num_classes=10, device="meta"), (3, 32, 32))
        for name in ("resnet_small", "tiedresnet_small")
    )
    assert (untied.params, tied.params) == (4_890_794, 1_691_722)
    assert (round(untied.macs / 1e6, 1), round(tied.macs / 1e6, 1)) == (67.5, 29.9)
    assert tied.params < 0.6 * untied.params
    assert tied.macs < 0.65 * untied.macs


def test_tiny_pair_has_the_counts_of_its_docstrings() -> None:
    def counts(name: str, **kwargs: int) -> tuple[int, float]:
        model = timm.create_model(name, in_chans=1, num_classes=10, device="meta", **kwargs)
        c = count(model, (1, 28, 28))
        return c.params, round(c.macs / 1e6, 2)

    assert counts("tiedresnet_tiny") == (828_842, 11.61)
    assert counts("tiedresnet_tiny", base_width=24)[1] == 8.27
    assert counts("resnet_tiny") == (883_562, 10.28)
    assert counts("resnet_tiny", base_width=61)[0] == 832_366
    assert counts("resnet_tiny", base_width=71)[1] == 11.53
