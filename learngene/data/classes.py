"""Labels in the order of a trained model's own classes."""

from __future__ import annotations

import logging

from torch import nn

from learngene.data import Source
from learngene.errors import LearngeneError
from learngene.families.records import label_names_of

log = logging.getLogger("learngene")


IGNORE_LABELS = "use matching data, finetune the ancestor on it first, or pass --unlabeled to distil the ancestor's own classes"


def matched(model: nn.Module, name: str, way_out: str, *sources: Source) -> tuple[Source, ...]:
    """The images with labels in the order of a trained model's own classes, where the names are known on both sides.

    The data may lack some of the model's classes. Where names are not known, the number has to be the same, and so, it is assumed, is the order.

    Args:
        name: of the model, for messages.
        way_out: what to do if its classes are others.

    Raises:
        LearngeneError: the data has a class that the model does not have, or another number of classes.
    """
    theirs, ours = label_names_of(model), sources[0].classes
    count = getattr(model, "num_classes", None)
    if theirs and len(theirs) != count:
        raise LearngeneError(f"{name} has {len(theirs)} class names for a head of {count}; mend label_names in its pretrained_cfg")
    if not (theirs and ours):
        if sources[0].num_classes != count:
            counted = not ours and (sources[0].num_classes or 0) < (count or 0)  # from its labels, of which some may not occur
            more = f", or say --num-classes {count} if it just has no images of some of them" if counted else ""
            raise LearngeneError(
                f"{name} has a head of {count} classes, the data {sources[0].name} has {sources[0].num_classes}; {way_out}{more}"
            )
        log.info("the classes of %s have no names; their order is taken to be the same", sources[0].name if theirs else name)
        return sources
    strange = next((c for c in ours if c not in theirs), None)
    if strange is not None:
        raise LearngeneError(
            f"the data {sources[0].name} has a class '{strange}' that is not among the {count} of {name}; {way_out}"
        )
    if len(ours) < len(theirs):
        log.info("%s has %d of the %d classes of %s", sources[0].name, len(ours), len(theirs), name)
    if [c for c in theirs if c in set(ours)] != list(ours):
        log.info("labels are put into the order of the classes of %s", name)
    return tuple(source.arranged(theirs) for source in sources)
