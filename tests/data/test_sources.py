"""Several sources: one spelling, a split of each, batches that hold all, and tables that come apart as they were."""

import numpy as np
import pandas as pd
import pytest
import torch
from maps import write_domain
from pydantic import ValidationError

from hdmap_mlflow.config import DataConfig
from hdmap_mlflow.data import dataset, layout
from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule
from hdmap_mlflow.data.sources import Balanced, apart, join
from hdmap_mlflow.data.splits import split
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.runs import setup

BOTH = "domain_A,domain_B"


def configured(root, **data):
    flags = {f"data.{name}": value for name, value in {"root": str(root), "source_domain": BOTH, **data}.items()}
    return setup.compose("padim", "quickstart", None, flags, "")


@pytest.fixture(scope="module")
def domains(maps):
    return [layout.read_domain(maps, name) for name in ("domain_A", "domain_B", "domain_C")]


@pytest.mark.parametrize(
    "given", [BOTH, "domain_B,domain_A", "domain_B+domain_A", " domain_A , domain_B ", BOTH.split(",")]
)
def test_sources_have_one_spelling_so_that_they_are_one_run(given):
    config = DataConfig(source_domain=given)
    assert config.source_domain == BOTH and config.sources == ["domain_A", "domain_B"]


@pytest.mark.parametrize(
    ("given", "says"),
    [("A,A", "A stands twice"), ("A,", "'' is no name"), ("A,B/C", "'B/C' is no name"), (["A,B"], "'A,B' is no name")],
)
def test_sources_that_are_none_are_refused_by_name(given, says):
    with pytest.raises(ValidationError, match=says):
        DataConfig(source_domain=given)


def test_one_source_is_split_as_before_and_several_each_for_itself(domains):
    own = {name: split([one], DataConfig(source_domain=name)) for name, one in zip("AB", domains[:2], strict=True)}
    parts = split(domains, DataConfig(source_domain="A,B"))  # the names are those of the domains, as they are given
    assert list(parts.of_sources) == ["domain_A", "domain_B"] and list(parts.targets) == ["domain_C"]
    pd.testing.assert_frame_equal(parts.of_sources["domain_A"][1], own["A"].val)
    for train, val, test in parts.of_sources.values():
        assert (len(train), len(val), len(test)) == (12, 8, 8)
        assert val["label"].sum() == test["label"].sum() == 4 and not set(val["digest"]) & set(test["digest"])
    assert len(parts.train) == 24 and list(parts.train["domain"].unique()) == ["domain_A", "domain_B"]
    assert parts.val["path"].str.startswith(("domain_A/test", "domain_B/test")).all()


@pytest.mark.parametrize(("most", "shares"), [(10, [5, 5]), (7, [4, 3]), (2, [1, 1]), (100, [12, 12])])
def test_each_source_has_its_share_of_the_training_maps(domains, most, shares):
    parts = split(domains, DataConfig(source_domain="A,B", max_train=most))
    assert parts.train["domain"].value_counts(sort=False).tolist() == shares
    assert [len(parts.healthy[name]) for name in ("domain_A", "domain_B", "domain_C")] == [*shares, 12]


def test_a_source_without_faults_is_named(tmp_path, domains):
    write_domain(tmp_path, "good_only", fault=0)
    other = layout.read_domain(tmp_path, "good_only")
    with pytest.raises(BadInput, match="source good_only under source_holdout.*test/fault"):
        split([domains[0], other], DataConfig(source_domain="A,good_only"))


def test_every_batch_holds_as_many_maps_of_each_domain_whatever_their_numbers():
    order = Balanced(pd.Series(["a"] * 20 + ["b"] * 4 + ["c"] * 3))
    torch.manual_seed(0)
    first, second = list(order), list(order)
    assert len(first) == len(order) == 27 and first != second
    kinds = np.repeat([0, 1, 2], [20, 4, 3])[first].reshape(-1, 3)
    assert (kinds == [0, 1, 2]).all()
    large, small = (np.array(first)[kinds.ravel() == kind] for kind in (0, 2))
    assert len(set(large)) == len(large) == 9, "of many maps none comes twice in an epoch"
    assert sorted(small) == sorted([24, 25, 26] * 3), "of few maps each comes as often"
    torch.manual_seed(0)
    assert list(order) == first


def test_tables_come_apart_as_they_were_joined():
    own = pd.DataFrame({"path": ["x/1", "x/2"], "recording": ["", "r"], "score": [1.0, 2.0]})
    both = join({"A": own, "B": own.assign(score=[3.0, 4.0])})
    assert both["path"].tolist() == ["A/x/1", "A/x/2", "B/x/1", "B/x/2"] and both["recording"].tolist()[1::2] == [
        "A/r",
        "B/r",
    ]
    back = apart(both, "A,B")
    pd.testing.assert_frame_equal(back["A"], own)
    pd.testing.assert_frame_equal(back["B"], own.assign(score=[3.0, 4.0]))
    assert join({"A": own}) is own and apart(own, "A")["A"] is own


@pytest.mark.parametrize("packed", [True, False])
def test_maps_of_several_sources_are_those_of_their_domains(maps, tmp_path, monkeypatch, packed):
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path))
    config = configured(maps, packed=packed, image_size=(31, 95), batch_size=6)
    data = dataset.read(config)
    module = MultiDomainHDMAPDataModule(data.domains, config.data)
    by_name = {one.name: one for one in data.domains}
    for batch in module.train_dataloader():
        of = [module.train_dataloader().dataset.origin[path] for path in batch.image_path]
        assert of == ["domain_A", "domain_B"] * 3
        for image, path, name in zip(batch.image, batch.image_path, of, strict=True):
            domain = by_name[name]
            row = domain.table[domain.table["path"] == path.removeprefix(f"{domain.folder}/")]
            np.testing.assert_array_equal(image[0], domain.read(row)[0])
    joined = module.scored[BOTH, "reference"]
    assert len(joined) == 24
    names = list(zip(joined["path"], joined["label"], strict=True))
    [batch] = module.named_dataloader(BOTH, names[10:14], "reference")
    assert [path.split("/")[-4] for path in batch.image_path] == ["domain_A"] * 2 + ["domain_B"] * 2
    assert len(module.val_dataloader().dataset) == 16


def test_a_run_of_one_source_has_the_fingerprint_of_before_and_several_their_own(maps):
    from hdmap_mlflow.config import fingerprint
    from hdmap_mlflow.config.identity import identifying

    one, two = configured(maps, source_domain="domain_A"), configured(maps)
    assert identifying(one)["data.source_domain"] == "domain_A" and two.name == f"padim/quickstart/{BOTH}/s0"
    assert fingerprint(one, "", "") != fingerprint(two, "", "")
    assert dataset.read(one).digest == dataset.read(two).digest, "the report takes them for runs on the same data"
