"""Overrides that make a run small."""

from hdmap_mlflow.config.layers import _items

SMALL = "data.image_size=[32,96],data.batch_size=4,data.eval_batch_size=8,tracking.output_dir=out"
SMALL += ",tracking.figures=false,tracking.heatmaps=0"
RANDOM_PATCHCORE = SMALL + ",model.weights=random,model.backbone=resnet18,model.layers=[layer1]"
RANDOM_PADIM = SMALL + ",model.weights=random,model.backbone=resnet18,model.layers=[layer1],model.n_features=20"
RANDOM_RD = SMALL + ",train.max_epochs=2"


def over(base: str, more: str) -> str:
    """Some overrides with others in their place: in one text a setting stands once."""
    names = [item.partition("=")[0] for item in _items(more)]
    return ",".join([*(item for item in _items(base) if item.partition("=")[0] not in names), more])
