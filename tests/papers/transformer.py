"""A small vision transformer in numpy: two blocks of attention, of a class token and 16 patches."""

from math import sqrt

import numpy as np
from scipy.special import erf

from papers.network import Array, Network, softmax

PATCH, HEADS, BLOCKS = 2, 2, ("block1", "block2")
STAGES = ("pixels", "stem", *BLOCKS, "pool", "head")


class Transformer(Network):
    """The transformer with these weights, by name; what leaves the blocks are tokens (b, 1 + n, d).

    The first token is that of the class, the others are patches, row by row.
    """

    def below(self, stage: str, x: Array) -> Array:
        for name in STAGES[: STAGES.index(stage) + 1]:
            x = self.pass_through(name, x)
        return x

    def above(self, stage: str | None, z: Array) -> Array:
        for name in STAGES[STAGES.index(stage) + 1 if stage else 0 :]:
            z = self.pass_through(name, z)
        return z

    def pass_through(self, stage: str, z: Array) -> Array:
        if stage == "stem":
            return self.tokens(z)
        if stage == "pool":
            return self.normalised("pool.1", z[:, 0])
        if stage not in BLOCKS:
            return super().pass_through(stage, z)
        z = z + self.attended(stage, z)
        hidden = gelu(self.linear(f"{stage}.mlp.fc1", self.normalised(f"{stage}.norm2", z)))
        out: Array = z + self.linear(f"{stage}.mlp.fc2", hidden)
        return out

    def tokens(self, z: Array) -> Array:
        """Pixels (b, 3, h, w) to tokens, with their positions."""
        b, _, h, w = z.shape
        kernel = self.weights["stem.patch_embed.proj.weight"]  # d 3 patch patch
        bias = self.weights["stem.patch_embed.proj.bias"]
        tokens = [np.tile(self.weights["stem.cls_token"][0, 0], (b, 1))]
        for i in range(0, h, PATCH):
            for j in range(0, w, PATCH):
                patch = z[:, :, i : i + PATCH, j : j + PATCH]
                tokens.append(np.einsum("bcij,dcij->bd", patch, kernel) + bias)
        out: Array = np.stack(tokens, 1) + self.weights["stem.pos_embed"]
        return out

    def attended(self, block: str, z: Array) -> Array:
        """What the tokens that enter a block gather from each other."""
        _, _, values = self.queries_keys_values(block, z)
        gathered = [
            weights @ v for weights, v in zip(self.attention(block, z), values, strict=True)
        ]
        return self.linear(f"{block}.attn.proj", np.concatenate(gathered, -1))

    def attention(self, block: str, z: Array) -> Array:
        """How much each of the tokens that enter a block attends to each, (heads, b, 1 + n, 1 + n)."""
        queries, keys, _ = self.queries_keys_values(block, z)
        scores = [q @ k.swapaxes(1, 2) for q, k in zip(queries, keys, strict=True)]
        return softmax(np.stack(scores) / sqrt(queries[0].shape[-1]))

    def queries_keys_values(self, block: str, z: Array) -> list[list[Array]]:
        """Those of each head, (b, 1 + n, d / heads)."""
        every = self.linear(f"{block}.attn.qkv", self.normalised(f"{block}.norm1", z))
        return [np.split(part, HEADS, -1) for part in np.split(every, 3, -1)]

    def class_attention(self, x: Array) -> Array:
        """How much the class token attends to the patches of images in the last block, (b, n).

        A mean over heads; rows sum to less than one by what it attends to itself.
        """
        *_, before, last = BLOCKS
        a: Array = self.attention(last, self.below(before, x))[:, :, 0, 1:].mean(0)
        return a

    def normalised(self, stage: str, z: Array) -> Array:
        """Layer norm, by the mean and the variance of each token."""
        centred = z - z.mean(-1, keepdims=True)
        scaled: Array = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return scaled * self.weights[f"{stage}.weight"] + self.weights[f"{stage}.bias"]

    def linear(self, layer: str, z: Array) -> Array:
        out: Array = z @ self.weights[f"{layer}.weight"].T + self.weights[f"{layer}.bias"]
        return out


def gelu(v: Array) -> Array:
    """v times the probability that a standard normal variable is below it."""
    out: Array = v * (1 + erf(v / sqrt(2))) / 2
    return out
