"""The command line: every command is a typed function of `learngene.commands`, parsed by jsonargparse.

A user's mistake ends in one sentence on stderr and exit status 2; only bugs show tracebacks.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from learngene.errors import LearngeneError
from learngene.limits import MAX_CONFIG, MAX_NESTING, MAX_NODES, printable

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
JSON_COMMANDS = ("cache", "info", "plan", "archs", "evaluate", "benchmark", "report", "relearn")
MANY_DEPTHS = ("spawn", "info", "evaluate", "plan")  # --depth 4 6-9; others take one depth
FUNCTIONS = {"plan": "plan_costs"}  # where the function is not called as its command: learngene.plan is a module
HELP = "learngene: one big ViT, many sizes of it.\n\nusage: learngene COMMAND [options]   (learngene COMMAND --help lists them)\n\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 2 for a user's mistake, or 130 when interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
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
        print(f"learngene {printable(command)}: error: {printable(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a name that is too long, a folder that may not be read, ...
        if error.filename is None:
            raise
        reason = f"'{error.filename}' cannot be used ({error.strerror}); check the path and its rights"
        print(f"learngene {printable(command)}: error: {printable(reason)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"learngene {command}: interrupted; the same command with --resume goes on", file=sys.stderr)
        return 130


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
    result = function(**arguments)
    if as_json:
        print(json.dumps(result, indent=2, default=str))
    else:
        _show(command, result)
    return 0


def _parse(command: str, function: Callable[..., Any], words: list[str]) -> dict[str, Any] | None:
    """The command's arguments, or none when it only had to print its help or config."""
    parser = build_parser(command, function)
    words = _joined(words) if command in MANY_DEPTHS else words
    for text in words:
        check_yaml(text)
    try:
        parsed = parser.parse_args(_valued(parser, words)).as_dict()
    except Exception as error:  # mostly ArgumentError, but jsonargparse trips over odd values with errors of any kind
        raise LearngeneError(f"{_one_line(str(error))}; see learngene {command} --help") from None
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
            raise LearngeneError(f"{shown} is missing; see learngene {command} --help")
    return parsed


def check_yaml(word: str) -> None:
    """Raise for a config file, or a value, that would grow without limit when read: aliases of aliases, brackets in brackets."""
    import yaml

    _, equals, value = word.partition("=")
    text = value if word.startswith("--") and equals else word
    where = f"the value '{text[:40]}'"
    try:
        file = Path(text)
        if file.suffix in (".yaml", ".yml", ".json") and file.is_file():
            where = f"config '{file}'"
            if file.stat().st_size > MAX_CONFIG:
                raise LearngeneError(f"{where} is larger than {MAX_CONFIG} bytes, the most that is read; shorten it")
            text = file.read_text()
        fits = _fits(text)
    except (OSError, UnicodeError, yaml.YAMLError):
        return  # the parser says what is wrong with it
    if not fits:
        raise LearngeneError(f"{where} has more than {MAX_NODES} values, or {MAX_NESTING} levels of them; shorten it")


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


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """The command's own optional arguments and what they are by default."""
    import inspect

    return {p.name: p.default for p in inspect.signature(function).parameters.values() if p.default is not p.empty}


def _required(function: Callable[..., Any]) -> list[str]:
    import inspect

    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]


def _one_line(message: str) -> str:
    """jsonargparse's complaint without its line breaks, its list of attempts, and Python's names for types."""
    text = " ".join(line.strip(" -") for line in message.splitlines() if line.strip())
    text = re.sub(r"<class '(\w+)'>", r"\1", text).replace("Parser key", "option")
    text = re.sub(r"Does not validate .*?Subtypes: [\[(](.*?)[\])] Errors:.*Given value: (.*)", r"expected \1. Got value: \2", text)
    text = re.sub(r"[Ee]xpected (?:an? )?(.*?)\. Got value: (.*)", r"expected \1, not '\2'", text)
    text = (
        text.replace("typing.", "").replace(", NoneType", " or nothing").replace("dict[str, Any]", "a mapping such as {key: value}")
    )
    return (
        re.sub(r"expected int\b", "expected a whole number", re.sub(r"expected float\b", "expected a number", text))
        .strip()
        .rstrip(".")
    )


def build_parser(command: str, function: Callable[..., Any]) -> Any:
    """A jsonargparse parser with the function's arguments and the options it takes."""
    from jsonargparse import ArgumentParser

    from learngene.recipe import DataOptions, DistillOptions, Recipe

    groups = {
        "distill": (Recipe, DataOptions, DistillOptions),
        "cache": (Recipe, DataOptions),
        "finetune": (Recipe, DataOptions, DistillOptions),
        "benchmark": (Recipe, DataOptions),
        "relearn": (Recipe, DataOptions),
        "evaluate": (DataOptions,),
        "attention": (DataOptions,),
    }.get(command, ())
    usage = f"learngene {command} {POSITIONAL.get(command, '').upper()} [options]".replace("  ", " ")
    parser = ArgumentParser(
        prog=f"learngene {command}", usage=usage, description=_summary(function), exit_on_error=False, formatter_class=_formatter()
    )
    parser.add_argument("--config", action="config", help="YAML file of arguments; options after it override.")
    positional = POSITIONAL.get(command)
    special = _special_types(command)
    helps = _argument_helps(function)
    if positional:
        parser.add_argument(positional, type=str, nargs="*" if positional == "models" else "?", help=helps[positional])
    import inspect

    for name, parameter in inspect.signature(function).parameters.items():
        if name == positional or parameter.kind is parameter.VAR_KEYWORD:
            continue
        default = None if parameter.default is parameter.empty else parameter.default
        default = list(default) if isinstance(default, tuple) else default
        kwargs = special.get(name) or {"type": _plain_type(parameter.annotation)}
        parser.add_argument(f"--{name}", default=default, help=helps.get(name, ""), **kwargs)
    for group in groups:
        parser.add_class_arguments(group, fail_untyped=True)
    if command == "finetune":
        parser.set_defaults(ce=1.0)
    if command in JSON_COMMANDS:
        parser.add_argument("--json", type=bool, default=False, help="Print one JSON document instead of a table.")
    return parser


def _special_types(command: str) -> dict[str, dict[str, Any]]:
    return {
        "plan": {"type": str | list[int] | int | None},
        "depth": {"type": int | str | list[int | str] | None} if command in MANY_DEPTHS else {"type": int | None},
        **{
            key: {"type": dict[str, Any] | None} for key in ("arch_args", "distill", "start_args", "prepare", "datasets", "recipes")
        },
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


def _formatter() -> Any:
    from jsonargparse import DefaultHelpFormatter

    class Hyphens(DefaultHelpFormatter):
        """Shows --batch-size for --batch_size; both are understood."""

        def _format_action_invocation(self, action: Any, *args: Any, **kwargs: Any) -> str:
            text: str = super()._format_action_invocation(action, *args, **kwargs)
            return " ".join(w.replace("_", "-") if w.startswith("--") else w for w in text.split(" "))

    return Hyphens


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
