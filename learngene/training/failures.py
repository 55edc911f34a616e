"""What goes wrong in a training, in one sentence with a way out; and what Lightning says that nobody asked
for.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import warnings
from collections.abc import Iterator

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from learngene.errors import LearngeneError
from learngene.recipe import Recipe


@contextlib.contextmanager
def explained(recipe: Recipe) -> Iterator[None]:
    """What goes wrong in a loop on any machine, as one sentence with a way out.

    Raises:
        LearngeneError: a full disk, out of memory, layers that cannot be compiled, a reading process that
            died, a rank that was lost.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        sentence = _sentence(error, recipe)
        if sentence is None:
            raise
        raise LearngeneError(sentence) from error


def _sentence(error: Exception, recipe: Recipe) -> str | None:
    text = str(error)
    first = text.splitlines()[0][:200] if text else ""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return f"{text}; the last good checkpoint is kept: free some space, then --resume"
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in text:
        smaller = f"--batch-size {max(1, recipe.batch_size // 2)} --accumulate {2 * recipe.accumulate}"
        ways = f"{smaller} (the same step in half the memory)"
        ways += "" if recipe.grad_checkpointing else ", or --grad-checkpointing true"
        return f"out of memory with batch_size {recipe.batch_size}; try {ways}"
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return f"torch.compile failed ({first}); use --compile false"
    if "DataLoader worker" in text:
        return f"a process that reads images died ({first}); often memory: try fewer --workers, then --resume"
    if (
        isinstance(error, torch.distributed.DistError)
        or "onnection closed by peer" in text
        or "onnection reset" in text
    ):
        return f"another rank was lost ({first}); see its log, then --resume"
    return None


@contextlib.contextmanager
def as_bad_input() -> Iterator[None]:
    """Lightning's complaints about precision, strategy and the like, as ours."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        if isinstance(error, LearngeneError):
            raise
        raise LearngeneError(f"training cannot be set up: {str(error).splitlines()[0]}") from None


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's advertising and hints; its errors stay."""
    noisy = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
