"""What is shipped in checkpoints/: it loads, it is what its card says, and the demo's parts fit together."""

import json

import numpy as np
import pytest

from learngene import Learngene, evaluate
from learngene.assets import ancestor_directory, learngene_file
from learngene.bench.preparation import Preparation
from learngene.calibration import depths_of
from learngene.data.embedded import load_embedded
from learngene.families.anatomy import count_parameters
from learngene.families.records import label_names_of
from learngene.families.timm import open_model
from learngene.families.weights import digest_of
from learngene.jobs import jobs
from learngene.jobs.demo import DEPTHS, DISTILL, FINETUNE
from learngene.plan import StagePlan


def test_ancestor_knows_the_embedded_images():
    result = evaluate(ancestor_directory(), "fashion-mnist", workers=0)
    assert result["images"] == 2000
    assert result["top1"] > 0.89  # 91 % on all 10,000; these are 2,000 of them


def test_learngene_belongs_to_the_ancestor():
    gene = Learngene.load(learngene_file())
    ancestor = open_model(ancestor_directory())
    assert gene.ancestor["digest"] == digest_of(ancestor.state_dict())
    assert gene.class_names == tuple(label_names_of(ancestor)) == load_embedded("train")[2]
    assert gene.ancestor["license"] == "mit"
    assert set(gene.expansions) == set(depths_of(gene.plan))  # it is calibrated


def test_a_descendant_is_useful_before_any_tuning(tmp_path):
    from learngene import spawn

    (directory,) = spawn(learngene_file(), plan="2,2,2,2,2", out=tmp_path)
    assert evaluate(directory, "fashion-mnist", workers=0)["top1"] > 0.8


def test_cards_state_what_is_there():
    root = ancestor_directory().parent
    card = (root / "README.md").read_text()
    config = json.loads((ancestor_directory() / "config.json").read_text())
    assert config["model_args"]["depth"] == 8
    assert f"{count_parameters(open_model(ancestor_directory())):,} parameters" in card
    assert f"{Learngene.load(learngene_file()).parameters:,} parameters" in card


def test_demo_settings_are_understood():
    trained = {name: jobs()[name] for name in ("distill", "finetune")}
    Preparation.parse("gene", {"distill": {"ancestor": "x", **DISTILL}}, trained)
    jobs()["benchmark"].check_some(FINETUNE)
    assert len(DEPTHS) >= 3
    assert all(StagePlan.balanced(depth, StagePlan.parse(DISTILL["plan"]).stages) for depth in DEPTHS)


def test_embedded_test_images_are_not_among_the_training_images():
    (train, *_), (test, *_) = load_embedded("train"), load_embedded("test")
    known = {image.tobytes() for image in train}
    assert sum(image.tobytes() in known for image in test) == 0
    assert np.ptp(test) == 255


@pytest.mark.slow
def test_demo(tmp_path):
    from learngene import demo

    result = demo(out=tmp_path / "demo")
    assert {row["depth"] for row in result["rows"]} == set(DEPTHS)
    assert (tmp_path / "demo" / "report.md").exists()
