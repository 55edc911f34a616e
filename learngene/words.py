"""Words of a command line, and YAML, to the fields of a job.

Which options there are, and of which types, is read from the job's class; jsonargparse turns a word, or a
value of a config, into a value of such a type. Words are sorted here, as a list may be several of them.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from jsonargparse import get_loader

from learngene.arguments import cached, check_filled, describe_type, field_types, take
from learngene.errors import LearngeneError
from learngene.help import build_parser, members, spoken
from learngene.job import Job, default_of, grouped_fields, is_required
from learngene.jobs import jobs
from learngene.trust.limits import MAX_CONFIG

# others' names for options, and one of ours from before
ALIASES = {
    "from_ancestor": "start",
    "learning_rate": "lr",
    "optimizer": "opt",
    "num_workers": "workers",
    "output": "out",
}
WAY_OUT = "give a YAML file of arguments, as --print-config prints it"


def parse_words(job: type[Job], words: Sequence[str]) -> dict[str, Any] | None:
    """The fields that words and configs say; none when only the help or the config was asked for.

    Raises:
        LearngeneError: an unknown option, a value of another type, a required one that is missing, or a
            config that cannot be read.
    """
    if not {"-h", "--help"}.isdisjoint(words):
        build_parser(job).print_help()
        return None
    # 1. which word belongs to which option
    given = list(_sorted(job, words))
    # 2. configs, the later over the earlier; the command line overrides them, wherever they stand
    said: dict[str, Any] = {}
    for name, texts in given:
        if name == "config":
            said |= _read_config(texts[0], job)
    # 3. the words as values
    for name, texts in given:
        if name not in ("config", "print_config"):
            whole = name.partition(".")[0]
            said[whole] = _value(job, name, texts, said, _swallowed(job, whole, given, said))
    # 4. what is printed, or run
    if any(name == "print_config" for name, _ in given):
        print(yaml.safe_dump(_whole(job, said), sort_keys=False), end="")
        return None
    for option in fields(job):
        if is_required(option) and said.get(option.name) in (None, []):
            hints = [_swallowed(job, name, given, said) for name, _ in given if option.name == job.POSITIONAL]
            hint = "".join(list(filter(None, hints))[-1:])
            raise LearngeneError(f"{_shown(job, option.name)} is missing{hint}; {_see(job)}")
    return said


def _sorted(job: type[Job], words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each option with its words; the argument that needs no name comes last.

    Raises:
        LearngeneError: an unknown option, one without a value, or a word too many.
    """
    left, placed = list(words), []
    while left:
        word = left.pop(0)
        if not _is_option(word):
            placed.append(word)
            continue
        written, equals, text = word.partition("=")
        name = _named(job, written)
        texts = [text] if equals else _following(job, name.partition(".")[0], left)
        if not texts:
            raise LearngeneError(f"{written} has no value; give one, or leave it out")
        yield name, texts
    if placed:
        if job.POSITIONAL is None or (len(placed) > 1 and not _item(_kinds(job)[job.POSITIONAL])):
            raise LearngeneError(f"'{placed[-1]}' stands alone, and belongs to no option; {_see(job)}")
        yield job.POSITIONAL, placed


def _is_option(word: str) -> bool:
    """Whether a word is an option, and not a value, of which some are below 0."""
    return word.startswith("-") and len(word) > 1 and not (word[1].isdigit() or word[1] == ".")


def _named(job: type[Job], written: str) -> str:
    """The option that is meant: by its name, an entry of a mapping (--arch-args.img_size), or how it begins.

    Raises:
        LearngeneError: there is none, or several begin so.
    """
    name, kinds = written.removeprefix("--").replace("-", "_"), _kinds(job)
    if name in kinds or ("." in name and _is_mapping(kinds.get(name.partition(".")[0]))):
        return name
    begun = [other for other in kinds if name and other.startswith(name)]
    if not begun or _jobs_with(name):
        raise LearngeneError(f"{unknown_option(written, job)}; {_see(job)}")
    if len(begun) > 1:
        several = ", ".join(_shown(job, other) for other in begun)
        raise LearngeneError(f"{written} may be any of {several}; write it out")
    return begun[0]


def _following(job: type[Job], name: str, left: list[str]) -> list[str]:
    """Take the words of an option from those that follow it.

    A switch needs none. A list takes all of them, or one in brackets; numbers end before a word that is none,
    where that may be the argument without a name.
    """
    found = list(itertools.takewhile(lambda word: not _is_option(word), left))
    kind = _kinds(job)[name]
    item = _item(kind)
    if kind is bool:
        found = [word for word in found[:1] if word.lower() in ("true", "false", "yes", "no")]
    elif item is None or (found and found[0].startswith("[")):
        found = found[:1]
    elif job.POSITIONAL and not {int, float}.isdisjoint(members(item)):
        found = found[:1] + list(itertools.takewhile(_is_numeric, found[1:]))
    del left[: len(found)]
    return found or ["true"] * (kind is bool)


def _is_numeric(word: str) -> bool:
    """Whether a word is made of numbers: 4, 4-6, 0.1,1e-3"""
    return any(map(str.isdigit, word)) and set(word) <= set("0123456789.,+-eE ")


def _value(job: type[Job], name: str, texts: list[str], said: Mapping[str, Any], hint: str) -> Any:
    """What the words of an option say.

    Args:
        said: what is said so far: an entry of a mapping is added to it.
        hint: added to the error, before its way out.
    """
    option, *keys = name.split(".")
    shown = _shown(job, name)
    if not keys:
        check_filled(shown, texts)
    try:
        if keys:
            value: Any = _with_entry(said.get(option), keys, _loaded(texts[0]))
        else:
            value = _read(_kinds(job)[option], texts, exactly=option == job.POSITIONAL)
    except LearngeneError as error:
        raise LearngeneError(f"{shown} {error}") from None
    return _typed(job, option, value, f"{shown} {' '.join(texts)}", hint)


def _read(kind: Any, texts: list[str], *, exactly: bool = False) -> Any:
    """Words as a value of which the parts are still texts: a list by words, by commas, or in YAML's brackets.

    Args:
        exactly: a word is an item, whatever is in it.
    """
    item, text = _item(kind), texts[0]
    if exactly:
        return texts if item else text
    if _is_mapping(kind) or (item and text.startswith("[") and len(texts) == 1):
        return _loaded(text)
    if item is None or (len(texts) == 1 and any(map(_is_scalar, members(kind)))):
        return text
    if item is str and len(texts) > 1:  # each may have commas of its own
        return texts
    parts = [part for text in texts for part in ([text] if "{" in text else text.split(","))]
    return [_loaded(part) if "{" in part and item is not str else part.strip() for part in parts]


def _loaded(text: str) -> Any:
    """What a text says as YAML, or the text."""
    try:
        return load_yaml(text)
    except LearngeneError:
        raise
    except Exception:  # PyYAML's own errors, and others of any kind for odd tags
        return text


def _with_entry(before: Any, keys: Sequence[str], value: Any) -> dict[str, Any]:
    """A mapping with another entry, named by keys from the outside in."""
    known = dict(before) if isinstance(before, Mapping) else {}
    key, *deeper = keys
    return known | {key: _with_entry(known.get(key), deeper, value) if deeper else value}


def _typed(job: type[Job], name: str, value: Any, shown: str, hint: str = "") -> Any:
    """A value as jsonargparse has it for the type of an option.

    Raises:
        LearngeneError: it is of another type.
    """
    try:
        return build_parser(job).parse_object({name: value}, defaults=False).as_dict()[name]
    except Exception:  # mostly ArgumentError, but jsonargparse trips over odd values with errors of any kind
        wanted = describe_type(_kinds(job)[name])
        raise LearngeneError(f"{shown}: it must be {wanted}{hint}; {_see(job)}") from None


def _read_config(name: str, job: type[Job]) -> dict[str, Any]:
    """The arguments in a YAML file.

    Raises:
        LearngeneError: it cannot be read, or one of them is no option, or has a value of another type.
    """
    arguments = {}
    for key, value in job.upgraded(_config(name)).items():
        shown = f"the config's '{key}'"
        if key == "config":
            raise LearngeneError(f"config '{name}' names another, '{value}'; give each with --config")
        if key not in _kinds(job) or key == "print_config":
            raise LearngeneError(f"{unknown_option(shown, job, str(key))}; {_see(job)}")
        option = job.__dataclass_fields__.get(key)
        if value is not None or option is None or not is_required(option):  # None: as printed, not yet said
            arguments[key] = _fitting(job, key, value, shown)
    return arguments


def _fitting(job: type[Job], name: str, value: Any, shown: str) -> Any:
    """A value of a config; a list that fits needs no reading, for which jsonargparse takes quadratic time."""
    if isinstance(value, list):
        with contextlib.suppress(LearngeneError):
            return take(name, value, _kinds(job)[name])
    return _typed(job, name, value, f"{shown} {value!r:.60}")


def _config(name: str) -> dict[Any, Any]:
    """What a YAML file holds.

    Raises:
        LearngeneError: it is missing, empty, too large, not text, not YAML, or not a mapping.
    """
    check_filled("--config", name)
    try:
        if Path(name).stat().st_size > MAX_CONFIG:
            raise LearngeneError(f"is larger than {MAX_CONFIG} bytes, the most that is read; shorten it")
        said = load_yaml(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise LearngeneError(f"config '{name}' cannot be read ({error.strerror}); {WAY_OUT}") from None
    except UnicodeError:
        raise LearngeneError(f"config '{name}' is no text; {WAY_OUT}") from None
    except LearngeneError as error:
        raise LearngeneError(f"config '{name}' {error}") from None
    except Exception as error:  # PyYAML's own, and others of any kind for odd tags
        mark, why = getattr(error, "problem_mark", None), getattr(error, "problem", "")
        where = f"line {mark.line + 1}: {why}" if mark else getattr(error, "reason", "it cannot be read")
        raise LearngeneError(f"config '{name}' is no YAML ({where}); mend it") from None
    if said is None:
        raise LearngeneError(f"config '{name}' is empty; {WAY_OUT}")
    if not isinstance(said, dict):
        raise LearngeneError(f"config '{name}' holds no arguments such as 'epochs: 3'; {WAY_OUT}")
    return said


def load_yaml(text: str) -> Any:
    """What a YAML text holds, by jsonargparse's own loader (which reads 1e-3 as a number).

    Raises:
        LearngeneError: a mapping names a key twice, of which YAML would take the last.
    """
    left = [yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))]
    seen = set()  # aliases are nodes that are met again
    while left:
        node = left.pop()
        if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":int") and ":" in node.value:
            raise LearngeneError(f"has {node.value}, which YAML takes for a time; write '{node.value}'")
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise LearngeneError(f"names '{twice}' twice; keep one of them")
        left += [value for _, value in node.value] if isinstance(node, yaml.MappingNode) else node.value
    return get_loader("yaml")(text)


def unknown_option(shown: str, job: type[Job], name: str = "") -> str:
    """What is known of an option that a job does not take.

    Args:
        shown: the option as it was written.
        name: its name, where it stands for something else.
    """
    name = (name or shown.lstrip("-")).replace("-", "_")
    if _jobs_with(name) and name not in _kinds(job):
        others = ", ".join(_jobs_with(name))
        return f"{shown} is no option of {job.COMMAND}, but of {others}: is it for another command?"
    known = {other: other for other in _kinds(job)}
    known |= {alias: other for alias, other in ALIASES.items() if other in known}
    near = [known[other] for other in get_close_matches(name, known, n=1)]
    meant = [f"--{other.replace('_', '-')}" if shown.startswith("-") else f"'{other}'" for other in near]
    return f"{shown} is no option of {job.COMMAND}" + "".join(f"; did you mean {hint}?" for hint in meant)


def _swallowed(job: type[Job], name: str, given: Sequence[tuple[str, Any]], said: Mapping[str, Any]) -> str:
    """Where the argument without a name may have gone: into a list in front of it."""
    place = job.POSITIONAL
    if place is None or place in said or place in dict(given) or not _item(_kinds(job).get(name)):
        return ""
    return f" (put {_shown(job, place)} before {_shown(job, name)}, which takes the words that follow)"


def _whole(job: type[Job], said: Mapping[str, Any]) -> dict[str, Any]:
    """What is said with the defaults of what is not, in the order of the help, as YAML knows it."""
    options = itertools.chain(*grouped_fields(job).values())
    known = {option.name: default_of(option) for option in options if option.name != job.POSITIONAL}
    known |= {**({"json": False} if job.JSON else {}), **said}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()}


@cached
def _kinds(job: type[Job]) -> dict[str, Any]:
    """Types of the options, of those too that are no fields."""
    kinds = {name: spoken(kind) for name, kind in field_types(job).items()}
    return kinds | {"config": str, "print_config": bool} | ({"json": bool} if job.JSON else {})


def _item(kind: Any) -> Any:
    """What a list is of; none for what is no list."""
    return next((get_args(one)[0] for one in members(kind) if get_origin(one) is Sequence), None)


def _is_scalar(kind: Any) -> bool:
    return kind is not type(None) and get_origin(kind) is not Sequence


def _is_mapping(kind: Any) -> bool:
    return any(get_origin(one) is Mapping for one in members(kind))


def _jobs_with(name: str) -> list[str]:
    return [command for command, job in jobs().items() if name in field_types(job)]


def _shown(job: type[Job], name: str) -> str:
    return name.upper() if name == job.POSITIONAL else f"--{name.replace('_', '-')}"


def _see(job: type[Job]) -> str:
    return f"see learngene {job.COMMAND} --help"
