"""What all models of one comparison share."""

from dataclasses import dataclass

from learngene.gene import Learngene
from learngene.vit import Architecture


@dataclass(frozen=True)
class Family:
    """An architecture, the classes to tell apart, and what a start may draw on.

    Attributes:
        architecture: shared by all depths.
        num_classes: size of every head.
        class_names: names of the classes, when known.
        gene: the learngene, for starts that need it.
    """

    architecture: Architecture
    num_classes: int
    class_names: tuple[str, ...] | None = None
    gene: Learngene | None = None
