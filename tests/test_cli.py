"""The command line as a user meets it."""

import inspect
import json
import os
import pydoc
import random
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from conftest import TINY_ARGS

import learngene
from learngene import cli
from learngene.cli import _after_interrupt, _records, main
from learngene.families.weights import digest_of
from learngene.job import is_required
from learngene.jobs import jobs
from learngene.plan import parse_depths
from learngene.words import parse_words

COMMANDS = list(jobs())
GROUPS = [
    "Main options", "More of ", "Data", "Training", "Augmentation", "Learning from the ancestor",
    "Machine and speed", "Log and checkpoints", "General",
]  # fmt: skip
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
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == learngene.__version__


def runs(*words):
    """Run a command that must succeed."""
    assert main([str(word) for word in words]) == 0


def test_pipeline_from_the_command_line(folder, ancestor, tmp_path, capsys):
    run, gene, tuned = tmp_path / "run", tmp_path / "run" / "learngene.safetensors", tmp_path / "tuned"
    runs("distill", "--ancestor", ancestor, "--data", folder, "--plan", "2,1,1", "--out", run, *FAST)
    runs("spawn", gene, "--depth", "3", "5", "--out", tmp_path / "family")
    runs("finetune", tmp_path / "family" / "depth-05", "--data", folder, "--out", tuned, *FAST)
    capsys.readouterr()
    runs("evaluate", tuned / "model", "--data", folder, "--workers", "0", "--json")
    assert json.loads(capsys.readouterr().out)["images"] == 24
    runs("info", gene, "--json")
    document = json.loads(capsys.readouterr().out)
    assert document["plan"] == "2,1,1"
    assert [row["depth"] for row in document["depths"]] == list(range(6, 16))
    assert document["times_smaller_than_ten_models"] > 10
    for words in ((gene, "--latency", "--depth", "3"), (tmp_path / "family" / "depth-03",)):
        runs("info", *words)
        shown = capsys.readouterr().out
        assert "\n  classes: 3\n" in shown
        assert "gflops" in shown
    runs("distill", "--config", run / "config.yaml", "--out", tmp_path / "again")
    again = learngene.Learngene.load(tmp_path / "again" / "learngene.safetensors")
    assert digest_of(again.state) == digest_of(learngene.Learngene.load(gene).state)


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


def names(job):
    return [option.name for option in fields(job)]


def typical(command):
    """A command line with what is required, and a list or a mapping where the command has one."""
    job = jobs()[command]
    words = [command, *{"models": ["m/a", "m/b"], None: []}.get(job.POSITIONAL, ["some.thing"])]
    for name, values in {
        "ancestor": ["local-dir:x"], "data": ["d"], "out": ["o.png"], "depth": ["7"], "layers": ["1", "3"],
        "arch_args": ['{"img_size": 28}'], "depths": ["[4, 5]"], "seed": ["3"], "resume": [], "latency": [],
        "starts": ["[random, {name: a, start: mimetic}]"],
    }.items():  # fmt: skip
        words += [f"--{name}", *values] if name in names(job) else []
    return words


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs_again_from_its_printed_config(command, tmp_path, capsys):
    job = jobs()[command]
    text = printed(capsys, *typical(command))
    config = yaml.safe_load(text)
    (tmp_path / "c.yaml").write_text(text)
    assert printed(capsys, command, "--config", tmp_path / "c.yaml") == text
    said = [
        parse_words(job, words) for words in (["--config", str(tmp_path / "c.yaml")], typical(command)[1:])
    ]
    jsons = [words.pop("json", False) for words in said]
    assert jsons == [False, False]
    first, again = (vars(job(**words)) for words in said)
    assert {
        name: value if type(value) is not tuple else list(value) for name, value in again.items()
    } == first
    if job.POSITIONAL:
        assert config[job.POSITIONAL] in ("some.thing", ["m/a", "m/b"])
        for words in (
            (["other"], ["--config", tmp_path / "c.yaml"]),
            (["--config", tmp_path / "c.yaml"], ["other"]),
        ):
            again = yaml.safe_load(printed(capsys, command, *words[0], *words[1]))
            assert again == config | {job.POSITIONAL: ["other"] if job.POSITIONAL == "models" else "other"}


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
            "share_norms: true\n",
            "the config's 'share_norms' is no option of finetune, but of distill",
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
    job = jobs()[command]
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    groups = dests(text[text.index("Main options:") :])
    shown = [name for names in groups.values() for name in names]
    general = ["help", "config", "print_config", *(["json"] if job.JSON else [])]
    assert sorted(shown) == sorted([*names(job), *general])
    order = [title.replace(f"More of {command}", "More of ") for title in groups]
    assert order == [title for title in GROUPS if title in order]
    assert not job.MAIN or tuple(groups["Main options"]) == job.MAIN
    assert len(job.MAIN) <= 10
    required = [option.name for option in fields(job) if is_required(option)]
    assert " ".join(text.split()).count("(required)") == len(required)
    assert set(required) <= set(groups["Main options"])
    assert "-h, --help " in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_stands_for_a_value(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "[ITEM" not in text
    for name, metavar in {
        "arch_args": "JSON", "prepare": "JSON", "seeds": "LIST", "layers": "LIST", "ancestor_mean": "LIST",
        "epochs": "N", "lr": "X", "depth": "(N|DEPTH)", "resume": "{true,false}", "split": "SPLIT",
        "feature_loss": "{mse,cosine}", "compile": "COMPILE", "json": "{true,false}",
    }.items():  # fmt: skip
        if name in names(jobs()[command]) and name != jobs()[command].POSITIONAL:
            assert re.search(rf"^  --{name.replace('_', '-')} {metavar}( |$)", text, re.M), name


def test_what_every_command_is_for_is_one_line(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [*COMMANDS, "--version"]
    assert max(map(len, lines)) <= 95


@pytest.mark.parametrize("command", COMMANDS)
def test_python_help_tells_every_option(command):
    function = getattr(learngene, jobs()[command].FUNCTION or command)
    text = pydoc.render_doc(function, renderer=pydoc.plaintext)
    for parameter in inspect.signature(function).parameters.values():
        default = "" if parameter.default is parameter.empty else f" (default {parameter.default!r})"
        assert re.search(rf"^ +{parameter.name}{re.escape(default)}: \S", text, re.M), parameter.name
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

    def interrupted(self):
        if left:
            (tmp_path / "o").mkdir()
            (tmp_path / "o" / left).touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs()[words[0]], "run", interrupted)
    assert main(words) == 130
    error = capsys.readouterr().err
    assert message in error
    assert f"learngene {words[0]}: interrupted; " in error
    assert ("--resume" in error) == bool(left and left.endswith(".json"))


def test_an_interrupt_before_the_command_begins(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "parse_words", interrupted)
    assert main(["distill"]) == 130
    assert capsys.readouterr().err == "learngene distill: interrupted; nothing was begun\n"


def test_an_earlier_run_that_was_to_be_overwritten_is_not_to_be_resumed(tmp_path):
    (tmp_path / "run.json").touch()
    value = jobs()["demo"](out=tmp_path, overwrite=True)
    assert "nothing was begun" in _after_interrupt(value, _records(value))


def test_the_directory_is_that_of_the_run_even_when_nobody_named_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    demo, evaluate = jobs()["demo"](), jobs()["evaluate"](model="m", data="d")
    (tmp_path / "learngene-demo").mkdir()
    (tmp_path / "learngene-demo" / "run.json").touch()
    assert _after_interrupt(demo, {}) == "the same command with --resume goes on"
    assert _after_interrupt(evaluate, {}) == "the same command begins anew"


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
    assert parse_words(jobs()["demo"], []) == {}
    assert jobs()["demo"]().out == "learngene-demo"
    for command in set(COMMANDS) - {"demo", "archs"}:
        assert "is missing; see learngene" in fails(capsys, command)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["finetune", "m", "--data", "d", "--out", ""], "--out is empty; give a value, or leave it out"),
        (["evaluate", "m", "--data="], "--data is empty; give a value"),
        (["evaluate", "", "--data", "d"], "MODEL is empty; give a value"),
        (["relearn", "m", " ", "--data", "d", "--out", "o"], "MODELS is empty; give a value"),
        (["distill", "--ancestor", "local-dir:", "--data", "d", "--out", "o"], "--ancestor is empty; give"),
        (["distill", "--ancestor", "a", "--data", "d", "--out", "o", "--cache="], "--cache is empty; give"),
        (["benchmark", "--data", "d", "--out", "o", "--distill", '{ancestor: ""}'], "ancestor is empty"),
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
        (["archs", ""], "PATTERN is empty; give a value, or leave it out"),
    ],
)
def test_an_empty_word_is_no_path(words, message, tmp_path, monkeypatch, capsys):
    """As an unset variable of the shell leaves it; Path would take it for the current directory."""
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, *words)
    assert not list(tmp_path.iterdir())


def test_arguments_of_timm_may_be_empty():
    words = ["--ancestor", "a", "--data", "d", "--out", "o", "--arch_args", '{"global_pool": ""}']
    assert parse_words(jobs()["distill"], words)["arch_args"] == {"global_pool": ""}


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
        (["spawn", "--depth", "G.st", "--out", "o"], "GENE is missing (put GENE before --depth, which takes"),
        (["info", "--depth", "4", "6"], "SOURCE is missing (put SOURCE before --depth"),
        (["relearn", "--modes", "free", "m", "--data", "d"], "MODELS is missing (put MODELS before --modes"),
        (
            ["relearn", "--shares", "2m"],
            "--shares 2m: it must be a list of numbers (put MODELS before --shares",
        ),
        (["relearn", "m", "--shares", "half"], "--shares half: it must be a list of numbers; see"),
        (["info", "g", "h", "--depth", "4"], "'h' stands alone, and belongs to no option; see"),
        (["demo", "o"], "'o' stands alone, and belongs to no option; see"),
        (["info", "g", "--depth"], "--depth has no value; give one"),
        (["finetune", "m", "--lr"], "--lr has no value; give one"),
        (["finetune", "m", "--lr", "--seed", "3"], "--lr has no value; give one"),
        (["benchmark", "--depths", "3-5"], "--depths 3-5: it must be a list of whole numbers; see"),
        (["benchmark", "--seeds", "0", "1", "x"], "--seeds 0 1 x: it must be a list of whole numbers; see"),
        (["distill", "--compile", "perhaps"], "--compile perhaps: it must be True, False or auto; see"),
        (["distill", "--in-memory=perhaps"], "--in-memory perhaps: it must be True or False; see"),
        (["distill", "--workers", "x"], "--workers x: it must be a whole number or auto; see"),
        (["distill", "--epochs", "1e1"], "--epochs 1e1: it must be a whole number; see"),
        (["distill", "--track", "x"], "--track x: it must be none, tensorboard or wandb; see"),
        (["distill", "--arch-args", "3"], "--arch-args 3: it must be a mapping; see"),
        (["distill", "--arch-args", "{a: 1, a: 2}"], "--arch-args names 'a' twice; keep one of them"),
        (["distill", "--s", "3"], "--s may be any of"),
        (["distill", "-lr", "3"], "-lr is no option of distill; did you mean --lr?"),
        (["distill", "--", "3"], "-- is no option of distill; see"),
        (["distill", "-xlr", "3"], "-xlr is no option of distill; did you mean --lr?"),
    ],
    ids=str,
)
def test_the_way_out_of_a_slip(words, message, capsys):
    assert message in fails(capsys, *words)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["benchmark", "--seeds", "0", "1", "2"], [0, 1, 2]),
        (["benchmark", "--seeds", "0,1,2"], [0, 1, 2]),
        (["benchmark", "--seeds", "0,1", "2"], [0, 1, 2]),
        (["benchmark", "--seeds=0,1"], [0, 1]),
        (["benchmark", "--seeds", "[0, 1, 2]"], [0, 1, 2]),
        (["benchmark", "--seeds", "0"], [0]),
        (["benchmark", "--scratch-epochs", "[]"], []),
        (["benchmark", "--tflops", "1", "2e-1"], [1.0, 0.2]),
        (["benchmark", "--starts", "learngene", "random"], ["learngene", "random"]),
        (["benchmark", "--starts", "learngene,random"], ["learngene", "random"]),
        (["benchmark", "--starts", "[random, {name: a}]"], ["random", {"name": "a"}]),
        (["benchmark", "--starts", "random", "{name: a, start: b}"], ["random", {"name": "a", "start": "b"}]),
        (["relearn", "m", "--layers", "1", "3"], [1, 3]),
        (["attention", "--layers", "1", "3", "m", "n"], [1, 3]),
        (["relearn", "--layers", "[1, 3]", "m"], [1, 3]),
        (["relearn", "m", "--modes", "frozen"], ["frozen"]),
        (["relearn", "m", "--modes", "frozen,free"], ["frozen", "free"]),
        (["distill", "--ancestor-classes", "tench, Tinca tinca", "7"], ["tench, Tinca tinca", "7"]),
        (["distill", "--ancestor-input-size", "1", "28", "28"], [1, 28, 28]),
        (["distill", "--ancestor-input-size", "28"], 28),
        (["distill", "--ancestor-mean", "0.5"], [0.5]),
        (["distill", "--plan", "2", "2", "2"], [2, 2, 2]),
        (["distill", "--plan", "2"], 2),
        (["spawn", "--plan", "2,1,2", "g"], "2,1,2"),
        (["spawn", "--plan", "2", "g"], "2"),
        (["spawn", "g", "--depth", "6", "9", "12"], [6, 9, 12]),
        (["spawn", "g", "--depth", "4-6"], "4-6"),
        (["info", "--depth", "4", "6-7", "G.st"], [4, "6-7"]),
        (["finetune", "m", "--freeze", "-1"], -1),
        (["finetune", "m", "--min-lr", "-1e-3"], -1e-3),
        (["finetune", "m", "--batch", "3"], 3),
        (["finetune", "m", "--clip-grad", "null"], None),
        (["distill", "--arch-args.img_size", "28"], {"img_size": 28}),
        (["distill", "--arch_args", "{a: {b: 1}}", "--arch_args.a.c=x"], {"a": {"b": 1, "c": "x"}}),
    ],
    ids=str,
)
def test_values_as_they_are_written(words, value, capsys):
    option = next(word for word in words if word.startswith("--"))[2:].partition("=")[0].partition(".")[0]
    name = {"batch": "batch_size"}.get(option, option.replace("-", "_"))
    config = yaml.safe_load(printed(capsys, *words))
    assert config[name] == value
    assert type(config[name]) is type(value)
    place = jobs()[words[0]].POSITIONAL
    assert place is None or config[place] in ("m", "g", "G.st", ["m"], ["m", "n"])


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
        (b"out: ''\n", "out is empty; give a value"),
        (b"depths: 3\n", "the config's 'depths' 3: it must be a list of whole numbers; see"),
        (b"epochs: !!timestamp x\n", "config 'c.conf' is no YAML ("),
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


NEW = '''
"""learngene greet"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from learngene.job import Job


@dataclass(frozen=True, kw_only=True)
class Greet(Job):
    """Say hello to somebody, several times if wanted."""

    COMMAND, ORDER = "greet", 55
    SUMMARY = "say hello"
    BY_PLACE = ("who",)
    POSITIONAL = "who"
    JSON = True

    who: str
    """whom to greet."""
    times: Sequence[int] = (1,)
    """how often, one after another."""

    def run(self) -> list[str]:
        """Do it.

        Returns:
            What was said.
        """
        return [" ".join(["hello"] * count + [self.who]) for count in self.times]

    @staticmethod
    def show(result: Any) -> None:
        """A line each."""
        print(*result, sep="\\n")
'''


@pytest.fixture
def another(tmp_path, monkeypatch):
    """A file of a job more."""
    import learngene.jobs as package

    (tmp_path / "greet.py").write_text(NEW)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    package.jobs.cache_clear(), package.functions.cache_clear()
    yield
    monkeypatch.undo()
    sys.modules.pop("learngene.jobs.greet", None)
    vars(package).pop("greet", None)
    package.jobs.cache_clear(), package.functions.cache_clear()


def test_a_new_command_is_one_file(another, capsys):
    """A command, a Python function, a line of the help, a table, a config and JSON: nothing else knows it."""
    place = COMMANDS.index("benchmark")
    assert list(jobs()) == [*COMMANDS[:place], "greet", *COMMANDS[place:]]
    assert main(["--help"]) == 0
    assert "  greet      say hello\n" in capsys.readouterr().out
    assert main(["greet", "--help"]) == 0
    text = capsys.readouterr().out
    assert "usage: learngene greet WHO [options]" in text
    assert "whom to greet (required)" in text
    assert "--times LIST" in text
    assert main(["greet", "--times", "1", "2", "you"]) == 0
    assert capsys.readouterr().out == "hello you\nhello hello you\n"
    assert main(["greet", "you", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == ["hello you"]
    assert yaml.safe_load(printed(capsys, "greet", "you")) == {"who": "you", "times": [1], "json": False}
    assert "WHO is missing" in fails(capsys, "greet")
    assert "--times is no option of spawn, but of greet" in fails(capsys, "spawn", "g", "--times", "3")
    assert learngene.greet("me", times=(2,)) == ["hello hello me"]
    assert "greet" in dir(learngene)
    assert "times (default (1,)): how often" in learngene.greet.__doc__


def test_no_words_end_in_a_traceback(monkeypatch, capsys, tmp_path):
    """Random options, values and configs: run, or one sentence; what is run is left out."""
    monkeypatch.chdir(tmp_path)
    rng = random.Random(0)
    for job in jobs().values():
        monkeypatch.setattr(job, "run", lambda self: {})
        monkeypatch.setattr(job, "show", staticmethod(lambda result: None))
    for number, text in enumerate(ODD_CONFIGS):
        Path(f"{number}.yaml").write_text(text)
    statuses = set()
    for _ in range(1_500):
        job = jobs()[rng.choice(COMMANDS)]
        needed = [option.name for option in fields(job) if is_required(option) and rng.random() < 0.9]
        words = [job.COMMAND, *(f"--{name}=x.png" for name in needed)]
        for _ in range(rng.randint(0, 3)):
            name, value = f"--{rng.choice(names(job))}", rng.choice(ODD_WORDS)
            words += rng.choice([[name, value], [f"{name}={value}"], [name], [value]])
        if rng.random() < 0.3:
            words += ["--config", f"{rng.randrange(len(ODD_CONFIGS))}.yaml"]
        statuses.add(status := main(words))
        error = capsys.readouterr().err
        assert status in (0, 2), words
        assert error.count("error:") == (status == 2), words
        assert "Traceback" not in error
    assert statuses == {0, 2}


ODD_WORDS = [
    "3", "4-6", "0,1", "0.5", "1e-3", "a", "[1, 2]", "[a", "{a: 1}", "{a: 1, a: 2}", "null", "~", "true",
    "auto", "", " ", "-1", ".nan", "1e999", "2,2", "--", "-", "-x", "---", "=", "--s", "--arch_args.a",
    "--arch-args.a.b=3", "!!bool x", "!!timestamp x", "&a [*a]", "*a", "<<", "\x00", "\ud800", "٣",
    "9" * 5_000, "[" * 3_000, "%x", "\\n", "frozen,free", "--config", "--config=", "--config=.",
    "--config=" + "x" * 5_000, "--print-config", "--json=maybe",
]  # fmt: skip
ODD_CONFIGS = [
    "a: !!bool x", "!!binary x", "? [a]\n: b", "1: 2", "null: 3", "epochs: {a: b}", "lr: [1]",
    "arch_args: {1: 2}", "arch_args: !!set {x}", "epochs: !!timestamp x", "data: 2020-01-01",
    "starts: [[a]]", "seeds: a", "plan: {a: 1}", "depth: [[1]]", "model: {a: 1}", "&a [*a]",
    "arch_args: &a {b: *a}", "<<: {epochs: 3}", "epochs: " + "9" * 5_000, "seed: .nan", "json: 3",
    "config: x", "print_config: true", "help: true", "out: [a]", "resume: null", "seeds: null",
    "ORDER: 3", "distill: {data: ''}", "prepare: {a: {distill: 3}}", "epochs: 3", "seeds: [0, 1]", "",
    "[" * 3_000,
]  # fmt: skip
