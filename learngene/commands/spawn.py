"""learngene spawn"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learngene.arguments import typed
from learngene.errors import LearngeneError
from learngene.plan import StagePlan, parse_depths


@typed
def spawn(
    gene: str | Path,
    *,
    out: str | Path,
    depth: int | str | Sequence[int | str] | None = None,
    plan: str | Sequence[int] | StagePlan | None = None,
    num_classes: int | None = None,
    img_size: int | None = None,
    in_chans: int | None = None,
    max_params: float | None = None,
    max_gflops: float | None = None,
    max_latency_ms: float | None = None,
    device: str = "cpu",
    seed: int = 0,
    overwrite: bool = False,
) -> list[Path]:
    """Spawn descendants of any depth from a learngene: OUT/depth-06, OUT/depth-09, ... (timm directories).

    Args:
        gene: learngene file.
        out: directory to write the descendants into.
        depth: numbers of layers, one or more, or ranges such as 4-12; each spread over the stages evenly.
        plan: layers per stage, instead of a depth; a stage may have 0.
        num_classes: size of the head; the learned head is kept when it is the learngene's own number.
        img_size: input pixels; position embeddings are resampled.
        in_chans: input channels.
        max_params: instead of a depth, the deepest with at most so many parameters.
        max_gflops: the deepest with at most so many GFLOPs an image.
        max_latency_ms: the deepest that takes at most so many milliseconds an image on the device (median, as info --latency).
        device: where latency is measured.
        seed: of a fresh head.
        overwrite: replace descendants that are already there.

    Returns:
        The directories, shallowest first.

    Raises:
        LearngeneError: a depth, plan or budget that does not fit; a damaged learngene; a directory in use.
    """
    budgets = {"max_params": max_params, "max_gflops": max_gflops, "max_latency_ms": max_latency_ms}
    budgets = {k: v for k, v in budgets.items() if v is not None}
    if sum([depth is not None, plan is not None, bool(budgets)]) != 1:
        raise LearngeneError(
            "say what to spawn in one way: --depth 6 9 12, or --plan 2,1,2,1,1, or a budget such as --max-params 5e6"
        )
    if not 0 <= seed < 2**32:
        raise LearngeneError(f"seed {seed}: it must be from 0 to below {2**32}")
    import logging

    import torch

    from learngene.costs import MAX_DEPTH, Sizes
    from learngene.devices import check_device
    from learngene.export.timm_directory import FILES, save_timm_directory
    from learngene.families.architecture import check_storable
    from learngene.files import check_free
    from learngene.gene import Learngene

    log = logging.getLogger("learngene")
    check_device(device)
    learned = Learngene.load(gene)
    changes: dict[str, Any] = {
        k: v for k, v in {"num_classes": num_classes, "img_size": img_size, "in_chans": in_chans}.items() if v is not None
    }
    if budgets:
        sizes = Sizes(learned.architecture, tuple(changes.items()))
        depth = sizes.deepest(learned.plan.stages, device=device, **budgets)
        if depth == MAX_DEPTH:
            log.warning("%d layers, the most that are tried, are still within the budget", MAX_DEPTH)
        log.info("the deepest within %s: %d layers", ", ".join(f"{k} {v:g}" for k, v in budgets.items()), depth)
    plans = [learned.plan_for(plan=plan)] if depth is None else [learned.plan_for(d) for d in parse_depths(depth)]
    targets = [Path(out) / f"depth-{target.depth:02d}" for target in plans]
    for target, directory in zip(plans, targets, strict=True):
        check_storable(learned.architecture.name, target.depth)
        check_free(directory, overwrite=overwrite, own=FILES, reads=(gene,))
    for target, directory in zip(plans, targets, strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = learned.spawn(plan=target, **changes)
        names = learned.class_names if learned.has_classes(model.num_classes) else None  # type: ignore[arg-type]
        save_timm_directory(model, directory, class_names=names, overwrite=overwrite)
        log.info("wrote %s", directory)
    return targets
