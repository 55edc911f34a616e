"""The learngene: one layer per stage and what surrounds them. Extract it, spawn from it, save it, load it.

A learngene is a ViT checkpoint with one layer per stage, so extracting and expanding are one function,
`learngene.mix.mix`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.models import get_model_input_config
from torch import Tensor, nn

from learngene.arguments import typed
from learngene.elastic import Elastic
from learngene.errors import LearngeneError
from learngene.expansion import Expansion, parse_exponents, read_expansions, usual_expansion
from learngene.families.anatomy import anatomy, attention_heads, find_blocks, get_blocks
from learngene.families.architecture import Architecture, architecture_of, check_storable
from learngene.families.branches import ends_of
from learngene.families.heads import head_keys, same_classes
from learngene.families.records import UNTRAINED, image_config, set_pretrained_cfg
from learngene.families.timm import open_model
from learngene.families.weights import adapt_state, build_filled, load_strict
from learngene.gene_file import check_tensors, read, write
from learngene.mix import State
from learngene.plan import StagePlan
from learngene.sharing import STAGES, expand, extract, tie
from learngene.trust.models import check_loading
from learngene.trust.records import check_class_names, check_data_config

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Learngene:
    """Architecture, plan, tensors and where they came from.

    Attributes:
        architecture: the timm model name and arguments that all descendants share.
        plan: the auxiliary net's plan, e.g. ``StagePlan((3, 3, 4, 3, 3))``.
        sharing: how layers are made of the stored ones; ``stages``: each is that of its stage.
        elastic: the depths that were drawn in distilling, and the exponent of their steps.
        expansions: what `learngene.calibrate` chose, by depth.
        state: tensors of a timm model with one layer per stage.
        class_names: names of the head's outputs, in order, when known.
        data_config: mean, std, input size (C, H, W) and interpolation the weights were trained with.
        ancestor: name, digest and licence of the ancestor.
        metrics: what distilling measured and cost.
        versions: package versions at distillation.
    """

    architecture: Architecture
    plan: StagePlan
    state: Mapping[str, Tensor]
    class_names: tuple[str, ...] | None = None
    data_config: Mapping[str, Any] = field(default_factory=dict)
    ancestor: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    sharing: str = STAGES
    elastic: Elastic | None = None
    expansions: Mapping[int, Expansion] = field(default_factory=dict)
    ends: frozenset[str] = field(init=False, default=frozenset())  # of a layer's branches

    def __repr__(self) -> str:
        """A few lines; the tensors are in `state`."""
        names = self.class_names or ()
        listed = f" ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})" if names else ""
        numbers = ", ".join(f"{k} {v:.4g}" for k, v in self.metrics.items() if isinstance(v, float))
        lines = {
            "architecture": f"{self.architecture.name} {dict(self.architecture.args)}",
            "plan": f"{self.plan} ({self.plan.depth} layers in {self.plan.stages} stages)",
            "stored": f"{self.parameters:,} parameters in {len(self.state)} tensors",
            "classes": f"{self.num_classes}{listed}",
            "ancestor": self.ancestor.get("name", "unknown"),
            "metrics": numbers or "none",
        }
        return (
            "Learngene(\n" + "".join(f"  {name}: {str(value)[:160]}\n" for name, value in lines.items()) + ")"
        )

    def __post_init__(self) -> None:
        check_storable(self.architecture)
        if self.sharing != STAGES:
            raise LearngeneError(
                f"it shares layers by {self.sharing!r:.40}, and this package knows '{STAGES}' alone; upgrade "
                "it"
            )
        self.plan.first_layers  # noqa: B018  refuses a plan with an empty stage
        if self.plan.stages > len(self.state):
            raise LearngeneError(
                f"the tensors do not fit the header: a plan of {self.plan.stages} stages, and only "
                f"{len(self.state)} tensors"
            )
        with torch.device("meta"):
            skeleton = self.architecture.build(self.plan.stages)
        check_tensors(self.architecture.name, skeleton, self.state)
        self._check_record()
        self._check_expansions()
        layers = skeleton.get_submodule(anatomy(self.architecture.name).blocks)
        object.__setattr__(self, "ends", ends_of(layers[0]))  # type: ignore[index]

    def _check_record(self) -> None:
        """Raise unless all else in the header is what it should be."""
        for name in ("data_config", "ancestor", "metrics", "versions"):
            if not isinstance(getattr(self, name), Mapping):
                raise LearngeneError(f"{name} {getattr(self, name)!r:.60} must be a mapping")
        check_data_config(dict(self.data_config), "data_config")
        check_data_config({"license": self.ancestor.get("license")}, "ancestor")
        check_class_names(self.class_names, "the header")
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise LearngeneError(
                f"{len(self.class_names)} class names for a head of {self.num_classes} classes; give one each"
            )

    def _check_expansions(self) -> None:
        """Raise unless what was chosen for a depth has this depth and these stages."""
        for depth, way in self.expansions.items():
            if way.plan.depth != depth or way.plan.stages != self.plan.stages:
                raise LearngeneError(
                    f"the expansion {way} is not one of {self.plan.stages} stages to {depth}"
                )

    @classmethod
    def extract(
        cls, auxnet: nn.Module, plan: StagePlan | str | Sequence[int], **provenance: Any
    ) -> Learngene:
        """The learngene of an auxiliary net: each stage's layer, and everything outside the layers.

        What the layers of a stage do not share (norms, with ``share_norms`` off) is averaged over the stage.

        Raises:
            LearngeneError: the plan has not as many layers as the model, or a stage without any.
        """
        plan = StagePlan.parse(plan)
        auxnet = open_model(auxnet)
        plan.check_depth(len(get_blocks(auxnet)))
        return cls(
            architecture_of(auxnet),
            plan,
            extract(auxnet.state_dict(), plan, find_blocks(auxnet)),
            **provenance,
        )

    @property
    def num_classes(self) -> int:
        """Outputs of the stored head."""
        return int(self.architecture.args.get("num_classes", 1000))

    @property
    def parameters(self) -> int:
        """Number of stored values."""
        return sum(tensor.numel() for tensor in self.state.values())

    @property
    def scalable(self) -> bool:
        """Whether a layer's step can be scaled; if not, layers are repeated as they are."""
        return bool(self.ends)

    @typed
    def expansion_for(
        self,
        depth: int | None = None,
        plan: StagePlan | str | int | Sequence[int] | None = None,
        step: float | str | Sequence[float] | None = None,
    ) -> Expansion:
        """How a descendant is made: what was chosen for the depth, where neither plan nor step is given.

        Args:
            plan: by default what was chosen for the depth, or the auxiliary net's own; else balanced.
            step: exponents, one or one per stage; by default those chosen with this plan, else by rule.

        Raises:
            LearngeneError: neither depth nor plan, or contradictory ones; other stages; fewer layers than
                stages without a plan; a step that layers of this family cannot make.
        """
        target = self._plan_for(depth, plan)
        chosen = self.expansions.get(target.depth)
        if plan is None and step is None:
            target = self.plan.at_depth(target.depth) if chosen is None else chosen.plan
        if step is not None:
            way = Expansion(target, parse_exponents(step, target.stages))
            if any(way.exponents) and not self.scalable:
                raise LearngeneError(
                    f"step {way.words}: what a layer of {self.architecture.name} adds cannot be scaled; use "
                    "step 0, or none"
                )
            return way
        if not self.scalable:
            kl = chosen.kl if chosen is not None and chosen.plan == target else None
            return Expansion(target, (0.0,) * target.stages, kl)
        if chosen is not None and chosen.plan == target:
            return chosen
        usual = usual_expansion(self.plan, target)
        return usual if self.elastic is None else Expansion(target, (self.elastic.step,) * target.stages)

    @typed
    def plan_for(
        self, depth: int | None = None, plan: StagePlan | str | int | Sequence[int] | None = None
    ) -> StagePlan:
        """The plan of `expansion_for`."""
        return self.expansion_for(depth, plan).plan

    def _plan_for(self, depth: int | None, plan: StagePlan | str | int | Sequence[int] | None) -> StagePlan:
        if plan is None:
            if depth is None:
                raise LearngeneError(f"say how deep: a depth of {self.plan.stages} or more, or a plan")
            return StagePlan.balanced(depth, self.plan.stages)
        plan = StagePlan.parse(plan)
        if plan.stages != self.plan.stages:
            raise LearngeneError(
                f"plan {plan} has {plan.stages} stages, the learngene has {self.plan.stages}; give one "
                "number per stage"
            )
        if depth is not None and plan.depth != depth:
            raise LearngeneError(
                f"plan {plan} adds up to {plan.depth} layers, not to the depth {depth}; change one of them"
            )
        return plan

    def auxnet(self, **overrides: Any) -> nn.Module:
        """The auxiliary net again, tied, with the learned weights."""
        return tie(self._expand(Expansion(self.plan, (0.0,) * self.plan.stages), **overrides), self.plan)

    @typed
    def spawn(
        self,
        depth: int | None = None,
        *,
        plan: StagePlan | str | Sequence[int] | None = None,
        step: float | str | Sequence[float] | None = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        img_size: int | Sequence[int] | None = None,
        in_chans: int | None = None,
        **overrides: Any,
    ) -> nn.Module:
        """A descendant: a plain, untied timm model of any depth with the learned weights.

        Args:
            depth: number of layers; how they are spread over the stages, `expansion_for` says.
            plan: layers per stage, instead of a depth; a stage may have 0.
            step: exponent of the layers' step size, see `expansion_for`.
            num_classes: size of the head. The learned head is inherited when the classes are the same, else
                fresh.
            class_names: names of the new classes; other names than the learngene's mean a fresh head.
            img_size: pixels (P, or H and W); timm resamples the position embedding.
            in_chans: image channels; timm adapts the patch embedding.
            **overrides: further arguments of the timm model, e.g. ``drop_path_rate=0.1``.

        Raises:
            LearngeneError: a plan or a size that does not fit.
        """
        target = self.expansion_for(depth, plan, step)
        if "pretrained" in overrides:
            raise LearngeneError("pretrained: a descendant's weights are those of the learngene; drop it")
        check_loading(overrides)
        classes = self._count_classes(num_classes, class_names)
        inherited = self.has_classes(classes, class_names)
        self._say_head(target, classes, inherited=inherited)
        changed = {k: v for k, v in {"img_size": img_size, "in_chans": in_chans}.items() if v is not None}
        return self._expand(target, inherit_head=inherited, num_classes=classes, **changed, **overrides)

    def _count_classes(self, num_classes: int | None, class_names: Sequence[str] | None) -> int:
        """Of a descendant's head: what is asked for, by names or a number, else the learngene's own."""
        if class_names is not None:
            if num_classes not in (None, len(class_names)):
                raise LearngeneError(
                    f"{len(class_names)} class names for {num_classes} classes; give one name each"
                )
            num_classes = len(class_names)
        classes = self.num_classes if num_classes is None else num_classes
        if classes < min(1, self.num_classes):
            raise LearngeneError(f"num_classes {classes}: a head needs at least 1 class")
        return classes

    def _say_head(self, way: Expansion, classes: int, *, inherited: bool) -> None:
        if inherited or not self.num_classes:
            which = "inherited" if inherited else "fresh"
            log.info("depth %d (%s): head %s (%d classes)", way.plan.depth, way, which, classes)
            return
        dropped = (
            "depth %d (%s): the trained head of %d classes is dropped, as the %d asked for are others; "
            "a fresh one begins"
        )
        log.warning(dropped, way.plan.depth, way, self.num_classes, classes)

    def has_classes(self, num_classes: int, class_names: Sequence[str] | None = None) -> bool:
        """Whether the stored head is for these classes: the same names where both are known, else the same
        number.
        """
        return same_classes(num_classes, class_names, self.num_classes, self.class_names)

    def expanded(self, way: Expansion) -> dict[str, Tensor]:
        """The state of the descendant, in the learngene's own shapes and with its head.

        At the auxiliary net's own plan all steps are 1, and these are the very tensors.
        """
        blocks = anatomy(self.architecture.name).blocks
        return expand(self.state, way.plan, blocks, steps=way.steps(self.plan), ends=self.ends)

    def _expand(self, way: Expansion, *, inherit_head: bool = True, **overrides: Any) -> nn.Module:
        plan, whole = way.plan, self.expanded(way)
        resize = {k: overrides.pop(k) for k in ("img_size", "in_chans") if k in overrides}
        if inherit_head and not resize:
            model = build_filled(self.architecture, plan.depth, whole, **overrides)
            self._check_heads(model, overrides)
            set_pretrained_cfg(model, self._pretrained_cfg(model, inherit_head))
            return model
        model = self.architecture.build(plan.depth, **overrides, **resize)
        self._check_heads(model, overrides)
        state: State = whole
        if resize:
            state = adapt_state(self.architecture, state, model, self._input_size())
        fresh = set() if inherit_head else head_keys(model)
        load_strict(model, {k: v for k, v in state.items() if k not in fresh}, fresh)
        set_pretrained_cfg(model, self._pretrained_cfg(model, inherit_head))
        return model

    def _check_heads(self, model: nn.Module, overrides: Mapping[str, Any]) -> None:
        """Raise if the weights, which would fit, were learned with another number of attention heads."""
        if not set(overrides) - {"num_classes"}:
            return
        with torch.device("meta"):
            own = attention_heads(self.architecture.build(1))
        found = attention_heads(model)
        if own != found:
            raise LearngeneError(
                f"num_heads {found}: the weights are of layers with {own} heads; drop num_heads"
            )

    def _input_size(self) -> tuple[int, int, int]:
        with torch.device("meta"):
            return tuple(get_model_input_config(self.architecture.build(1))["input_size"])

    def _pretrained_cfg(self, model: nn.Module, inherit_head: bool) -> dict[str, Any]:
        size = get_model_input_config(model)["input_size"]
        cfg = image_config(self.data_config, size[0])
        names = list(self.class_names) if inherit_head and self.class_names else None
        cfg |= {
            "input_size": tuple(size),
            "num_classes": getattr(model, "num_classes", None),
            "label_names": names,
        }
        return UNTRAINED | cfg | {"license": self.ancestor.get("license")}

    @typed
    def save(self, path: str | Path) -> Path:
        """Write one safetensors file: tensors, and a JSON header under the metadata key ``learngene``."""
        header = {
            "architecture": {"name": self.architecture.name, "args": dict(self.architecture.args)},
            "plan": list(self.plan.repeats),
            "sharing": self.sharing,
            "elastic": None if self.elastic is None else asdict(self.elastic),
            "expansions": {str(depth): way.plain() for depth, way in self.expansions.items()},
            "class_names": list(self.class_names) if self.class_names else None,
            "data_config": dict(self.data_config),
            "ancestor": dict(self.ancestor),
            "metrics": dict(self.metrics),
            "versions": dict(self.versions),
        }
        return write(Path(path), header, self.state)

    @classmethod
    @typed
    def load(cls, path: str | Path) -> Learngene:
        """Read a learngene. Nothing in the file is executed.

        Raises:
            LearngeneError: missing, truncated, a pickle, not a learngene, of a newer format, altered, or a
                header that does not fit the tensors. The sentence names the file and the reason.
        """
        path = Path(path)
        header, state = read(path)
        try:
            architecture = Architecture(header["architecture"]["name"], header["architecture"]["args"])
            names = header["class_names"]
            known = {k: header[k] for k in ("data_config", "ancestor", "metrics", "versions", "sharing")}
            check_class_names(names, "the header")
            return cls(
                architecture,
                StagePlan.parse(header["plan"]),
                state,
                class_names=tuple(names) if names else None,
                elastic=None if header.get("elastic") is None else Elastic(**header["elastic"]),
                expansions=read_expansions(header.get("expansions")),
                **known,
            )
        except (LearngeneError, KeyError, TypeError, AttributeError, ValueError) as error:
            reason = (
                str(error) if isinstance(error, LearngeneError) else f"its header lacks or garbles {error}"
            )
            raise LearngeneError(f"'{path}' cannot be used: {reason}") from None
