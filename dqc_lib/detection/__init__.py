"""Other ways to find harmful training images, and their scores on one scale of who comes first."""

from dqc_lib.detection.detectors import DETECTORS, SIGHTS, Detector, score_images
from dqc_lib.detection.images import MEASURES, measure_image, standardize
from dqc_lib.detection.material import Material

__all__ = [
    "DETECTORS",
    "MEASURES",
    "SIGHTS",
    "Detector",
    "Material",
    "measure_image",
    "score_images",
    "standardize",
]
