"""From Python: what is seen in a script or a notebook."""

import contextlib
import logging
import os
import signal
import subprocess
import sys

import pytest
from conftest import FAST, TINY_ARGS

import learngene
from learngene.log import Fallback, be_seen
from learngene.runs import RunDirectory
from learngene.training import progress
from learngene.training.progress import NotebookBar, TerminalBar, epoch_words, progress_bar, watched


def test_a_learngene_is_shown_in_a_few_lines(gene):
    text = repr(gene)
    assert len(text) < 1_500
    assert text.count("\n") < 10
    for part in ("vit_tiny_patch16_224", "2,1,2", f"{gene.parameters:,}", "bag, boot, shirt", "test"):
        assert part in text


@pytest.mark.parametrize("name", ["Recipe", "DataOptions", "DistillOptions"])
def test_the_recipe_classes_are_there(name):
    assert name in learngene.__all__
    assert getattr(learngene, name)().__class__.__name__ == name


SCRIPT = """
import sys{configure}
import learngene
import learngene.jobs
logging = __import__("logging")
logging.getLogger("learngene").info("distilling something")
logging.getLogger("learngene").debug("a detail")
"""


@pytest.mark.parametrize(
    "configure",
    ["", "; import logging; logging.basicConfig(level=20)"],
    ids=["by default", "with basicConfig"],
)
def test_the_log_is_seen_once(configure):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(configure=configure)], capture_output=True, text=True, check=True
    )
    assert done.stderr.count("distilling something") == 1
    assert "a detail" not in done.stderr


def test_who_listens_to_the_package_alone_gets_its_lines_once():
    script = SCRIPT.format(configure="").replace(
        '__import__("logging")\n',
        '__import__("logging")\nlogging.getLogger("learngene").addHandler(logging.StreamHandler())\n',
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.count("distilling something") == 1


def test_a_logger_that_the_user_has_set_is_left_alone(monkeypatch):
    logger = logging.getLogger("learngene")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logger, "level", logging.ERROR)
    be_seen()
    assert logger.handlers == []
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    be_seen()
    be_seen()
    (handler,) = logger.handlers
    assert isinstance(handler, Fallback)
    logger.setLevel(logging.NOTSET)


class OneRun:
    """As much of a trainer as counts epochs: the second of three."""

    current_epoch = 1

    class lightning_module:
        epochs = 3


def test_a_level_that_the_user_has_set_holds_during_a_run(tmp_path):
    """The run's own log.txt has all lines; who listens otherwise gets those asked for."""
    logger, heard = logging.getLogger("learngene"), []
    ear = logging.Handler()
    ear.emit = lambda record: heard.append(record.getMessage())
    logging.getLogger().addHandler(ear)
    before, level = logger.level, logging.WARNING
    logger.setLevel(level)
    try:
        (tmp_path / "run").mkdir()
        with RunDirectory(tmp_path / "run", {}).logging():
            logger.info("a line")
            logging.getLogger("learngene.gene").debug("a detail")
            logger.warning("a warning")
        assert logger.level == level
    finally:
        logger.setLevel(before)
        logging.getLogger().removeHandler(ear)
    assert heard == ["a warning"]
    assert [
        word in (tmp_path / "run" / "log.txt").read_text() for word in ("a line", "a detail", "a warning")
    ] == [True] * 3
    assert not ear.filters


@pytest.mark.parametrize("lr", [1e-3, 1e30], ids=["a run that ends", "one that fails"])
def test_answers_to_signals_are_given_back(folder, tmp_path, lr):
    """Lightning's handler of SIGTERM stayed, and a script or notebook could not be ended any more."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    small = {k: v for k, v in TINY_ARGS.items() if k != "num_classes"}
    options = {**FAST, "epochs": 3, "lr": lr, "accelerator": "cpu"}
    with (
        contextlib.nullcontext()
        if lr < 1
        else pytest.raises(learngene.LearngeneError, match=r"of epoch [1-3];")
    ):
        learngene.finetune(
            "vit_tiny_patch16_224", str(folder), out=tmp_path / "run", depth=2, arch_args=small, **options
        )
    assert [signal.getsignal(number) for number in numbers] == before


def test_long_evaluations_say_how_far_they_are(monkeypatch, caplog):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with caplog.at_level(logging.INFO, "learngene"):
        assert list(watched([7, 8], "evaluating")) == [7, 8]
    assert "evaluating: 2 of 2 batches" in caplog.text


def test_bars_and_log_count_epochs_alike():
    assert epoch_words(OneRun) == "epoch 2/3"
    bar = TerminalBar()
    bar._trainer = OneRun
    assert bar._get_train_description(1).strip() == "epoch 2/3"


@pytest.mark.parametrize(
    ("notebook", "terminal", "kind"),
    [(True, False, NotebookBar), (False, True, TerminalBar), (False, False, type(None))],
)
def test_the_bar_is_what_the_surroundings_have(monkeypatch, notebook, terminal, kind):
    monkeypatch.setattr(progress, "in_notebook", lambda: notebook)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert type(progress_bar()) is kind
    assert list(watched(range(3), "evaluating")) == [0, 1, 2]


def test_other_ranks_draw_no_bar(monkeypatch):
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert progress_bar() is None


def test_a_run_says_nothing_but_its_log(folder, tmp_path):
    """One optimizer step, which made timm's schedule warn; no line of a library leaks."""
    code = f"""
import learngene
learngene.finetune(
    "vit_tiny_patch16_224", {str(folder)!r}, out={str(tmp_path / "run")!r}, depth=2, steps=1, batch_size=16,
    workers=0, accelerator="cpu",
    arch_args=dict(img_size=28, patch_size=7, in_chans=1, embed_dim=16, num_heads=2))
"""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    lines = done.stderr.strip().splitlines()
    assert any("epoch 1/1" in line for line in lines)
    assert not [line for line in lines if line[2:3] != ":"]  # each begins with the time
