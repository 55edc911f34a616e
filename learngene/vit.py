"""Build and open timm models, and find their list of layers. Everything that knows timm's ways of naming is here."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from timm.data import resolve_model_data_config
from timm.layers import DropPath
from timm.models import PretrainedCfg, build_model_with_cfg, get_model_args, get_model_input_config, is_model
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from learngene.errors import LearngeneError
from learngene.limits import (
    MAX_LAYERS,
    MAX_MODULES,
    MODEL_FREE,
    MODEL_PER_FILE,
    check_images,
    check_names,
    check_values,
    read_json,
)

State = Mapping[str, Tensor]

DEPTH_ARGUMENTS = ("depth", "num_blocks")
# Arguments that steer how timm loads and wraps instead of what it builds: in a file from others they would name files to open.
LOADING_ARGUMENTS = {
    *inspect.signature(timm.create_model).parameters, *inspect.signature(build_model_with_cfg).parameters,
    "features_only", "out_indices", "feature_cls", "pruned", "device", "dtype",
} - {"pretrained", "kwargs"}  # fmt: skip
# What timm's registry says of an architecture's published weights and is not true of ours.
_SOURCE = ("url", "file", "hf_hub_id", "hf_hub_filename", "source", "tag", "origin_url", "paper_name", "paper_ids")
_WORDS = ("notes", "description", "license", "label_names", "label_descriptions", "test_input_size", "test_crop_pct")
UNTRAINED = dict.fromkeys((*_SOURCE, *_WORDS)) | {"custom_load": False}
_IMAGE_KEYS = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
_LAYER_LISTS = (nn.ModuleList, nn.Sequential)
_STOCHASTIC = (DropPath, nn.Dropout, nn.Identity)


@dataclass(frozen=True)
class Architecture:
    """What a family of models shares: a timm model name and its arguments. Depth is not part of it."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_known(self.name)
        if not isinstance(self.args, Mapping):
            raise LearngeneError(f"architecture arguments {self.args!r:.60} must be a mapping such as {{'img_size': 28}}")
        check_loading(self.args)
        clash = sorted(set(self.args) & {*DEPTH_ARGUMENTS, "pretrained"})
        if clash:
            raise LearngeneError(
                f"architecture argument '{clash[0]}' is not allowed: the stage plan (or depth) sets the number of "
                f"layers, and weights are never taken from the architecture; remove it"
            )
        try:
            object.__setattr__(self, "args", json.loads(json.dumps(dict(self.args))))
        except TypeError as error:
            raise LearngeneError(f"architecture arguments {dict(self.args)!r} are not plain JSON values: {error}") from None
        check_values(self.args, "architecture argument")

    def build(self, depth: int, **overrides: Any) -> nn.Module:
        """A timm model with ``depth`` layers and random weights; ``overrides`` go on top of the arguments.

        Raises:
            LearngeneError: timm refuses the arguments, or has no way to set this model's depth.
        """
        if depth > MAX_LAYERS:
            raise LearngeneError(f"a depth above {MAX_LAYERS} is refused; no ViT is as deep, so use fewer layers")
        check_values(overrides, "architecture argument")
        return _create_with_depth(self.name, depth, **{**self.args, **overrides})


def check_loading(args: Mapping[str, Any]) -> None:
    """Raise for arguments that would make timm open files or the network."""
    found = sorted(LOADING_ARGUMENTS & set(args))
    if found:
        raise LearngeneError(
            f"architecture argument '{found[0]}' is not allowed: it says how timm loads a model, not what the model is; remove it"
        )


@contextlib.contextmanager
def _bounded(most: float) -> Iterator[None]:
    """Stop building a model as soon as it has more modules than any, or more than ``most`` bytes."""
    modules = size = 0

    def count(*_: Any) -> None:
        nonlocal modules
        modules += 1
        if modules > MAX_MODULES:
            raise LearngeneError(f"the model has more than {MAX_MODULES} modules, the most that are built; use fewer layers")

    def weigh(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal size
        size += 0 if tensor is None else tensor.nbytes
        if size > most:
            raise LearngeneError(f"the model would take more than {most / 1e6:,.0f} MB, far more than its weights file holds")

    handles = [
        register_module_module_registration_hook(count),
        register_module_parameter_registration_hook(weigh),
        register_module_buffer_registration_hook(weigh),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def match_names(pattern: str) -> list[str]:
    """timm's architectures whose names match a pattern with ``*`` and ``?``, or the one that is named.

    Raises:
        LearngeneError: there is none.
    """
    found = timm.list_models(pattern)
    if not found and not set(pattern) & set("*?["):
        check_known(pattern)  # says which names are near
    if not found:
        raise LearngeneError(
            f"no architecture of timm {timm.__version__} matches '{pattern[:80]}'; try '*{pattern[:80].strip('*?')}*'"
        )
    return found


def check_known(name: str) -> None:
    """Raise unless timm knows the architecture, naming its nearest neighbours."""
    if not isinstance(name, str) or len(name) > 200 or not all(c.isalnum() or c in "._-" for c in name):
        raise LearngeneError(f"{name!r:.80} is not the name of an architecture; give one of timm's, e.g. vit_small_patch16_224")
    base = name.partition(".")[0]
    if not is_model(base):
        from difflib import get_close_matches

        near = get_close_matches(base, timm.list_models(), n=3) or ["vit_small_patch16_224"]
        raise LearngeneError(
            f"'{name}' is not an architecture of timm {timm.__version__}; did you mean {', '.join(near)}? timm.list_models() lists all"
        )


def _create(name: str, **kwargs: Any) -> nn.Module:
    with _quiet():
        try:
            return timm.create_model(name, **kwargs)
        except LearngeneError:
            raise
        except Exception as error:  # timm raises anything here: TypeError, AssertionError, KeyError, ...
            shown = {k: v for k, v in kwargs.items() if not k.startswith("pretrained")}
            raise LearngeneError(f"timm cannot build {name} with {shown}: {type(error).__name__}: {_first_line(error)}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep timm's chatter about skipped heads and unused arguments out of the log while we check them ourselves."""
    logger = logging.getLogger("timm")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _signature(module: nn.Module) -> Any:
    """Everything about a layer that its function depends on, except its weights and its random dropping."""
    if isinstance(module, _STOCHASTIC):
        return "stochastic"
    plain = tuple(
        (name, value)
        for name, value in sorted(vars(module).items())
        if isinstance(value, (bool, int, float, str, tuple)) and name not in ("training", "drop_path", "drop_path_rate")
    )
    tensors = tuple((name, tuple(t.shape)) for name, t in _own_tensors(module))
    children = tuple((name, _signature(child)) for name, child in module.named_children())
    return type(module).__qualname__, plain, tensors, children


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@dataclass(frozen=True)
class Anatomy:
    """How an architecture is layered.

    Attributes:
        blocks: name of its list of layers.
        depth: its own number of layers.
        depth_argument: the argument that sets that number; none where timm fixes it (Mixers, for one). Other depths
            are then made by hand, and only its own depth can be written as a timm directory.
        width: channels of a token, as timm counts them (what goes into the head).
        parameters: their number at its own depth, with timm's head.
    """

    blocks: str
    depth: int
    depth_argument: str | None
    width: int
    parameters: int


@cache
def anatomy(name: str) -> Anatomy:
    """The anatomy of a timm architecture, found on the meta device at its own depth.

    Raises:
        LearngeneError: it is not one uniform list of layers, with the reason.
    """
    name = name.partition(".")[0]
    check_known(name)
    with torch.device("meta"):
        own = _create(name)
        blocks = search_blocks(own)
        depth = len(own.get_submodule(blocks))  # type: ignore[arg-type]
        size = (int(own.num_features), _size(own))  # type: ignore[arg-type]
        for argument in DEPTH_ARGUMENTS:
            try:
                short, long = (_create(name, **{argument: layers}) for layers in (2, 3))
            except LearngeneError:
                continue
            if [len(m.get_submodule(blocks)) for m in (short, long)] != [2, 3]:  # type: ignore[arg-type]
                continue
            grown = {k: v.shape for k, v in long.state_dict().items()}
            for key, tensor in short.state_dict().items():
                if grown.get(key) != tensor.shape:
                    raise LearngeneError(_unsupported(name, f"the shape of '{key}' depends on the number of layers"))
            return Anatomy(blocks, depth, argument, *size)
    if "." in blocks:
        raise LearngeneError(_unsupported(name, f"'{blocks}' is only one part of a net of several resolutions"))
    return Anatomy(blocks, depth, None, *size)


def _create_with_depth(name: str, depth: int, **kwargs: Any) -> nn.Module:
    """A timm model of any depth; where timm fixes the depth, its list of layers is cut or filled from further models."""
    known = anatomy(name)
    if known.depth_argument:
        return _create(name, **{known.depth_argument: depth}, **kwargs)
    model = _create(name, **kwargs)
    old = model.get_submodule(known.blocks)
    layers = list(old.children())
    while len(layers) < depth:
        layers += _create(name, **kwargs).get_submodule(known.blocks).children()
    new = nn.ModuleList(layers[:depth]) if isinstance(old, nn.ModuleList) else nn.Sequential(*layers[:depth])
    setattr(model, known.blocks, new)
    return model


def check_storable(name: str, depth: int) -> None:
    """Raise unless a timm directory can record this architecture at this depth."""
    known = anatomy(name)
    if known.depth_argument is None and depth != known.depth:
        raise LearngeneError(
            f"{name} with {depth} layers cannot be stored as a timm directory, because timm fixes its depth at {known.depth}; "
            f"use depth {known.depth}, or spawn it in Python and keep the state dict"
        )


def check_device(device: str) -> None:
    """Raise unless torch can put something on this device."""
    try:
        torch.empty(1, device=None if device == "auto" else device)
    except (RuntimeError, AssertionError) as error:
        raise LearngeneError(f"device '{device}' cannot be used ({str(error).splitlines()[0]}); use cpu or auto") from None


def find_blocks(model: nn.Module) -> str:
    """Name of the list of layers of a model, e.g. ``"blocks"`` (see `anatomy` and, for modules not timm's, `search_blocks`)."""
    name = architecture_name(model)
    return anatomy(name).blocks if is_model(name) else search_blocks(model)


def get_blocks(model: nn.Module) -> nn.ModuleList | nn.Sequential:
    """The list of layers itself."""
    return model.get_submodule(find_blocks(model))  # type: ignore[return-value]


def search_blocks(model: nn.Module) -> str:
    """Name of the one list of equal layers that holds most of a model's parameters.

    Raises:
        LearngeneError: there is no such list (the model is not a uniform stack of layers), with the reason.
    """
    total = _size(model)
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, _LAYER_LISTS) and len(m) >= 2]
    large = [(name, m) for name, m in lists if name and 2 * _size(m) > total]
    if not large:
        raise LearngeneError(_unsupported(model, "no single list of layers holds most of its parameters"))
    name, blocks = max(large, key=lambda item: (type(item[1]) in _LAYER_LISTS, len(item[1]), _size(item[1])))
    first, *others = (_signature(block) for block in blocks)
    for layer, other in enumerate(others, start=1):
        if other != first:
            difference = _difference(first, other)
            raise LearngeneError(_unsupported(model, f"layer {layer} of '{name}' differs from layer 0 ({difference})"))
    return name


def _difference(a: Any, b: Any, path: str = "") -> str:
    """Where two signatures first part ways, in words."""
    if isinstance(a, str) or isinstance(b, str) or a[0] != b[0]:
        kinds = [s if isinstance(s, str) else s[0] for s in (a, b)]
        return f"{path or 'class'}: {kinds[0]} against {kinds[1]}"
    for x, y in [*zip(a[1], b[1], strict=False), *zip(a[2], b[2], strict=False)]:
        if x != y:
            return f"{path}{x[0]}: {x[1]} against {y[1]}"
    for (name, x), (_, y) in zip(a[3], b[3], strict=False):
        if x != y:
            return _difference(x, y, f"{path}{name}.")
    return f"{path or 'layer'}: different parts"


_SUPPORTED = (
    "choose a timm model with one uniform list of layers, e.g. vit_small_patch16_224, deit3_small_patch16_224 or mixer_b16_224"
)


def _unsupported(model: nn.Module | str, reason: str) -> str:
    name = model if isinstance(model, str) else architecture_name(model)
    return f"{name} is not supported, because {reason}; {_SUPPORTED}"


def architecture_name(model: nn.Module) -> str:
    """timm's name for a model's architecture, or its class name when timm did not build it."""
    return pretrained_cfg(model).get("architecture") or type(model).__name__


def relayer(state: State, layer_map: Sequence[int], blocks: str) -> dict[str, Tensor]:
    """Layer ``i`` of the new ViT is layer ``layer_map[i]`` of the old; everything else stays.

    Extracting a learngene, expanding it and choosing layers of an ancestor are all this function. Tensors are
    referenced, not copied.

    Raises:
        LearngeneError: the map names a layer that the state does not have.
    """
    prefix = f"{blocks}."
    layers: dict[int, dict[str, Tensor]] = {}
    new = {}
    for key, value in state.items():
        if key.startswith(prefix):
            layer, _, rest = key[len(prefix) :].partition(".")
            layers.setdefault(int(layer), {})[rest] = value
        else:
            new[key] = value
    for target, source in enumerate(layer_map):
        if source not in layers:
            raise LearngeneError(f"layer {source} was asked for, but there are only {len(layers)} layers (0 to {len(layers) - 1})")
        new.update({f"{prefix}{target}.{rest}": value for rest, value in layers[source].items()})
    return new


def architecture_of(model: nn.Module) -> Architecture:
    """The architecture of a timm model, without its depth.

    Raises:
        LearngeneError: timm did not build the model, so it cannot be built again.
    """
    name = architecture_name(model)
    if not is_model(name):
        raise LearngeneError(f"{name} was not built by timm.create_model; name an architecture of timm's for the auxiliary net")
    skip = {*DEPTH_ARGUMENTS, "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"}
    return Architecture(name, {k: v for k, v in get_model_args(model).items() if k not in skip and v is not None})


def open_model(source: str | Path | nn.Module, **kwargs: Any) -> nn.Module:
    """A trained timm model: by name, ``hf-hub:ID``, ``local-dir:DIR``, a timm directory, or a module (returned as it is).

    Raises:
        LearngeneError: nothing there, unreadable, unknown, or its weights cannot be had (the reason and way out named).
    """
    if isinstance(source, nn.Module):
        return getattr(source, "_orig_mod", source)  # of torch.compile
    name = str(source)
    directory = Path(name.removeprefix("local-dir:"))
    if name.startswith("local-dir:") or directory.is_dir():
        _check_timm_directory(directory)
        name = f"local-dir:{directory}"
    elif not name.startswith(("hf-hub:", "hf_hub:")):
        if directory.is_file():
            raise LearngeneError(f"{what_file(directory)}; {_WAYS}")
        if "/" in name or directory.suffix in (".safetensors", ".pth", ".pt", ".bin"):
            raise LearngeneError(
                f"there is no model directory at '{name}'; give a directory with config.json and model.safetensors, "
                f"a timm name such as vit_small_patch16_224, or hf-hub:OWNER/NAME"
            )
        check_known(name)
    with _quiet():
        try:
            most = float("inf")
            if name.startswith("local-dir:"):
                most = _most_bytes(directory)
                _rehearse(name, kwargs, most)
            with _bounded(most):
                return timm.create_model(name, pretrained=True, **kwargs)
        except LearngeneError as error:
            raise LearngeneError(f"'{name}' cannot be used: {error}") from None
        except Exception as error:
            if name.startswith("local-dir:"):
                reason = _stored_misfit(directory, name, kwargs)
                what = "do not fit its config.json" if reason else "cannot be loaded"
                reason = reason or f"{type(error).__name__}: {_first_line(error)}"
                raise LearngeneError(
                    f"the weights in '{directory}' {what}: {reason}; write the model again (timm.models.save_for_hf)"
                ) from error
            raise LearngeneError(
                f"the weights of '{name}' cannot be loaded ({type(error).__name__}: {_first_line(error)}); "
                f"check the name and the connection, or give a timm directory that is already on this machine"
            ) from error


_WAYS = "build the model in Python and pass the module, or write it as a timm directory (timm.models.save_for_hf)"


def what_file(path: Path) -> str:
    """Why a file is no model."""
    kinds = {
        ".safetensors": "holds weights, but does not say of which architecture",
        ".onnx": "is an ONNX graph, which cannot be run as a torch model",
    }
    kinds |= dict.fromkeys(
        (".pth", ".pt", ".bin", ".tar", ".ckpt"), "is a torch checkpoint, which does not say of which architecture"
    )
    return f"'{path}' {kinds.get(path.suffix.lower(), 'is a file, and a model is a directory with config.json')}"


def misfit(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str | None:
    """What of some weights does not fit a model, by the shapes of both: the first tensor, with both shapes; none if all fit."""
    for prefix in ("model.", "module.", "_orig_mod.", "backbone.", "encoder."):
        if found and all(name.startswith(prefix) for name in found) and expected.keys() & {n.removeprefix(prefix) for n in found}:
            first = next(iter(found))
            return f"all names begin with '{prefix}' ('{first}' {_shape(found[first])}), which the model's do not; take that off"
    for name, shape in expected.items():
        if found.get(name, shape) != shape:
            return f"'{name}' has the shape {_shape(found[name])}, the model's has {_shape(shape)}"
    missing = next((f"'{n}' {_shape(s)} is missing" for n, s in expected.items() if n not in found), None)
    further = next((f"'{n}' {_shape(s)} is none of the model's" for n, s in found.items() if n not in expected), None)
    return " and ".join(filter(None, (missing, further))) or None


def _shape(shape: Sequence[int]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def shapes(state: State) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor, by name."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _stored_misfit(directory: Path, name: str, kwargs: Mapping[str, Any]) -> str | None:
    """Which tensor in a timm directory's weights file does not fit; none where that cannot be told."""
    try:
        with torch.device("meta"):
            expected = shapes(timm.create_model(name, **kwargs).state_dict())
        file = directory / "model.safetensors"
        if file.is_file():
            with safe_open(file, "pt") as opened:
                found = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
        else:
            found = shapes(torch.load(directory / "pytorch_model.bin", map_location="meta", weights_only=True))
    except Exception:  # whatever is wrong with them was said already
        return None
    return misfit(expected, found)


def _first_line(error: BaseException) -> str:
    """What an error says first; torch's list of tensors that do not fit has a title above it."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or ["no message"]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def _check_timm_directory(directory: Path) -> None:
    if not directory.is_dir():
        raise LearngeneError(f"there is no directory '{directory}'; give a timm directory (config.json and model.safetensors)")
    config = directory / "config.json"
    if not config.is_file():
        raise LearngeneError(f"'{directory}' has no config.json, so it is not a timm directory; spawn or finetune writes one")
    said = read_json(config)
    architecture = said.get("architecture") if isinstance(said, dict) else None
    if not isinstance(architecture, str):
        raise LearngeneError(f"'{config}' names no architecture, so it is not timm's; write the model again")
    check_known(architecture)
    args, record = said.get("model_args") or {}, said.get("pretrained_cfg", said)
    if not isinstance(args, dict):
        raise LearngeneError(f"'{config}' has model_args that are no mapping; write the model again")
    try:
        check_loading(args)
        check_values(args, "architecture argument")
        deep = next((k for k in DEPTH_ARGUMENTS if isinstance(args.get(k), (int, float)) and args[k] > MAX_LAYERS), None)
        if deep is not None:
            raise LearngeneError(f"architecture argument '{deep}' is {args[deep]}, and models have at most {MAX_LAYERS} layers")
        check_images(record, "its pretrained_cfg")
        check_names(said.get("label_names") or record.get("label_names"), "its label_names")
    except LearngeneError as error:
        raise LearngeneError(f"'{config}' cannot be used: {error}") from None


def _most_bytes(directory: Path) -> int:
    """The most memory a model in a directory may take, by the size of the files beside it."""
    return MODEL_FREE + MODEL_PER_FILE * sum(file.stat().st_size for file in directory.iterdir() if file.is_file())


def _rehearse(name: str, kwargs: Mapping[str, Any], most: float) -> None:
    """Build a model without memory first, so that a forged config.json is found out before anything is allocated."""
    try:
        with torch.device("meta"), _bounded(most):
            timm.create_model(name, **kwargs)
    except (RuntimeError, NotImplementedError):  # a few of timm's models cannot be built there
        return


def data_config(model: nn.Module) -> dict[str, Any]:
    """How a model wants its images: ``input_size`` (C, H, W), ``mean``, ``std``, ``interpolation``, crop.

    Raises:
        LearngeneError: timm did not build the model, so it does not say.
    """
    if not pretrained_cfg(model):
        raise LearngeneError(
            f"{type(model).__name__} is not a timm model, so it does not say how it wants its images; pass one of timm's"
        )
    config = resolve_model_data_config(model)
    config["input_size"] = size = tuple(get_model_input_config(model)["input_size"])
    config |= {key: per_channel(config[key], size[0]) for key in ("mean", "std")}
    return json.loads(json.dumps(config))


def per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """A mean or standard deviation per channel; for another number of channels than it has, the average of all."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


def label_names(model: nn.Module) -> list[str] | None:
    """The class names written in a timm model's config, in the order of its outputs, if there are any."""
    names = pretrained_cfg(model).get("label_names")
    return list(names) if names else None


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Names of a timm model's classifier layers (some have two: DeiT distilled)."""
    names = pretrained_cfg(model).get("classifier") or "head"
    return (names,) if isinstance(names, str) else tuple(names)


def head_keys(model: nn.Module) -> set[str]:
    """Names of the classifier's tensors in a model's state."""
    heads = classifier_names(model)
    return {key for key in model.state_dict() if key.rpartition(".")[0] in heads}


def same_classes(count: int, names: Sequence[str] | None, other_count: int | None, other_names: Sequence[str] | None) -> bool:
    """Whether two heads are for the same classes: the same names where both are known, else the same number."""
    if names and other_names:
        return tuple(names) == tuple(other_names)
    return count == other_count


def image_config(config: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """What of a data config belongs to the weights: how they want their images, for a number of channels."""
    kept = {key: config[key] for key in _IMAGE_KEYS if config.get(key) is not None}
    return kept | {key: per_channel(kept[key], channels) for key in ("mean", "std") if key in kept}


def digest(state: State) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all tensors, in the order of their names."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = _plain(state[name])
        if not isinstance(tensor, Tensor):  # quantised modules keep other things there too
            total.update(f"{name} {tensor!r}".encode())
            continue
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return total.hexdigest()


def _plain(value: Any) -> Any:
    """A tensor as numbers in the host's memory, quantised ones too; whatever else as it is."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    return (value.dequantize() if value.is_quantized else value).contiguous()


def parameters(model: nn.Module) -> int:
    """Number of parameters, shared ones counted once."""
    return _size(model)


def flops(model: nn.Module, input_size: Sequence[int] | None = None) -> int:
    """Floating point operations (2 per multiply-add) of one forward pass of one image, counted by torch.

    Counts matrix products, convolutions and attention. Runs the model on zeros where it lies; put it on the meta
    device to count without computing (fused attention is missed on CPU, see torch.utils.flop_counter).
    """
    from torch.utils.flop_counter import FlopCounterMode

    size = tuple(input_size or get_model_input_config(model)["input_size"])
    counter = FlopCounterMode(display=False)
    with _COUNTING, evaluating(model), torch.no_grad(), contextlib.redirect_stdout(io.StringIO()), counter:  # some models print
        model(torch.zeros(1, *size, device=device_of(model)))
    return counter.get_total_flops()


_COUNTING = threading.Lock()  # stdout is one for all threads


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode while the block runs; afterwards each of its modules is in the mode that it was in."""
    with modes_kept(model):
        model.eval()
        yield


@contextlib.contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards each of a model's modules is in the mode, training or eval, that it was in before."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, was in modes:
            module.training = was


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first tensor lies; cpu if it has none."""
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def attention_heads(model: nn.Module) -> list[int]:
    """The numbers of attention heads that occur in a model."""
    counts = {getattr(module, "num_heads", None) for module in model.modules()}
    return sorted(count for count in counts if isinstance(count, int))


def adapt_state(architecture: Architecture, state: State, model: nn.Module, input_size: Sequence[int]) -> State:
    """Resample position embeddings and adapt the patch embedding of ``state`` to another image size or channel count.

    timm's own checkpoint filters do the work: the state is passed through ``create_model`` as pretrained weights. The
    classifier keeps the state's size here.
    """
    blocks = find_blocks(model)
    depth = len(model.get_submodule(blocks))  # type: ignore[arg-type]
    args = {**get_model_args(model), "num_classes": architecture.args.get("num_classes", 1000)}
    overlay = {
        "state_dict": {k: v.clone() for k, v in state.items()},
        "input_size": tuple(input_size),
        "num_classes": args["num_classes"],
        "custom_load": False,
        "label_offset": None,
    }
    own_depth = anatomy(architecture.name).depth_argument
    if own_depth is None:
        raise LearngeneError(
            f"{architecture.name} cannot change its image size or channels, because timm fixes its depth; keep img_size and in_chans"
        )
    args[own_depth] = depth
    source = {**architecture.args, own_depth: depth}
    loader = _create(architecture.name, pretrained=True, pretrained_cfg_overlay=overlay, pretrained_model_args=source, **args)
    return loader.state_dict()


def build_filled(architecture: Architecture, depth: int, state: State, **overrides: Any) -> nn.Module:
    """A model with copies of the weights in ``state``, which must be all of them; draws no random numbers where it can.

    Drawing weights that are then replaced takes most of a build's time, so the model is built without memory first. That will
    not do if it holds tensors that no state tells (tables computed at the start) or uses a parameter twice.
    """
    with torch.device("meta"):
        model = architecture.build(depth, **overrides)
    if not _is_all_state(model):
        model = architecture.build(depth, **overrides)
        load_strict(model, state, set())
        return model
    device = torch.get_default_device()
    places = model.state_dict()
    reason = misfit(shapes(places), shapes(state))
    if reason:
        raise LearngeneError(f"the weights do not fit {architecture.name} with {overrides}: {reason}")
    copies = {k: torch.empty_like(places[k], device=device).copy_(t) for k, t in state.items()}
    load_strict(model, copies, set(), assign=True)
    return model


def _is_all_state(model: nn.Module) -> bool:
    """Whether a state dict holds every tensor of a model, and each once."""
    stored = model.state_dict().keys()
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    once = len({id(tensor) for _, tensor in tensors}) == len(tensors)
    registered = ("_parameters", "_buffers", "_modules")
    loose = any(_holds_tensor(v) for m in model.modules() for k, v in vars(m).items() if k not in registered)
    return once and not loose and all(name in stored for name, _ in tensors)


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_tensor, value.values()))
    return isinstance(value, Tensor) or (isinstance(value, (list, tuple, set)) and any(map(_holds_tensor, value)))


def load_strict(model: nn.Module, state: State, fresh: set[str], *, assign: bool = False) -> None:
    """Load a state into a model: exactly its keys but for ``fresh``, exactly its shapes; ``assign`` instead of copying."""
    try:
        result = model.load_state_dict(state, strict=False, assign=assign)
    except RuntimeError as error:
        reason = _misfit_but(model, state, fresh) or _first_line(error)
        raise LearngeneError(f"the weights do not fit {architecture_name(model)}: {reason}") from None
    if set(result.missing_keys) - fresh or result.unexpected_keys:
        raise LearngeneError(f"the weights do not fit {architecture_name(model)}: {_misfit_but(model, state, fresh)}")


def _misfit_but(model: nn.Module, state: State, fresh: set[str]) -> str | None:
    expected = {k: v for k, v in shapes(model.state_dict()).items() if k in state or k not in fresh}
    return misfit(expected, shapes(state))


def is_supported(name: str) -> bool:
    """Whether an architecture is one uniform list of layers (see `anatomy`)."""
    return why_unsupported(name) is None


@cache
def why_unsupported(name: str) -> str | None:
    """What is against an architecture as an auxiliary net; none for a supported one."""
    try:
        anatomy(name)
    except LearngeneError as error:
        return str(error).removesuffix(f"; {_SUPPORTED}")
    return None


def pretrained_cfg(model: nn.Module) -> dict[str, Any]:
    """timm's record of a model's weights; empty for a module that is not timm's."""
    record = getattr(model, "pretrained_cfg", None)
    record = record.to_dict() if isinstance(record, PretrainedCfg) else record
    if record and not isinstance(record, Mapping):
        raise LearngeneError(f"the pretrained_cfg of {type(model).__name__} is {type(record).__name__}, and should be a mapping")
    return dict(record or {})


def set_pretrained_cfg(model: nn.Module, changes: Mapping[str, Any]) -> None:
    """Change a model's record, which timm directories are written from."""
    record: Any = {**pretrained_cfg(model), **changes}
    model.pretrained_cfg = model.default_cfg = record
