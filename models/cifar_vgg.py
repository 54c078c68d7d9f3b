"""VGG-16 and VGG-19 for 32x32 images: BatchNorm after every convolution, and one linear layer.

Sources: Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015, table 1, columns D and E; for small
images Liu et al., Network Slimming, ICCV 2017, section 4.2, and for `vgg19_two_pools` Qiao et al., Neural Rejuvenation,
CVPR 2019, section 4.4. `--arch models/cifar_vgg.py:vgg19`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

STAGE_CHANNELS = (64, 128, 256, 512, 512)


class CifarVGG(nn.Module):
    """3x3 convolutions with BatchNorm and ReLU, pooling between some of them, the mean over the map, a linear layer.

    Args:
        convolutions: how many of each of the widths 64, 128, 256, 512 and 512.
        pools: the numbers of the convolutions, counted from 1, after which the image is halved.
        num_classes: number of classes.
        in_chans: channels of the images.
        width: the share of these widths that the convolutions have, above 0.
    """

    def __init__(
        self,
        convolutions: tuple[int, ...],
        pools: tuple[int, ...],
        num_classes: int = 10,
        in_chans: int = 3,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        stages = [round(channels * width) for channels in STAGE_CHANNELS]
        self.num_classes = num_classes
        self.num_features = stages[-1]
        self.pretrained_cfg = {
            "num_classes": num_classes,
            "input_size": (in_chans, 32, 32),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "classifier": "linear",
            "first_conv": "features.0",
        }
        widths = [channels for channels, count in zip(stages, convolutions, strict=True) for _ in range(count)]
        layers: list[nn.Module] = []
        for number, channels in enumerate(widths, start=1):
            convolution = nn.Conv2d(in_chans, channels, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            layers += [convolution, nn.BatchNorm2d(channels), nn.ReLU()]
            if number in pools:
                layers.append(nn.MaxPool2d(2))
            in_chans = channels
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(self.num_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.flatten(functional.adaptive_avg_pool2d(self.features(x), 1), 1))


def vgg16(num_classes: int = 10, in_chans: int = 3, width: float = 1.0) -> CifarVGG:
    """VGG-16, 14.7 million parameters."""
    return CifarVGG((2, 2, 3, 3, 3), (2, 4, 7, 10), num_classes, in_chans, width)


def vgg19(num_classes: int = 10, in_chans: int = 3, width: float = 1.0) -> CifarVGG:
    """VGG-19, 20.0 million parameters."""
    return CifarVGG((2, 2, 4, 4, 4), (2, 4, 8, 12), num_classes, in_chans, width)


def vgg19_two_pools(num_classes: int = 10, in_chans: int = 3, width: float = 1.0) -> CifarVGG:
    """VGG-19 of Neural Rejuvenation, pooled after the fourth and the tenth convolution only; as many parameters."""
    return CifarVGG((2, 2, 4, 4, 4), (4, 10), num_classes, in_chans, width)
