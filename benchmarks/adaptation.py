"""What adapters bring: every one of them with k = 0, 4, 16, 64 healthy maps of the target, on every pair of domains.

python -m benchmarks.adaptation --data ROOT --out table.md

PatchCore, quickstart. The features of a map do not depend on the source: they are computed once per map, and the
package's own adapters get them in place of maps. `adabn` and `log_z` need the network for every source, so they run on
`--network` pairs alone. Thresholds are the 99 % quantile of the source's validation maps, on each chain's own scale.
A cell: AUROC, false alarms and detections in % (mean over pairs and draws, sd over draws). Rows that are in the CSV
file beside the table are not computed again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from hdmap_mlflow.adaptation.maps import Maps
from hdmap_mlflow.adaptation.table import ADAPTERS
from hdmap_mlflow.console import markdown_table
from hdmap_mlflow.evaluation.metrics import image_metrics
from hdmap_mlflow.names import REFERENCE

K, DRAWS, QUANTILE = (0, 4, 16, 64), 3, 0.99
FEATURES = ("k_bank", "merge", "coral")
NAMES = ("image_AUROC", "FPR_at_normal_q99", "TPR_at_normal_q99")


class Loader(list[Any]):
    """Batches of maps that are features already, as adapters read a loader; no score here is of the native size."""

    def __init__(self, features: Tensor) -> None:
        super().__init__(Maps(part, part.shape[-2:]) for part in features.split(32))
        self.dataset = features


class Cached(nn.Module):
    """A fitted PatchCore whose maps come as their features."""

    def __init__(self, inner: Any, bank: Tensor) -> None:
        super().__init__()
        self.model, self.pre_processor = inner, SimpleNamespace(transform=lambda images: images)
        inner.memory_bank = bank

    def features(self, maps: Tensor) -> Tensor:
        return maps

    def predict_step(self, batch: Any, _index: int = 0) -> Any:
        patches, places = self.model.nearest_neighbors(rows := _rows(batch.image), 1)
        split = (len(batch.image), -1)
        score = self.model.compute_anomaly_score(patches.reshape(split), places.reshape(split), rows)
        return SimpleNamespace(pred_score=score, anomaly_map=None)


def _rows(features: Tensor) -> Tensor:
    return features.movedim(1, -1).flatten(0, -2)


def scored(model: Any, maps: Tensor) -> np.ndarray:
    """Raw scores of maps, by their features."""
    with torch.inference_mode():
        batches = [SimpleNamespace(image=batch.features) for batch in Loader(maps)]
        return torch.cat([model.predict_step(batch).pred_score for batch in batches]).double().numpy()


@dataclass
class Domain:
    """Features and labels of a domain: training maps, and as a source its validation and reported ones."""

    train: Tensor
    val: Tensor
    normal: np.ndarray  # of the validation maps
    test: Tensor  # what a target reports: all of them
    label: np.ndarray


def read(root: str, cache: Path | None = None) -> tuple[Any, dict[str, Domain], dict[str, Tensor]]:
    """A PatchCore of the quickstart, the domains' features, and the bank of every source."""
    from hdmap_mlflow.data import dataset
    from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule
    from hdmap_mlflow.models import builder
    from hdmap_mlflow.models.parts.coreset import StreamingCoreset

    names = sorted(path.name for path in Path(root).iterdir() if path.is_dir())
    model = builder.build(_configured(root, names[0])).eval()
    if cache and cache.exists():
        domains, banks = torch.load(cache, weights_only=False)
        return model.model, domains, banks
    domains, banks = {}, {}
    for name in names:
        config = _configured(root, name)
        module = MultiDomainHDMAPDataModule(dataset.read(config).domains, config.data)
        parts = []
        with torch.inference_mode():
            for loader in (
                torch.utils.data.DataLoader(module.train_dataloader().dataset, 32, collate_fn=_collate),
                module.scoring_dataloader(name, "val"),
                module.scoring_dataloader(name, "test"),
            ):
                images = (model.pre_processor.transform(batch.image) for batch in loader)
                parts.append(torch.cat([model.features(batch) for batch in images]))
        train, val, test = parts
        label = [module.scored[name, split]["label"].to_numpy() for split in ("val", "test")]
        domains[name] = Domain(train, val, label[0] == 0, torch.cat([val, test]), np.concatenate(label))
        rows = _rows(train)
        size = int(model.coreset_sampling_ratio * len(rows))
        torch.manual_seed(config.train.seed)  # of the bank: its first row and the projection are drawn
        coreset = StreamingCoreset(size, len(rows) - size)
        coreset.add(rows)
        banks[name] = coreset.result()
        print(f"{name}: {len(train)} training maps, {len(label[0]) + len(label[1])} test maps, bank {size}", flush=True)
    if cache:
        torch.save((domains, banks), cache)
    return model.model, domains, banks


def _configured(root: str, source: str) -> Any:
    from hdmap_mlflow.runs import setup

    return setup.configure("patchcore", "quickstart", flags={"data.root": root, "data.source_domain": source})


def _collate(items: Sequence[Any]) -> Any:
    from anomalib.data import ImageBatch

    return ImageBatch.collate(list(items))


def pair(inner: Any, bank: Tensor, source: Domain, target: Domain, seed: int) -> Iterator[dict[str, Any]]:
    """Every chain with every k on one pair, row by row: chain, k, draw, AUROC, FPR, TPR."""
    plain, normal = Cached(inner, bank), source.val[torch.from_numpy(source.normal)]
    unchanged = {"plain": (scored(plain, normal), scored(plain, target.test))}

    row = partial(_row, target.label)
    yield row("plain", 0, 0, *unchanged["plain"])
    healthy = Loader(source.train[:128])
    on: dict[str, Any] = {name: ADAPTERS[name].fit(plain, healthy, "cpu") for name in FEATURES}  # type: ignore[call-arg,arg-type]
    own = {name: on[name](None).model for name in FEATURES}
    of_source = {name: scored(model, normal) for name, model in own.items()}
    yield row("merge", 0, 0, of_source["merge"], scored(own["merge"], target.test))
    for k in K[1:]:
        for draw in range(DRAWS):
            maps = target.train[torch.from_numpy(_drawn(seed, draw, k, len(target.train)))]
            stages = {"": (unchanged["plain"][0], unchanged["plain"][1], scored(plain, maps))}
            for name in FEATURES:
                adapted = on[name](Loader(maps))
                stages[name] = (of_source[name], scored(adapted.model, target.test), adapted.own)
                yield row(name, k, draw, *stages[name][:2])
            for name, (val, test, normals) in stages.items():
                for last in ("z", "robust_z", "conformal") if name == "" else ("z",):
                    yield row("+".join(filter(None, (name, last))), k, draw, *_after(last, val, test, normals))


def with_network(root: str, bank: Tensor, source: str, target: str, seed: int) -> Iterator[dict[str, Any]]:
    """As `pair`, of the adapters that need the network, and of both domains' AUROC under `log_z`."""
    from hdmap_mlflow.data import dataset
    from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule
    from hdmap_mlflow.evaluation import scoring
    from hdmap_mlflow.models import builder

    config = _configured(root, source)
    module = MultiDomainHDMAPDataModule(dataset.read(config).domains, config.data)
    model = builder.build(config).eval()
    model.model.memory_bank = bank

    def table(adapted: Any, domain: str, split: str, places: Sequence[int] | None = None) -> pd.DataFrame:
        chosen = range(len(module.scored[domain, split])) if places is None else places
        loader = module.chosen_dataloader(domain, chosen, split)
        return scoring.score(adapted, loader, domain, split, "cpu", False).table

    def normal(adapted: Any) -> np.ndarray:
        return table(adapted, source, "val").query("label == 0")["score"].to_numpy(float)

    label = module.scored[target, "test"]["label"].to_numpy()
    healthy = module.chosen_dataloader(source, range(min(128, len(module.scored[source, REFERENCE]))), REFERENCE)
    log_z: Any = ADAPTERS["log_z"].fit(model, healthy, "cpu")  # type: ignore[call-arg,arg-type]
    for name, adapted in {"log_z": log_z(None).model, "plain of these": model}.items():
        own, found = table(adapted, source, "test"), table(adapted, target, "test")["score"].to_numpy(float)
        of_source = {"source_AUROC": image_metrics(own, {}, NAMES[:1])[NAMES[0]]}
        yield _row(label, name, 0, 0, normal(adapted), found) | of_source
    val, count = normal(model), len(module.scored[target, REFERENCE])
    on_target: Any = ADAPTERS["adabn"].fit(model, healthy, "cpu")  # type: ignore[call-arg,arg-type]
    for k in K[1:]:
        for draw in range(DRAWS):
            chosen = module.chosen_dataloader(target, _drawn(seed, draw, k, count).tolist(), REFERENCE)
            adabn = on_target(chosen)
            found = table(adabn.model, target, "test")["score"].to_numpy(float)
            yield _row(label, "adabn", k, draw, val, found)
            yield _row(label, "adabn+z", k, draw, *_after("z", val, found, adabn.own))


def _drawn(seed: int, draw: int, k: int, maps: int) -> np.ndarray:
    """Places of k of a target's training maps, (k,)."""
    return np.random.default_rng([seed, draw]).permutation(maps)[:k]


def _row(label: np.ndarray, chain: str, k: int, draw: int, val: np.ndarray, test: np.ndarray) -> dict[str, Any]:
    """A row of the result: of scores of the source's healthy validation maps, and of the target's reported ones."""
    own = ADAPTERS[chain.rpartition("+")[2]].thresholds if k else {}
    fitted = {"normal_q99": float(np.quantile(val, QUANTILE)), **own}
    values = image_metrics(pd.DataFrame({"score": test, "label": label}), fitted, NAMES)
    return {"chain": chain, "k": k, "draw": draw, **{name: values[name] for name in NAMES}}


def _after(name: str, val: np.ndarray, test: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the source's validation maps and of the target's reported ones after an adapter of scores."""
    fit: Any = ADAPTERS[name].fit
    return fit(val, val, True)(val), fit(normals, val, True)(test)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per chain and k: means over pairs and draws, mean sd over draws, the worst pair."""
    plain = rows[rows["chain"] == "plain"].set_index("pair")["image_AUROC"]
    rows = rows.assign(gain=rows["image_AUROC"] - rows["pair"].map(plain))
    measured = ["gain", *NAMES]
    of_pair = rows.groupby(["chain", "k", "pair"], sort=False)[measured]
    mean, sd = of_pair.mean().groupby(["chain", "k"], sort=False), of_pair.std().groupby(["chain", "k"], sort=False)
    auroc, false, true = NAMES
    return pd.DataFrame(
        {
            "pairs": mean.size(),
            "better": mean["gain"].agg(lambda gains: (gains > 0).sum()),
            "AUROC": mean[auroc].mean(),
            "gain": mean["gain"].mean(),
            "sd over draws": sd["gain"].mean(),
            "smallest gain": mean["gain"].min(),
            "FPR %": 100 * mean[false].mean(),
            "sd of FPR": 100 * sd[false].mean(),
            "largest FPR %": 100 * mean[false].max(),
            "TPR %": 100 * mean[true].mean(),
        }
    ).reset_index()


def markdown(table: pd.DataFrame) -> str:
    """The summary as Markdown: AUROC to three places, rates to one; empty where there is one draw."""
    digits = {name: 1 if "FPR" in name or "%" in name else 3 for name in table.columns[4:]}

    def cell(name: str, value: Any) -> str:
        if name not in digits:
            return str(value)
        return "" if pd.isna(value) else f"{value:z.{digits[name]}f}"  # z: no -0.000

    rows = [[cell(name, value) for name, value in one.items()] for one in table.to_dict("records")]
    return "\n".join(markdown_table(list(table.columns), rows)) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each pair, and write rows and table after each, so that a stop costs one pair."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of the domains")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file of the table; rows go beside it as CSV")
    parser.add_argument("--cache", type=Path, help="file that keeps features and banks for the next time")
    parser.add_argument("--pairs", type=int, help="how many pairs; all where it is not given")
    parser.add_argument("--network", type=int, default=0, help="how many pairs adabn and log_z run on")
    args = parser.parse_args(argv)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    inner, domains, banks = read(args.data, args.cache)
    file, names, started = args.out.with_suffix(".csv"), list(domains), time.perf_counter()
    rows = pd.read_csv(file).to_dict("records") if file.exists() else list[dict[Any, Any]]()
    pairs = [(source, (source + step) % len(names)) for step in range(1, len(names)) for source in range(len(names))]
    for i, (source, target) in enumerate(pairs[: args.pairs]):  # at any number, all domains have had as many turns
        named = {"pair": f"{names[source]} -> {names[target]}"}
        there = {row["chain"] for row in rows if row["pair"] == named["pair"]}
        bank, of, to = banks[names[source]], domains[names[source]], domains[names[target]]
        if "plain" not in there:
            rows += [named | row for row in pair(inner, bank, of, to, target)]
        if i < args.network and "adabn" not in there:
            rows += [named | row for row in with_network(args.data, bank, names[source], names[target], target)]
        pd.DataFrame(rows).to_csv(file, index=False)
        args.out.write_text(markdown(summary(pd.DataFrame(rows))))
        print(f"{named['pair']}  {time.perf_counter() - started:.0f} s", flush=True)
    print(args.out.read_text())


if __name__ == "__main__":
    main()
