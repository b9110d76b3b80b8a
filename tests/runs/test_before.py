"""Runs of before, trained with anomalib's own classes, are read and verified with those that took their place."""

from dataclasses import replace

import pytest

from hdmap_mlflow.models.entry import ANOMALIB, Needs, Weights
from hdmap_mlflow.models.registry import REGISTRY
from hdmap_mlflow.runs import flow, history, setup, verify

pytestmark = pytest.mark.slow

TIMM, VISION = Weights(), Weights(library="torchvision", local=False)
# Class and weights as the registry had them, the smallest maps, settings that make a run small, and those that are new.
BEFORE = {
    "reverse_distillation": ("ReverseDistillation", TIMM, (32, 64), "backbone=resnet18", {"topk_ratio", "width"}),
    "fastflow": ("Fastflow", TIMM, (32, 64), "backbone=resnet18,model.flow_steps=1", set()),
    "uflow": ("Uflow", Weights(library="own", local=False), (32, 64), "backbone=resnet18,model.flow_steps=1", set()),
    "cfa": ("Cfa", VISION, (32, 32), "backbone=resnet18", set()),
    "csflow": (
        "Csflow",
        Weights("", "torchvision", local=False),
        (128, 128),
        "n_coupling_blocks=1,model.cross_conv_hidden_channels=4",
        {"backbone"},
    ),
    "uninet": (
        "UniNet",
        replace(VISION, setting="teacher_backbone"),
        (32, 64),
        "teacher_backbone=resnet50,model.student_backbone=resnet50",
        set(),
    ),
}


@pytest.mark.parametrize("model", BEFORE)
def test_a_run_of_anomalibs_class_loads_and_verifies_with_ours(model, maps, tmp_path, monkeypatch):
    name, weights, size, small, new = BEFORE[model]
    entry = replace(REGISTRY[model], path=f"{ANOMALIB}{name}", weights=weights, needs=Needs(), derived={})
    given = f"model.{small},model.weights=random,data.image_size={list(size)},data.batch_size=6,train.max_epochs=1"
    given += f",train.limit_train_batches=1,tracking.output_dir={tmp_path / 'out'},tracking.figures=false"
    given += ",tracking.heatmaps=0"
    flags = {"data.root": str(maps), "data.target_domains": "domain_C"}
    with monkeypatch.context() as before:
        before.setitem(REGISTRY, model, entry)
        if model == "reverse_distillation":
            given += ",model.layers=[layer1,layer2,layer3]"
        config = setup.configure(model, "baseline", flags=flags, overrides=given)
        done = flow.execute(config, say=lambda _line: None)
    recorded = history.read_config(done.uri, done.run_id).model.settings
    assert not new & set(recorded), "a run of before knows nothing of these"
    found = verify.verify(done.uri, done.run_id, maps=4)
    assert found.holds and set(found.differences) == {"domain_A", "domain_C"}
