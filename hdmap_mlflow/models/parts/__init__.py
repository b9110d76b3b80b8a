"""What models are made of: coreset, features, blur, textures, the watched AUROC."""

import os

# OpenVINO brings a TBB, which Numba would take: beside OpenVINO's threads it prints a line at every fork.
os.environ.setdefault("NUMBA_THREADING_LAYER_PRIORITY", "omp workqueue tbb")
