"""Labels in the order of a trained model's own classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import nn

from learngene.data.source import Source
from learngene.errors import LearngeneError
from learngene.families.records import label_names_of

log = logging.getLogger("learngene")
IGNORE_LABELS = (
    "use matching data, finetune the ancestor on it first, or pass --unlabeled to distil the ancestor's own "
    "classes"
)


def matched(model: nn.Module, name: str, way_out: str, *sources: Source) -> tuple[Source, ...]:
    """The images with labels in the order of a trained model's own classes, where both sides know the names.

    The data may lack some of the model's classes. Where names are not known, the number has to be the same,
    and so, it is assumed, is the order.

    Args:
        name: of the model, for messages.
        way_out: what to do if its classes are others.

    Raises:
        LearngeneError: the data has a class that the model does not have, or another number of classes.
    """
    theirs, ours = label_names_of(model), sources[0].classes
    count = getattr(model, "num_classes", None)
    if theirs and len(theirs) != count:
        raise LearngeneError(
            f"{name} has {len(theirs)} class names for a head of {count}; mend label_names in its "
            f"pretrained_cfg"
        )
    if not (theirs and ours):
        if sources[0].num_classes != count:
            # the data's classes were counted from its labels, of which some may not occur
            counted = not ours and (sources[0].num_classes or 0) < (count or 0)
            more = f", or say --num-classes {count} if it just has no images of some of them"
            raise LearngeneError(
                f"{name} has a head of {count} classes, the data {sources[0].name} has "
                f"{sources[0].num_classes}; {way_out}{more if counted else ''}"
            )
        log.info(
            "the classes of %s have no names; their order is taken to be the same",
            sources[0].name if theirs else name,
        )
        return sources
    strange = next((c for c in ours if c not in theirs), None)
    if strange is not None:
        raise LearngeneError(
            f"the data {sources[0].name} has a class '{strange}' that is not among the {count} of {name}; "
            f"{way_out}"
        )
    if len(ours) < len(theirs):
        log.info("%s has %d of the %d classes of %s", sources[0].name, len(ours), len(theirs), name)
    if [c for c in theirs if c in set(ours)] != list(ours):
        log.info("labels are put into the order of the classes of %s", name)
    return tuple(source.arranged(theirs) for source in sources)


def matched_to_head(
    count: int, names: Sequence[str] | None, name: str, train: Source, val: Source
) -> tuple[bool, Source, Source]:
    """Whether a trained head is kept, which has to have all classes of the images.

    What is kept or dropped, and why, is said: a fresh head is no error, but nobody should wonder.

    Args:
        count: of the head's classes.
        names: of them, where known.
        name: of the model, for messages.

    Returns:
        Whether it is kept; and the images, with labels in the head's order if it is.
    """
    ours = train.classes
    kept = set(ours) <= set(names) if names and ours else count == train.num_classes
    if not kept:
        strange = next((c for c in ours or () if names and c not in names), None)
        why = (
            f"it has no class '{strange}'"
            if strange is not None
            else f"the data has {train.num_classes} classes"
        )
        log.warning(
            "the trained head of %s (%d classes) is dropped, because %s; a fresh one is trained",
            name,
            count,
            why,
        )
        return False, train, val
    if not (names and ours):
        log.warning(
            "the head of %s is kept: it has as many classes as the data, "
            "and their order is taken to be the same",
            name,
        )
        return True, train, val
    if len(ours) < count:
        log.warning(
            "the head of %s is kept with all of its %d classes, of which the data has %d",
            name,
            count,
            len(ours),
        )
    if tuple(ours) != tuple(names):
        log.info("labels are put into the order of the classes of %s", name)
    return True, train.arranged(names), val.arranged(names)
