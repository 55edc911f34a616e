import math

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_ARGS, randomize

from learngene.errors import LearngeneError
from learngene.families.architecture import Architecture
from learngene.families.records import data_config_of
from learngene.objectives import Ancestor, Distillation, Supervised, soft_kl
from learngene.plan import match_layers


def test_soft_kl_is_the_formula_per_image():
    student, teacher, temperature = torch.randn(4, 7), torch.randn(4, 7), 2.5
    p, q = F.softmax(student / temperature, -1), F.softmax(teacher / temperature, -1)
    expected = (
        temperature**2
        * sum(float(q[i, k] * (q[i, k] / p[i, k]).log()) for i in range(4) for k in range(7))
        / 4
    )
    assert float(soft_kl(student, teacher, temperature)) == pytest.approx(expected, rel=1e-5)
    assert float(soft_kl(teacher, teacher)) == pytest.approx(0, abs=1e-6)


@pytest.fixture
def student(architecture):
    return randomize(architecture.build(5))


@pytest.fixture
def trained():
    return randomize(
        Architecture(
            "vit_tiny_patch16_224", {**TINY_ARGS, "embed_dim": 24, "img_size": 42, "in_chans": 3}
        ).build(4),
        seed=1,
    )


def test_every_term_is_computed_and_named(student, trained):
    config = data_config_of(student)
    ancestor = Ancestor(trained, config)
    objective = Distillation(
        ancestor, kl=1, hard=0.5, ce=0.25, feature=2, temperature=2, student=student, layers=[1, 2, 4]
    )
    images, targets = torch.randn(4, 1, 28, 28), torch.tensor([0, 1, 2, 0])
    losses = objective(student, {"image": images, "target": targets})
    assert set(losses) == {"kl", "hard", "ce", "feature"} == set(objective.weights)
    logits, theirs = student(images), ancestor(images)
    assert torch.allclose(losses["kl"], soft_kl(logits, theirs, 2.0), atol=1e-5)
    assert torch.allclose(losses["hard"], F.cross_entropy(logits, theirs.argmax(-1)), atol=1e-5)
    assert torch.allclose(losses["ce"], F.cross_entropy(logits, targets), atol=1e-5)
    losses["feature"].backward()
    assert all(p.grad is not None for p in objective.project.parameters())
    assert all(p.grad is None for p in trained.parameters())


@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_features_of_the_same_net_are_at_distance_zero_by_cosine(student, kind):
    ancestor = Ancestor(student, data_config_of(student))
    objective = Distillation(ancestor, kl=0, feature=1, feature_loss=kind, student=student, layers=[1, 4])
    student.requires_grad_(True)
    batch = {"image": torch.randn(2, 1, 28, 28), "target": torch.zeros(2)}
    distance = float(objective(student.eval(), batch)["feature"])
    assert distance == pytest.approx(0, abs=1e-5) if kind == "cosine" else distance > 0


def test_weight_zero_costs_nothing_and_needs_no_labels(student, trained):
    ancestor = Ancestor(trained, data_config_of(student))
    batch = {"image": torch.randn(2, 1, 28, 28), "target": torch.full((2,), -1)}
    losses = Distillation(ancestor, kl=1)(student, batch)
    assert set(losses) == {"kl"}


def test_logits_that_are_in_the_batch_are_learned_without_running_the_ancestor(student, trained, monkeypatch):
    ancestor = Ancestor(trained, data_config_of(student))
    objective = Distillation(ancestor, kl=1, hard=0.5, ce=0.25)
    batch = {"image": torch.randn(4, 1, 28, 28), "target": torch.tensor([0, 1, 2, 0])}
    kept = ancestor(batch["image"])
    student.eval()
    expected = objective(student, batch)
    monkeypatch.setattr(Ancestor, "forward", lambda *args: pytest.fail("the ancestor was run"))
    found = objective(student, {**batch, "teacher": kept})
    assert {name: loss.item() for name, loss in found.items()} == {k: v.item() for k, v in expected.items()}
    other = objective(student, {**batch, "teacher": kept + torch.randn_like(kept)})
    assert other["kl"] != found["kl"]
    assert torch.equal(other["ce"], found["ce"])


def test_ancestor_is_in_no_state_and_no_copy(student, trained):
    import copy

    objective = Distillation(Ancestor(trained, data_config_of(student)), kl=1)
    assert not objective.state_dict()
    assert not list(objective.parameters())
    assert copy.deepcopy(objective).ancestor is objective.ancestor


def test_ancestor_sees_the_images_its_own_way(trained):
    student_data = {"input_size": [1, 28, 28], "mean": [0.3], "std": [0.2]}
    own = {"input_size": [3, 42, 42], "mean": [0.5, 0.4, 0.3], "std": [0.25, 0.5, 1.0]}
    ancestor = Ancestor(trained, student_data, own)
    pixels = torch.full((2, 1, 28, 28), 0.8)
    view = ancestor.view((pixels - 0.3) / 0.2)
    assert view.shape == (2, 3, 42, 42)
    for channel, value in enumerate([(0.8 - 0.5) / 0.25, (0.8 - 0.4) / 0.5, 0.8 - 0.3]):
        assert torch.allclose(view[:, channel], torch.tensor(value), atol=1e-5)


def test_same_normalisation_leaves_images_untouched(student):
    images = torch.randn(2, 1, 28, 28)
    assert torch.equal(Ancestor(student, data_config_of(student)).view(images), images)


def test_ancestor_stays_in_eval(student, trained):
    ancestor = Ancestor(trained, data_config_of(student)).train()
    assert not ancestor.training
    assert not any(m.training for m in ancestor.modules())


def test_stage_ends_map_to_layer_ends():
    assert match_layers([2, 5, 9, 12, 15], 16, 12) == [1, 3, 7, 9, 11]
    assert match_layers([0, 1, 2], 3, 24) == [7, 15, 23]
    assert match_layers([0, 9], 10, 2) == [0, 1]


def test_supervised_smoothing_only_for_plain_labels():
    logits = torch.randn(3, 4)
    objective = Supervised(0.1)
    assert torch.allclose(
        objective.cross_entropy(logits, torch.tensor([0, 1, 2])),
        F.cross_entropy(logits, torch.tensor([0, 1, 2]), label_smoothing=0.1),
    )
    soft = torch.full((3, 4), 0.25)
    assert float(objective.cross_entropy(torch.zeros(3, 4), soft)) == pytest.approx(math.log(4))


def test_bad_weights(student, trained):
    ancestor = Ancestor(trained, data_config_of(student))
    with pytest.raises(LearngeneError, match="at least one must be above 0"):
        Distillation(ancestor, kl=0)
    with pytest.raises(LearngeneError, match="temperature 0"):
        Distillation(ancestor, temperature=0)
    with pytest.raises(LearngeneError, match="set the feature weight to 0"):
        Distillation(
            Ancestor(torch.nn.Flatten(), data_config_of(student)), feature=1, student=student, layers=[0]
        )
