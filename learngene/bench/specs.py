"""What is compared: starts under names of their own, and trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from learngene.arguments import check_filled, make
from learngene.errors import LearngeneError
from learngene.recipe import Recipe
from learngene.starts import SOURCES, parse


@dataclass(frozen=True)
class StartSpec:
    """One way to begin, under a name of its own.

    Attributes:
        name: in tables and folders.
        start: names in `learngene.starts.STARTS`, joined by ``+``.
        options: of the start; ``gene``, ``ancestor`` and ``source`` may name a `Preparation`.
        arch_args: architecture arguments that differ from the family's, e.g. ``{"pre_norm": true}``.
        recipe: fields of `Recipe` that differ from the benchmark's, e.g. ``{"lr": 0.004}``.
        epochs, tflops: budgets of this start, instead of the benchmark's; 0 epochs tests it untuned.
        depths: only these, if given.
    """

    name: str
    start: str
    options: Mapping[str, Any] = field(default_factory=dict)
    arch_args: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    epochs: tuple[int, ...] = ()
    tflops: tuple[float, ...] = ()
    depths: tuple[int, ...] = ()

    @classmethod
    def parse(cls, entry: str | Mapping[str, Any]) -> StartSpec:
        """From a start's name, or a mapping; what is not a field of its own is an option of the start.

        Raises:
            LearngeneError: an unknown start, option or recipe field.
        """
        if not isinstance(entry, (str, Mapping)):
            raise LearngeneError(f"the start {entry!r:.60} must be a name, or a mapping with start: NAME")
        given: dict[str, Any] = {"start": entry} if isinstance(entry, str) else dict(entry)
        start = given.pop("start", given.get("name"))
        if not isinstance(start, str):
            raise LearngeneError(f"the start {dict(entry)} does not say which; add start: NAME")  # type: ignore[arg-type]
        own = {f.name for f in fields(cls)} - {"start", "options"}
        kept: dict[str, Any] = {k: given.pop(k) for k in list(given) if k in own}
        parse(start, list(given))
        for option in SOURCES:
            check_filled(f"start {start}: {option}", given.get(option))
        if not isinstance(kept.get("arch_args", {}), Mapping):
            raise LearngeneError(f"start {start}: arch_args {kept['arch_args']!r:.60} must be a mapping")
        lists: dict[str, Any] = {
            k: _several(kept.pop(k), least=0 if k == "epochs" else 1)
            for k in ("epochs", "tflops", "depths")
            if k in kept
        }
        spec = cls(str(kept.pop("name", start)), start, given, **kept, **lists)
        check_name(spec.name)
        if any(isinstance(count, float) for count in (*spec.epochs, *spec.depths)):
            raise LearngeneError(f"start {spec.name}: epochs and depths are whole numbers")
        check_changes(f"start {spec.name}", spec.recipe)
        return spec

    def sources(self, depth: int, seed: int) -> dict[str, str]:
        """What the start takes trained weights from, by option: files, directories, or names of preparations.

        ``{depth}`` and ``{seed}`` in a path are filled in, so that each depth can have a model of its own:
        ``runs/pretrained-d{depth:02d}/model``.

        Raises:
            LearngeneError: other words in braces.
        """
        named = {key: str(self.options[key]) for key in SOURCES if key in self.options}
        try:
            return {key: value.format(depth=depth, seed=seed) for key, value in named.items()}
        except (KeyError, IndexError, ValueError) as error:
            raise LearngeneError(
                f"start {self.name}: {named} may hold {{depth}} and {{seed}} in braces, nothing else "
                f"({error})"
            ) from None


def check_name(name: str) -> None:
    """Raise unless a name can be part of a folder's."""
    if (
        not isinstance(name, str)
        or not name
        or len(name) > 100
        or not all(c.isalnum() or c in "-_+." for c in name)
        or name.startswith(".")
    ):
        raise LearngeneError(
            f"the name '{name}' is part of a folder's; use at most 100 letters, digits, '-', '_', '+' and '.'"
        )


def check_changes(where: str, changes: Mapping[str, Any]) -> None:
    """Raise unless these are fields of `Recipe` that a trial may change."""
    if not isinstance(changes, Mapping):
        raise LearngeneError(f"{where}: its recipe {changes!r:.60} must be a mapping such as {{lr: 0.004}}")
    fixed = sorted({"seed", "devices", "steps", "epochs"} & set(changes))
    if fixed:
        raise LearngeneError(
            f"{where}: the recipe cannot set {fixed[0]}; "
            "seeds, epochs and tflops belong to the benchmark or the start"
        )
    make(Recipe, changes)


def _several(value: Any, *, least: int) -> tuple[Any, ...]:
    """A list of numbers, or one."""
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    odd = any(isinstance(v, bool) or not isinstance(v, (int, float)) or v < 0 for v in values)
    if odd or (least and 0 in values):
        raise LearngeneError(
            f"{value!r}: tflops and depths of a start are numbers above 0, its epochs also 0 (untuned)"
        )
    return values


@dataclass(frozen=True)
class Trial:
    """What is trained and tested once: names of data set, recipe and start, a depth, a budget and a seed.

    Either ``epochs`` or ``tflops`` is the budget of fine-tuning; 0 epochs: as it begins.
    """

    start: str
    depth: int
    seed: int
    epochs: int | None = None
    tflops: float | None = None
    data: str = ""
    recipe: str = ""

    @property
    def key(self) -> str:
        """The trial's folder."""
        budget = f"e{self.epochs}" if self.tflops is None else f"t{self.tflops:g}"
        return "-".join(
            filter(None, (self.data, self.recipe, self.start, f"d{self.depth:02d}", budget, f"s{self.seed}"))
        )
