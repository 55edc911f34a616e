"""Which process of a distributed run this is. Standard library only."""

from __future__ import annotations

import os


def is_follower() -> bool:
    """Whether this is a process of a distributed run other than the first, which does all writing.

    Under torchrun RANK alone decides: inside a SLURM job its rank 0 need not be on the job's first node.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return os.environ["RANK"] != "0"
    return any(
        os.environ.get(name, "0") != "0" for name in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    )
