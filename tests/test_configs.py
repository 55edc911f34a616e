"""Every shipped config is parsed by the command of its head comment, and its job and models can be made."""

from pathlib import Path

import pytest
import torch
import yaml

from learngene.bench.preparation import Preparation
from learngene.cli import main
from learngene.families.anatomy import count_parameters, get_blocks
from learngene.families.architecture import Architecture
from learngene.gene import Learngene
from learngene.help import build_parser
from learngene.jobs import jobs
from learngene.plan import StagePlan
from learngene.recipe import Recipe
from learngene.sharing import build_auxnet
from learngene.words import parse_words

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def head_command(path: Path) -> list[str]:
    """The command in the head comment, its line breaks joined."""
    comment = [
        line.removeprefix("#").strip() for line in path.read_text().splitlines() if line.startswith("#")
    ]
    words = [word for word in " ".join(comment).split() if word != "\\"]
    start = words.index("learngene") + 1
    return words[start : words.index("--out") + 2]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_config_is_parsed_by_its_own_command(path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main([*head_command(path), "--print-config"]) == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    for key, value in yaml.safe_load(path.read_text()).items():
        assert resolved[key] == value, key


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_config_makes_its_job_and_what_is_trained_before(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    command, *words = head_command(path)
    value = jobs()[command](**parse_words(jobs()[command], words))
    trained = {name: jobs()[name] for name in ("distill", "finetune")}
    for name, entry in (getattr(value, "prepare", None) or {}).items():
        assert Preparation.parse(name, entry, trained).name == name
    if getattr(value, "distill", None):
        Preparation.parse("gene", {"distill": value.distill}, trained)


@pytest.mark.parametrize("name", ["sws_deit_small", "sws_deit_base"])
def test_published_settings(name):
    config = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
    architecture = Architecture(config["arch"], {**config["arch_args"], "num_classes": 1000})
    plan = StagePlan.parse(config["plan"])
    with torch.device("meta"):
        auxnet = build_auxnet(architecture, plan)
        descendant = architecture.build(12)
    stored = {"sws_deit_small": 9.63e6, "sws_deit_base": 36.95e6}[name]
    assert count_parameters(auxnet) == pytest.approx(stored, rel=1e-3)
    blocks, own = get_blocks(auxnet), get_blocks(descendant)
    assert len(blocks) == 16
    assert blocks[0].attn.num_heads == own[0].attn.num_heads
    assert blocks[0].norm1.eps == own[0].norm1.eps == 1e-6
    assert auxnet.global_pool == descendant.global_pool == "avg"
    images = torch.randn(1, 3, 224, 224)
    torch.manual_seed(0)
    auxnet = build_auxnet(architecture, plan).eval()
    if name == "sws_deit_small":
        gene = Learngene.extract(auxnet, plan)
        with torch.no_grad():
            assert torch.equal(gene.spawn(plan=plan).eval()(images), auxnet(images))


def test_relearning_states_its_learning_rate():
    """The command has none of its own, so configs and README do not change with the recipe's."""
    assert build_parser(jobs()["relearn"]).get_defaults().lr == Recipe().lr
    assert all("lr" in yaml.safe_load(path.read_text()) for path in CONFIGS if "relearn" in path.name)
    tour = [
        line
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("learngene relearn ")
    ]
    assert tour
    assert all("--lr " in line for line in tour)
