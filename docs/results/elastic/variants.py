"""Elastic training in two ways that are no options; report.md has the first, the second was only tried out.

    python docs/results/elastic/variants.py gains distill ARGUMENTS     # gains for each repeat
    python docs/results/elastic/variants.py untied distill ARGUMENTS    # layers of their own

Descendants of depths 5 to 20 (untied: to 15) are written beside the learngene as timm directories d5, d6, ...

gains: the output of each norm and each branch is multiplied by 1 + place * u + (n / r - 1) * v, with vectors
u and v of a stage that begin at 0, n and r the stage's repeats as trained and as run, and the repeat's place
from -1 to 1. It folds into ordinary weights. untied: the plan has three layers a stage, of which the first,
the first and the last, or all are run, with the step size 3 / r.
"""

import sys
from pathlib import Path

import torch
from torch import nn

import learngene.jobs.work.distill as work
from learngene.cli import main
from learngene.elastic_nets import ElasticNets
from learngene.families.anatomy import get_blocks
from learngene.formats.timm_directory import save_timm_directory
from learngene.mix import pick
from learngene.sharing import use_weights

ENDS = {"norm1": "norm1", "drop_path1": "attn.proj", "norm2": "norm2", "drop_path2": "mlp.fc2"}  # by site
CHOSEN = {1: (0,), 2: (0, 2), 3: (0, 1, 2)}  # of a stage's layers, by how many are run
EXTRACT, INIT, SHARE = work._extract, ElasticNets.__init__, ElasticNets.share
LIVE = []  # the nets that are trained


class Gain(nn.Module):
    """A gain for each channel, linear in a repeat's place and in the step size."""

    def __init__(self, u, v, place, inverse):
        super().__init__()
        self.u, self.v, self.place, self.inverse = u, v, place, inverse

    def forward(self, x):
        return x * (1 + self.place * self.u + self.inverse * self.v)


def places(plan, trained):
    """Stage, place and n / r - 1 of each layer."""
    for stage, (r, n) in enumerate(zip(plan.repeats, trained.repeats, strict=True)):
        for i in range(r):
            yield stage, (2 * i + 1 - r) / r, n / r - 1


# --- gains


def init_with_gains(self, auxnet, architecture, plan, *rest, **overrides):
    width = get_blocks(auxnet)[0].norm1.weight.numel()
    names = [f"{stage}_{site}_{which}" for stage in range(plan.stages) for site in ENDS for which in "uv"]
    auxnet.gains = nn.ParameterDict({name: torch.zeros(width) for name in names})
    INIT(self, auxnet, architecture, plan, *rest, **overrides)


def share_gains(self):
    SHARE(self)
    LIVE[:] = [self]
    gains = self.auxnet.gains
    for depth, net in self.nets.items():
        where = places(self.ways[depth].plan, self.plan)
        for (stage, place, inverse), layer in zip(where, get_blocks(net), strict=True):
            for site in ENDS:
                now = getattr(layer, site)
                parts = list(now) if isinstance(now, nn.Sequential) else [now]
                parts = [part for part in parts if not isinstance(part, Gain)]
                gain = Gain(gains[f"{stage}_{site}_u"], gains[f"{stage}_{site}_v"], place, inverse)
                setattr(layer, site, nn.Sequential(*parts, gain))


def fold(state, gains, plan, trained):
    """Multiply gains into the weights that they follow."""
    for layer, (stage, place, inverse) in enumerate(places(plan, trained)):
        for site, end in ENDS.items():
            gain = 1 + place * gains[f"{stage}_{site}_u"] + inverse * gains[f"{stage}_{site}_v"]
            weight = state[f"blocks.{layer}.{end}.weight"]
            weight *= gain[:, None] if weight.ndim == 2 else gain
            state[f"blocks.{layer}.{end}.bias"] *= gain
    return state


# --- untied


def chosen(plan, trained):
    """Which of all layers a net of some plan runs."""
    pairs = zip(trained.first_layers, plan.repeats, strict=True)
    return [first + place for first, repeats in pairs for place in CHOSEN[repeats]]


def share_chosen(self):
    SHARE(self)
    LIVE[:] = [self]
    own = get_blocks(self.auxnet)
    for depth, net in self.nets.items():
        for layer, source in zip(get_blocks(net), chosen(self.ways[depth].plan, self.plan), strict=True):
            use_weights(own[source], layer)


def scale(state, steps):
    """Multiply step sizes into what ends the branches."""
    for layer, step in enumerate(steps):
        for end in ("attn.proj", "mlp.fc2"):
            for kind in ("weight", "bias"):
                state[f"blocks.{layer}.{end}.{kind}"] *= step
    return state


# --- both


@torch.no_grad()
def extract_descendants(job, nets, train, metrics):
    """Write the descendants, then let the learngene be extracted as usual."""
    gains = {k: v.detach().clone() for k, v in getattr(nets.auxnet, "gains", {}).items()}
    if gains:
        del nets.auxnet.gains
        print("largest gain", max(float(v.abs().max()) for v in gains.values()))
    gene = EXTRACT(job, nets, train, metrics)
    whole, trained = nets.auxnet.state_dict(), job.stage_plan
    for depth in range(5, 21 if gains else 16):
        way = job.depths_drawn.expansion(depth, trained)
        source = gene.expanded(way) if gains else pick(whole, chosen(way.plan, trained), "blocks")
        state = {k: v.clone() for k, v in source.items()}
        state = fold(state, gains, way.plan, trained) if gains else scale(state, way.steps(trained))
        net = nets.architecture.build(depth)
        net.load_state_dict(state)
        if depth in LIVE[0].nets:  # what is written is what was trained
            live, noise = LIVE[0].nets[depth].cpu().eval(), torch.randn(4, *nets.data_config["input_size"])
            torch.testing.assert_close(net.eval()(noise), live(noise), rtol=1e-3, atol=1e-3)
        save_timm_directory(net, Path(job.out) / f"d{depth}", class_names=gene.class_names)
    return gene


if __name__ == "__main__":
    work._extract = extract_descendants
    if sys.argv[1] == "gains":
        ElasticNets.__init__, ElasticNets.share = init_with_gains, share_gains
    else:
        work.tie, ElasticNets.share = lambda net, plan, **_: net, share_chosen
    sys.exit(main(sys.argv[2:]))
