"""Models that epochs of training improve, with the schedules that their papers give."""

from __future__ import annotations

from hdmap_mlflow.config import RunConfig
from hdmap_mlflow.models.backbones import fre_input_dim
from hdmap_mlflow.models.entry import ANOMALIB, DINO, GENERATED, OWN, ModelEntry, Needs, Weights, training
from hdmap_mlflow.models.searchspace import among, only, rate, real, whole

PUBLISHED_STUDENT = "wide_resnet50_2"
UNINET = Weights(
    "teacher_backbone", "torchvision", False, ("resnet50", "resnet101", "wide_resnet*_2"), strides=(4, 8, 16)
)


def uninet_student(config: RunConfig) -> str:
    """The published student, or that of a teacher which it has to mirror."""
    teacher = str(config.model.settings.get("teacher_backbone", PUBLISHED_STUDENT))
    return teacher if UNINET.free(teacher) else PUBLISHED_STUDENT


EPOCHS: dict[str, ModelEntry] = {
    "reverse_distillation": ModelEntry(
        path=f"{OWN}reverse_distillation:ReverseDistillation",
        paper="Deng and Li, Anomaly Detection via Reverse Distillation from One-Class Embedding, CVPR 2022",
        trains=True,
        weights=Weights(strides=(4, 8, 16)),
        needs=Needs(multiple=32, rising=True),
        defaults=training(200, 0.005, batch=16),
        space=rate(0.005) | among("anomaly_map_mode", "add", "multiply"),
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
        random_why="no vision transformer comes with a package",
    ),
    "inp_former": ModelEntry(
        path=f"{OWN}dinomaly:InpFormer",
        paper="Luo et al., Exploring Intrinsic Normal Prototypes within a Single Image, CVPR 2025",
        trains=True,
        weights=DINO,
        needs=Needs(multiple=14, least=56, square=True),
        defaults=training(200, 0.001, batch=16, size=392),
        space=rate(0.001) | whole("inp_num", 2, 10),
        random_why="no vision transformer comes with a package",
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
        random_why="its teacher is a network of its own, distilled from ImageNet",
    ),
    "fastflow": ModelEntry(
        path=f"{OWN}fastflow:Fastflow",
        paper="Yu et al., FastFlow: Unsupervised Anomaly Detection and Localization via 2D Normalizing Flows, 2021",
        trains=True,
        weights=Weights(
            local=False,
            names=("resnet18", "wide_resnet50_2", "cait_m48_448", "deit_base_dist*_384"),
            strides=(4, 8, 16),
        ),
        needs=Needs(multiple=32),
        defaults=training(500, 0.001, batch=32),
        space=rate(0.001) | whole("flow_steps", 4, 12, step=2) | real("hidden_ratio", 0.25, 1.0),
    ),
    "cflow": ModelEntry(
        path=f"{OWN}cflow:Cflow",
        paper="Gudovskiy et al., CFLOW-AD: Real-Time Unsupervised Anomaly Detection with Localization, WACV 2022",
        trains=True,
        weights=Weights(strides=(8, 16, 32)),
        needs=Needs(multiple=32),
        defaults=training(50, 1e-4, batch=16),
        space=rate(1e-4) | whole("coupling_blocks", 4, 12, step=2),
    ),
    "csflow": ModelEntry(
        path=f"{OWN}csflow:Csflow",
        paper="Rudolph et al., Fully Convolutional Cross-Scale-Flows for Image-based Defect Detection, WACV 2022",
        trains=True,
        weights=Weights("backbone", "torchvision", False, ("efficientnet_b5",), (32,)),
        needs=Needs(multiple=128),
        defaults=training(240, 2e-4, batch=16, size=768),
        space=rate(2e-4) | whole("n_coupling_blocks", 2, 6),
    ),
    "uflow": ModelEntry(
        path=f"{OWN}uflow:Uflow",
        paper="Tailanian et al., U-Flow: A U-shaped Normalizing Flow with Unsupervised Threshold, JMIV 2024",
        trains=True,
        weights=Weights(library="own", local=False, names=("mcait", "resnet18", "wide_resnet50_2"), strides=(4, 8, 16)),
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
        path=f"{OWN}uninet:UniNet",
        paper="Wei et al., UniNet: A Contrastive Learning-guided Unified Framework with Feature Selection, CVPR 2025",
        trains=True,
        weights=UNINET,
        needs=Needs(multiple=32),
        defaults=training(100, 0.005, batch=8),
        space=rate(0.005) | real("temperature", 0.05, 0.5, log=True),
        derived={"student_backbone": uninet_student},
    ),
    "stfpm": ModelEntry(
        path=f"{ANOMALIB}Stfpm",
        paper="Wang et al., Student-Teacher Feature Pyramid Matching for Anomaly Detection, BMVC 2021",
        trains=True,
        weights=Weights(strides=(4, 8, 16)),
        defaults=training(100, 0.4, batch=32),
        space=rate(0.4),
    ),
    "supersimplenet": ModelEntry(
        path=f"{ANOMALIB}Supersimplenet",
        paper="Rolih et al., SuperSimpleNet: Unifying Unsupervised and Supervised Learning, ICPR 2024",
        trains=True,
        weights=Weights(strides=(8, 16)),
        needs=Needs(least=72),
        defaults=training(300, 1e-4, batch=32),
        space=rate(1e-4) | real("perlin_threshold", 0.1, 0.5),
    ),
    "glass": ModelEntry(
        path=f"{ANOMALIB}Glass",
        paper="Chen et al., A Unified Anomaly Synthesis Strategy with Gradient Ascent, ECCV 2024",
        trains=True,
        weights=Weights(strides=(8, 16)),
        needs=Needs(multiple=32),
        defaults=training(100, 2e-4, batch=8, size=288, anomaly_source_path=GENERATED),
        space=rate(2e-4) | real("gaussian_noise_std", 0.005, 0.05, log=True),
        textures="anomaly_source_path",
        derived={"input_shape": lambda config: config.data.image_size},
    ),
    "cfa": ModelEntry(
        path=f"{OWN}cfa:Cfa",
        paper="Lee et al., CFA: Coupled-hypersphere-based Feature Adaptation, IEEE Access 2022",
        trains=True,
        weights=Weights("backbone", "torchvision", False, ("vgg19_bn", "resnet18", "wide_resnet50_2"), (4, 8, 16)),
        needs=Needs(square=True),
        defaults=training(30, 0.001, batch=4),
        space=rate(0.001) | whole("num_nearest_neighbors", 1, 5),
    ),
    "fre": ModelEntry(
        path=f"{ANOMALIB}Fre",
        paper="Ndiour et al., FRE: A Fast Method for Anomaly Detection and Segmentation, BMVC 2023",
        trains=True,
        weights=Weights(strides=(16,)),
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
        random_why="its dictionary is learned from ImageNet",
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
        random_why="no vision transformer comes with a package",
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
        random_why="no vision transformer comes with a package",
    ),
    "l2bt": ModelEntry(
        path=f"{ANOMALIB}L2BT",
        paper="Costanzino et al., Learning to Be a Transformer to Pinpoint Anomalies, IEEE Access 2025",
        trains=True,
        weights=Weights("", library="own", local=False),
        needs=Needs(multiple=14, least=56),
        defaults=training(50, 1e-4, batch=8, size=224),
        space=rate(1e-4) | real("topk_ratio", 0.0005, 0.01, log=True),
        random_why="no vision transformer comes with a package",
    ),
}
