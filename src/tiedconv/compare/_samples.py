"""The report's sections of sample images: what each model says of them."""

from html import escape

from ..report.page import grid, picture, section
from ..report.style import NARROW, class_name
from .results import Comparison


def predictions(comparison: Comparison) -> str:
    """Show what the first run of each classifier takes the samples for."""
    first = [(model.label, model.runs[0].details.get("predictions", [])) for model in comparison.models if model.runs]
    cards = []
    for number, sample in enumerate(comparison.samples):
        if sample.label is None:
            continue
        listed = [
            _prediction(label, found[number], sample.label, comparison.classes)
            for label, found in first
            if number < len(found)
        ]
        cards.append(
            f'<li class="card sample"><img src="data:image/png;base64,{escape(sample.picture)}" '
            f'alt="Sample image {number + 1}" loading="lazy">'
            f"<p>True class <strong>{escape(class_name(comparison.classes, sample.label))}</strong></p>\n"
            f"<ul>{''.join(listed)}</ul></li>"
        )
    return section(
        "Sample predictions",
        '<ul class="samples">\n' + "\n".join(cards) + "\n</ul>" if cards else "",
        "Validation images and what the first run of each model takes them for, with the probability it gives.",
    )


def detections(comparison: Comparison) -> str:
    """Show what the first run of each detector finds in the samples, beside what is there."""
    shown = [(model.label, model.runs[0].details.get("pictures", [])) for model in comparison.models if model.runs]
    figures = []
    for number, sample in enumerate(comparison.samples):
        if sample.label is not None:
            continue
        row = [("What is there", sample.picture)]
        row += [(label, pictures[number]) for label, pictures in shown if number < len(pictures)]
        figures += [
            picture(encoded, title=label, alt=f"Sample image {number + 1}: {label}", kind="jpeg")
            for label, encoded in row
        ]
    return section(
        "Sample detections",
        grid(figures),
        "Validation images, what is really there, and what the first run of each model finds with a score of at least "
        "0.5.",
    )


def _prediction(label: str, prediction: tuple[int, float], truth: int, classes: list[str]) -> str:
    predicted, probability = prediction
    name = escape(class_name(classes, predicted))
    kind, verdict = ("right", f"✓ {name}") if predicted == truth else ("wrong", f"✗ {name} (wrong)")
    return (
        f'<li class="{kind}"><span class="model">{escape(label)}</span>'
        f"<b>{verdict}</b> <span>{100 * probability:.0f}{NARROW}%</span></li>"
    )
