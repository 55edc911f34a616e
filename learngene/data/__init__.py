"""Images in, batches out: sources (folders, sets by name, streams), views, and the Lightning data module.

Who knows whom, from the bottom: names, images -> trees, folders -> labels, stream -> source -> embedded,
torch_sets, columns, hugging_face, webdataset -> named -> opening -> splits -> classes; and views -> loaders,
device, teacher -> module.
"""

from learngene.data.embedded import EMBEDDED
from learngene.data.module import ImageData
from learngene.data.source import Source
from learngene.data.splits import has_test_split, open_split, open_training

__all__ = ["EMBEDDED", "ImageData", "Source", "has_test_split", "open_split", "open_training"]
