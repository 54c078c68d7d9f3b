"""The coupling graph of every architecture of timm and torchvision, proven by permutation."""

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
from torchvision.models import list_models

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import zoo_catalogue
import zoo_worker

FAMILIES = """
test_resnet test_byobnet starnet_s050 test_vit test_mambaout resnetv2_18 test_coatnet ese_vovnet19b_slim_dw
test_convnext test_efficientnet legacy_seresnet18 lcnetv2_small resnest14d cs3darknet_focus_s
inception_next_atto cspnext_tiny mobilenetv3_small_050 hardcorenas_b test_nfnet test_vit_relpos
deit_tiny_patch16_224 fasternet_t0 cpubone_nano visformer_tiny regnetx_002 hgnetv2_b0 vit_tiny_r_s16_p8_224
skresnet18 edgenext_xx_small efficientvit_b0 pvt_v2_b0 dla46x_c poolformerv2_s12 pit_ti_224 swiftformer_xs
focalnet_tiny_srf iformer_t mobilevit_xxs ghostnet_050 fastvit_t8
efficientvim_m1 gmlp_ti16_224 vit_tiny_patch16_dinov3_qkvb efficientformerv2_s0 swin_tiny_patch4_window7_224
swinv2_tiny_window16_256 convit_tiny hiera_tiny_224 xcit_nano_12_p8_224 repvit_m1 levit_128s
hrnet_w18_small
torchvision:squeezenet1_1 torchvision:shufflenet_v2_x0_5 torchvision:mnasnet0_5 torchvision:mobilenet_v3_small
torchvision:lraspp_mobilenet_v3_large torchvision:ssdlite320_mobilenet_v3_large torchvision:swin_t
torchvision:googlenet
""".split()
"""The smallest architectures of families that take a second or so to trace and prove."""

FREE = {"vit_tiny_patch16_dinov3_qkvb": 0.71, "gmlp_ti16_224": 0.96}
"""Least share of free output channels where mathematics leaves less than 99 %: rotary queries, keys; token mixing."""

EVERYTHING = (*timm.list_models(), *(zoo_catalogue.TORCHVISION + name for name in list_models()))


def examine(name: str, parameters: int) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return zoo_worker.examine(zoo_catalogue.Entry(name, "", parameters))


@pytest.mark.parametrize("name", FAMILIES)
def test_smallest_member_of_a_family_is_proven(name: str) -> None:
    row = examine(name, parameters=0)
    assert row["status"] == "proven", row["message"]
    free, counted = (sum(counts) for counts in zip(row["convolution"], row["linear"], strict=True))
    assert free >= FREE.get(name, 0.99) * counted, row["reasons"]


@pytest.mark.zoo
@pytest.mark.parametrize("name", EVERYTHING)
def test_architecture_is_proven_or_too_large(name: str) -> None:
    row = examine(name, zoo_catalogue.count_parameters(name))
    assert row["status"] in ("proven", "traced only"), row["message"]
