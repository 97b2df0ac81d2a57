"""Pages, plots and pictures: they draw numbers, and know no networks."""

from .plots import plot_confusion, plot_curves, plot_similarity, plot_tradeoff

__all__ = ["plot_confusion", "plot_curves", "plot_similarity", "plot_tradeoff"]
