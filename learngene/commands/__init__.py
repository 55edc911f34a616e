"""One command, one typed function. The CLI is these functions; from Python they take the same arguments.

Nothing heavy is imported until a command runs, so that the CLI can show its help at once.
"""

from learngene.commands.archs import archs
from learngene.commands.attention import attention
from learngene.commands.benchmark import benchmark
from learngene.commands.cache import cache
from learngene.commands.demo import demo
from learngene.commands.distill import distill
from learngene.commands.evaluate import evaluate
from learngene.commands.export import export
from learngene.commands.finetune import finetune
from learngene.commands.info import info
from learngene.commands.plan_costs import plan_costs
from learngene.commands.relearn import relearn
from learngene.commands.report import report
from learngene.commands.spawn import spawn
from learngene.log import be_seen

__all__ = [
    "archs", "attention", "benchmark", "cache", "demo", "distill", "evaluate", "export", "finetune", "info", "plan_costs", "relearn",
    "report", "spawn",
]  # fmt: skip

be_seen()
