"""The command line: every command is a typed function of `learngene.commands`, parsed by jsonargparse.

A user's mistake ends in one sentence on stderr and exit status 2; only bugs show tracebacks.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import inspect
import itertools
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from learngene.errors import LearngeneError
from learngene.recipe import GROUPS, group_of, own_parameters
from learngene.trust.limits import MAX_CONFIG, MAX_NESTING, MAX_NODES, printable

# first line of each command's docstring, here so that 'learngene --help' need not import the commands
COMMANDS = {
    "distill": "distil an ancestor once into a learngene",
    "cache": "write down the ancestor's outputs for every view, once for many distillations",
    "spawn": "spawn descendants of any depth from a learngene",
    "finetune": "train a descendant, or an architecture from random weights",
    "evaluate": "top-1, top-5, loss and throughput of a model, or of a learngene's depths",
    "benchmark": "compare starts over depths, budgets and seeds",
    "report": "a benchmark's report, page and plots from its results",
    "relearn": "reset one layer of a trained model and see how soon it is back",
    "attention": "attention maps of models side by side",
    "info": "what a learngene or model holds, and what each depth costs",
    "plan": "what a learngene and its depths would cost, before any training",
    "archs": "which timm architectures can be distilled into",
    "export": "write a model as ONNX",
    "demo": "the whole pipeline on the embedded images, in minutes",
}
POSITIONAL = {
    "spawn": "gene",
    "finetune": "model",
    "evaluate": "model",
    "info": "source",
    "plan": "arch",
    "archs": "pattern",
    "export": "model",
    "report": "results",
    "relearn": "models",
    "attention": "models",
}
# What comes first in --help: ten options at most. A command that is not here shows its own first.
FIRST = {
    "distill": ("ancestor", "data", "out", "arch", "plan", "from_ancestor", "epochs", "batch_size", "lr", "resume"),
    "cache": ("ancestor", "data", "out", "arch", "top_k", "epochs", "batch_size", "resume"),
    "finetune": ("model", "data", "out", "depth", "plan", "ancestor", "epochs", "batch_size", "lr", "resume"),
    "benchmark": ("data", "out", "gene", "distill", "arch", "depths", "starts", "seeds", "epochs", "resume"),
    "relearn": ("models", "data", "out", "layers", "shares", "modes", "seeds", "lr", "batch_size", "resume"),
}
# the records of run directories and caches, by which --resume goes on
RECORDS = ("run.json", "cache.json")
JSON_COMMANDS = ("cache", "info", "plan", "archs", "evaluate", "benchmark", "report", "relearn")
MANY_DEPTHS = ("spawn", "info", "evaluate", "plan")  # --depth 4 6-9; others take one depth
FUNCTIONS = {"plan": "plan_costs"}  # where the function is not called as its command: learngene.plan is a module
# names that others use for an option, and what is asked for where an option is empty
ALIASES = {"learning_rate": "lr", "optimizer": "opt", "num_workers": "workers", "output": "out"}
GIVE = dict.fromkeys(("out", "cache", "data_root", "results"), "a directory") | {
    "data": "images", "ancestor": "a model", "model": "a model", "models": "a model", "gene": "a learngene file",
    "source": "a learngene file or a timm directory", "arch": "an architecture", "pattern": "one such as 'deit3*', or leave it out",
}  # fmt: skip
HELP = "learngene: one big ViT, many sizes of it.\n\nusage: learngene COMMAND [options]   (learngene COMMAND --help lists them)\n\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 2 for a user's mistake, or 130 when interrupted."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: learngene ... >&-
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  as long as the process lives
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _answer(words)
        sys.stdout.flush()  # not at the interpreter's exit, where a reader that has gone ends in a traceback
        return status
    except BrokenPipeError:  # learngene ... | head
        _discard_output()
        return 0
    except OSError as error:
        if error.filename is not None or error.errno != errno.ENOSPC:
            raise
        _discard_output()
        return _complain(words, f"error: the output cannot be written ({error.strerror}); free some space")


def _answer(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP + "\n".join(f"  {name:10} {text}" for name, text in COMMANDS.items()) + "\n\n  --version")
        return 0
    if words[0] == "--version":
        from learngene import __version__

        print(__version__)
        return 0
    command, *rest = words
    try:
        if command not in COMMANDS:
            raise LearngeneError(f"there is no command '{command}'; the commands are {', '.join(COMMANDS)}")
        return _run(command, [_underscored(word) for word in rest])
    except LearngeneError as error:
        return _complain(words, f"error: {error}")
    except OSError as error:  # a name that is too long, a folder that may not be read, ...
        if error.filename is None:
            raise
        return _complain(words, f"error: '{error.filename}' cannot be used ({error.strerror}); check the path and its rights")
    except KeyboardInterrupt as stop:
        return _complain(words, f"interrupted; {str(stop) or 'nothing was begun'}", status=130)


def _complain(words: Sequence[str], text: str, status: int = 2) -> int:
    """One line on stderr; the exit status."""
    with contextlib.suppress(BrokenPipeError):
        print(f"learngene {printable(words[0])}: {printable(text)}", file=sys.stderr)
    return status


def _discard_output() -> None:
    """What is still to be printed goes nowhere, so that the interpreter's own flush at its exit is quiet."""
    with contextlib.suppress(OSError):  # a stdout that is no file, as in a notebook
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _underscored(word: str) -> str:
    """``--batch-size=4`` as ``--batch_size=4``; values stay as they are."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _run(command: str, words: list[str]) -> int:
    from learngene import commands

    function: Callable[..., Any] = getattr(commands, FUNCTIONS.get(command, command))
    arguments = _parse(command, function, words)
    if arguments is None:
        return 0
    as_json = arguments.pop("json", False)
    _configure_logging(as_json)
    before = _records(arguments)
    try:
        result = function(**arguments)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_after_interrupt(arguments, before)) from None
    if as_json:
        print(json.dumps(result, indent=2, default=str))
    else:
        _show(command, result)
    return 0


def _records(arguments: Mapping[str, Any]) -> dict[str, int]:
    """The records of runs in the command's output directory, and when they were written."""
    files = [Path(arguments.get("out") or "") / name for name in RECORDS]
    return {file.name: file.stat().st_mtime_ns for file in files if file.is_file()}


def _after_interrupt(arguments: Mapping[str, Any], before: Mapping[str, int]) -> str:
    """What the user can do now, by what the command has left in its output directory.

    Args:
        before: the records when it began; one that was to be overwritten, and still is the same, is no one's to resume.
    """
    out, overwrite = Path(arguments.get("out") or ""), bool(arguments.get("overwrite"))
    if "resume" in arguments:
        records = _records(arguments)
        if not records or (overwrite and records == before):
            return "nothing was begun; the same command begins anew"
        return f"the same command with --resume{' instead of --overwrite' if overwrite else ''} goes on"
    if arguments.get("overwrite") is False and out.is_dir() and any(out.iterdir()):
        return f"what is complete in '{out}' stays; the same command with --overwrite begins anew"
    return "the same command begins anew"


def _parse(command: str, function: Callable[..., Any], words: list[str]) -> dict[str, Any] | None:
    """The command's arguments, or none when it only had to print its help or config."""
    parser = build_parser(command, function)
    _check_lists(command, words)
    words = _joined(words) if command in MANY_DEPTHS else words
    ordered = _configs_first(_valued(parser, words))
    configs = _config_files(ordered)
    for text in words:
        check_yaml(text, configs)
    for file in configs:
        _check_config(file)
    try:
        parsed = parser.parse_args(ordered).as_dict()
    except BrokenPipeError:  # of --help and --print-config, when nobody reads them
        raise
    except Exception as error:  # mostly ArgumentError, but jsonargparse trips over odd values with errors of any kind
        raise LearngeneError(f"{_mistake(str(error), command, function)}; see learngene {command} --help") from None
    except SystemExit as stop:  # --help and --print-config
        if stop.code:
            raise
        return None
    parsed.pop("config", None)
    for name, default in _defaults(function).items():
        if default is not None and parsed.get(name, default) is None:
            raise LearngeneError(f"--{name.replace('_', '-')} has no value; give one, or leave it out")
    positional = POSITIONAL.get(command)
    for name in _required(function):
        if parsed.get(name) in (None, []):
            shown = name.upper() if name == positional else f"--{name.replace('_', '-')}"
            last = next((word for word in words if word.startswith("--depth=")), "").removeprefix("--depth=").rpartition(",")[2]
            if name == positional and re.search(r"[^\d\s\[\]+-]", last):
                raise LearngeneError(f"'{last}' is no depth; put {shown} before --depth")
            raise LearngeneError(f"{shown} is missing; see learngene {command} --help")
    for name, value in parsed.items():
        for empty in _empty(name, value):
            shown = name.upper() if name == positional else f"--{empty.replace('_', '-')}"
            raise LearngeneError(f"{shown} is empty; give {GIVE.get(empty.rpartition('.')[2], 'a value, or leave it out')}")
    return parsed


def _empty(name: str, value: Any) -> Iterator[str]:
    """Names of texts without a letter, as an unset variable of the shell leaves them: as paths they would be the current directory.

    Within mappings only paths are looked at, since an argument of timm's may be empty.
    """
    if isinstance(value, str) and not value.removeprefix("local-dir:").strip():
        yield name
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key in GIVE or not isinstance(inner, str):
                yield from _empty(f"{name}.{key}", inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _empty(name, inner)


def _check_lists(command: str, words: Sequence[str]) -> None:
    """Raise for a list that is not written as one word, of which the parser would take the first word alone.

    Raises:
        LearngeneError: there is one; the sentence writes the list as it is taken.
    """
    kinds = {name: str(how["type"]) for name, how in _special_types(command).items() if "nargs" not in how and name != "depth"}
    for place, word in enumerate(words):
        name, kind = word[2:], kinds.get(word[2:], "") if word.startswith("--") else ""
        if "list[" not in kind:
            continue
        values = list(itertools.takewhile(lambda value: not value.startswith("--"), words[place + 1 :]))
        if "list[str" in kind and POSITIONAL.get(command):
            values = list(itertools.takewhile(lambda value: not Path(value).exists(), values))  # the models that follow
        elif "list[str" not in kind:
            values = list(itertools.takewhile(lambda value: re.fullmatch(r"[\d.,e+-]+", value), values))
        one = "int |" in kind or "list[int] | int" in kind  # one number, and for a plan numbers with commas, are no list
        if values and not values[0].startswith("[") and (len(values) > 1 or not one):
            way_out = ",".join(values) if name == "plan" else _as_list(values)
            raise LearngeneError(f"--{name.replace('_', '-')} {' '.join(values)}: a list is one word; write '{way_out}'")


def _as_list(words: Sequence[str]) -> str:
    """Words as the list that was meant, in YAML: ``3 4``, ``3,4`` and ``3-4`` as ``[3, 4]``."""
    values: list[str] = []
    for word in words:
        for value in [word] if "{" in word else word.split(","):
            ends = re.fullmatch(r"(\d{1,3})-(\d{1,3})", value)
            values += map(str, range(int(ends[1]), int(ends[2]) + 1)) if ends else [value.strip()]
    return f"[{', '.join(values)}]"


def _check_config(name: str) -> None:
    """Raise for a config file that is no mapping in YAML.

    Raises:
        LearngeneError: it is empty, not text, not YAML or not a mapping.
    """
    import yaml

    way_out = "give a YAML file of arguments, as --print-config prints it"
    if not name.strip():
        raise LearngeneError(f"--config is empty; {way_out}")
    try:
        if not Path(name).is_file():  # the parser says so
            return
        config = _compose(Path(name).read_text())
    except OSError:  # so does it here; or a text of YAML stands for a file
        return
    except UnicodeError:
        raise LearngeneError(f"config '{name}' is no text; {way_out}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else getattr(error, "reason", "it cannot be read")
        raise LearngeneError(f"config '{name}' is no YAML ({where}); mend it") from None
    if config is None:
        raise LearngeneError(f"config '{name}' is empty; {way_out}")
    if not isinstance(config, yaml.MappingNode):
        raise LearngeneError(f"config '{name}' holds no arguments such as 'epochs: 3'; {way_out}")


def check_yaml(word: str, configs: Sequence[str] = ()) -> None:
    """Raise for a config file, or a value, that names a key twice, or would grow without limit when read: aliases of aliases,
    brackets in brackets."""
    import yaml

    _, equals, value = word.partition("=")
    text = value if word.startswith("--") and equals else word
    where = f"the value '{text[:40]}'"
    try:
        file = Path(text)
        if (file.suffix in (".yaml", ".yml", ".json") or text in configs) and file.is_file():
            where = f"config '{file}'"
            if file.stat().st_size > MAX_CONFIG:
                raise LearngeneError(f"{where} is larger than {MAX_CONFIG} bytes, the most that is read; shorten it")
            text = file.read_text()
        fits = _fits(text)
        twice = _twice(text) if fits else None
    except (OSError, UnicodeError, yaml.YAMLError):
        return  # the parser says what is wrong with it
    if not fits:
        raise LearngeneError(f"{where} has more than {MAX_NODES} values, or {MAX_NESTING} levels of them; shorten it")
    if twice is not None:
        raise LearngeneError(f"{where} names '{twice}' twice; keep one of them")


def _twice(text: str) -> str | None:
    """The first key that a mapping in a YAML text has more than once, of which YAML would take the last; the text is within limits."""
    import yaml

    left, seen = [_compose(text)], set()
    while left:
        node = left.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if len(set(names)) < len(names):
                return next(name for name in names if names.count(name) > 1)
        left += [value for _, value in node.value] if isinstance(node, yaml.MappingNode) else node.value
    return None


def _compose(text: str) -> Any:
    """The nodes of a YAML text, of which nothing is made yet."""
    import yaml

    return yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _fits(text: str) -> bool:
    """Whether a YAML text is within limits once its aliases are written out, by its parser's events: nothing is made of it yet."""
    import yaml

    sizes: dict[str | None, int] = {}
    opened: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            total += sizes.get(event.anchor, MAX_NODES)  # an alias inside its own anchor has no end
        elif isinstance(event, yaml.NodeEvent):
            sizes[event.anchor] = 1
            if isinstance(event, yaml.CollectionStartEvent):
                sizes[event.anchor] = MAX_NODES
                opened.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            sizes[anchor] = total - before
        if total > MAX_NODES or len(opened) > MAX_NESTING:
            return False
    return True


def _joined(words: list[str]) -> list[str]:
    """``--depth 4 6-9`` as ``--depth=4,6-9``: one value, which a config may hold as a number, a text or a list."""
    joined: list[str] = []
    for word in words:
        follows = bool(joined) and joined[-1].startswith("--depth=") and not word.startswith("--")
        if follows:
            joined[-1] += word if joined[-1] == "--depth=" else f",{word}"
        else:
            joined.append("--depth=" if word == "--depth" else word)
    return ["--depth" if word == "--depth=" else word for word in joined]


def _valued(parser: Any, words: list[str]) -> list[str]:
    """A switch without a value, ``--unlabeled``, means ``--unlabeled=true``."""
    switches = {f"--{action.dest}" for action in parser._actions if getattr(action, "_typehint", None) is bool}
    following = [*words[1:], "--"][: len(words)]
    values = ("true", "false", "yes", "no")
    return [
        f"{word}=true" if word in switches and after.lower() not in values else word
        for word, after in zip(words, following, strict=True)
    ]


def _configs_first(words: list[str]) -> list[str]:
    """Configs are read before the rest of the command line, which overrides them, wherever they stand.

    An empty config stays in the place of each, so that words around it are no neighbours now: ``--depth 6 --config FILE GENE``.
    """
    configs: list[str] = []
    rest: list[str] = []
    left = iter(zip(words, [*words[1:], "--"], strict=False))  # of no words, none
    for word, after in left:
        if word == "--config" and not after.startswith("-"):
            configs += [word, after]
            next(left)
        elif word.startswith("--config="):
            configs.append(word)
        else:
            rest.append(word)
            continue
        rest.append("--config={}")
    return configs + rest


def _config_files(words: Sequence[str]) -> list[str]:
    """The config files among words that begin with them (see `_configs_first`)."""
    apart = [after for word, after in itertools.pairwise(words) if word == "--config"]
    joined = [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    return [name for name in apart + joined if name != "{}"]


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """The command's own optional arguments and what they are by default."""
    return {p.name: p.default for p in own_parameters(function) if p.default is not p.empty}


def _required(function: Callable[..., Any]) -> list[str]:
    return [p.name for p in own_parameters(function) if p.default is p.empty]


def _mistake(message: str, command: str, function: Callable[..., Any]) -> str:
    """What is wrong with the words or the config, by the parser's message."""
    key = re.search(r"(?:Option|Key) '(.*)' is not (?:accepted|expected)", message)  # newer and older jsonargparse
    if key:
        return _unknown(f"the config's '{key[1]}'", key[1], command, function)
    option = re.search(r"nrecognized arguments: (?:.* )?--([\w.-]+)", message)
    if option:
        return _unknown(f"--{option[1].replace('_', '-')}", option[1], command, function)
    bare = re.search(r"argument --(\w+)\S*: expected (?:at least )?one argument", message)
    if bare:
        return f"--{bare[1].replace('_', '-')} has no value; give one, or leave it out"
    return _one_line(message)


def _unknown(shown: str, option: str, command: str, function: Callable[..., Any]) -> str:
    """What is known of an option, of the command line or a config, that the command does not take."""
    from learngene import commands

    name = option.replace("-", "_")
    taken = [*inspect.signature(function).parameters, "config", *(["json"] if command in JSON_COMMANDS else [])]
    others = [other for other in COMMANDS if name in inspect.signature(getattr(commands, FUNCTIONS.get(other, other))).parameters]
    if others and name not in taken:
        return f"{shown} is no option of {command}, but of {', '.join(others)}: is it for another command?"
    known = {other: other for other in taken} | {alias: other for alias, other in ALIASES.items() if other in taken}
    near = [known[other] for other in get_close_matches(name, known, n=1)]
    hint = f"--{near[0].replace('_', '-')}" if near and shown.startswith("--") else f"'{near[0]}'" if near else ""
    return f"{shown} is no option of {command}" + (f"; did you mean {hint}?" if hint else "")


def _one_line(message: str) -> str:
    """jsonargparse's complaint without its line breaks, its list of attempts, and Python's names for types."""
    text = " ".join(line.strip(" -") for line in message.splitlines() if line.strip())
    text = re.sub(r"<class '(\w+)'>", r"\1", text).replace("Parser key", "option")
    text = re.sub(r"Does not validate .*?Subtypes: [\[(](.*?)[\])] Errors:.*Given value: (.*)", r"expected \1. Got value: \2", text)
    text = re.sub(r"[Ee]xpected (?:an? )?(.*?)\. Got value: (.*)", r"expected \1, not '\2'", text)
    text = (
        text.replace("typing.", "").replace(", NoneType", " or nothing").replace("dict[str, Any]", "a mapping such as {key: value}")
    )
    for kind, words in (("int", "a whole number"), ("float", "a number"), ("bool", "true, false")):
        text = re.sub(rf"expected {kind}\b", f"expected {words}", text)
    text = re.sub(r"Literal\[(.*?)\]", lambda names: names[1].replace("'", ""), text)
    text = re.sub(r"(expected [^']*), ([^,']*, not ')", r"\1 or \2", text)
    text = re.sub(r"expected list, not '(.*)'", lambda value: f"{value[0]}; write '{_as_list([value[1]])}'", text)
    return text.strip().rstrip(".")


def build_parser(command: str, function: Callable[..., Any]) -> Any:
    """A jsonargparse parser with the function's arguments and the options it takes, in the groups of its help."""
    from jsonargparse import ArgumentParser

    from learngene.help import HelpFormatter

    usage = f"learngene {command} {POSITIONAL.get(command, '').upper()} [options]".replace("  ", " ")
    parser = ArgumentParser(
        prog=f"learngene {command}", usage=usage, description=_summary(function), exit_on_error=False, formatter_class=HelpFormatter
    )
    # 1. where each option is shown
    own, kinds = {p.name: p for p in own_parameters(function)}, getattr(function, "kinds", ())
    kind_of = {field.name: kind for kind in kinds for field in fields(kind)}
    first = FIRST.get(command, tuple(own))
    titles = {"Main options": first, f"More of {command}": [name for name in own if name not in first]}
    for title in GROUPS:
        titles[title] = [name for name, kind in kind_of.items() if name not in first and group_of(kind, name) == title]
    # 2. the options
    helps, needed = _argument_helps(function), _required(function)
    for title, names in titles.items():
        group = parser.add_argument_group(title)
        for name in names:
            if name in own:
                action = _add_own(group, command, own[name], helps.get(name, ""))
                action.is_needed = name in needed
            else:
                others = {field.name for field in fields(kind_of[name])} - {name}
                group.add_class_arguments(kind_of[name], as_group=False, skip=others, fail_untyped=True)
    parser.set_defaults(getattr(function, "defaults", {}))
    # 3. what all commands have, at the end
    parser.add_argument("--config", action="config", help="YAML file of arguments; those on the command line override it.")
    parser._option_string_actions["--print_config"].help = "Print all arguments as YAML, for --config, and exit."
    parser._option_string_actions["--print_config"].metavar = ""
    if command in JSON_COMMANDS:
        parser.add_argument("--json", type=bool, default=False, help="Print one JSON document instead of a table.")
    parser._optionals.title = "General"
    shown: Any = parser._action_groups
    shown.append(shown.pop(shown.index(parser._optionals)))
    return parser


def _add_own(group: Any, command: str, parameter: inspect.Parameter, text: str) -> Any:
    """Add one of the command's own arguments to a group of its parser."""
    if parameter.name == POSITIONAL.get(command):
        # without a default, which argparse would set when the word is missing, over what a config says
        many = "*" if parameter.name == "models" else "?"
        return group.add_argument(parameter.name, type=str, nargs=many, default=argparse.SUPPRESS, help=text)
    default = None if parameter.default is parameter.empty else parameter.default
    default = list(default) if isinstance(default, tuple) else default
    kwargs = _special_types(command).get(parameter.name) or {"type": _plain_type(parameter.annotation)}
    return group.add_argument(f"--{parameter.name}", default=default, help=text, **kwargs)


def _special_types(command: str) -> dict[str, dict[str, Any]]:
    return {
        "plan": {"type": str | list[int] | int | None},
        "depth": {"type": int | str | list[int | str] | None} if command in MANY_DEPTHS else {"type": int | None},
        **{
            key: {"type": dict[str, Any] | None} for key in ("arch_args", "distill", "start_args", "prepare", "datasets", "recipes")
        },
        "ancestor_mean": {"type": list[float] | None},
        "ancestor_std": {"type": list[float] | None},
        "ancestor_input_size": {"type": int | list[int] | None},
        "ancestor_classes": {"type": list[str] | None},
        "depths": {"type": list[int]},
        "seeds": {"type": list[int]},
        "starts": {"type": list[str | dict[str, Any]]},
        "tflops": {"type": list[float]},
        "scratch_epochs": {"type": list[int]},
        "layers": {"type": int, "nargs": "+"},
        "shares": {"type": list[float]},
        "modes": {"type": list[str]},
        "controls": {"type": list[str]},
        "original_images": {"type": list[int]},
    }


def _plain_type(annotation: str) -> Any:
    """The type the CLI parses: Python's annotation, with paths and modules given as strings."""
    for kind in ("bool", "int", "float"):
        if annotation.startswith(kind):
            base: Any = {"bool": bool, "int": int, "float": float}[kind]
            return base | None if "None" in annotation else base
    return str | None if "None" in annotation else str


def _argument_helps(function: Callable[..., Any]) -> dict[str, str]:
    """Help by argument, from the docstring's Args section."""
    from docstring_parser import parse

    return {p.arg_name: " ".join((p.description or "").split()) for p in parse(function.__doc__ or "").params}


def _summary(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().splitlines()[0]


def _configure_logging(quiet: bool) -> None:
    """The package's log on stderr: rich on a terminal, plain lines in a redirected log."""
    logger = logging.getLogger("learngene")
    level = logging.WARNING if quiet else logging.INFO
    logger.setLevel(level)
    logger.handlers.clear()
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        logger.addHandler(RichHandler(console=Console(stderr=True), show_path=False, show_level=False, log_time_format="%H:%M:%S"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
        logger.addHandler(handler)
    logger.handlers[0].setLevel(level)


def _show(command: str, result: Any) -> None:
    from learngene import show

    view = getattr(show, command, None)
    if view is not None:
        view(result)


if __name__ == "__main__":
    sys.exit(main())
