"""What models are made of: coreset, features, blur, textures, the watched AUROC."""
