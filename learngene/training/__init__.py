"""One training loop for distilling, fine-tuning and training from scratch; they differ in their objective alone."""

from learngene.training.directory import RunDirectory
from learngene.training.fit import evaluate_model, fit
from learngene.training.module import TrainingModule

__all__ = ["RunDirectory", "TrainingModule", "evaluate_model", "fit"]
