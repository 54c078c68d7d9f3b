"""The plain convolutional networks C^n(32) for 32x32 images: n convolutions of 32 filters, and one linear layer.

Source: Prakash et al., RePr: Improved Training of Convolutional Filters, CVPR 2019, section 4 and table 4.
`--arch models/cifar_plain.py:c3_32`.
"""

import torch
from torch import Tensor, nn


class PlainNet(nn.Module):
    """Convolutions of one width, each with BatchNorm and ReLU, and a linear layer that reads the whole map.

    Args:
        layers: n, the number of convolutions.
        channels: filters of each.
        num_classes: number of classes.
        in_chans: channels of the images.
        drop_rate: probability of dropout before the linear layer, in [0, 1); figure 7 has 0.5.
    """

    def __init__(
        self, layers: int, channels: int = 32, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_features = channels * 32 * 32
        self.pretrained_cfg = {
            "num_classes": num_classes,
            "input_size": (in_chans, 32, 32),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "classifier": "linear",
            "first_conv": "layers.0.conv",
        }
        self.layers = nn.Sequential(*(_layer(in_chans if not index else channels, channels) for index in range(layers)))
        self.dropout = nn.Dropout(drop_rate)
        self.linear = nn.Linear(self.num_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.dropout(torch.flatten(self.layers(x), 1)))


def _layer(in_channels: int, channels: int) -> nn.Sequential:
    # Table 4 counts 20, 66, 113 and 159 thousand parameters without the linear layer. Neither convolutions alone nor
    # such with either a bias or BatchNorm have that many; with both they do.
    layer = nn.Sequential()
    layer.add_module("conv", nn.Conv2d(in_channels, channels, 3, padding=1))
    layer.add_module("bn", nn.BatchNorm2d(channels))
    layer.add_module("act", nn.ReLU())
    nn.init.kaiming_normal_(layer.conv.weight, nonlinearity="relu")
    return layer


def c3_32(num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0) -> PlainNet:
    """C^3(32), 20 thousand parameters beside those of the linear layer."""
    return PlainNet(3, 32, num_classes, in_chans, drop_rate)


def c8_32(num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0) -> PlainNet:
    """C^8(32), 66 thousand parameters beside those of the linear layer."""
    return PlainNet(8, 32, num_classes, in_chans, drop_rate)


def c13_32(num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0) -> PlainNet:
    """C^13(32), 113 thousand parameters beside those of the linear layer."""
    return PlainNet(13, 32, num_classes, in_chans, drop_rate)


def c18_32(num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0) -> PlainNet:
    """C^18(32), 159 thousand parameters beside those of the linear layer."""
    return PlainNet(18, 32, num_classes, in_chans, drop_rate)
