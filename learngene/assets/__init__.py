"""Files that travel with the package: the embedded images, and the ancestor and learngene of
``checkpoints/``.
"""

from importlib.resources import files
from pathlib import Path

from learngene.errors import LearngeneError


def checkpoint(name: str) -> Path:
    """A file or folder of ``checkpoints/fashion-mnist``: inside an installed wheel, or in the repository.

    Raises:
        LearngeneError: it is in neither, so the installation is incomplete.
    """
    installed = Path(str(files("learngene").joinpath("assets"))) / "checkpoints" / "fashion-mnist" / name
    repository = Path(__file__).resolve().parents[2] / "checkpoints" / "fashion-mnist" / name
    for path in (installed, repository):
        if path.exists():
            return path
    raise LearngeneError(
        f"'{name}' is missing from this installation (looked for {installed} and {repository}); install "
        "learngene again"
    )


def ancestor_directory() -> Path:
    """The packaged ancestor: a timm directory, trained on 57,000 of Fashion-MNIST's 60,000 images."""
    return checkpoint("ancestor")


def learngene_file() -> Path:
    """The packaged learngene, distilled from that ancestor."""
    return checkpoint("learngene.safetensors")
