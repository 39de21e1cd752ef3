"""Features of images: pixels, or what a network makes of them."""

from pushforward.evaluate.features.base import Features, Pixels
from pushforward.evaluate.features.classifier import ClassifierFeatures
from pushforward.evaluate.features.efficientnet import EfficientNetLite0
from pushforward.evaluate.features.fid import Inception
from pushforward.evaluate.features.find import (
    features_of_data,
    features_of_images,
    find_features,
)
from pushforward.evaluate.features.weights import read_weights

__all__ = [
    "ClassifierFeatures",
    "EfficientNetLite0",
    "Features",
    "Inception",
    "Pixels",
    "features_of_data",
    "features_of_images",
    "find_features",
    "read_weights",
]
