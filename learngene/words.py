"""Words of a command line, and YAML, to the fields of a job.

Which options there are, of which types, with which defaults and help, is read from the job's class; jsonargparse turns a word into a
value of such a type, and prints the help. A config holds values already, which the job checks itself. Each file is read once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, Union, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader

from learngene.arguments import UNIONS, describe_type, field_types
from learngene.errors import LearngeneError
from learngene.help import HelpFormatter
from learngene.job import Job, default_of, field_helps, group_of, is_required, ordered_fields
from learngene.jobs import jobs
from learngene.trust.limits import MAX_CONFIG

ALIASES = {
    "learning_rate": "lr",
    "optimizer": "opt",
    "num_workers": "workers",
    "output": "out",
}  # others' names for options
PLAIN = (str, int, float, bool, NoneType)  # classes that a word of the command line can be read as
GENERAL = "General"


def parse(job: type[Job], words: Sequence[str]) -> dict[str, Any] | None:
    """The fields that words and configs say; none when it was only asked to print the help or the config.

    Raises:
        LearngeneError: an unknown option, a value of another type, a required one that is missing, or a config that cannot be read.
    """
    parser = build_parser(job)
    options, configs = _sorted(job, words)
    if "help" in options:
        parser.print_help()
        return None
    print_config = options.pop("print_config", None) is not None
    # the command line overrides configs, wherever they stand; of two configs the later one counts
    said: dict[str, Any] = {}
    for config in configs:
        said |= _read_config(config, job)
    said |= _values(parser, job, options)
    if print_config:
        known = {option.name: default_of(option) for option in ordered_fields(job)}
        print(yaml.safe_dump(_listed(known | said), sort_keys=False), end="")
        return None
    for option in fields(job):
        if is_required(option) and said.get(option.name) in (None, []):
            raise LearngeneError(
                f"{_shown(job, option.name)} is missing{_swallowed(job, options)}; {_see(job)}"
            )
    return said


def _sorted(job: type[Job], words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The text of each option, and the config files. A switch needs no value, and a list may be several words.

    Raises:
        LearngeneError: an unknown option, one without a value, or a word too many.
    """
    kinds = {name: spoken(kind) for name, kind in field_types(job).items()}
    kinds |= {"json": bool} if job.JSON else {}
    options: dict[str, str] = {}
    configs: list[str] = []
    placed: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word in ("-h", "--help"):
            return {"help": ""}, []
        if not word.startswith("--"):
            placed.append(word)
            continue
        written, equals, value = word[2:].partition("=")
        name = written.replace("-", "_")
        kind = kinds.get(name)
        if name == "print_config":
            options[name] = ""
        elif name != "config" and kind is None:
            raise LearngeneError(f"{unknown_option(f'--{written}', name, job)}; {_see(job)}")
        else:
            values = [value] if equals else list(_taken(kind, left))
            if not values:
                raise LearngeneError(f"--{written} has no value; give one, or leave it out")
            if name == "config":
                configs += values
            else:
                options[name] = _one_word(kind, values)
    return options | _by_place(job, placed), configs


def _taken(kind: Any, left: list[str]) -> Iterator[str]:
    """The words that belong to an option, taken from those that follow it."""
    if kind is bool:
        yield left.pop(0) if left and left[0].lower() in ("true", "false", "yes", "no") else "true"
        return
    follow = list(itertools.takewhile(lambda word: not word.startswith("--"), left))
    count = len(follow) if _is_list(kind) else min(1, len(follow))
    del left[:count]
    yield from follow[:count]


def _one_word(kind: Any, values: Sequence[str]) -> str:
    """The text of an option: several words are a list in YAML, and so is one where nothing but a list is taken."""
    alone = len(values) == 1 and (values[0].startswith("[") or any(map(_is_scalar, _members(kind))))
    return values[0] if alone else f"[{','.join(values)}]"


def _by_place(job: type[Job], placed: Sequence[str]) -> dict[str, str]:
    """The argument that needs no name."""
    name = job.POSITIONAL
    if not placed:
        return {}
    if name is None or (len(placed) > 1 and not _is_list(field_types(job)[name])):
        raise LearngeneError(f"'{placed[-1]}' stands alone, and belongs to no option; {_see(job)}")
    return {
        name: yaml.safe_dump(list(placed), default_flow_style=True)
        if _is_list(field_types(job)[name])
        else placed[0]
    }


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in UNIONS else (kind,)


def _is_scalar(kind: Any) -> bool:
    return kind is not NoneType and get_origin(kind) is not Sequence


def _is_list(kind: Any) -> bool:
    return any(get_origin(one) is Sequence for one in _members(kind))


def spoken(kind: Any) -> Any:
    """A type without what no word can be: paths are texts, and a module or a plan comes from Python only."""
    kept = [one for one in _members(kind) if one in PLAIN or not isinstance(one, type)]
    return Union[tuple(kept)]  # noqa: UP007  of however many


def _values(parser: ArgumentParser, job: type[Job], options: Mapping[str, str]) -> dict[str, Any]:
    """The options' values.

    Raises:
        LearngeneError: one is not what its annotation says.
    """

    def read(texts: Mapping[str, str]) -> Namespace:
        return parser.parse_args([f"--{name}={text}" for name, text in texts.items()])

    try:
        found = read(options)
    except Exception:  # mostly ArgumentError, but jsonargparse trips over odd values with errors of any kind
        for name, text in options.items():
            try:
                read({name: text})
            except LearngeneError:
                raise
            except Exception:
                kind = bool if name == "json" else spoken(field_types(job)[name])
                raise LearngeneError(
                    f"--{name.replace('_', '-')} {text}: it must be {describe_type(kind)}; {_see(job)}"
                ) from None
        raise
    return {name: value for name, value in found.as_dict().items() if name in options}


def _read_config(name: str, job: type[Job]) -> dict[str, Any]:
    """The arguments in a YAML file.

    Raises:
        LearngeneError: it is missing, empty, too large, not text, not YAML, not a mapping, or names what is no option.
    """
    way_out = "give a YAML file of arguments, as --print-config prints it"
    if not name.strip():
        raise LearngeneError(f"--config is empty; {way_out}")
    try:
        if Path(name).stat().st_size > MAX_CONFIG:
            raise LearngeneError(
                f"config '{name}' is larger than {MAX_CONFIG} bytes, the most that is read; shorten it"
            )
        said = load_yaml(Path(name).read_text())
    except OSError as error:
        raise LearngeneError(f"config '{name}' cannot be read ({error.strerror}); {way_out}") from None
    except UnicodeError:
        raise LearngeneError(f"config '{name}' is no text; {way_out}") from None
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = (
            f"line {mark.line + 1}: {getattr(error, 'problem', '')}"
            if mark
            else getattr(error, "reason", "it cannot be read")
        )
        raise LearngeneError(f"config '{name}' is no YAML ({where}); mend it") from None
    except LearngeneError as error:
        raise LearngeneError(f"config '{name}' {error}") from None
    if said is None:
        raise LearngeneError(f"config '{name}' is empty; {way_out}")
    if not isinstance(said, dict):
        raise LearngeneError(f"config '{name}' holds no arguments such as 'epochs: 3'; {way_out}")
    for key in said:
        if key not in job.__dataclass_fields__ and not (key == "json" and job.JSON):
            told = unknown_option(f"the config's '{key}'", str(key), job)
            raise LearngeneError(f"{told}; {_see(job)}")
    return said


def load_yaml(text: str) -> Any:
    """What a YAML text holds, by jsonargparse's own loader (which reads 1e-3 as a number).

    Raises:
        LearngeneError: a mapping names a key twice, of which YAML would take the last.
    """
    left = [yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))]
    seen = set()
    while left:
        node = left.pop()
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


set_loader("learngene", load_yaml, (yaml.YAMLError,))


def unknown_option(shown: str, name: str, job: type[Job]) -> str:
    """What is known of an option that a job does not take."""
    name = name.replace("-", "_")
    others = [command for command, other in jobs().items() if name in other.__dataclass_fields__]
    if others:
        return (
            f"{shown} is no option of {job.COMMAND}, but of {', '.join(others)}: is it for another command?"
        )
    taken = [*job.__dataclass_fields__, "config", *(["json"] if job.JSON else [])]
    known = {other: other for other in taken} | {
        alias: other for alias, other in ALIASES.items() if other in taken
    }
    near = [known[other] for other in get_close_matches(name, known, n=1)]
    hint = (
        f"--{near[0].replace('_', '-')}"
        if near and shown.startswith("--")
        else f"'{near[0]}'"
        if near
        else ""
    )
    return f"{shown} is no option of {job.COMMAND}" + (f"; did you mean {hint}?" if hint else "")


def _shown(job: type[Job], name: str) -> str:
    return name.upper() if name == job.POSITIONAL else f"--{name.replace('_', '-')}"


def _swallowed(job: type[Job], options: Mapping[str, str]) -> str:
    """Where the argument without a name may have gone: into a list in front of it."""
    lists = [name for name, text in options.items() if text.startswith("[") and name != job.POSITIONAL]
    if job.POSITIONAL is None or not lists or job.POSITIONAL in options:
        return ""
    return f" (put it before --{lists[-1].replace('_', '-')}, which takes all words that follow)"


def _see(job: type[Job]) -> str:
    return f"see learngene {job.COMMAND} --help"


def _listed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Tuples as lists, which YAML knows."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def build_parser(job: type[Job]) -> ArgumentParser:
    """A jsonargparse parser with a job's fields, in the groups of its help."""
    usage = " ".join(filter(None, ["learngene", job.COMMAND, (job.POSITIONAL or "").upper(), "[options]"]))
    parser = ArgumentParser(
        prog=f"learngene {job.COMMAND}", usage=usage, description=(job.__doc__ or "").strip().splitlines()[0],
        exit_on_error=False, formatter_class=HelpFormatter, parser_mode="learngene", add_help=False,
    )  # fmt: skip
    # 1. the fields, in the order in which their groups first occur; the main ones in the order that the job gives them
    helps, every = field_helps(job), ordered_fields(job)
    main = sorted((f for f in every if f.name in job.MAIN), key=lambda f: job.MAIN.index(f.name))
    titles = dict.fromkeys(["Main options", *(group_of(job, option) for option in every)])
    groups = {title: parser.add_argument_group(title) for title in titles}
    for option in [*main, *(option for option in every if option not in main)]:
        kind, default = spoken(field_types(job)[option.name]), default_of(option)
        action = groups[group_of(job, option)].add_argument(
            f"--{option.name}",
            type=kind,
            default=list(default) if isinstance(default, tuple) else default,
            help=helps[option.name],
        )
        action.is_needed = is_required(option)
        action.is_placed = option.name == job.POSITIONAL
    # 2. what all commands have, at the end
    general = parser.add_argument_group(GENERAL)
    general.add_argument("--help", action="store_true", help="Show this help message and exit.")
    general.add_argument(
        "--config", metavar="CONFIG", help="YAML file of arguments; those on the command line override it."
    )
    general.add_argument(
        "--print_config", action="store_true", help="Print all arguments as YAML, for --config, and exit."
    )
    if job.JSON:
        general.add_argument(
            "--json", type=bool, default=False, help="Print one JSON document instead of a table."
        )
    return parser
