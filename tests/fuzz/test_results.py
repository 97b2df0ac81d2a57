"""Detections with mistakes in them: the average precision that pycocotools has, or a refusal that names the file."""

import json
import math
from typing import Any

import pytest
from hypothesis import strategies as st
from tests import coco_cases
from tests.fuzz.cases import JUNK, attempt, damaged, fuzz, mutated

from tiedconv.analysis.occlusion import analyze_occlusion
from tiedconv.metrics.coco import METRICS, coco_metrics, read_annotations, read_results

TRUTH, RESULTS = coco_cases.generate(1, images=4, noise=0.02)
RESULTS = RESULTS[:5]
SMALL = {**TRUTH, "annotations": TRUTH["annotations"][:6]}
RLES = [
    {"size": [coco_cases.HEIGHT, coco_cases.WIDTH], "counts": counts}
    for counts in ("", "0", "garbage!", "o" * 50, "\u00e9\u00e9", "1" * 500, "\x7f" * 9, "ooooooooooooo0", "P" * 30)
]
TEXTS = [b"", b"[" * 20_000, b"null", b"{}", b"[]", b"[[]]", b"[null]", b"\xff", b'[{"image_id": 1}]', b"[1, 2]"]


@pytest.fixture
def truth(tmp_path):
    (tmp_path / "val.json").write_text(json.dumps(SMALL))
    return read_annotations(tmp_path / "val.json", "mask")


def check_metrics(truth: Any, results: Any, kind: Any) -> None:
    found = coco_metrics(truth, results, kind)
    if results:  # pycocotools fails on none
        entries = [{**entry, "iscrowd": entry.get("iscrowd") or 0} for entry in truth["annotations"]]
        expected = coco_cases.reference({**truth, "annotations": entries}, results, kind)
        for name, theirs in zip(METRICS, expected, strict=True):
            assert (math.isnan(found[name]) and theirs < 0) or abs(found[name] - theirs) < 1e-9, name


@fuzz(36, kind=st.sampled_from(["box", "mask"]), data=st.data())
def test_a_file_of_detections_is_read_or_refused(tmp_path, truth, kind, data):
    results = st.one_of(
        mutated(RESULTS, [*JUNK, *RLES]).map(lambda content: json.dumps(content).encode()),
        mutated(RESULTS, [*JUNK, *RLES]).map(lambda content: json.dumps(content).encode()),
        damaged(json.dumps(RESULTS).encode()),
        st.sampled_from(TEXTS),
    )
    (tmp_path / "results.json").write_bytes(data.draw(results))
    found, error = attempt(lambda: read_results(tmp_path / "results.json", truth, kind), "results.json")
    if error is None:
        check_metrics(truth, found, kind)


@fuzz(36, kind=st.sampled_from(["box", "mask"]), data=st.data())
def test_a_ground_truth_is_read_or_refused(tmp_path, kind, data):
    content = st.one_of(
        mutated(SMALL, [*JUNK, *RLES]).map(lambda content: json.dumps(content).encode()),
        damaged(json.dumps(SMALL).encode()),
        st.sampled_from(TEXTS),
    )
    (tmp_path / "val.json").write_bytes(data.draw(content))
    truth, error = attempt(lambda: read_annotations(tmp_path / "val.json", kind), "val.json")
    if error is not None:
        return
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    found, error = attempt(lambda: read_results(tmp_path / "results.json", truth, kind), "results.json")
    if error is None:
        check_metrics(truth, found, kind)


OPTIONS = {"kind": "mask", "regions": "masks", "edges": [0, 0.5, 1], "resamples": 1, "seed": 0}


@fuzz(16, data=st.data())
def test_an_analysis_is_made_or_refused(truth, data):
    options = data.draw(mutated(OPTIONS, [v for v in JUNK if not (isinstance(v, int) and v > 1000)]))
    if isinstance(options.get("resamples"), int | float) and options["resamples"] > 1000:
        options["resamples"] = 0  # so many draws are wanted, and take their time
    report, error = attempt(lambda: analyze_occlusion(truth, {"a": RESULTS}, **options))
    if error is None:
        assert all(score is None or 0 <= score.value <= 1 for score in report.models[0].scores["AP"])
