"""A small MLP-mixer (Tolstikhin et al., 2021). Perceptrons mix the features across patches and across channels."""

from torch import Tensor, nn

from retrain.config.frame import Shape, as_frame
from retrain.models.resnets import check_counts


class MixerBlock(nn.Module):
    """Two residual perceptrons, one across patches and one across channels.

    Input and output are [N, patches, width].
    """

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.across_patches = _perceptron(patches, width)
        self.norm2 = nn.LayerNorm(width)
        self.across_channels = _perceptron(width, 2 * width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Add the output of each perceptron to its input."""
        tokens = tokens + self.across_patches(self.norm1(tokens).transpose(1, 2)).transpose(1, 2)
        mixed: Tensor = tokens + self.across_channels(self.norm2(tokens))
        return mixed


class Mixer(nn.Module):
    """An MLP-mixer: [N, 3, height, width] -> [N, classes] logits."""

    def __init__(self, classes: int, image_size: Shape, width: int, depth: int, patch: int) -> None:
        super().__init__()
        frame = as_frame(image_size)
        if frame.height % patch or frame.width % patch:
            raise ValueError(f"patch {patch} does not divide image_size {image_size}: set model.options.patch")
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.Sequential(*(MixerBlock(frame.height * frame.width // patch**2, width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return logits


def mixer(classes: int, image_size: Shape, width: int = 64, depth: int = 4, patch: int = 4) -> Mixer:
    """Return an MLP-mixer. `width` is the number of channels of each patch, and `patch` is its side in pixels."""
    check_counts(width=width, depth=depth, patch=patch)
    return Mixer(classes, image_size, width, depth, patch)


def _perceptron(size: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, size))
