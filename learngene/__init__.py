"""One big ViT, many sizes of it: distil a learngene once, spawn timm ViTs of any depth from it.

    from learngene import Learngene
    model = Learngene.load("learngene.safetensors").spawn(depth=9, num_classes=37)

Every CLI command is also a function here: `distill`, `calibrate`, `cache`, `spawn`, `finetune`, `evaluate`,
`benchmark`, `report`, `relearn`, `attention`, `info`, `plan_costs` (the command `learngene plan`;
`learngene.plan` is the module of stage plans), `archs`, `export`, `demo`. Importing this package imports
nothing heavy; its names are loaded when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from learngene.openmp import wait_politely

wait_politely()

__version__ = "0.1.0"

_HOMES = {
    "StagePlan": "plan",
    "LearngeneError": "errors",
    "Architecture": "families.architecture",
    "build_auxnet": "sharing",
    "tie": "sharing",
    "Learngene": "gene",
    **dict.fromkeys(("Recipe", "DataOptions", "DistillOptions"), "recipe"),
}

if TYPE_CHECKING:
    from learngene.errors import LearngeneError as LearngeneError
    from learngene.families.architecture import Architecture as Architecture
    from learngene.gene import Learngene as Learngene
    from learngene.plan import StagePlan as StagePlan
    from learngene.recipe import DataOptions as DataOptions
    from learngene.recipe import DistillOptions as DistillOptions
    from learngene.recipe import Recipe as Recipe
    from learngene.sharing import build_auxnet as build_auxnet
    from learngene.sharing import tie as tie


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"learngene.{_HOMES[name]}"), name)
    if name == "__all__":
        return __dir__()
    if not name.startswith("_"):
        from learngene.jobs import functions

        if name in functions():
            return functions()[name]
    raise AttributeError(f"module 'learngene' has no attribute '{name}'")


def __dir__() -> list[str]:
    from learngene.jobs import functions

    return sorted([*_HOMES, *functions(), "__version__"])
