"""Every model that runs offline, in its smallest form."""

from hdmap_mlflow.models.registry import REGISTRY

OFFLINE = [name for name, entry in REGISTRY.items() if not entry.needs.online]
# What is smaller than the quickstart, where the size of the map does not say it all.
SMALLER = {
    "dfkde": "model.n_pca_components=4",
    "cflow": "model.fiber_batch_size=16",
    "csflow": "model.cross_conv_hidden_channels=64,model.n_coupling_blocks=1",
    "dsr": "train.limit_train_batches=1",
    "draem_sevnet": "model.patch_width_range=[10,60]",
    "cutpaste": "model.patch_width_range=[10,60]",
}
