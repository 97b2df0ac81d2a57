"""What trained models do inside: results as data, and drawing functions for them in :mod:`tiedconv.analysis.plots`."""

from .similarity import Histogram, LayerSimilarity, evenly_spaced, filter_similarity, stage_layers

__all__ = ["Histogram", "LayerSimilarity", "evenly_spaced", "filter_similarity", "stage_layers"]
