"""Read-only statistics of a network's weights and activations, and BatchNorm's running statistics."""

from surgeon.measure.activations import ClassMeans, class_means
from surgeon.measure.bn import recalibrate
from surgeon.measure.weights import filter_norms, orthogonality_sums

__all__ = ["ClassMeans", "class_means", "filter_norms", "orthogonality_sums", "recalibrate"]
