"""Images in, batches out: sources (timm, torchvision, embedded), views (augmentation), and the Lightning data module."""

from learngene.data.embedded import EMBEDDED
from learngene.data.module import ImageData
from learngene.data.source import Source
from learngene.data.splits import has_test_split, open_split, open_training

__all__ = ["EMBEDDED", "ImageData", "Source", "has_test_split", "open_split", "open_training"]
