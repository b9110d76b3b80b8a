"""How many maps a GPU scores at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hdmap_mlflow.annotations import Model

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

SHARE = 0.5  # of the free memory: the allocator keeps blocks that no later batch fits
MOST = 1024  # maps


def fitting(model: Model, loader: DataLoader, device: str) -> int:
    """The size of a batch of scoring that half of a GPU's free memory holds; elsewhere the loader's own.

    The loader's first batch is scored, and the memory that it took beyond what was in use is taken to grow with the
    number of maps. The size is the loader's, doubled as often as that allows, up to `MOST` maps.
    """
    import torch

    from hdmap_mlflow.evaluation import scoring

    size, cuda = int(loader.batch_size or 1), torch.cuda
    if device != "cuda":
        return size
    model.to(device).eval()
    used, batch = cuda.memory_allocated(), next(iter(loader))
    cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        scoring.predict(model, batch, device)
    of_map = (cuda.max_memory_allocated() - used) / len(batch.image)
    free = cuda.mem_get_info()[0] + cuda.memory_reserved() - cuda.memory_allocated()  # what is reserved is torch's own
    while 2 * size <= MOST and 2 * size * of_map <= SHARE * free:
        size *= 2
    return size
