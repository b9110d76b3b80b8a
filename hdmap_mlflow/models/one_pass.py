"""Models that one pass over the training maps fits: memories of patches, densities, and those that need no fit."""

from __future__ import annotations

from hdmap_mlflow.models.entry import ANOMALIB, DINO, OWN, ModelEntry, Needs, Weights
from hdmap_mlflow.models.searchspace import among, real, whole

ONE_PASS: dict[str, ModelEntry] = {
    "patchcore": ModelEntry(
        path=f"{OWN}patchcore:Patchcore",
        paper="Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022",
        trains=False,
        weights=Weights(strides=(8, 16)),
        space=real("coreset_sampling_ratio", 0.01, 0.25, log=True) | whole("num_neighbors", 1, 15),
        onnx=True,
    ),
    "padim": ModelEntry(
        path=f"{OWN}padim:Padim",
        paper="Defard et al., PaDiM: a Patch Distribution Modeling Framework, ICPR 2021",
        trains=False,
        weights=Weights(strides=(4, 8, 16)),
        needs=Needs(maps=2),
        defaults={"n_features": 100},
        space=whole("n_features", 30, 120, step=10),
        onnx=True,
    ),
    "mh_patchcore": ModelEntry(
        path=f"{ANOMALIB}MHPatchcore",
        paper="Ferrari et al., Mahalanobis PatchCore, arXiv 2605.27748, 2026",
        trains=False,
        weights=Weights(strides=(8, 16)),
        space=real("pca_variance_ratio", 0.9, 0.999) | real("covariance_shrinkage", 0.01, 0.3, log=True),
        onnx=True,
    ),
    "dfkde": ModelEntry(
        path=f"{ANOMALIB}Dfkde",
        paper="Akcay et al., Anomalib: A Deep Learning Library for Anomaly Detection, ICIP 2022",
        trains=False,
        weights=Weights(strides=(32,)),
        needs=Needs(maps="n_pca_components"),
        space=whole("n_pca_components", 8, 32, step=4),
        no_map={},
    ),
    "dfm": ModelEntry(
        path=f"{ANOMALIB}Dfm",
        paper="Ahuja et al., Probabilistic Modeling of Deep Features for OOD and Adversarial Detection, 2019",
        trains=False,
        weights=Weights(strides=(16,)),
        needs=Needs(maps=2),
        space=real("pca_level", 0.9, 0.999),
        no_map={"score_type": "nll"},
    ),
    "toothwise": ModelEntry(
        path=f"{OWN}toothwise:Toothwise",
        paper="After Ha et al., toothwise fault identification for planetary gearboxes, IEEE TIE 2018",
        trains=False,
        needs=Needs(least=2, scaled=False),
        defaults={"image_size": [31, 95]},
        space=among("axis", "rows", "columns", "either")
        | among("window", 1, 2)
        | among("statistic", "ratio", "robust_z"),
        onnx=True,
    ),
    "anomaly_dino": ModelEntry(
        path=f"{ANOMALIB}AnomalyDINO",
        paper="Damm et al., AnomalyDINO: Boosting Patch-based Few-shot Anomaly Detection with DINOv2, WACV 2025",
        trains=False,
        weights=DINO,
        needs=Needs(multiple=14, least=56),
        defaults={"image_size": [252, 252]},
        space=whole("num_neighbours", 1, 15),
        random_why="no vision transformer comes with a package",
        onnx=True,
    ),
    "rad": ModelEntry(
        path=f"{ANOMALIB}Rad",
        paper="RAD: retrieval-based anomaly detection, arXiv 2601.22763, 2026",
        trains=False,
        weights=Weights(names=("vit_*",)),
        needs=Needs(multiple=16),
        defaults={"image_size": [448, 448]},
        space=whole("pos_radius", 0, 3) | real("max_ratio", 0.002, 0.05, log=True),
        random_why="no vision transformer comes with a package",
    ),
    "super_add": ModelEntry(
        path=f"{ANOMALIB}SuperADD",
        paper="SuperADD, arXiv 2605.14808, 2026",
        trains=False,
        weights=Weights(names=("vit_*",)),
        needs=Needs(multiple=16),
        defaults={"image_size": [448, 448]},
        space=real("gaussian_blur_sigma", 1.0, 8.0) | real("score_quantile", 0.0005, 0.02, log=True),
        random_why="no vision transformer comes with a package",
        onnx=True,
    ),
    "winclip": ModelEntry(
        path=f"{ANOMALIB}WinClip",
        paper="Jeong et al., WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation, CVPR 2023",
        trains=False,
        weights=Weights("", library="own", local=False),
        needs=Needs(multiple=240, least=240, square=True, package="open_clip", online=True),
        defaults={"class_name": "gear map", "image_size": [240, 240]},
    ),
    "anomalyvfm": ModelEntry(
        path=f"{ANOMALIB}AnomalyVFM",
        paper="Fucka et al., AnomalyVFM, CVPR 2026",
        trains=False,
        weights=Weights("", library="own", local=False),
        needs=Needs(multiple=16, least=64, scaled=False, online=True),
        defaults={"image_size": [768, 768]},
    ),
}
