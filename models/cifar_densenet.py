"""DenseNets for 32x32 images, without bottlenecks and without compression.

Source: Huang et al., Densely Connected Convolutional Networks, CVPR 2017, sections 3 and 4.1.
`--arch models/cifar_densenet.py:densenet40`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

STEM_CHANNELS = 16
BLOCKS = 3


class DenseLayer(nn.Module):
    """BatchNorm, ReLU and a 3x3 convolution, whose channels are put behind those of the input.

    Args:
        in_channels: channels of the input.
        growth: k, channels that are added.
    """

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.conv(functional.relu(self.bn(x)))), 1)


class Transition(nn.Module):
    """BatchNorm, ReLU, a 1x1 convolution that keeps the number of channels, and the mean of every 2x2 pixels.

    Args:
        channels: of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(self.conv(functional.relu(self.bn(x))), 2)


class CifarDenseNet(nn.Module):
    """A DenseNet of depth 3n+4: one convolution, three blocks of n layers, transitions between them, a linear layer.

    Args:
        layers: n, the number of layers a block.
        growth: k, channels that every layer adds.
        num_classes: number of classes.
        in_chans: channels of the images.
    """

    def __init__(self, layers: int, growth: int = 12, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.pretrained_cfg = {
            "num_classes": num_classes,
            "input_size": (in_chans, 32, 32),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "classifier": "linear",
            "first_conv": "features.0",
        }
        channels = STEM_CHANNELS
        features: list[nn.Module] = [nn.Conv2d(in_chans, channels, 3, padding=1, bias=False)]
        for block in range(BLOCKS):
            if block:
                features.append(Transition(channels))
            features += [DenseLayer(channels + index * growth, growth) for index in range(layers)]
            channels += layers * growth
        self.features = nn.Sequential(*features)
        self.bn = nn.BatchNorm2d(channels)
        self.num_features = channels
        self.linear = nn.Linear(channels, num_classes)
        self.apply(_initialize)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn(self.features(x)))
        return self.linear(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


def _initialize(module: nn.Module) -> None:
    """He's normal weights for convolutions, and no bias of the linear layer (section 4.2)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def densenet40(num_classes: int = 10, in_chans: int = 3) -> CifarDenseNet:
    """DenseNet-40 with k = 12, 1.0 million parameters."""
    return CifarDenseNet(12, 12, num_classes, in_chans)


def densenet100(num_classes: int = 10, in_chans: int = 3) -> CifarDenseNet:
    """DenseNet-100 with k = 12, 7.0 million parameters."""
    return CifarDenseNet(32, 12, num_classes, in_chans)
