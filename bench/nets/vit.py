"""Vision transformers of timm, as stages; what passes between blocks are tokens (b, 1 + n, d)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mixbench.bench.nets.preactresnet import Pixels
from mixbench.methods import Net

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


class Stem(nn.Module):
    """Images to tokens (b, 1 + n, d): the class token, then the patches, row by row."""

    cls_token: Tensor
    pos_embed: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.patch_embed = model.patch_embed
        self.cls_token, self.pos_embed = model.cls_token, model.pos_embed
        self.after = nn.Sequential(model.pos_drop, model.patch_drop, model.norm_pre)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)], 1)
        out: Tensor = self.after(tokens + self.pos_embed)
        return out


class ClassToken(nn.Module):
    """Tokens (b, 1 + n, d) to the first one, (b, d)."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


def staged(model: "VisionTransformer", mean: Sequence[float], std: Sequence[float]) -> Net:
    """The stages of a model of timm: pixels, stem, block1, block2, ..., pool, head.

    They share its modules. Raises ValueError if it is not one whose class token, with a learned
    position as all tokens, is what is classified.
    """
    _check(model)
    blocks = {f"block{i + 1}": block for i, block in enumerate(model.blocks)}
    return Net(
        pixels=Pixels(mean, std),
        stem=Stem(model),
        **blocks,
        pool=nn.Sequential(ClassToken(), model.norm, model.fc_norm, model.head_drop),
        head=model.head,
    )


def _check(model: Any) -> None:
    wanted = {
        "a class token": model.cls_token is not None,
        "no register tokens": model.reg_token is None,
        "the class token as its embedding": model.global_pool == "token",
        "a learned position of every token": model.pos_embed is not None
        and not model.no_embed_class,
        "images of one size": not model.dynamic_img_size,
    }
    missing = [want for want, there in wanted.items() if not there]
    if missing:
        raise ValueError(f"a vision transformer should have {', '.join(missing)}")


def smallvit(classes: int, size: int, mean: Sequence[float], std: Sequence[float]) -> Net:
    """A narrow one for small images of side ``size``: patches of 2 x 2, four blocks, d = 64."""
    from timm.models.vision_transformer import VisionTransformer  # takes seconds

    model: Any = VisionTransformer(
        img_size=size,
        patch_size=2,
        num_classes=classes,
        embed_dim=64,
        depth=4,
        num_heads=4,
        mlp_ratio=2,
    )
    nn.init.trunc_normal_(model.pos_embed, std=0.5)  # else short trainings don't find it
    return staged(model, mean, std)
