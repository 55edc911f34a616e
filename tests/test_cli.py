"""The command line as a user meets it."""

import inspect
import json
import os
import pydoc
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from conftest import TINY_ARGS

from learngene import cli, commands
from learngene.cli import (
    COMMANDS,
    FIRST,
    FUNCTIONS,
    JSON_COMMANDS,
    POSITIONAL,
    _after_interrupt,
    _parse,
    _records,
    main,
)
from learngene.families.weights import digest_of
from learngene.plan import parse_depths
from learngene.recipe import GROUPS, DataOptions, DistillOptions, Recipe, own_parameters

ARGS = json.dumps({k: v for k, v in TINY_ARGS.items() if k != "num_classes"})
FAST = ["--epochs", "1", "--batch-size", "16", "--workers", "0", "--precision", "32-true"]


def fails(capsys, *words):
    """Run a command that must fail; its one sentence."""
    assert main([str(w) for w in words]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert "Traceback" not in captured.err
    return lines[0]


def test_help_names_every_command():
    done = subprocess.run(
        [sys.executable, "-m", "learngene", "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"usage: learngene {command}" in capsys.readouterr().out


def test_version(capsys):
    import learngene

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == learngene.__version__


def test_pipeline_from_the_command_line(folder, ancestor, tmp_path, capsys):
    run = tmp_path / "run"
    assert (
        main(
            [
                "distill",
                "--ancestor",
                str(ancestor),
                "--data",
                str(folder),
                "--plan",
                "2,1,1",
                "--out",
                str(run),
                *FAST,
            ]
        )
        == 0
    )
    gene = run / "learngene.safetensors"
    assert main(["spawn", str(gene), "--depth", "3", "5", "--out", str(tmp_path / "family")]) == 0
    assert (
        main(
            [
                "finetune",
                str(tmp_path / "family" / "depth-05"),
                "--data",
                str(folder),
                "--out",
                str(tmp_path / "tuned"),
                *FAST,
            ]
        )
        == 0
    )
    capsys.readouterr()
    assert (
        main(
            ["evaluate", str(tmp_path / "tuned" / "model"), "--data", str(folder), "--workers", "0", "--json"]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["images"] == 24
    assert main(["info", str(gene), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["plan"] == "2,1,1"
    assert [row["depth"] for row in document["depths"]] == list(range(6, 16))
    assert document["times_smaller_than_ten_models"] > 10
    for words in (
        ["info", str(gene), "--latency", "--depth", "3"],
        ["info", str(run.parent / "family" / "depth-03")],
    ):
        assert main(words) == 0
        assert "gflops" in capsys.readouterr().out
    again = ["distill", "--config", str(run / "config.yaml"), "--out", str(tmp_path / "again")]
    assert main(again) == 0
    from learngene import Learngene

    assert digest_of(Learngene.load(tmp_path / "again" / "learngene.safetensors").state) == digest_of(
        Learngene.load(gene).state
    )


def test_print_config_and_back(tmp_path, capsys):
    words = [
        "distill",
        "--ancestor",
        "a",
        "--data",
        "d",
        "--out",
        "o",
        "--batch-size",
        "32",
        "--weight_decay=0.1",
        "--print-config",
    ]
    assert main(words) == 0
    text = capsys.readouterr().out
    config = yaml.safe_load(text)
    assert (config["batch_size"], config["weight_decay"], config["plan"]) == (32, 0.1, "3,3,4,3,3")
    (tmp_path / "c.yaml").write_text(text)
    assert main(["distill", "--config", str(tmp_path / "c.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == text
    assert (
        main(["distill", "--config", str(tmp_path / "c.yaml"), "--batch-size", "64", "--print-config"]) == 0
    )
    assert yaml.safe_load(capsys.readouterr().out)["batch_size"] == 64


def printed(capsys, *words):
    """What --print-config prints."""
    capsys.readouterr()
    assert main([*map(str, words), "--print-config"]) == 0
    return capsys.readouterr().out


def typical(command):
    """A command line with the positional argument, what is required, and a list or a mapping where the command has one."""
    words = [command, *{"models": ["m/a", "m/b"], None: []}.get(POSITIONAL.get(command), ["some.thing"])]
    own = {p.name for p in own_parameters(getattr(commands, FUNCTIONS.get(command, command)))}
    for name, values in {
        "ancestor": ["local-dir:x"], "data": ["d"], "out": ["o"], "depth": ["7"], "layers": ["1", "3"], "arch_args": ['{"img_size": 28}'],
        "depths": ["[4, 5]"], "starts": ['[random, {name: a, start: mimetic}]'], "seed": ["3"], "resume": [], "latency": [],
    }.items():  # fmt: skip
        words += [f"--{name}", *values] if name in own else []
    return words


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs_again_from_its_printed_config(command, tmp_path, capsys):
    text = printed(capsys, *typical(command))
    config = yaml.safe_load(text)
    (tmp_path / "c.yaml").write_text(text)
    assert printed(capsys, command, "--config", tmp_path / "c.yaml") == text
    function = getattr(commands, FUNCTIONS.get(command, command))
    assert _parse(command, function, ["--config", str(tmp_path / "c.yaml")]) == _parse(
        command, function, typical(command)[1:]
    )
    positional = POSITIONAL.get(command)
    if positional:
        assert config[positional] in ("some.thing", ["m/a", "m/b"])
        for words in (
            (["other"], ["--config", tmp_path / "c.yaml"]),
            (["--config", tmp_path / "c.yaml"], ["other"]),
        ):
            again = yaml.safe_load(printed(capsys, command, *words[0], *words[1]))
            assert again == config | {positional: ["other"] if positional == "models" else "other"}


def test_the_command_line_overrides_a_config_wherever_it_stands(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("model: a\ndata: d\nepochs: 7\nlr: 0.5\n")
    (tmp_path / "e.yaml").write_text("epochs: 8\n")
    config = ["--config", tmp_path / "c.yaml"]
    for words in (
        [*config, "--epochs", "3"],
        ["--epochs", "3", *config],
        ["--epochs=3", f"--config={tmp_path / 'c.yaml'}"],
    ):
        resolved = yaml.safe_load(printed(capsys, "finetune", *words))
        assert (resolved["model"], resolved["epochs"], resolved["lr"]) == ("a", 3, 0.5)
    resolved = yaml.safe_load(printed(capsys, "finetune", *config, "--config", tmp_path / "e.yaml"))
    assert (resolved["epochs"], resolved["lr"]) == (8, 0.5)
    (tmp_path / "s.yaml").write_text("gene: g\nout: o\n")
    resolved = yaml.safe_load(
        printed(capsys, "spawn", "--depth", "6", "9", "--config", tmp_path / "s.yaml", "other")
    )
    assert (parse_depths(resolved["depth"]), resolved["gene"], resolved["out"]) == ([6, 9], "other", "o")
    assert "--config has no value; give one, or leave it out" in fails(capsys, "finetune", "m", "--config")


def test_a_run_is_run_again_by_its_own_config(folder, ancestor, tmp_path, capsys):
    run, again = tmp_path / "run", tmp_path / "again"
    words = ["finetune", str(ancestor), "--data", str(folder), "--seed", "5", "--hflip", "0", *FAST]
    assert main([*words, "--out", str(run)]) == 0
    assert main(["finetune", "--config", str(run / "config.yaml"), "--out", str(again)]) == 0
    assert (run / "config.yaml").read_text() == (again / "config.yaml").read_text()
    weights = [(place / "model" / "model.safetensors").read_bytes() for place in (run, again)]
    assert weights[0] == weights[1]
    for words in (
        ["info", str(run / "model")],
        ["evaluate", str(run / "model"), "--data", str(folder), "--workers", "0"],
    ):
        (tmp_path / "c.yaml").write_text(printed(capsys, *words, "--json"))
        assert main([words[0], "--config", str(tmp_path / "c.yaml")]) == 0
        document = json.loads(capsys.readouterr().out)
        assert str(run / "model") in (document.get("file"), document.get("model"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "from_ancestor: true\n",
            "the config's 'from_ancestor' is no option of finetune, but of distill",
        ),
        ("learning_rat: 1\n", "the config's 'learning_rat' is no option of finetune; did you mean 'lr'?"),
        ("batchsize: 1\n", "the config's 'batchsize' is no option of finetune; did you mean 'batch_size'?"),
        ("batch-size: 1\n", "did you mean 'batch_size'?"),
        ("model: [a, b]\n", "model"),
        ("model: null\n", "MODEL is missing"),
        ("- 3\n", "config"),
        ("config: no.yaml\n", "no.yaml"),
    ],
)
def test_configs_that_are_for_something_else(tmp_path, capsys, text, message):
    (tmp_path / "c.yaml").write_text(text)
    assert message in fails(
        capsys, "finetune", "--config", tmp_path / "c.yaml", "--data", "d", "--out", tmp_path / "o"
    )
    assert not (tmp_path / "o").exists()


def dests(text):
    """Options in a help text, by its titles."""
    found, title = {}, ""
    for line in text.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            title = line[:-1]
            found[title] = []
        entry = re.match(r"  (?:-\w, )?(?:--)?([a-z][a-z0-9-]*)", line)
        if entry and title:
            found[title].append(entry[1].replace("-", "_"))
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_every_option_in_exactly_one_group(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    groups = dests(text[text.index("Main options:") :])
    shown = [name for names in groups.values() for name in names]
    taken = list(inspect.signature(getattr(commands, FUNCTIONS.get(command, command))).parameters)
    general = ["help", "config", "print_config", *(["json"] if command in JSON_COMMANDS else [])]
    assert sorted(shown) == sorted(taken + general)
    assert next(iter(groups)) == "Main options"
    assert list(groups)[-1] == "General"
    assert command not in FIRST or tuple(groups["Main options"]) == FIRST[command]
    assert len(FIRST.get(command, ())) <= 10
    required = [
        p.name
        for p in own_parameters(getattr(commands, FUNCTIONS.get(command, command)))
        if p.default is p.empty
    ]
    assert " ".join(text.split()).count("(required)") == len(required)
    assert set(required) <= set(groups["Main options"])


def test_groups_name_options_that_there_are():
    kinds = {
        kind.__name__: {field.name for field in fields(kind)}
        for kind in (Recipe, DataOptions, DistillOptions)
    }
    names = [name for group in GROUPS.values() for name in group]
    assert len(names) == len(set(names))
    assert set(names) <= set(kinds) | set().union(*kinds.values())
    assert set(kinds) <= set(names)


@pytest.mark.parametrize("command", COMMANDS)
def test_python_help_tells_every_option(command):
    import learngene

    function = getattr(learngene, FUNCTIONS.get(command, command))
    text = pydoc.render_doc(function, renderer=pydoc.plaintext)
    parameters = inspect.signature(function).parameters.values()
    assert all(re.search(rf"^ +{p.name}( \(default .*\))?: ", text, re.M) for p in parameters)
    if command == "finetune":
        assert "lr (default 0.001): learning rate" in text
        assert "ce (default 1.0): " in text
        assert inspect.signature(function).parameters["ce"].default == 1.0
    if command == "distill":
        assert "ce (default 0.0): " in text


@pytest.mark.parametrize(
    ("words", "left", "message"),
    [
        (
            ["finetune", "m", "--data", "d", "--out", "o"],
            None,
            "nothing was begun; the same command begins anew",
        ),
        (
            ["finetune", "m", "--data", "d", "--out", "o"],
            "run.json",
            "the same command with --resume goes on",
        ),
        (
            ["cache", "--ancestor", "m", "--data", "d", "--out", "o"],
            "cache.json",
            "the same command with --resume goes on",
        ),
        (
            ["demo", "--out", "o", "--overwrite"],
            "run.json",
            "the same command with --resume instead of --overwrite goes on",
        ),
        (
            ["relearn", "m", "--data", "d", "--out", "o", "--resume"],
            "run.json",
            "the same command with --resume goes on",
        ),
        (["evaluate", "m", "--data", "d"], None, "interrupted; the same command begins anew"),
        (["spawn", "g", "--depth", "6", "--out", "o"], None, "interrupted; the same command begins anew"),
        (
            ["spawn", "g", "--depth", "6", "--out", "o"],
            "depth-06",
            "what is complete in 'o' stays; the same command with --overwrite",
        ),
    ],
)
def test_what_is_said_after_an_interrupt_is_true(words, left, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def interrupted(**_):
        if left:
            (tmp_path / "o").mkdir()
            (tmp_path / "o" / left).touch()
        raise KeyboardInterrupt

    function = getattr(commands, FUNCTIONS.get(words[0], words[0]))
    interrupted.__signature__, interrupted.__doc__ = inspect.signature(function), function.__doc__
    interrupted.kinds, interrupted.defaults = (
        getattr(function, "kinds", ()),
        getattr(function, "defaults", {}),
    )
    monkeypatch.setattr(commands, words[0], interrupted)
    assert main(words) == 130
    error = capsys.readouterr().err
    assert message in error
    assert f"learngene {words[0]}: interrupted; " in error
    assert ("--resume" in error) == bool(left and left.endswith(".json"))


def test_an_interrupt_before_the_command_begins(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_parse", interrupted)
    assert main(["distill"]) == 130
    assert capsys.readouterr().err == "learngene distill: interrupted; nothing was begun\n"


def test_an_earlier_run_that_was_to_be_overwritten_is_not_to_be_resumed(tmp_path):
    (tmp_path / "run.json").touch()
    arguments = {"out": str(tmp_path), "resume": False, "overwrite": True}
    assert "nothing was begun" in _after_interrupt(arguments, _records(arguments))


def run_into(stdout, *words, shell=None, **kwargs):
    """The command with an output that is gone; its status and what it says on stderr."""
    program = [sys.executable, "-m", "learngene", *words]
    done = subprocess.run(
        shell or program, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, timeout=60, **kwargs
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "words", [["-h"], ["distill", "--help"], ["finetune", "m", "--print-config"], ["info", "GENE"]], ids=str
)
def test_nobody_reads_the_output(words, gene, tmp_path):
    words = [str(gene.save(tmp_path / "g.safetensors")) if word == "GENE" else word for word in words]
    reader, writer = os.pipe()
    os.close(reader)
    assert run_into(writer, *words) == (0, "")
    os.close(writer)


def test_output_that_is_closed_or_full(tmp_path):
    closed = ["sh", "-c", f'"{sys.executable}" -m learngene finetune m --print-config >&-']
    assert run_into(None, shell=closed) == (0, "")
    with Path("/dev/full").open("w") as full:
        status, error = run_into(full, "-h")
    assert status == 2
    assert "the output cannot be written (No space left on device)" in error
    assert "Traceback" not in error


def test_switches_need_no_value(capsys):
    assert (
        main(
            [
                "distill",
                "--ancestor",
                "a",
                "--data",
                "d",
                "--unlabeled",
                "--in-memory",
                "--resume",
                "--print-config",
            ]
        )
        == 0
    )
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["unlabeled"] is config["in_memory"] is config["resume"] is True
    assert main(["distill", "--unlabeled=false", "--download", "true", "--print-config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert (config["unlabeled"], config["download"]) == (False, True)


def test_mistakes_end_in_one_sentence_and_status_2(folder, ancestor, tmp_path, capsys):
    base = ["distill", "--ancestor", ancestor, "--data", folder, "--out", tmp_path / "x", *FAST]
    assert "there is no command 'distil'" in fails(capsys, "distil")
    assert "--ancestor is missing" in fails(capsys, "distill", "--data", folder, "--out", tmp_path / "x")
    assert "GENE is missing" in fails(capsys, "spawn", "--depth", "6", "--out", tmp_path / "x")
    assert "plan '3,x' is not a list of whole numbers" in fails(capsys, *base, "--plan", "3,x")
    assert "negative number of layers" in fails(capsys, *base, "--plan=3,-1")
    assert "epochs" in fails(capsys, *base, "--epochs", "many")
    assert "--epochz" in fails(capsys, *base, "--epochz", "3")
    assert "there is no data at" in fails(capsys, *base, "--data", tmp_path / "nothing")
    assert "did you mean" in fails(capsys, *base, "--arch", "vit_tiny_patch16_22")
    assert "resnet50 is not supported, because" in fails(capsys, *base, "--arch", "resnet50")
    assert "there is no directory" in fails(capsys, *base, "--ancestor", "local-dir:/no/where")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    assert "is not empty" in fails(capsys, *base, "--out", tmp_path / "used")
    (tmp_path / "bad.pt").write_bytes(b"PK\x03\x04 something")
    assert "is a pickle" in fails(
        capsys, "spawn", tmp_path / "bad.pt", "--depth", "6", "--out", tmp_path / "y"
    )
    assert "is a pickle" in fails(capsys, "info", tmp_path / "bad.pt")
    assert "has no config.json" in fails(capsys, "evaluate", tmp_path / "used", "--data", folder)
    assert "device 'tpu9' cannot be used" in fails(
        capsys, "evaluate", ancestor, "--data", folder, "--device", "tpu9"
    )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 2\nlearning_rate: 1\n", "learning_rate"),
        ("epochs: lots\n", "epochs"),
        ("arch_args: 3\n", "arch_args"),
        ("epochs: [unclosed\n", "config"),
        ("!!python/object/apply:os.mkdir [hacked]\n", "config"),
    ],
)
def test_bad_configs_name_the_key(tmp_path, capsys, text, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(text)
    assert message in fails(
        capsys, "distill", "--config", "c.yaml", "--ancestor", "a", "--data", "d", "--out", "o"
    )
    assert not (tmp_path / "hacked").exists()


def test_a_config_that_is_not_there(capsys):
    assert "no.yaml" in fails(capsys, "distill", "--config", "no.yaml")


def test_log_lines_when_redirected(folder, ancestor, tmp_path):
    words = [
        "distill",
        "--ancestor",
        str(ancestor),
        "--data",
        str(folder),
        "--plan",
        "1,1",
        "--out",
        str(tmp_path / "r"),
        *FAST,
        "--log-every",
        "2",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "learngene", *words], capture_output=True, text=True, check=True, timeout=120
    )
    assert "step 2/3  total" in done.stderr
    assert "images/s" in done.stderr
    assert " left" in done.stderr
    assert "\x1b" not in done.stderr
    assert "step 2/3" in (tmp_path / "r" / "log.txt").read_text()


def test_a_command_without_any_word(capsys):
    """The README's first command is one; the others miss something, and say what."""
    import learngene.commands as commands

    assert _parse("demo", commands.demo, [])["out"] == "learngene-demo"
    for command in set(COMMANDS) - {"demo", "archs"}:
        assert "is missing; see learngene" in fails(capsys, command)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["finetune", "m", "--data", "d", "--out", ""], "--out is empty; give a directory"),
        (["evaluate", "m", "--data="], "--data is empty; give images"),
        (["evaluate", "", "--data", "d"], "MODEL is empty; give a model"),
        (["relearn", "m", " ", "--data", "d", "--out", "o"], "MODELS is empty; give a model"),
        (
            ["distill", "--ancestor", "local-dir:", "--data", "d", "--out", "o"],
            "--ancestor is empty; give a model",
        ),
        (
            ["distill", "--ancestor", "a", "--data", "d", "--out", "o", "--cache="],
            "--cache is empty; give a directory",
        ),
        (
            ["benchmark", "--data", "d", "--out", "o", "--distill", '{ancestor: ""}'],
            "--distill.ancestor is empty",
        ),
        (
            [
                "benchmark",
                "--data",
                "d",
                "--out",
                "o",
                "--starts",
                '[random, {start: pretrained, source: ""}]',
            ],
            "is empty",
        ),
        (["archs", ""], "PATTERN is empty; give one such as 'deit3*', or leave it out"),
    ],
)
def test_an_empty_word_is_no_path(words, message, tmp_path, monkeypatch, capsys):
    """As an unset variable of the shell leaves it; Path would take it for the current directory."""
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, *words)
    assert not list(tmp_path.iterdir())


def test_arguments_of_timm_may_be_empty():
    words = ["--ancestor", "a", "--data", "d", "--out", "o", "--arch_args", '{"global_pool": ""}']
    assert _parse("distill", commands.distill, words)["arch_args"] == {"global_pool": ""}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["finetune", "m", "--learning-rat", "3"],
            "--learning-rat is no option of finetune; did you mean --lr?",
        ),
        (
            ["finetune", "m", "--batchsize", "3"],
            "--batchsize is no option of finetune; did you mean --batch-size?",
        ),
        (["info", "--latncy", "g"], "--latncy is no option of info; did you mean --latency?"),
        (["info", "g", "--jsn"], "did you mean --json?"),
        (["spawn", "g", "--epochs", "3"], "--epochs is no option of spawn, but of distill,"),
        (["spawn", "g", "--zzz", "3"], "--zzz is no option of spawn; see"),
        (["info", "--depth", "4", "6", "G.st"], "'G.st' is no depth; put SOURCE before --depth"),
        (["spawn", "--depth", "G.st", "--out", "o"], "'G.st' is no depth; put GENE before --depth"),
        (["info", "--depth", "4", "6"], "SOURCE is missing"),
        (["info", "g", "--depth"], "--depth has no value; give one"),
        (["finetune", "m", "--lr"], "--lr has no value; give one"),
        (["benchmark", "--depths", "3", "4"], "--depths 3 4: a list is one word; write '[3, 4]'"),
        (["benchmark", "--depths", "3,4"], "write '[3, 4]'"),
        (["benchmark", "--depths", "3-5"], "write '[3, 4, 5]'"),
        (["benchmark", "--depths=3-5"], "write '[3, 4, 5]'"),
        (["benchmark", "--starts", "learngene", "random"], "write '[learngene, random]'"),
        (["relearn", "m", "--shares", "0.1", "0.2"], "write '[0.1, 0.2]'"),
        (["relearn", "--shares", "0.1", "m"], "--shares 0.1: a list"),
        (["relearn", "m", "--modes", "frozen"], "write '[frozen]'"),
        (["distill", "--plan", "2", "2", "2"], "--plan 2 2 2: a list is one word; write '2,2,2'"),
        (["distill", "--ancestor-input-size", "1", "28", "28"], "write '[1, 28, 28]'"),
        (["distill", "--compile", "perhaps"], "expected true, false or auto, not 'perhaps'"),
        (["distill", "--in-memory=perhaps"], "expected true or false, not 'perhaps'"),
        (["distill", "--workers", "x"], "expected a whole number or auto, not 'x'"),
        (["distill", "--track", "x"], "expected none, tensorboard or wandb, not 'x'"),
        (["distill", "--arch-args", "{a: 1, a: 2}"], "names 'a' twice; keep one of them"),
    ],
    ids=str,
)
def test_the_way_out_of_a_slip(words, message, capsys):
    assert message in fails(capsys, *words)


def test_one_number_is_a_plan_or_a_size(capsys):
    words = [
        "distill",
        "--ancestor",
        "a",
        "--data",
        "d",
        "--out",
        "o",
        "--plan",
        "2",
        "--ancestor-input-size",
        "28",
    ]
    config = yaml.safe_load(printed(capsys, *words))
    assert (str(config["plan"]), config["ancestor_input_size"]) == ("2", 28)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epochs: 3\nepochs: 4\n", "config 'c.conf' names 'epochs' twice; keep one of them"),
        (b"arch_args: {a: 1, a: 2}\n", "config 'c.conf' names 'a' twice"),
        (b"", "config 'c.conf' is empty; give a YAML file"),
        (b"# nothing\n", "config 'c.conf' is empty; give a YAML file"),
        (b"\x89PNG\r\n", "config 'c.conf' is no text; give a YAML file"),
        (b"epochs: [3\nlr: 2", "config 'c.conf' is no YAML (line 2: "),
        (b"a\x00b: 1", "config 'c.conf' is no YAML ("),
        (b"- 3\n", "config 'c.conf' holds no arguments such as 'epochs: 3'"),
        (b"out: ''\n", "--out is empty; give a directory"),
        (b"depths: 3\n", "write '[3]'"),
    ],
    ids=str,
)
def test_a_bad_config_is_named(content, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.conf").write_bytes(content)
    for config in (["--config", "c.conf"], ["--config=c.conf"]):
        error = fails(
            capsys, "benchmark", "--data", "d", *config, *([] if b"out" in content else ["--out", "o"])
        )
        assert message in error
        assert "<" not in error
    assert "--config is empty" in fails(capsys, "benchmark", "--config", "")
