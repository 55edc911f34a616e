"""What must be trained before the trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from learngene.bench.specs import check_name
from learngene.errors import LearngeneError
from learngene.families.building import check_known
from learngene.job import Job, default_of
from learngene.plan import StagePlan
from learngene.starts import SOURCES

EACH = ("depth", "seed")


@dataclass(frozen=True)
class Preparation:
    """Training before the trials: a learngene to distil, or models to train, whose cost counts.

    Attributes:
        name: what starts call it.
        job: ``distill`` or ``finetune``.
        arguments: some of its fields; where it is made, the benchmark says.
        each: train one for each ``depth`` and/or each ``seed`` of the trials; else one for all.
        cost_of: another preparation: train for as many FLOPs as that one took.
    """

    name: str
    job: type[Job]
    arguments: Mapping[str, Any]
    each: tuple[str, ...] = ()
    cost_of: str | None = None

    @classmethod
    def parse(cls, name: str, entry: Mapping[str, Any], jobs: Mapping[str, type[Job]]) -> Preparation:
        """From ``{distill: {...}}`` or ``{finetune: {...}, each: [depth], cost_of: NAME}``.

        Args:
            jobs: ``distill`` and ``finetune``.

        Raises:
            LearngeneError: it is none of these, or its arguments are not those of the job.
        """
        check_name(name)
        if not isinstance(entry, Mapping):
            raise LearngeneError(
                f"prepare {name}: say how with distill or finetune, e.g. {{finetune: {{epochs: 9}}}}"
            )
        given = dict(entry)
        kinds = [kind for kind in jobs if kind in given]
        if len(kinds) != 1:
            raise LearngeneError(f"prepare {name}: say how with either distill or finetune and its arguments")
        arguments = given.pop(kinds[0]) or {}
        if isinstance(arguments, Mapping):
            arguments = jobs[kinds[0]].upgraded(arguments)
        each, cost_of = given.pop("each", ()), given.pop("cost_of", None)
        if given:
            raise LearngeneError(
                f"prepare {name}: unknown key '{next(iter(given))}'; "
                "it takes distill, finetune, each, cost_of"
            )
        _check_arguments(name, kinds[0], jobs[kinds[0]], arguments)
        _check_each(name, each)
        _check_cost_of(name, kinds[0], arguments, cost_of)
        return cls(name, jobs[kinds[0]], dict(arguments), tuple(each), cost_of)

    @property
    def kind(self) -> str:
        """The command of its job."""
        return self.job.COMMAND

    @property
    def stages(self) -> int:
        """Of the learngene that a distillation makes."""
        usual = default_of(self.job.__dataclass_fields__["plan"])
        return StagePlan.parse(self.arguments.get("plan", usual)).stages

    def builds_on(self) -> list[str]:
        """The trained weights it begins from or learns from; names of other preparations among them."""
        inner = self.arguments.get("start_args") or {}
        named = [
            self.arguments.get("ancestor"),
            self.arguments.get("model"),
            *(inner.get(key) for key in SOURCES),
        ]
        return [str(name) for name in named if name is not None]

    def before(self) -> list[str]:
        """All that must be there first."""
        return [*self.builds_on(), *([self.cost_of] if self.cost_of else [])]


def _check_arguments(name: str, kind: str, job: type[Job], arguments: Any) -> None:
    """Raise unless these are arguments of the job, and say enough."""
    if not isinstance(arguments, Mapping) or not isinstance(arguments.get("start_args") or {}, Mapping):
        raise LearngeneError(f"prepare {name}: {kind} takes a mapping of arguments, and so do its start_args")
    if kind == "distill" and "ancestor" not in arguments:
        raise LearngeneError(f"prepare {name}: distill lacks the ancestor: name a timm directory or model")
    try:
        job.check_some(arguments)
    except LearngeneError as error:
        raise LearngeneError(f"prepare {name}: {error}") from None


def _check_each(name: str, each: Any) -> None:
    """Raise unless it is a list of what there may be one for each of."""
    if not isinstance(each, (list, tuple)) or not all(isinstance(word, str) for word in each):
        raise LearngeneError(f"prepare {name}: each {each!r}: give a list of depth and seed")
    if set(each) - set(EACH):
        raise LearngeneError(f"prepare {name}: each {list(each)}: use depth and seed")


def _check_cost_of(name: str, kind: str, arguments: Mapping[str, Any], cost_of: Any) -> None:
    """Raise unless it is a name, and of a preparation whose steps it may set."""
    if cost_of is not None and kind == "distill":
        raise LearngeneError(f"prepare {name}: cost_of sets the steps of finetune; give distill its epochs")
    if not isinstance(cost_of, (str, type(None))):
        raise LearngeneError(f"prepare {name}: cost_of {cost_of!r:.60} must be the name of a preparation")
    model = arguments.get("model")
    if cost_of is not None and model is not None:
        try:
            check_known(model)
        except LearngeneError as error:
            raise LearngeneError(
                f"prepare {name}: cost_of counts the steps of an architecture; {error}"
            ) from None


class Need(NamedTuple):
    """A preparation, with the depth and the seed of a trial that it serves."""

    preparation: Preparation
    depth: int
    seed: int

    @property
    def key(self) -> str:
        """The folder of the one that serves them."""
        made = self.preparation
        depth = f"-d{self.depth:02d}" if "depth" in made.each else ""
        return made.name + depth + (f"-s{self.seed}" if "seed" in made.each else "")
