"""The architectures of timm's registry, on the meta device: tie, extract, spawn at another depth, load
strictly.

One of each kind by default, all of them with --slow.
"""

import re
import warnings

import pytest
import timm
import torch
from test_branches import check_ends

from learngene.elastic import Elastic
from learngene.elastic_nets import ElasticNets, Step
from learngene.errors import LearngeneError
from learngene.families.anatomy import anatomy, find_blocks, get_blocks
from learngene.families.architecture import Architecture
from learngene.files import write_text
from learngene.mix import pick
from learngene.plan import StagePlan
from learngene.sharing import tie

CHUNKS = 12
MINIMUM = {"all": 380, "kinds": 100}  # supported ones
SIZES = (
    "atto|femto|pico|nano|micro|mini|tiny|little|small|medium|mediumd|base|large|huge|giant|gigantic|"
    "xx?s|x?s|m|x?l|b|h|g"
)


def kinds(names):
    """The first of the names that are the same but for numbers and words of size."""
    first = {}
    for name in names:
        first.setdefault(re.sub(r"\d+", "", re.sub(rf"(?<=_)({SIZES})\d*(?=_|$)", "", name)), name)
    return list(first.values())


def round_trip(name: str) -> None:
    architecture, plan, target = Architecture(name), StagePlan((2, 1)), StagePlan((1, 3))
    with torch.device("meta"):
        auxnet = tie(architecture.build(plan.depth), plan)
        blocks = find_blocks(auxnet)
        check_ends(name, get_blocks(auxnet)[0])
        state = pick(auxnet.state_dict(), plan.first_layers, blocks)
        descendant = architecture.build(target.depth)
        descendant.load_state_dict(pick(state, target.stage_of_layer, blocks), strict=True)
        nets = ElasticNets(auxnet, architecture, plan, Elastic(2, 4), seed=0)
    own = {id(t) for t in (*auxnet.parameters(), *auxnet.buffers())}
    for net in nets.nets.values():
        steps = {id(module.size) for module in net.modules() if isinstance(module, Step)}
        assert {id(t) for t in (*net.parameters(), *net.buffers())} <= own | steps
    stage = len({id(p) for p in auxnet.parameters()})
    assert stage < len({id(p) for p in descendant.parameters()})


@pytest.fixture(scope="session")
def counts(tmp_path_factory):
    """A folder all test processes share, to add up their counts."""
    root = tmp_path_factory.getbasetemp()
    shared = (root.parent if root.name.startswith("popen") else root) / "registry"
    shared.mkdir(exist_ok=True)
    return shared


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_architecture_works_or_says_why_not(chunk, counts, pytestconfig):
    which = "all" if pytestconfig.getoption("--slow") else "kinds"
    names = timm.list_models() if which == "all" else kinds(timm.list_models())
    passed = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names[chunk::CHUNKS]:
            try:
                round_trip(name)
                passed += 1
            except LearngeneError as error:
                assert f"{name} is not supported, because" in str(error), f"{name}: {error}"
    write_text(counts / str(chunk), str(passed))
    files = [file for file in counts.iterdir() if file.name.isdigit()]
    if len(files) == CHUNKS:  # whoever is last checks the sum
        total = sum(int(file.read_text()) for file in files)
        print(f"{total} of {len(names)} architectures of timm {timm.__version__}")
        assert total >= MINIMUM[which]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet50", "differs from layer 0|no single list"),
        ("swin_tiny_patch4_window7_224", "no single list|differs|several resolutions"),
        ("samvit_base_patch16", "window_size"),
        ("vit_dlittle_patch16_reg1_gap_256", "lambda_init"),
        ("vit_small_patch16_rope_mixed_224", "depends on the number of layers"),
        ("caformer_b36", "several resolutions"),
    ],
)
def test_reasons(name, reason):
    with pytest.raises(LearngeneError, match=reason):
        anatomy(name)
