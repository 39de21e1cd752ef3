"""Parameters and operations: as published, and as counted by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from diffusers import SD3Transformer2DModel
from torch import nn

import pushforward as pf
from pushforward.cli import main
from pushforward.core.conditions import Tokens
from pushforward.nets import MLP, DiT, MMDiT, UNet, flops, sizes
from pushforward.nets.attention import Attention, CrossAttention
from pushforward.nets.joint import JointAttention
from pushforward.nets.sd3 import sd3_config
from pushforward.nets.unet import SelfAttention

# Peebles & Xie 2023, table 4: billions of multiply-adds for 32 x 32 x 4 latents.
PUBLISHED = {
    ("S", 8): 0.36, ("S", 4): 1.41, ("S", 2): 6.06,
    ("B", 8): 1.42, ("B", 4): 5.56, ("B", 2): 23.01,
    ("L", 8): 5.01, ("L", 4): 19.70, ("L", 2): 80.71,
    ("XL", 8): 7.39, ("XL", 4): 29.05, ("XL", 2): 118.64,
}  # fmt: skip


def published(size, patch, channels=4):
    with torch.device("meta"):
        return sizes.dit(size, patch, channels, 1000, outputs=2)


def test_dit_xl_2_has_the_parameters_of_the_published_weights():
    net = published("XL", 2)
    counted = flops.count(net, (4, 32, 32)).parameters
    assert counted == sum(p.numel() for p in net.parameters()) == 674_834_720
    # Its file keeps the fixed positions, one vector for each of the 16 x 16 patches.
    assert counted + 256 * 1152 == 675_129_632


# Their table 1: layers, width, heads; and millions of parameters.
@pytest.mark.parametrize(
    ("size", "shape", "millions"),
    [
        ("S", (12, 384, 6), 33),
        ("B", (12, 768, 12), 130),
        ("L", (24, 1024, 16), 458),
        ("XL", (28, 1152, 16), 675),
    ],
)
def test_sizes_have_the_published_shapes_and_millions_of_parameters(size, shape, millions):
    net = published(size, 2)
    assert tuple(net.config[name] for name in ("depth", "width", "heads")) == shape
    assert len(net.blocks) == shape[0]
    assert {block.attention.heads for block in net.blocks} == {shape[2]}
    assert round(sum(p.numel() for p in net.parameters()) / 1e6) == millions


@pytest.mark.parametrize(("size", "patch"), PUBLISHED)
def test_products_of_matrices_are_the_published_operations_to_a_thousandth(size, patch):
    counted = flops.count(published(size, patch), (4, 32, 32)).multiply_adds / 1e9
    # Half a unit of the last digit printed, and a part in five thousand.
    assert abs(counted - PUBLISHED[size, patch]) < 0.005 + 2e-4 * counted


@pytest.mark.parametrize(("size", "patch"), PUBLISHED)
def test_the_published_digits_are_those_of_three_channels_with_norms_and_labels(size, patch):
    # The paper does not say what it counts, and this was found by trying: products of matrices for images of three
    # channels, one operation for each number that a norm returns, and the row of a label as a product with its table.
    # Others give them too; this one with four channels, or products alone, misses some.
    net = published(size, patch, channels=3)
    tokens, width, depth = (32 // patch) ** 2, net.config["width"], net.config["depth"]
    counted = flops.count(net, (3, 32, 32)).multiply_adds
    counted += (2 * depth + 1) * tokens * width + 1001 * width
    assert f"{counted / 1e9:.2f}" == f"{PUBLISHED[size, patch]:.2f}"


def by_hand(net, shape, **cond):
    """Multiply-adds of one real pass, by the shapes that its layers see."""
    total = 0

    def seen(module, told, out):
        nonlocal total
        x = told[0]
        if isinstance(module, nn.Linear):
            total += x.numel() * module.out_features
        elif isinstance(module, nn.Conv2d):
            total += out.numel() * module.in_channels * math.prod(module.kernel_size)
        elif isinstance(module, SelfAttention):
            total += 2 * (x.shape[2] * x.shape[3]) ** 2 * x.shape[1]
        elif isinstance(module, Attention):
            total += 2 * x.shape[1] ** 2 * x.shape[2]
        elif isinstance(module, JointAttention):
            tokens = x.shape[1] + (told[1].shape[1] if told[1] is not None else 0)
            asking = tokens if module.text == "stream" else x.shape[1]
            total += 2 * asking * tokens * x.shape[2]
            # Projections, joined for one product.
            queries = told[1].shape[1] if told[1] is not None else 0
            width = x.shape[2] ** 2
            total += (
                3 * x.shape[1] * width + (3 if module.text == "stream" else 2) * queries * width
            )
        elif isinstance(module, CrossAttention):
            total += 2 * x.shape[1] * told[1].shape[1] * x.shape[2]

    hooks = [module.register_forward_hook(seen) for module in net.modules()]
    net(torch.zeros(1, *shape), torch.zeros(1), **cond)
    for hook in hooks:
        hook.remove()
    return total


CONTEXT = {"context": Tokens(torch.ones(1, 7, 5), torch.ones(1, 7).bool())}
NETS = [
    pytest.param(lambda: MLP(3, 16, 2, classes=2, two_times=True), (3,), {}, id="MLP"),
    pytest.param(lambda: UNet(2, 16, (1, 2, 2), 2, (1,), 3), (2, 12, 9), {}, id="UNet"),
    pytest.param(lambda: DiT(3, 4, 16, 2, 2, 5), (3, 9, 16), {"label": torch.ones(1).long()}, id="DiT"),
    pytest.param(lambda: DiT(2, 2, 16, 2, 4, context=5, positions="rope"), (2, 6, 8), CONTEXT, id="DiT-cross"),
    pytest.param(lambda: DiT(2, 2, 16, 1, 4, context=5, conditioning="in-context"), (2, 6, 8), CONTEXT, id="DiT-in"),
    pytest.param(
        lambda: MMDiT(2, 2, 16, 2, 4, 5, 3, dual_attention=(0,)), (2, 6, 8),
        {"text": CONTEXT["context"], "pooled": torch.ones(1, 3)}, id="MMDiT",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "shape", "cond"), NETS)
def test_counts_are_those_of_the_layers_of_a_real_pass(make, shape, cond):
    net = make()
    counted = flops.count(net, shape, **cond)
    assert counted.multiply_adds == by_hand(net, shape, **cond)
    assert counted.flops == 2 * counted.multiply_adds
    assert counted.parameters == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(("make", "shape", "cond"), NETS)
def test_counting_needs_no_memory_and_leaves_the_network_as_it_was(make, shape, cond):
    net = make()
    before = {name: part.clone() for name, part in net.state_dict().items()}
    counted = flops.count(net, shape, **cond)
    for name, part in net.state_dict().items():
        assert part.device.type == "cpu"
        assert torch.equal(part, before[name])
    with torch.device("meta"):
        assert flops.count(make(), shape, **cond) == counted
    assert flops.count(net.double(), shape, **cond) == counted


def test_attention_grows_with_the_square_of_the_tokens():
    net = DiT(1, 1, 16, 1, 2)
    small, middle, large = (flops.count(net, (1, side, 4)).multiply_adds for side in (4, 8, 12))
    # a + b N + 2 width N^2 at N = 16, 32, 48
    assert large - 2 * middle + small == 2 * 2 * 16 * 16**2


FOR_A_CPU = {name: size for name, size in sizes.MMDIT.items() if size.pooled == 0}


@pytest.mark.parametrize(
    ("family", "table"),
    [(sizes.dit, sizes.DIT), (sizes.unet, sizes.UNET), (sizes.mmdit, FOR_A_CPU)],
)
def test_each_size_is_larger_than_the_one_before(family, table):
    with torch.device("meta"):
        counts = [flops.count(family(size, channels=3), (3, 32, 32)) for size in table]
    for a, b in pairwise(counts):
        assert b.parameters > 1.4 * a.parameters
        assert b.flops > 1.3 * a.flops


@pytest.mark.parametrize(
    ("size", "low", "high"),
    [("XS", 0.8, 1.5), ("S", 3, 5), ("M", 20, 40), ("L", 90, 150), ("XL", 250, 320)],
)
def test_unets_have_the_millions_of_parameters_of_their_size(size, low, high):
    with torch.device("meta"):
        net = sizes.unet(size, 3, 10)
    assert low < sum(p.numel() for p in net.parameters()) / 1e6 < high


# Of diffusers' classes, which tests/nets/test_mmdit.py compares with ours weight by weight.
@pytest.mark.parametrize(
    ("size", "config"),
    [
        ("d15", {"num_layers": 15, "qk_norm": "rms_norm"}),
        ("d38", {"num_layers": 38, "qk_norm": "rms_norm"}),
        ("sd3-medium", {"num_layers": 24}),
        (
            "sd3.5-medium",
            {
                "num_layers": 24,
                "qk_norm": "rms_norm",
                "dual_attention_layers": tuple(range(13)),
                "pos_embed_max_size": 384,
            },
        ),
    ],
)
def test_multimodal_sizes_are_those_of_stable_diffusion_3(size, config):
    d = config["num_layers"]
    whole = {
        "num_attention_heads": d, "caption_projection_dim": 64 * d, "pos_embed_max_size": 192,
    } | config  # fmt: skip
    with torch.device("meta"):
        theirs, ours = SD3Transformer2DModel(**whole), sizes.mmdit(size, channels=16)
    mine, wanted = ours.state_dict(), theirs.state_dict()
    assert {name: p.shape for name, p in mine.items()} == {n: p.shape for n, p in wanted.items()}
    assert sd3_config(ours) == {name: theirs.config[name] for name in sd3_config(ours)} | {
        "dual_attention_layers": list(theirs.config["dual_attention_layers"])
    }
    millions = {"sd3-medium": 2028, "sd3.5-medium": 2243, "d38": 8057, "d15": 496}
    assert round(sum(p.numel() for p in ours.parameters()) / 1e6) == millions[size]


@pytest.mark.parametrize(
    ("size", "low", "high"),
    [("nano", 0.4, 0.6), ("tiny", 2, 2.5), ("mini", 4.5, 5.5), ("XS", 11, 12)],
)
def test_multimodal_sizes_for_a_cpu_have_their_millions(size, low, high):
    with torch.device("meta"):
        net = sizes.mmdit(size, 4, 3)
    assert low < sum(p.numel() for p in net.parameters()) / 1e6 < high


def test_a_size_is_a_network_with_whatever_else_is_asked_for():
    net = sizes.dit("nano", 4, 3, 7, outputs=2, two_times=True, positions="rope", depth=1)
    assert net.config == DiT(3, 4, 64, 1, 2, 7, outputs=2, two_times=True, positions="rope").config
    other = sizes.unet("XS", 2, 5, dropout=0.1, time="fourier", two_times=True, blocks=2)
    assert other.config == UNet(2, 32, (1, 2, 2), 2, (2,), 5, 0.1, "fourier", two_times=True).config
    x, t = torch.zeros(1, 3, 28, 28), torch.zeros(1)
    assert net(x, t).shape == (1, 6, 28, 28)
    for size in sizes.DIT:
        with torch.device("meta"):
            sizes.dit(size, positions="rope")
    for family, last in ((sizes.dit, "XL"), (sizes.unet, "XL"), (sizes.mmdit, "sd3.5-medium")):
        with pytest.raises(pf.InputError, match=f"{last}, not 'XXL'"):
            family("XXL")
    rope = sizes.mmdit("nano", 4, 3, positions="rope", stem=4)
    assert rope.config["positions"] == "rope"
    assert rope(torch.zeros(1, 3, 12, 8), t).shape == (1, 3, 12, 8)


@pytest.fixture
def few(monkeypatch):
    """The two smallest transformers of each kind and all but one of the U-Nets."""
    monkeypatch.setattr(sizes, "DIT", {k: sizes.DIT[k] for k in ("nano", "tiny")})
    small = {k: sizes.MMDIT[k] for k in ("nano", "tiny")}
    table = sizes.MMDIT["nano"]._replace(max_size=4)
    monkeypatch.setattr(sizes, "MMDIT", small | {"table": table})
    monkeypatch.setattr(sizes, "UNET", {k: sizes.UNET[k] for k in ("XS", "S", "M", "L")})


@pytest.mark.usefixtures("few")
def test_the_table_has_every_size_that_fits_the_images():
    rows = sizes.table((3, 7, 9), 10, patches=(2, 7, 8))
    assert [(r.size, r.patch) for r in rows if r.family == "DiT"] == [
        (size, patch) for size in sizes.DIT for patch in (2, 7)
    ]
    assert [r.size for r in rows if r.family == "UNet"] == ["XS", "S", "M"]
    # A table has its places for the first patch alone, and here too few of them.
    assert [(r.size, r.patch) for r in rows if r.family == "MMDiT"] == [
        (size, patch) for size in ("nano", "tiny") for patch in (2, 7)
    ]
    assert [r.patch for r in sizes.table((3, 8, 8)) if r.size == "table"] == [2]
    assert not [r for r in sizes.table((3, 8)) if r.family == "MMDiT"]
    row = next(r for r in rows if r.family == "MMDiT" and r.size == "tiny" and r.patch == 7)
    text = torch.zeros(1, 77, 384)
    assert row[3:] == flops.count(sizes.mmdit("tiny", 7, 3, 10), (3, 7, 9), text=text)
    row = next(r for r in rows if r.family == "DiT" and r.size == "tiny" and r.patch == 7)
    assert row[3:] == flops.count(sizes.dit("tiny", 7, 3, 10), (3, 7, 9))
    row = next(r for r in rows if r.family == "UNet" and r.size == "S")
    assert row[3:] == flops.count(sizes.unet("S", 3, 10), (3, 7, 9))
    for bad in ((28,), (1, 0, 28), (1, 2, 3, 4, 5)):
        with pytest.raises(pf.InputError, match="channels, height, width"):
            sizes.table(bad)


@pytest.mark.usefixtures("few")
def test_the_command_prints_the_table(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["sizes", "--shape", "3", "6", "5", "--classes", "0"]) == 0
    said = capsys.readouterr().out
    assert "3 x 6 x 5, no classes" in said
    lines = [line.replace("│", " ").split() for line in said.splitlines() if "│" in line]
    rows = sizes.table((3, 6, 5))
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        want = [row.family, row.size, *([] if row.patch is None else [str(row.patch)])]
        assert line[:-3] == want
        assert float(line[-3]) == pytest.approx(row.parameters / 1e6, abs=0.005)
        assert float(line[-2]) == pytest.approx(row.flops / 2e9, abs=0.0005)
        assert float(line[-1]) == pytest.approx(row.flops / 1e9, abs=0.0005)


def test_what_the_command_cannot_do_is_said(capsys):
    assert main(["sizes", "--shape", "3", "0", "5"]) == 1
    said = capsys.readouterr().err
    assert said == (
        "pushforward: the shape of an image is channels, height, width: not (3, 0, 5)\n"
    )
    assert main(["sizes", "--classes", "-1"]) == 2
    assert "--classes -1: must be greater than or equal to 0" in capsys.readouterr().err


def test_help_of_the_command_needs_no_torch():
    code = (
        "import sys\n"
        "from pushforward.cli import main\n"
        "try: main(['sizes', '--help'])\n"
        "except SystemExit: print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize("more", [{}, {"outputs": 2, "two_times": True}])
def test_a_table_counts_a_few_blocks_and_has_the_figures_of_the_whole_networks(more):
    found = sizes.table((3, 8, 12), 7, (4,), **more)
    rows = {(r.family, r.size, r.patch): (r.parameters, r.flops) for r in found}
    text = {"text": torch.empty(1, sizes.TOKENS, 4096)}
    with torch.device("meta"):
        for family, size, net, cond in (
            ("DiT", "mini", sizes.dit("mini", 4, 3, 7, **more), {}),
            ("MMDiT", "d15", sizes.mmdit("d15", 4, 3, 7, **more), text),
            ("MMDiT", "sd3.5-medium", sizes.mmdit("sd3.5-medium", 4, 3, 7, **more), text),
        ):
            assert rows[family, size, 4] == tuple(flops.count(net, (3, 8, 12), **cond)), size
