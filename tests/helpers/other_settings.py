"""What `test_settings` tries of every model, so small that a step takes a moment.

A new model needs no entry: another value follows from a setting's type. OTHER holds the values that do not follow, WITH
what a setting needs beside it to matter, TOGETHER what must change with it, LEFT_OUT what is not tried, and why.
"""

from __future__ import annotations

from typing import Any

from zoo import SMALLER

from hdmap_mlflow.models.registry import REGISTRY

# A step of these takes many seconds. Their settings change the shape of a weight or an attribute of a built network.
BUILT_ONLY = {
    "draem": "97 million weights; beta and sspcab_lambda are read in every step of its training",
    "dsr": "two epochs of three networks; the strength is read in every step, the ratio where training starts",
    "efficient_ad": "256 pixels at least, and statistics of all maps; padding is that of its convolutions",
    "uninet": "two teachers and a student of 50 layers; the temperature is that of its loss",
}
TINY = "model.backbone=test_resnet,model.weights=random"
TWO = f"{TINY},model.layers=[layer1,layer2]"
# Smaller than the quickstart, so that a step takes a moment.
BASE = SMALLER | {
    "patchcore": f"data.image_size=[32,32],{TWO},model.coreset_sampling_ratio=0.05,model.max_bank_mb=500",
    "padim": f"{TWO},model.n_features=6",
    "mh_patchcore": f"data.image_size=[32,32],{TWO},model.memory_bank_size=40,model.local_coreset_size=20,"
    "model.num_neighbors=3",
    "dfkde": f"{TINY},model.layers=[layer4],model.n_pca_components=2,data.batch_size=6",
    "dfm": f"{TINY},model.layer=layer2,model.pooling_kernel_size=2",
    "rad": "model.k_image=1",
    "super_add": "data.image_size=[80,160],model.patch_size=80,model.patch_overlap=16",
    "draem_sevnet": "data.image_size=[32,96],model.patch_width_range=[10,60],model.reconstructive_width=2,"
    "model.discriminative_width=2,model.severity_head_width=4,model.severity_max=1.0,model.map_level=null",
    "cutpaste": "data.image_size=[32,96],model.patch_width_range=[10,60],model.backbone=test_resnet",
    "cflow": f"data.image_size=[32,32],{TWO},model.coupling_blocks=1,model.fiber_batch_size=50",
    "csflow": f"{TINY},model.cross_conv_hidden_channels=4,model.n_coupling_blocks=1",
    "reverse_distillation": f"data.image_size=[32,32],data.batch_size=2,{TWO},model.embedding=8,model.width=8",
    "foundad": "data.image_size=[112,112],model.pred_depth=1,model.pred_emb_dim=24",
    "general_ad": "model.hidden_dim=8,train.max_epochs=2",  # a rate that falls by the epoch
    "dinomaly": "model.encoder_name=vit_small_patch14_dinov2",
    "inp_former": "model.encoder_name=vit_small_patch14_dinov2",
    **dict.fromkeys(("fastflow", "uflow", "cfa"), TINY),
    "uninet": "model.student_backbone=resnet50,model.teacher_backbone=resnet50,model.weights=random",
    "glass": f"{TWO},model.step=2,model.pretrain_embed_dim=32,model.target_embed_dim=32,model.discriminator_hidden=16",
    "patchflow": "model.backbone=resnet18,model.weights=random",
    "stfpm": f"{TWO}",
    "supersimplenet": f"{TWO}",
    "fre": f"{TINY},model.layer=layer2,model.latent_dim=20",
}
TEXTURES = [(model, entry.textures) for model, entry in REGISTRY.items() if entry.textures]
# Another value where none follows from the type, or where the next one would mean the same.
OTHER: dict[tuple[str, str], Any] = {
    **{
        (model, "backbone"): "resnet10t"
        for model in ("patchcore", "padim", "mh_patchcore", "dfkde", "dfm", "cflow", "stfpm", "supersimplenet", "fre")
    },
    **{
        (model, "layers"): "[layer1]"
        for model in ("patchcore", "padim", "mh_patchcore", "cflow", "stfpm", "supersimplenet")
    },
    **{(model, "row_context"): "[1,2]" for model in ("patchcore", "padim")},
    ("patchcore", "max_bank_mb"): 0.01,
    ("patchcore", "num_neighbors"): 2,
    ("mh_patchcore", "memory_bank_size"): 10,
    ("mh_patchcore", "num_neighbors"): 1,
    ("dfkde", "layers"): "[layer3]",
    ("dfkde", "max_training_points"): 3,
    ("dfm", "layer"): "layer3",
    ("fre", "layer"): "layer3",
    ("anomaly_dino", "encoder_name"): "vit_small_patch14_reg4_dinov2",
    ("rad", "backbone"): "vit_small_plus_patch16_dinov3",
    ("rad", "layers"): "[2,5]",
    ("rad", "layer_weights"): "[1,2,3,4]",
    ("rad", "max_ratio"): 0.3,
    ("super_add", "backbone"): "vit_small_plus_patch16_dinov3",
    ("super_add", "layers"): "[2,5]",
    ("super_add", "patch_size"): 48,
    ("super_add", "patch_overlap"): 32,
    ("cflow", "fiber_batch_size"): 2,
    ("cfa", "radius"): 1000.0,
    **{(model, name): "{root.parent}/textures" for model, name in TEXTURES},
    **{(model, "encoder_name"): "vit_small_patch14_reg4_dinov2" for model in ("dinomaly", "inp_former")},
    **{(model, "target_layers"): [1, 3, 4, 5, 6, 7, 8, 9] for model in ("dinomaly", "inp_former")},
    **{
        (model, f"fuse_layer_{part}"): [[0, 1], [2, 3, 4, 5, 6, 7]]
        for model in ("dinomaly", "inp_former")
        for part in ("encoder", "decoder")
    },
    ("l2bt", "layers"): "[6,11]",
    ("l2bt", "blur_w_l"): 7,
    ("l2bt", "blur_pad_l"): 3,
    ("l2bt", "blur_w_u"): 9,
    ("l2bt", "blur_pad_u"): 4,
    ("general_ad", "backbone"): "vit_small_patch14_reg4_dinov2",
    ("general_ad", "layers"): "[11]",
    ("general_ad", "dsc_heads"): 2,
    ("general_ad", "num_fake_patches"): 3,
    ("general_ad", "fake_feature_type"): "shuffle",
    ("foundad", "image_size"): 126,
    ("foundad", "encoder_name"): "dinov3_vit_small_16",
    ("super_add", "score_quantile"): 0.3,
    ("reverse_distillation", "backbone"): "resnet10t",
    ("reverse_distillation", "layers"): "[layer1,layer3]",
    ("draem_sevnet", "in_channels"): 1,
    ("draem_sevnet", "map_level"): 0.25,
    ("draem_sevnet", "score_combination"): "maximum",  # with equal weights, a weighted average is a simple one
    ("draem_sevnet", "score_weights"): "[1,3]",
    ("draem_sevnet", "patch_width_range"): "[20,60]",
    ("draem_sevnet", "patch_ratio_range"): "[0.2,0.4]",
    ("cutpaste", "backbone"): "test_convnext",
    ("cutpaste", "patch_width_range"): "[20,60]",
    ("cutpaste", "patch_ratio_range"): "[0.2,0.4]",
    **{(model, "backbone"): "resnet10t" for model in ("fastflow", "uflow", "cfa", "csflow")},
    ("patchflow", "backbone"): "resnet34",
    ("patchflow", "crop_size"): "[32,32]",
    ("uninet", "student_backbone"): "resnet101",
    ("uninet", "teacher_backbone"): "resnet101",
    ("glass", "backbone"): "resnet10t",
    ("glass", "layers"): "[layer2,layer3]",
}
WITH: dict[tuple[str, str], str] = {
    ("draem_sevnet", "score_weights"): "model.score_combination=weighted_average",
    ("draem", "sspcab_lambda"): "model.enable_sspcab=true",
    ("csflow", "clamp"): "train.learning_rate=1.0",  # couplings start at nothing, which no clamp reaches
    ("anomaly_dino", "sampling_ratio"): "model.coreset_subsampling=true",
    ("glass", "radius_quantile"): "model.svd=1",
    ("general_ad", "num_fake_patches"): "model.fake_feature_type=shuffle",
    ("foundad", "color_jitter"): "train.seed=2",  # every other step, by the seed, trains on pasted patches
    ("foundad", "image_size"): "model.use_pos_embed=true",
    ("cfa", "num_hard_negative_features"): "model.radius=1000.0",  # hard negatives repel within it only
}
# The width of a blur and its padding go together: anomalib refuses one without the other.
TOGETHER: dict[tuple[str, str], dict[str, Any]] = {
    ("l2bt", "blur_w_l"): {"model.blur_pad_l": 3},
    ("l2bt", "blur_pad_l"): {"model.blur_w_l": 7},
    ("l2bt", "blur_w_u"): {"model.blur_pad_u": 4},
    ("l2bt", "blur_pad_u"): {"model.blur_w_u": 9},
}
# What changes no number, or cannot be tried on random weights and a CPU, and why.
LEFT_OUT: dict[tuple[str, str], str] = {
    ("dfm", "score_type"): "nll, the only other one, raises in anomalib 2.7 when it is fitted",
    ("anomaly_dino", "masking"): "the mask of a network with random weights leaves no patch",
    ("ganomaly", "batch_size"): "follows from data.batch_size; anomalib 2.7 makes labels of it that it never reads",
    ("csflow", "num_channels"): "anomalib 2.7 takes it and never looks at it",
    ("rad", "bank_dtype"): "a bank of half precision is compared with features of single on a CPU, which raises",
}
