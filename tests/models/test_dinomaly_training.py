"""Dinomaly's loss over the worst places and its dropout of rows and keys: by hand, and off unless asked for."""

import pytest
import torch
from anomalib.models.image.dinomaly.components.layers import LinearAttention
from torch.nn.functional import cosine_similarity

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models import builder
from hdmap_mlflow.models.own.dinomaly import RowDropout, TopLoss, drop_keys
from hdmap_mlflow.runs import setup


def test_the_loss_is_the_mean_over_the_worst_places_of_each_map():
    generator = torch.Generator().manual_seed(0)
    own, made = (torch.randn(2, 5, 4, 5, generator=generator) for _ in range(2))
    apart = 1 - cosine_similarity(own, made).flatten(1)
    worst = apart.sort(dim=1, descending=True).values[:, :5]
    assert TopLoss(0.25)([own, own], [made, made], 0).item() == pytest.approx(worst.mean().item())
    assert TopLoss(1.0)([own], [made], 0).item() == pytest.approx(apart.mean().item())
    assert TopLoss(1e-9)([own], [made], 0).item() == pytest.approx(apart.amax(dim=1).mean().item())
    made.requires_grad_()
    TopLoss(0.25)([own], [made], 0).backward()
    touched = made.grad.abs().sum(dim=1).flatten(1) > 0
    assert touched.sum(dim=1).tolist() == [5, 5]


def test_rows_are_dropped_whole_and_other_tokens_never():
    rows = RowDropout(0.5)
    rows.grid = (40, 3)
    tokens = torch.ones(4, 5 + 120, 2)
    torch.manual_seed(0)
    found = rows.train()(tokens)
    assert torch.equal(found[:, :5], tokens[:, :5])
    patches = found[:, 5:].reshape(4, 40, 3 * 2)
    assert (patches == patches[..., :1]).all() and set(patches.unique().tolist()) == {0.0, 2.0}
    assert 0.3 < float((patches == 0).float().mean()) < 0.7
    assert torch.equal(rows.eval()(tokens), tokens)


def test_a_token_without_a_key_is_not_seen_by_attention():
    torch.manual_seed(0)
    attention = LinearAttention(8, num_heads=2).train()
    tokens = torch.randn(1, 6, 8)
    seen = []

    def kept(layer, given, made):
        out = drop_keys(0.5, layer, given, made)
        seen.append(~out.chunk(3, dim=-1)[1].isinf().all(dim=-1)[0])
        return out

    attention.qkv.register_forward_hook(kept)
    found = attention(tokens)[0]
    [mask] = seen
    assert 0 < int(mask.sum()) < 6 and found.isfinite().all()
    changed = tokens.clone()
    changed[:, ~mask] += 5
    torch.manual_seed(0)
    LinearAttention(8, num_heads=2), torch.randn(1, 6, 8)  # the same draws again
    again = attention(changed)[0]
    torch.testing.assert_close(again[:, mask], found[:, mask])
    found.sum().backward()
    assert all(part.grad.isfinite().all() for part in attention.parameters() if part.grad is not None)
    assert torch.equal(attention.eval()(tokens)[0], attention(tokens)[0])


def configured(more=""):
    size = "data.image_size=[56,70],model.weights=random,model.encoder_name=vit_small_patch14_dinov2"
    return setup.configure("dinomaly", "baseline", overrides=f"{size}{more}")


def test_all_are_off_unless_asked_for_and_then_a_step_trains():
    plain = builder.build(configured())
    assert len(plain.model.bottleneck) == 1 and type(plain.model.loss_fn).__name__ == "CosineHardMiningLoss"
    assert not plain.model._forward_pre_hooks
    torch.manual_seed(0)
    model = builder.build(configured(",model.topk_ratio=0.1,model.row_dropout=0.4,model.kv_dropout=0.4"))
    assert model.state_dict().keys() == plain.state_dict().keys()
    images = torch.rand(2, 3, 56, 70, generator=torch.Generator().manual_seed(0))
    losses = [model.train().model(images, global_step=1) for _ in range(2)]
    assert losses[0] != losses[1], "what is dropped is drawn anew"
    assert model.model.bottleneck[1].grid == (4, 5)
    losses[0].backward()
    assert all(part.grad.isfinite().all() for part in model.model.decoder.parameters() if part.grad is not None)
    scores = [model.eval().model(images).pred_score for _ in range(2)]
    assert torch.equal(*scores) and scores[0].isfinite().all()


@pytest.mark.parametrize(
    "given", ["topk_ratio=0", "topk_ratio=1.5", "row_dropout=1", "kv_dropout=-0.1", "row_dropout=.nan"]
)
def test_shares_that_cannot_be_are_refused_before_anything_is_built(given):
    with pytest.raises(BadInput, match=f"model.{given.partition('=')[0]}"):
        configured(f",model.{given}")
