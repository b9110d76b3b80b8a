"""The one table of models: where each one's class is, what it needs, its published defaults and its search space.

Adding a model is adding an entry; a class of the user's own is named as `package.module:Class` and needs none.
Left out of anomalib 2.7: `cfm` (needs point clouds) and `vlm_ad` (asks a language model, has no score).
"""

from __future__ import annotations

from hdmap_mlflow.errors import BadInput, nearest
from hdmap_mlflow.models.backbones import fre_input_dim, pyramid
from hdmap_mlflow.models.entry import GENERATED, ModelEntry, Needs, Weights, training
from hdmap_mlflow.models.searchspace import among, only, rate, real, whole

ANOMALIB = "anomalib.models.image:"
OWN = "hdmap_mlflow.models.own."
DINO = Weights("encoder_name", names=("vit_*dino*",))


REGISTRY: dict[str, ModelEntry] = {
    # ------------------------------------------------------------------------------- one pass over the data fits them
    "patchcore": ModelEntry(
        path=f"{OWN}patchcore:Patchcore",
        paper="Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022",
        trains=False,
        weights=Weights(),
        space=real("coreset_sampling_ratio", 0.01, 0.25, log=True) | whole("num_neighbors", 1, 15),
    ),
    "padim": ModelEntry(
        path=f"{OWN}padim:Padim",
        paper="Defard et al., PaDiM: a Patch Distribution Modeling Framework, ICPR 2021",
        trains=False,
        weights=Weights(),
        defaults={"n_features": 100},
        space=whole("n_features", 30, 120, step=10),
    ),
    "mh_patchcore": ModelEntry(
        path=f"{ANOMALIB}MHPatchcore",
        paper="Ferrari et al., Mahalanobis PatchCore, arXiv 2605.27748, 2026",
        trains=False,
        weights=Weights(),
        space=real("pca_variance_ratio", 0.9, 0.999) | real("covariance_shrinkage", 0.01, 0.3, log=True),
    ),
    "dfkde": ModelEntry(
        path=f"{ANOMALIB}Dfkde",
        paper="Akcay et al., Anomalib: A Deep Learning Library for Anomaly Detection, ICIP 2022",
        trains=False,
        weights=Weights(),
        space=whole("n_pca_components", 8, 32, step=4),
    ),
    "dfm": ModelEntry(
        path=f"{ANOMALIB}Dfm",
        paper="Ahuja et al., Probabilistic Modeling of Deep Features for OOD and Adversarial Detection, 2019",
        trains=False,
        weights=Weights(),
        space=real("pca_level", 0.9, 0.999),
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
    ),
    "anomaly_dino": ModelEntry(
        path=f"{ANOMALIB}AnomalyDINO",
        paper="Damm et al., AnomalyDINO: Boosting Patch-based Few-shot Anomaly Detection with DINOv2, WACV 2025",
        trains=False,
        weights=DINO,
        needs=Needs(multiple=14, least=56),
        defaults={"image_size": [252, 252]},
        space=whole("num_neighbours", 1, 15),
    ),
    "rad": ModelEntry(
        path=f"{ANOMALIB}Rad",
        paper="RAD: retrieval-based anomaly detection, arXiv 2601.22763, 2026",
        trains=False,
        weights=Weights(names=("vit_*",)),
        needs=Needs(multiple=16),
        defaults={"image_size": [448, 448]},
        space=whole("pos_radius", 0, 3) | real("max_ratio", 0.002, 0.05, log=True),
    ),
    "super_add": ModelEntry(
        path=f"{ANOMALIB}SuperADD",
        paper="SuperADD, arXiv 2605.14808, 2026",
        trains=False,
        weights=Weights(names=("vit_*",)),
        needs=Needs(multiple=16),
        defaults={"image_size": [448, 448]},
        space=real("gaussian_blur_sigma", 1.0, 8.0) | real("score_quantile", 0.0005, 0.02, log=True),
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
    # --------------------------------------------------------------------------------------- epochs improve them
    "reverse_distillation": ModelEntry(
        path=f"{OWN}reverse_distillation:ReverseDistillation",
        paper="Deng and Li, Anomaly Detection via Reverse Distillation from One-Class Embedding, CVPR 2022",
        trains=True,
        weights=Weights(),
        needs=Needs(multiple=32, rising=True),
        defaults=training(200, 0.005, batch=16),
        space=rate(0.005) | among("anomaly_map_mode", "add", "multiply"),
        derived={"layers": pyramid},
    ),
    "draem": ModelEntry(
        path=f"{ANOMALIB}Draem",
        paper="Zavrtanik et al., DRAEM: A Discriminatively Trained Reconstruction Embedding, ICCV 2021",
        trains=True,
        needs=Needs(multiple=32, scaled=False),
        defaults=training(700, 1e-4, batch=8, dtd_dir=GENERATED),
        space=rate(1e-4) | among("enable_sspcab", False, True),
        textures="dtd_dir",
    ),
    "draem_sevnet": ModelEntry(
        path=f"{OWN}draem_sevnet:DraemSevNet",
        paper="DRAEM (Zavrtanik et al., ICCV 2021) with scaled CutPaste (Li et al., CVPR 2021) and a severity head",
        trains=True,
        needs=Needs(multiple=32, scaled=False),
        defaults=training(100, 1e-4, batch=16),
        space=rate(1e-4)
        | among("severity_head_mode", "single_scale", "multi_scale", "none")
        | only(
            "severity_head_mode",
            ("single_scale", "multi_scale"),
            among("score_combination", "simple_average", "weighted_average", "maximum")
            | real("severity_weight", 0.1, 2.0, log=True)
            | real("severity_max", 0.5, 10.0, log=True),
        ),
    ),
    "cutpaste": ModelEntry(
        path=f"{OWN}cutpaste:CutPasteClassifier",
        paper="Li et al., CutPaste: Self-Supervised Learning for Anomaly Detection and Localization, CVPR 2021",
        trains=True,
        weights=Weights(local=False),
        needs=Needs(scaled=False),
        defaults=training(100, 1e-3, batch=32, weights="random"),
        space=rate(1e-3) | among("patch_count", 1, 2, 4) | real("anomaly_probability", 0.3, 0.7),
    ),
    "dinomaly": ModelEntry(
        path=f"{OWN}dinomaly:Dinomaly",
        paper="Guo et al., Dinomaly: The Less Is More Philosophy in Multi-Class Anomaly Detection, CVPR 2025",
        trains=True,
        weights=DINO,
        needs=Needs(multiple=14, least=56),
        defaults=training(100, 0.002, batch=16, size=392),
        space=rate(0.002) | real("bottleneck_dropout", 0.1, 0.5),
    ),
    "inp_former": ModelEntry(
        path=f"{OWN}dinomaly:InpFormer",
        paper="Luo et al., Exploring Intrinsic Normal Prototypes within a Single Image, CVPR 2025",
        trains=True,
        weights=DINO,
        needs=Needs(multiple=14, least=56, square=True),
        defaults=training(200, 0.001, batch=16, size=392),
        space=rate(0.001) | whole("inp_num", 2, 10),
    ),
    "efficient_ad": ModelEntry(
        path=f"{ANOMALIB}EfficientAd",
        paper="Batzner et al., EfficientAD: Accurate Visual Anomaly Detection at Millisecond Latencies, WACV 2024",
        trains=True,
        weights=Weights("", library="own", local=False),
        needs=Needs(least=256, batch=1, scaled=False),
        defaults=training(1000, 1e-4, batch=1, imagenet_dir=GENERATED),
        space=rate(1e-4) | among("padding", False, True),
        textures="imagenet_dir",
    ),
    "fastflow": ModelEntry(
        path=f"{ANOMALIB}Fastflow",
        paper="Yu et al., FastFlow: Unsupervised Anomaly Detection and Localization via 2D Normalizing Flows, 2021",
        trains=True,
        weights=Weights(local=False, names=("resnet18", "wide_resnet50_2", "cait_m48_448", "deit_base_dist*_384")),
        needs=Needs(multiple=32),
        defaults=training(500, 0.001, batch=32),
        space=rate(0.001) | whole("flow_steps", 4, 12, step=2) | real("hidden_ratio", 0.25, 1.0),
    ),
    "cflow": ModelEntry(
        path=f"{OWN}cflow:Cflow",
        paper="Gudovskiy et al., CFLOW-AD: Real-Time Unsupervised Anomaly Detection with Localization, WACV 2022",
        trains=True,
        weights=Weights(),
        needs=Needs(multiple=32),
        defaults=training(50, 1e-4, batch=16),
        space=rate(1e-4) | whole("coupling_blocks", 4, 12, step=2),
    ),
    "csflow": ModelEntry(
        path=f"{ANOMALIB}Csflow",
        paper="Rudolph et al., Fully Convolutional Cross-Scale-Flows for Image-based Defect Detection, WACV 2022",
        trains=True,
        weights=Weights("", library="torchvision", local=False),
        needs=Needs(multiple=128),
        defaults=training(240, 2e-4, batch=16, size=768),
        space=rate(2e-4) | whole("n_coupling_blocks", 2, 6),
    ),
    "uflow": ModelEntry(
        path=f"{ANOMALIB}Uflow",
        paper="Tailanian et al., U-Flow: A U-shaped Normalizing Flow with Unsupervised Threshold, JMIV 2024",
        trains=True,
        weights=Weights(library="own", local=False, names=("mcait", "resnet18", "wide_resnet50_2")),
        needs=Needs(multiple=32),
        defaults=training(200, 0.001, batch=8, size=448),
        space=rate(0.001) | whole("flow_steps", 2, 6),
    ),
    "patchflow": ModelEntry(
        path=f"{ANOMALIB}Patchflow",
        paper="Zhang et al., PatchFlow, arXiv 2602.05238, 2026",
        trains=True,
        weights=Weights(),
        needs=Needs(multiple=32),
        defaults=training(100, 0.001, batch=8, size=768),
        space=rate(0.001) | whole("flow_steps", 1, 4),
    ),
    "uninet": ModelEntry(
        path=f"{ANOMALIB}UniNet",
        paper="Wei et al., UniNet: A Contrastive Learning-guided Unified Framework with Feature Selection, CVPR 2025",
        trains=True,
        weights=Weights("teacher_backbone", "torchvision", False, ("resnet50", "resnet101", "wide_resnet*_2")),
        needs=Needs(multiple=32),
        defaults=training(100, 0.005, batch=8),
        space=rate(0.005) | real("temperature", 0.05, 0.5, log=True),
    ),
    "stfpm": ModelEntry(
        path=f"{ANOMALIB}Stfpm",
        paper="Wang et al., Student-Teacher Feature Pyramid Matching for Anomaly Detection, BMVC 2021",
        trains=True,
        weights=Weights(),
        defaults=training(100, 0.4, batch=32),
        space=rate(0.4),
    ),
    "supersimplenet": ModelEntry(
        path=f"{ANOMALIB}Supersimplenet",
        paper="Rolih et al., SuperSimpleNet: Unifying Unsupervised and Supervised Learning, ICPR 2024",
        trains=True,
        weights=Weights(),
        needs=Needs(least=72),
        defaults=training(300, 1e-4, batch=32),
        space=rate(1e-4) | real("perlin_threshold", 0.1, 0.5),
    ),
    "glass": ModelEntry(
        path=f"{ANOMALIB}Glass",
        paper="Chen et al., A Unified Anomaly Synthesis Strategy with Gradient Ascent, ECCV 2024",
        trains=True,
        weights=Weights(),
        needs=Needs(multiple=32),
        defaults=training(100, 2e-4, batch=8, size=288, anomaly_source_path=GENERATED),
        space=rate(2e-4) | real("gaussian_noise_std", 0.005, 0.05, log=True),
        textures="anomaly_source_path",
        derived={"input_shape": lambda config: config.data.image_size},
    ),
    "cfa": ModelEntry(
        path=f"{ANOMALIB}Cfa",
        paper="Lee et al., CFA: Coupled-hypersphere-based Feature Adaptation, IEEE Access 2022",
        trains=True,
        weights=Weights("backbone", "torchvision", False, ("vgg19_bn", "resnet18", "wide_resnet50_2")),
        needs=Needs(square=True),
        defaults=training(30, 0.001, batch=4),
        space=rate(0.001) | whole("num_nearest_neighbors", 1, 5),
    ),
    "fre": ModelEntry(
        path=f"{ANOMALIB}Fre",
        paper="Ndiour et al., FRE: A Fast Method for Anomaly Detection and Segmentation, BMVC 2023",
        trains=True,
        weights=Weights(),
        defaults=training(220, 0.001, batch=32),
        space=rate(0.001) | whole("latent_dim", 60, 300, step=20),
        derived={"input_dim": fre_input_dim},
    ),
    "ganomaly": ModelEntry(
        path=f"{ANOMALIB}Ganomaly",
        paper="Akcay et al., GANomaly: Semi-Supervised Anomaly Detection via Adversarial Training, ACCV 2018",
        trains=True,
        needs=Needs(square=True, power_of_two=True),
        defaults=training(100, 2e-4, batch=32),
        space=rate(2e-4) | whole("latent_vec_size", 50, 200, step=25),
        derived={"batch_size": lambda config: config.data.batch_size},
    ),
    "dsr": ModelEntry(
        path=f"{ANOMALIB}Dsr",
        paper="Zavrtanik et al., DSR: A Dual Subspace Re-Projection Network, ECCV 2022",
        trains=True,
        weights=Weights("", library="own", local=False),
        needs=Needs(multiple=32, epochs=2, scaled=False),
        defaults=training(700, 2e-4, batch=8),
        space=rate(2e-4) | real("latent_anomaly_strength", 0.1, 1.0),
    ),
    "foundad": ModelEntry(
        path=f"{ANOMALIB}FoundAD",
        paper="Zhai et al., Foundation Visual Encoders Are Secretly Few-Shot Anomaly Detectors, ICLR 2026",
        trains=True,
        weights=Weights("encoder_name", library="own", local=False),
        needs=Needs(multiple=14, least=56, square=True),
        defaults=training(2000, 0.001, batch=8, size=518),
        space=rate(0.001) | whole("pred_depth", 2, 8, step=2),
        derived={"image_size": lambda config: config.data.image_size[0]},
    ),
    "general_ad": ModelEntry(
        path=f"{ANOMALIB}GeneralAD",
        paper="Straeter et al., GeneralAD: Attending to Distorted Features, ECCV 2024",
        trains=True,
        weights=Weights(local=False, names=("vit_*",)),
        needs=Needs(multiple=14, least=56, square=True),
        defaults=training(160, 5e-4, batch=8, size=518),
        space=rate(5e-4) | real("noise_std", 0.1, 0.5),
        derived={"epochs": lambda config: config.train.max_epochs},
    ),
    "l2bt": ModelEntry(
        path=f"{ANOMALIB}L2BT",
        paper="Costanzino et al., Learning to Be a Transformer to Pinpoint Anomalies, IEEE Access 2025",
        trains=True,
        weights=Weights("", library="own", local=False),
        needs=Needs(multiple=14, least=56),
        defaults=training(50, 1e-4, batch=8, size=224),
        space=rate(1e-4) | real("topk_ratio", 0.0005, 0.01, log=True),
    ),
}


def find_model(name: str) -> ModelEntry:
    """The entry of a model, or one made on the spot for a class named `package.module:Class`.

    A class that takes `backbone` gets weights as the registry's models do, and maps normalised for them; another gets
    maps in their own unit. Raises BadInput that names the nearest known model.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    if ":" not in name:
        raise BadInput(
            f"unknown model '{name}'{nearest(name, REGISTRY)}; known: {', '.join(REGISTRY)}; "
            "a class of your own is package.module:Class"
        )
    from hdmap_mlflow.models import signature

    weights = Weights() if "backbone" in signature.parameters(name) else None
    return ModelEntry(name, paper="", trains=None, weights=weights, needs=Needs(least=1, scaled=weights is not None))
