"""One training loop for distilling, fine-tuning and training from scratch; they differ in their objective
alone.
"""

from learngene.runs import RunDirectory
from learngene.training.evaluate import evaluate_model
from learngene.training.loop import fit
from learngene.training.module import TrainingModule

__all__ = ["RunDirectory", "TrainingModule", "evaluate_model", "fit"]
