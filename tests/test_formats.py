import pytest
import torch
from conftest import CLASSES

from learngene import LearngeneError, export
from learngene.families.records import label_names_of
from learngene.families.timm import open_model
from learngene.formats.timm_directory import save_timm_directory


def test_onnx_gives_the_same_numbers_at_any_batch_size(ancestor, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = export(ancestor, out=tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = torch.randn(5, 1, 28, 28)
    found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    with torch.no_grad():
        assert torch.allclose(found, open_model(ancestor).eval()(images), atol=1e-4)
    with pytest.raises(LearngeneError, match="exists; choose another --out"):
        export(ancestor, out=path)
    with pytest.raises(LearngeneError, match="differs from torch by"):
        export(ancestor, out=tmp_path / "strict.onnx", tolerance=-1.0)
    assert not (tmp_path / "strict.onnx").exists()


def test_directory_is_written_whole_or_not_at_all(architecture, tmp_path, monkeypatch):
    model = architecture.build(2)
    save_timm_directory(model, tmp_path / "d", class_names=CLASSES, card="# card")
    assert {p.name for p in (tmp_path / "d").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    with pytest.raises(LearngeneError, match="is not empty"):
        save_timm_directory(model, tmp_path / "d")

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("learngene.formats.timm_directory.save_for_hf", full_disk)
    with pytest.raises(
        LearngeneError, match=r"/d' cannot be written \(No space left on device\); free some space"
    ):
        save_timm_directory(model, tmp_path / "d", overwrite=True)
    assert label_names_of(open_model(tmp_path / "d")) == list(CLASSES)
    (tmp_path / "d" / "config.json").rename(tmp_path / "d" / "mine.json")
    with pytest.raises(LearngeneError, match="is never overwritten"):
        save_timm_directory(model, tmp_path / "d", overwrite=True)
    assert {p.name for p in tmp_path.iterdir()} == {"d"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "config.json").unlink(), "has no config.json"),
        (lambda d: (d / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda d: (d / "config.json").write_text("{}"), "names no architecture"),
        (
            lambda d: (d / "config.json").write_text('{"architecture": "vit_huge_nowhere"}'),
            "not an architecture of timm",
        ),
        (lambda d: (d / "model.safetensors").unlink(), "cannot be loaded"),
        (lambda d: (d / "model.safetensors").write_bytes(b"junk"), "cannot be loaded"),
    ],
)
def test_damaged_directories(architecture, tmp_path, damage, message):
    directory = save_timm_directory(architecture.build(2), tmp_path / "d")
    damage(directory)
    with pytest.raises(LearngeneError, match=message):
        open_model(directory)


def test_a_hub_that_cannot_be_reached():
    with pytest.raises(LearngeneError, match=r"cannot be loaded .*give a timm directory"):
        open_model("vit_tiny_patch16_224")
    with pytest.raises(LearngeneError, match="cannot be loaded"):
        open_model("hf-hub:nobody/nothing")
