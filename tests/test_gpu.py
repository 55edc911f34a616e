"""On a machine with a CUDA GPU: what is chosen by itself, no step waits for it, it learns as a CPU does."""

import json
import traceback
import warnings

import pytest
import torch
from conftest import FAST, TINY_ARGS
from lightning.pytorch.callbacks import Callback

from learngene import distill, finetune
from learngene.data import ImageData, open_training
from learngene.families.architecture import Architecture
from learngene.families.records import data_config_of
from learngene.objectives import Ancestor, Distillation
from learngene.plan import StagePlan
from learngene.recipe import DataOptions, Recipe
from learngene.sharing import build_auxnet
from learngene.training import RunDirectory, TrainingModule, fit
from learngene.training.speed import compiles

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
ARGS = {k: v for k, v in TINY_ARGS.items() if k != "num_classes"}
FIRST, LAST = 3, 7


class Waits(Callback):
    """Where the host waited for the device from the first to the last of some steps."""

    def __init__(self) -> None:
        self.places: list[str] = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == FIRST:
            warnings.simplefilter(
                "always"
            )  # within a block of Lightning's and ours that gives the filters back
            warnings.showwarning = self.note
            torch.cuda.set_sync_debug_mode("warn")
        if batch_idx == LAST:
            torch.cuda.set_sync_debug_mode("default")

    def note(self, message, *_):
        if "called a synchronizing CUDA operation" in str(message):
            self.places.append("".join(traceback.format_stack(limit=8)))


@pytest.mark.parametrize("on_device", [True, False], ids=["images on the device", "images from the host"])
@pytest.mark.parametrize(
    "options", [{}, {"mixup": 0.5, "cutmix": 0.5, "drop_path": 0.1}], ids=["plain", "strong"]
)
def test_no_step_waits_for_the_device(architecture, tmp_path, on_device, options):
    recipe = Recipe(batch_size=32, steps=10, log_every=50, compile=False, **options)
    loading = DataOptions(on_device=on_device, workers=0)
    train, val = open_training("fashion-mnist", loading, "L")
    model = build_auxnet(architecture, StagePlan((2, 2)), drop_path_rate=recipe.drop_path, num_classes=10)
    config = data_config_of(model)
    trained = Architecture(architecture.name, {**architecture.args, "num_classes": 10}).build(2)
    module = TrainingModule(model, Distillation(Ancestor(trained, config)), recipe, num_classes=10)
    waits = Waits()
    fit(
        module,
        ImageData(train, val, config, recipe, loading),
        RunDirectory(tmp_path / "run", {}),
        callbacks=[waits],
        validate=False,
    )
    assert not waits.places, waits.places[0]


def test_what_is_chosen_on_a_gpu(folder, tmp_path):
    assert compiles(Recipe(), torch.device("cuda"))
    options = {**FAST, "precision": "auto"}
    finetune("vit_tiny_patch16_224", str(folder), out=tmp_path / "run", depth=3, arch_args=ARGS, **options)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["settled"]["precision"] == (
        "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    )


def test_it_learns_as_a_cpu_does(folder, ancestor, tmp_path):
    options = {**FAST, "epochs": 2, "plan": "2,1,2", "on_device": False, "compile": False}
    states = [
        distill(ancestor, str(folder), out=tmp_path / name, accelerator=name, **options).state
        for name in ("cpu", "gpu")
    ]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(
            states[1][name].cpu(), value, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
