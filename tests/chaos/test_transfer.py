"""What several sources, row contexts, blocks of a transformer and ways to resize cannot be."""

import shutil

import pytest
import tifffile
from maps import write_domain

pytestmark = pytest.mark.slow

VIT = "model.backbone=vit_small_patch14_dinov2,model.weights=random"
CASES = {
    "a context wider than the map": (
        ["patchcore", "--overrides", "model.row_context=[2,8]"],
        ["model.row_context=[2, 8]", "17 patches", "16 at layer blocks.2", "give 7 at most"],
    ),
    "a context wider than the map, of gaussians": (
        ["padim", "--overrides", "model.row_context=[16]"],
        ["model.row_context=[16]", "33 patches", "32 at layer", "give 15 at most"],
    ),
    "no neighbour": (["patchcore", "--overrides", "model.row_context=[0]"], ["model.row_context=[0]", "from 1 on"]),
    "the same twice": (["padim", "--overrides", "model.row_context=[2,2]"], ["model.row_context=[2, 2]", "rise"]),
    "half a neighbour": (["padim", "--overrides", "model.row_context=[1.5]"], ["model.row_context", "1.5"]),
    "yes": (["patchcore", "--overrides", "model.row_context=[true]"], ["model.row_context", "True"]),
    "no list": (["patchcore", "--overrides", "model.row_context=2"], ["model.row_context", "2"]),
    "a block that a transformer has not": (
        ["patchcore", "--overrides", f"{VIT},model.layers=[blocks.8,blocks.12],data.image_size=[56,168]"],
        ["has no layer 'blocks.12'", "blocks.0, blocks.1", "blocks.11"],
    ),
    "a transformer, and no block": (
        ["padim", "--overrides", f"{VIT},data.image_size=[56,168]"],
        ["no layer at stride 4, 8, 16", "blocks.11 14", "layers where the model takes them"],
    ),
    "a map that patches do not tile": (
        ["patchcore", "--overrides", f"{VIT},model.layers=[blocks.8],data.image_size=[60,168]"],
        ["data.image_size is 60x168", "multiples of its patch, 14", "give 56x168"],
    ),
    "a way to resize that is none": (
        ["patchcore", "--overrides", "data.resize=padd"],
        ["data.resize", "padd", "'pad_noise'"],
    ),
    "a loss over nothing": (["dinomaly", "--overrides", "model.topk_ratio=0"], ["model.topk_ratio", "greater than 0"]),
    "all rows dropped": (["dinomaly", "--overrides", "model.row_dropout=1"], ["model.row_dropout", "less than 1"]),
    "all keys dropped": (["dinomaly", "--overrides", "model.kv_dropout=1.0"], ["model.kv_dropout", "less than 1"]),
    "a model without": (["dfm", "--overrides", "model.row_context=[2]"], ["model.row_context", "dfm"]),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_model_cannot_be_is_refused(case, refused, maps):
    (model, *rest), says = CASES[case]
    refused("train", model, "--condition", "quickstart", "--data-root", str(maps), *rest, says=says)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Domains that cannot be sources together: one without faults, one of other maps, one with a map of another."""
    root = tmp_path_factory.mktemp("odd")
    for name, faults in (("A", 4), ("B", 4), ("no_faults", 0), ("small", 4), ("twin", 4)):
        write_domain(root, name, 4, 4, faults)
    for file in (root / "small").rglob("*.tiff"):
        tifffile.imwrite(file, tifffile.imread(file)[:20])
    shutil.copy(root / "A/test/good/000000.tiff", root / "twin/train/good/000001.tiff")
    return root


ALL = "A,B"
SOURCES = {
    "a source among the targets": (
        ["--source-domain", ALL, "--target-domains", "B,twin"],
        ["source domain 'B' is also among the targets", "leave it out of target_domains"],
    ),
    "the same twice": (["--source-domain", "A,B,A"], ["source_domain", "A stands twice among the sources"]),
    "one that is not there": (["--source-domain", "A,Bb"], ["unknown domain 'Bb'", "did you mean 'B'"]),
    "no name": (["--source-domain", "A,,B"], ["data.source_domain", "'' is no name of a domain"]),
    "sources of other maps": (
        ["--source-domain", "A,small", "--target-domains", "B"],
        ["map sizes differ", "small is 20x95", "leave one out of source_domain"],
    ),
    "one without faults": (
        ["--source-domain", "A,no_faults", "--target-domains", "B"],
        ["source no_faults under source_holdout", "test/fault", "validation strategy"],
    ),
    "one with a map of another": (
        ["--source-domain", "A,twin", "--target-domains", "B"],
        ["twin/train/good/000001.tiff is the same map as A/test/good/000000.tiff", "out of source_domain"],
    ),
}


@pytest.mark.parametrize("case", SOURCES)
def test_what_cannot_be_sources_together_is_refused(case, refused, odd):
    given, says = SOURCES[case]
    refused("train", "padim", "--data-root", str(odd), *given, says=says, leaves=("cache/maps",))


def test_a_grid_of_two_domains_leaves_none_out(refused, odd, tmp_path_factory):
    root = tmp_path_factory.mktemp("two")
    for name in "AB":
        shutil.copytree(odd / name, root / name)
    says = ["leave-one-out needs three domains", "--sources all"]
    refused("grid", "--data-root", str(root), "--sources", "leave-one-out", says=says)
