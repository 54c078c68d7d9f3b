"""ResNets for 32x32 images with zero-padded identity shortcuts.

Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2 with shortcuts of option A. The
names of the parameters are those of the checkpoints by Idelbayev (2018), so that these load as they are:
`--arch models/cifar_resnet.py:resnet20`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

STAGE_CHANNELS = (16, 32, 64)


def _pretrained_cfg(num_classes: int, in_chans: int) -> dict[str, Any]:
    """What `timm.data.resolve_data_config` wants to know: whole 32x32 images, normalized by ImageNet's statistics."""
    return {
        "num_classes": num_classes,
        "input_size": (in_chans, 32, 32),
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "classifier": "linear",
        "first_conv": "conv1",
    }


class ZeroPadShortcut(nn.Module):
    """The identity between two stages: every second pixel, and zeros on both sides of the channels (option A).

    Args:
        added: number of zero channels, half of them before and half after the old ones.
    """

    def __init__(self, added: int) -> None:
        super().__init__()
        self.before = added // 2
        self.after = added - added // 2

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside an identity shortcut.

    Args:
        in_channels: channels of the input.
        channels: channels of the output; where it is larger the image is halved.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        grows = channels != in_channels
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=2 if grows else 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = ZeroPadShortcut(channels - in_channels) if grows else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """A ResNet of depth 6n+2: one convolution, three stages of n blocks with 16, 32 and 64 channels, one linear layer.

    Args:
        blocks: n, the number of blocks a stage.
        num_classes: number of classes.
        in_chans: channels of the images.
    """

    def __init__(self, blocks: int, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        first, second, third = STAGE_CHANNELS
        self.num_classes = num_classes
        self.num_features = third
        self.pretrained_cfg = _pretrained_cfg(num_classes, in_chans)
        self.conv1 = nn.Conv2d(in_chans, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(blocks, first, first)
        self.layer2 = _stage(blocks, first, second)
        self.layer3 = _stage(blocks, second, third)
        self.linear = nn.Linear(third, num_classes)
        self.apply(_initialize)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


def _stage(blocks: int, in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(*(BasicBlock(channels if index else in_channels, channels) for index in range(blocks)))


def _initialize(module: nn.Module) -> None:
    """Normal weights of variance 2/fan-in for what a ReLU follows (He et al., Delving Deep into Rectifiers, 2015)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def resnet20(num_classes: int = 10, in_chans: int = 3) -> CifarResNet:
    """ResNet-20, 0.27 million parameters."""
    return CifarResNet(3, num_classes, in_chans)


def resnet32(num_classes: int = 10, in_chans: int = 3) -> CifarResNet:
    """ResNet-32, 0.46 million parameters."""
    return CifarResNet(5, num_classes, in_chans)


def resnet44(num_classes: int = 10, in_chans: int = 3) -> CifarResNet:
    """ResNet-44, 0.66 million parameters."""
    return CifarResNet(7, num_classes, in_chans)


def resnet56(num_classes: int = 10, in_chans: int = 3) -> CifarResNet:
    """ResNet-56, 0.85 million parameters."""
    return CifarResNet(9, num_classes, in_chans)


def resnet110(num_classes: int = 10, in_chans: int = 3) -> CifarResNet:
    """ResNet-110, 1.7 million parameters."""
    return CifarResNet(18, num_classes, in_chans)


def resnet182(num_classes: int = 10, in_chans: int = 3) -> CifarResNet:
    """ResNet-182, 2.9 million parameters."""
    return CifarResNet(30, num_classes, in_chans)
