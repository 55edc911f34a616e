"""Files and words from others: each is read rightly or ends in one sentence, soon and in little memory.

LEARNGENE_FUZZ_EXAMPLES=1000 runs so many cases of each kind (docs/reliability.md has the figures); the cases
are the same in every run. LEARNGENE_FUZZ_REPORT names a file that takes a line of counts per kind.
"""

import contextlib
import hashlib
import io
import json
import os
import resource
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
import yaml
from conftest import CLASSES, TINY_ARGS, randomize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from learngene import LearngeneError, info, report
from learngene.cli import main
from learngene.data.teacher import LogitCache
from learngene.families.anatomy import get_blocks
from learngene.families.architecture import Architecture
from learngene.families.records import data_config_of, image_config, label_names_of
from learngene.families.timm import open_model
from learngene.families.weights import digest_of
from learngene.formats.timm_directory import save_timm_directory
from learngene.gene import Learngene
from learngene.gene_file import HEADER_KEY, _digest
from learngene.jobs import jobs
from learngene.plan import StagePlan
from learngene.runs import newest_checkpoint, previous_checkpoint
from learngene.sharing import build_auxnet
from learngene.training import RunDirectory

EXAMPLES = int(os.environ.get("LEARNGENE_FUZZ_EXAMPLES", "0"))
SECONDS, MEGABYTES = 20, 400  # of one case, at most
COUNTS: dict[str, Counter] = {}


def cases(quick: int):
    """So many cases of one kind, the same in every run."""
    return settings(
        max_examples=EXAMPLES or quick,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def clean(kind: str):
    """Let nothing but a LearngeneError of one sentence out of the block; hold it to its time and memory."""
    count = COUNTS.setdefault(kind, Counter())
    memory, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    try:
        yield
        outcome = "loads"
    except LearngeneError as error:
        assert str(error).strip()
        outcome = "clean errors"
    count[outcome] += 1
    count["seconds"] += time.perf_counter() - begin
    assert time.perf_counter() - begin < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MEGABYTES * 1024


@pytest.fixture(scope="module", autouse=True)
def counts():
    yield
    if "LEARNGENE_FUZZ_REPORT" in os.environ:
        with Path(os.environ["LEARNGENE_FUZZ_REPORT"]).open("a") as file:
            file.writelines(json.dumps({"kind": kind, **count}) + "\n" for kind, count in COUNTS.items())
    COUNTS.clear()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A learngene, a timm directory and a run, in an empty folder."""
    root = tmp_path_factory.mktemp("fuzz")
    architecture = Architecture("vit_tiny_patch16_224", TINY_ARGS)
    plan = StagePlan((2, 1, 2))
    auxnet = randomize(build_auxnet(architecture, plan))
    about = {
        "class_names": CLASSES,
        "data_config": data_config_of(auxnet),
        "ancestor": {"name": "test", "license": "mit"},
    }
    Learngene.extract(auxnet, plan, **about, metrics={"val_top1": 0.5}).save(root / "learngene.safetensors")
    save_timm_directory(
        Learngene.load(root / "learngene.safetensors").spawn(3), root / "model", class_names=CLASSES
    )
    return root


# What a forger writes: numbers that would take all memory, names that would open files, markup, text that is
# no Unicode.
HUGE = [-1, 0, 1, 2, 3, 10**6, 10**9, 10**12, 2**63, 10**30, 10**400, 1e300, float("nan"), float("inf"), -0.5]
WORDS = [
    "", ".", "..", "../../x", "/etc/passwd", "hf-hub:a/b", "local-dir:/tmp", "vit_base_patch16_224",
    "beit_base_patch16_224", "swin_tiny_patch4_window7_224", "resnet50", "<script>", "a\nb\x1b[31m", "\ud800",
    "{depth.__class__}", "x" * 3000, "auto", "none",
]  # fmt: skip
KEYS = [
    "pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "features_only", "cache_dir",
    "device", "depth", "num_blocks", "embed_dim", "img_size", "num_classes", "patch_size", "mlp_ratio",
    "num_heads", "file", "url", "class_path", "../x", "", "label_names", "custom_load", "reg_tokens",
    "depths", "layers", "pos_embed", "class_token",
]  # fmt: skip
LEAVES = (
    st.none()
    | st.booleans()
    | st.sampled_from(HUGE)
    | st.sampled_from(WORDS)
    | st.text(max_size=8)
    | st.integers()
    | st.floats()
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def paths(value, path=()):
    """The places in a JSON document."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from paths(value[key], (*path, key))


@st.composite
def changed(draw, document):
    """A document with one to three places replaced, left out, added or nested deep."""
    document = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(paths(document))[1:] or [()]))
        if not path:
            continue
        home = document
        for key in path[:-1]:
            home = home[key]
        how = draw(st.sampled_from(["replace", "replace", "replace", "drop", "add"]))
        if how == "replace":
            home[path[-1]] = draw(VALUES)
        elif how == "drop":
            del home[path[-1]]
        elif isinstance(home, dict):
            home[draw(st.sampled_from(KEYS))] = draw(VALUES)
        else:
            home.append(draw(VALUES))
    return document


@st.composite
def damaged(draw, content: bytes):
    """Bytes cut, flipped, put in, taken out, or with another length at their beginning."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        how = draw(st.sampled_from(["flip", "flip", "cut", "insert", "remove", "length"]))
        at = draw(st.integers(0, max(0, min(len(data) - 1, draw(st.sampled_from([8, 64, 4000, len(data)]))))))
        if how == "flip" and data:
            data[at] ^= draw(st.integers(1, 255))
        elif how == "cut":
            del data[at:]
        elif how == "insert":
            data[at:at] = draw(st.binary(max_size=16))
        elif how == "remove":
            del data[at : at + draw(st.integers(1, 64))]
        elif how == "length":
            data[:8] = draw(st.sampled_from([0, 1, 7, 10**6, 10**8, 2**31, 2**60, 2**64 - 1])).to_bytes(
                8, "little"
            )
    return bytes(data)


def header_of(file: Path) -> dict:
    content = file.read_bytes()
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    header = json.loads(metadata[HEADER_KEY])
    del header["digest"]
    return header


def write_gene(path: Path, header: dict, tensors: dict) -> Path:
    """A learngene with a right digest, whatever it holds."""
    with contextlib.suppress(ValueError, TypeError):
        header = header | {"digest": _digest(header, tensors)}
    save_file(tensors, path, metadata={HEADER_KEY: json.dumps(header)})
    return path


def use(gene: Learngene, folder: Path) -> None:
    """What loads can be spawned from, described and stored."""
    model = gene.spawn(gene.plan.stages)
    assert len(get_blocks(model)) == gene.plan.stages
    with torch.no_grad():
        assert model.eval()(torch.zeros(1, *data_config_of(model)["input_size"])).shape == (
            1,
            gene.num_classes,
        )
    again = gene.save(folder / "again.safetensors")
    json.dumps(info(again, depth=[gene.plan.stages])).encode()


@cases(60)
@given(data=st.data())
def test_learngene_bytes(place, data):
    original = place / "learngene.safetensors"
    content = data.draw(damaged(original.read_bytes()))
    (place / "x.safetensors").write_bytes(content)
    with clean("learngene.safetensors, bytes"):
        gene = Learngene.load(place / "x.safetensors")
        assert digest_of(gene.state) == digest_of(Learngene.load(original).state)
        assert header_of(place / "x.safetensors") == header_of(original)


@cases(100)
@given(data=st.data())
def test_learngene_header(place, data):
    original = place / "learngene.safetensors"
    header = data.draw(changed(header_of(original)))
    write_gene(place / "h.safetensors", header, load_file(original))
    with clean("learngene.safetensors, header"):
        use(Learngene.load(place / "h.safetensors"), place)


@cases(30)
@given(data=st.data())
def test_learngene_tensors(place, data):
    original = place / "learngene.safetensors"
    tensors = load_file(original)
    name = data.draw(st.sampled_from(sorted(tensors)))
    how = data.draw(st.sampled_from(["drop", "rename", "reshape", "dtype", "empty", "nan"]))
    tensor = tensors.pop(name)
    if how == "rename":
        tensors[
            data.draw(
                st.sampled_from(
                    ["", "blocks.x.y", "blocks.-1.z", "blocks.9.attn", f"{name}.x", "\0", "blocks.", "blocks"]
                )
            )
        ] = tensor
    elif how == "reshape":
        tensors[name] = tensor.reshape(-1).clone()
    elif how == "dtype":
        kind = data.draw(
            st.sampled_from(
                [
                    "float16",
                    "bfloat16",
                    "float64",
                    "int8",
                    "int64",
                    "bool",
                    "uint16",
                    "float8_e4m3fn",
                    "complex64",
                ]
            )
        )
        tensors[name] = tensor.to(getattr(torch, kind))
    elif how == "empty":
        tensors[name] = torch.zeros(data.draw(st.sampled_from([(0,), (0, 2**40), (1, 0, 3)])))
    elif how == "nan":
        tensors[name] = torch.full_like(tensor, float("nan"))
    write_gene(place / "t.safetensors", header_of(original), tensors)
    with clean("learngene.safetensors, tensors"):
        use(Learngene.load(place / "t.safetensors"), place)


@cases(80)
@given(data=st.data())
def test_timm_directory_config(place, data):
    config = data.draw(changed(json.loads((place / "model" / "config.json").read_text())))
    forged = place / "forged"
    forged.mkdir(exist_ok=True)
    (forged / "config.json").write_text(json.dumps(config))
    (forged / "model.safetensors").write_bytes((place / "model" / "model.safetensors").read_bytes())
    with clean("timm directory, config.json"):
        model = open_model(forged)
        json.dumps([data_config_of(model), label_names_of(model)]).encode()
        image_config(data_config_of(model), 3)


@cases(40)
@given(data=st.data(), of_config=st.booleans())
def test_timm_directory_bytes(place, data, of_config):
    name = "config.json" if of_config else "model.safetensors"
    forged = place / "bytes"
    forged.mkdir(exist_ok=True)
    for file in (place / "model").iterdir():
        (forged / file.name).write_bytes(file.read_bytes())
    (forged / name).write_bytes(data.draw(damaged((place / "model" / name).read_bytes())))
    with clean("timm directory, bytes"):
        label_names_of(open_model(forged))


RUN = {
    "status": "finished",
    "config": {"epochs": 1, "data": "x"},
    "results": {"val_top1": 0.5, "images": 10},
    "versions": {},
    "commit": None,
}


@cases(60)
@given(data=st.data(), resume=st.booleans(), overwrite=st.booleans())
def test_run_directory(place, data, resume, overwrite):
    run = place / "run"
    run.mkdir(exist_ok=True)
    text = json.dumps(data.draw(changed(RUN))).encode()
    (run / "run.json").write_bytes(data.draw(st.just(text) | damaged(text) | st.just(b"[" * 100_000)))
    with clean("run.json"):
        RunDirectory(run, {"epochs": 1, "data": "x"}, resume=resume, overwrite=overwrite)
    assert (run / "run.json").exists()


KEY = {"ancestor": "a", "classes": 5, "views": {"seed": 0}}


@pytest.fixture(scope="module")
def cache(place):
    """A cache of one epoch, and its files."""
    made = LogitCache.create(
        place / "cache", KEY, top_k=3, dtype="float16", classes=5, views=16, batch_size=8
    )
    torch.manual_seed(0)
    made.write(0, 0, np.arange(16), torch.randn(16, 5), {"images": 16, "seconds": 1.0, "flops": 10})
    return {path.name: path.read_bytes() for path in (place / "cache").iterdir()}


@cases(80)
@given(data=st.data(), how=st.sampled_from(["record", "bytes of the record", "bytes of a shard", "shard"]))
def test_cache(place, cache, data, how):
    """Also with checksums made right."""
    record, shard = json.loads(cache["cache.json"]), cache["epoch-0000-0000.safetensors"]
    if how == "record":
        record = data.draw(changed(record))
    elif how == "bytes of a shard":
        shard = data.draw(damaged(shard))
    elif how == "shard":
        tensors = safetensors.numpy.load(shard)
        name = data.draw(st.sampled_from(sorted(tensors)))
        kind = data.draw(st.sampled_from(["uint8", "uint16", "uint32", "int64", "float16", "float32"]))
        many = st.lists(st.integers(0, 255), min_size=1, max_size=48)
        tensors[name] = np.resize(
            np.array(data.draw(many)), data.draw(st.sampled_from([(16,), (16, 3), (16, 5), (1, 3), (1,), ()]))
        ).astype(kind)
        shard = safetensors.numpy.save(tensors)
        record["shards"] = {"epoch-0000-0000.safetensors": hashlib.sha256(shard).hexdigest()}
    text = json.dumps(record).encode()
    (place / "cache" / "cache.json").write_bytes(
        data.draw(damaged(text)) if how == "bytes of the record" else text
    )
    (place / "cache" / "epoch-0000-0000.safetensors").write_bytes(shard)
    with clean("cache"):
        cached = LogitCache(place / "cache")
        cached.check(KEY)
        logits = cached.read(0, np.arange(16), np.arange(16))
        assert logits.shape == (16, 5)
        assert torch.isfinite(logits).all()


@cases(30)
@given(data=st.data(), previous=st.booleans())
def test_checkpoint_bytes(place, data, previous):
    """A damaged checkpoint gives way to the one before, or ends in a sentence."""
    folder = place / "checkpoints"
    folder.mkdir(exist_ok=True)
    content = io.BytesIO()
    torch.save({"state_dict": {"weight": torch.arange(100.0)}, "global_step": 3}, content)
    last = folder / "last.ckpt"
    last.write_bytes(data.draw(damaged(content.getvalue())))
    previous_checkpoint(last).unlink(missing_ok=True)
    if previous:
        previous_checkpoint(last).write_bytes(content.getvalue())
    with clean("checkpoint, bytes"):
        found = torch.load(newest_checkpoint(last), weights_only=True)
        assert torch.equal(found["state_dict"]["weight"], torch.arange(100.0))


ROW = json.loads(
    (Path(__file__).parent.parent / "docs" / "results" / "starts" / "results.jsonl")
    .read_text()
    .splitlines()[0]
)


@cases(60)
@given(data=st.data())
def test_results(place, data, monkeypatch_module):
    rows = [ROW, data.draw(changed(ROW))]
    text = "\n".join(map(json.dumps, rows)).encode()
    (place / "results.jsonl").write_bytes(data.draw(st.just(text) | st.just(text) | damaged(text)))
    with clean("results.jsonl"):
        written = report(place / "results.jsonl", out=place / "report")
        assert "<script" not in Path(written["html"]).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def monkeypatch_module():
    """Without drawing, which takes a second of each report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", lambda self, file, **_: Path(file).write_bytes(b""))
        yield


def runs(kind: str, words: list[str]) -> None:
    """Run a command that must end by itself: done, or one sentence on stderr and status 2."""
    out, err = io.StringIO(), io.StringIO()
    with clean(kind):
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(words)
        told = [line for line in err.getvalue().splitlines() if "error:" in line]
        assert "Traceback" not in err.getvalue()
        assert (status, len(told)) in ((0, 0), (2, 1))
        if status == 2:
            raise LearngeneError(told[0])


CONFIGS = {
    "distill": {
        "ancestor": "none/here", "data": "nowhere", "out": "o", "plan": "3,3", "arch_args": {"img_size": 28},
        "epochs": 2, "lr": 0.1, "start": "mimetic", "start_args": {}, "workers": 0, "unlabeled": True,
        "drop_path": 0.1, "auto_augment": None,
    },
    "finetune": {
        "model": "none/here", "data": "nowhere", "out": "o", "depth": 6, "ancestor": None, "epochs": 2,
        "layer_decay": 0.5,
    },
    "benchmark": {
        "data": "nowhere", "out": "o", "depths": [6], "seeds": [0], "epochs": 1,
        "arch_args": {"img_size": 28},
        "starts": ["random", {"start": "learngene", "gene": "g", "name": "n", "epochs": [1]}],
        "prepare": {"g": {"distill": {"ancestor": "a", "epochs": 1}, "each": ["seed"]}},
        "recipes": {"fast": {"lr": 0.1}}, "datasets": {"d": {"data": "nowhere"}},
    },
    "relearn": {
        "models": ["none/here"], "data": "nowhere", "out": "o", "layers": [1], "shares": [0.1],
        "modes": ["free"], "seeds": [0],
    },
}  # fmt: skip


@cases(30)
@pytest.mark.parametrize("command", CONFIGS)
@given(data=st.data())
def test_configs(place, command, data, monkeypatch):
    monkeypatch.chdir(place)
    text = yaml.safe_dump(data.draw(changed(CONFIGS[command])))
    with contextlib.suppress(UnicodeEncodeError):
        (place / "c.yaml").write_bytes(data.draw(st.just(text.encode()) | damaged(text.encode())))
    runs(f"config of {command}", [command, "--config", "c.yaml"])
    assert not (place / "o").exists()


OPTIONS = [
    "--depth", "--plan", "--out", "--config", "--json", "--help", "--num-classes", "--arch-args", "--lr",
    "--seed", "--ancestor", "--data", "--starts", "--=", "--", "-", "--depth=6", "--max-params", "--img-size",
    "--split", "--device", "--prepare",
]  # fmt: skip
VOCABULARY = [
    *OPTIONS,
    *WORDS,
    *map(str, HUGE),
    "6",
    "3,3,x",
    "{",
    "[1,2]",
    "{a: 1}",
    "[[[[",
    "&a [*a]",
    "nowhere",
    "learngene.safetensors",
    "model",
    "\0",
]
NO_TRAINING = [
    "distill",
    "cache",
    "calibrate",
    "spawn",
    "finetune",
    "evaluate",
    "benchmark",
    "report",
    "relearn",
    "attention",
    "info",
    "plan",
    "archs",
    "export",
]


@cases(100)
@given(
    command=st.sampled_from([*NO_TRAINING, "demos", "", "--x"]),
    words=st.lists(st.sampled_from(VOCABULARY) | st.text(max_size=6), max_size=6),
)
def test_words(place, command, words, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr("learngene.jobs.archs.USUAL", "deit3_small*")  # not a quarter of a minute's worth
    runs("command line", [command, *words])


@cases(200)
@given(
    st.text(max_size=12)
    | st.lists(st.integers(-2, 2000) | st.sampled_from(HUGE), max_size=8)
    | st.text("0123456789,-+_ .", max_size=20)
    | VALUES
)
def test_plans(plan):
    with clean("plan"):
        try:
            parsed = StagePlan.parse(plan)
        except TypeError:
            assert not isinstance(plan, (str, int, list))
            raise LearngeneError("not a plan") from None
        assert StagePlan.parse(str(parsed)) == parsed
        assert len(parsed.stage_of_layer) == parsed.depth <= 1000


def test_all_commands_but_the_demo_are_tried():
    assert {*NO_TRAINING, "demo"} == set(jobs())
