import json

import pytest
import torch

from tiedconv.analysis import LayerSimilarity
from tiedconv.report.page import Origin
from tiedconv.report.similarity_report import similarity_finding, write_similarity, write_similarity_numbers


def layers(*means, count=3):
    matrices = [torch.full((count, count), mean, dtype=torch.float64).fill_diagonal_(1) for mean in means]
    seen = torch.ones(count, count).long()
    return [LayerSimilarity(f"layer{i}", list(range(count)), matrix, seen, 2) for i, matrix in enumerate(matrices)]


def test_the_least_alike_leads_and_each_layer_says_by_how_much():
    lead, lines = similarity_finding({"dense": layers(0.1, 0.6), "tied": layers(0.2, 0.3), "third": layers(0.5, 0.5)})
    assert lead == (
        "The filters of tied are least alike: mean similarity 0.250 over 2 layers; dense 0.350, third 0.500."
    )
    assert lines == [
        ("layer0", "dense 0.100, tied 0.200 (+0.100), third 0.500 (+0.400)"),
        ("layer1", "tied 0.300, third 0.500 (+0.200), dense 0.600 (+0.300)"),
    ]


def test_only_layers_that_all_models_have_pairs_in_are_ranked():
    lead, lines = similarity_finding({"a": layers(0.1, 0.9), "b": layers(0.2)})
    assert "a are least alike: mean similarity 0.100 over 1 layer; b 0.200." in lead
    assert [label for label, _ in lines] == ["layer0"]
    lead, lines = similarity_finding({"a": layers(0.1), "b": layers(0.0, count=1)})
    assert lead == "In no layer have all models two living filters, so there is nothing to compare."
    assert lines == []


def test_one_model_is_told_by_depth():
    lead, lines = similarity_finding({"a": layers(0.1, 0.3)})
    assert lead == "Two filters of a have a mean similarity of 0.200 over 2 layers."
    assert lines == [("layer0", "0.100"), ("layer1", "0.300")]


def test_the_numbers_are_written_whole(tmp_path):
    given = layers(0.125)
    given[0].images[0, 1] = given[0].images[1, 0] = 0
    write_similarity_numbers({"a": given}, tmp_path, Origin("", {"a": "a.ckpt"}, {"images": 7}))
    read = json.loads((tmp_path / "similarity.json").read_text())
    [entry] = read["models"]
    [layer] = entry["layers"]
    assert (read["images"], entry["label"], entry["weights"]) == (7, "a", "a.ckpt")
    assert layer["matrix"] == [[1, None, 0.125], [None, 1, 0.125], [0.125, 0.125, 1]]
    assert (layer["pairs"], layer["dead"], layer["channels"]) == (2, 2, [0, 1, 2])
    assert sum(layer["histogram"]["counts"]) == 2
    assert layer["mean"] == pytest.approx(0.125)


def test_the_page_shows_every_model_and_layer(tmp_path):
    origin = Origin("tiedconv x", {"dense<1>": "a.ckpt", "tied": "random"}, {"photos": 5})
    write_similarity({"dense<1>": layers(0.1, 0.6), "tied": layers(0.2)}, tmp_path, origin)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.count("<svg") == 1 + 2 + 3  # means, histograms, matrices
    assert "dense&lt;1&gt;" in html
    assert "dense<1>" not in html
    assert "tied (random weights)" in html
    assert "Random weights, not trained: tied." in html
    assert "0.600<small>3 pairs, 2 dead</small>" in html
    assert "tiedconv x" in html
