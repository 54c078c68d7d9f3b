"""Which network a checkpoint belongs to: by --arch, header, config.json or the file's name, in this order."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm

from surgeon.checkpoint import Architecture, Checkpoint, find_architecture
from surgeon.errors import ArchitectureError

MODELS = Path(__file__).resolve().parents[1] / "models" / "cifar_resnet.py"


def _checkpoint(path: str | Path, metadata: dict[str, str] | None = None) -> Checkpoint:
    return Checkpoint(Path(path), {}, metadata or {}, "0" * 64)


def _refusal(checkpoint: Checkpoint, arch: str | None = None) -> ArchitectureError:
    with pytest.raises(ArchitectureError) as caught:
        find_architecture(checkpoint, arch)
    return caught.value


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("resnet50.safetensors", "resnet50"),
        ("resnet50-sofm.safetensors", "resnet50"),
        ("resnet50_a1_0-14fe96d1.pth", "resnet50"),
        ("resnet50.a1_in1k.safetensors", "resnet50"),
        ("resnet50.pth.tar", "resnet50"),
        # resnet50 begins these too, but the longer name goes up to a separator or to the end.
        ("resnet50d_ra2-464e36ba.pth", "resnet50d"),
        ("resnet50_gn-mine.pth", "resnet50_gn"),
        ("resnet50_gn.pth", "resnet50_gn"),
        ("vgg16_bn.pth", "vgg16_bn"),
        ("vgg16-397923af.pth", "vgg16"),
        ("mobilenetv3_large_100_miil.pth", "mobilenetv3_large_100"),
        ("tf_efficientnet_b0_ns-c0e6a31c.pth", "tf_efficientnet_b0"),
    ],
)
def test_file_names(name: str, found: str) -> None:
    assert find_architecture(_checkpoint(name), None) == Architecture("timm", found)


@pytest.mark.parametrize("name", timm.list_models()[::25])
def test_the_name_of_every_timm_model_stands_for_itself(name: str) -> None:
    assert find_architecture(_checkpoint(f"{name}.safetensors"), None).name == name
    assert find_architecture(_checkpoint(f"{name}-sofm.safetensors"), None).name == name


@pytest.mark.parametrize(
    ("name", "candidates"),
    [
        # resnet50_mlp goes on without a separator, so the file may be of either.
        ("resnet50_mlperf.pth", ("resnet50", "resnet50_mlp")),
        ("resnet50best.pth", ("resnet50",)),
        ("resnet18d2.pth", ("resnet18", "resnet18d")),
    ],
)
def test_ambiguous_file_names_list_the_candidates(name: str, candidates: tuple[str, ...]) -> None:
    error = _refusal(_checkpoint(name))
    assert name in error.problem
    assert "--arch" in error.remedy
    for candidate in candidates:
        assert candidate in str(error)


@pytest.mark.parametrize("name", ["checkpoint.pth", "resnet20-12fca82f.th", "model_best.pth.tar", "my-resnet50.pt"])
def test_file_names_that_say_nothing(name: str) -> None:
    error = _refusal(_checkpoint(name))
    assert name in error.problem
    assert "--arch" in error.remedy


def test_the_header_goes_before_the_name() -> None:
    metadata = {"architecture": "vgg11", "architecture_args": '{"num_classes": 7, "global_pool": "max"}'}
    found = find_architecture(_checkpoint("resnet18.safetensors", metadata), None)
    assert found == Architecture("timm", "vgg11", {"num_classes": 7, "global_pool": "max"})


def test_a_header_may_name_a_torchvision_network() -> None:
    found = find_architecture(_checkpoint("x.safetensors", {"architecture": "torchvision:alexnet"}), None)
    assert found == Architecture("torchvision", "alexnet")


def test_a_file_named_by_a_header_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(f"open({str(tmp_path / 'harm')!r}, 'w')\n")
    error = _refusal(_checkpoint(tmp_path / "resnet18.safetensors", {"architecture": f"{file}:net"}))
    assert "--arch" in error.remedy
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        "not json",
        "[1]",
        '{"pretrained": true}',
        '{"checkpoint_path": "/etc/passwd"}',
        '{"weights": "DEFAULT"}',
        '{"weights_backbone": "DEFAULT"}',
        '{"cache_dir": "x"}',
        '{"a b": 1}',
        '{"pretrained_cfg_overlay": {"url": "http://x"}}',
        "[" * 100_000,
    ],
)
def test_header_arguments_that_are_refused(arguments: str) -> None:
    _refusal(_checkpoint("x.safetensors", {"architecture": "resnet18", "architecture_args": arguments}))


@pytest.mark.parametrize(
    "name", ["no_such_net", "hf-hub:timm/resnet18", "local-dir:/tmp", "torchvision:nope", "\x1b[31m"]
)
def test_unknown_names_in_the_header(name: str) -> None:
    error = _refusal(_checkpoint("resnet18.safetensors", {"architecture": name}))
    assert "\x1b" not in str(error)


@pytest.mark.parametrize("tag", ["a" * 100_000, "new\nline\x1b[2J", "a1_in1kk"])
def test_an_unknown_tag_is_refused_in_one_short_line(tag: str) -> None:
    problem = _refusal(_checkpoint("x.safetensors", {"architecture": f"resnet18.{tag}"})).problem
    assert problem.startswith("timm has no network named")
    assert problem.isprintable()
    assert len(problem) < 300


def _config(tmp_path: Path, config: Any) -> Path:
    (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return tmp_path / "model.safetensors"


def test_config_json_of_the_timm_layout(tmp_path: Path) -> None:
    path = _config(
        tmp_path,
        {
            "architecture": "resnet26d",
            "num_classes": 5,
            "model_args": {"in_chans": 1},
            "pretrained_cfg": {"mean": [0.5], "input_size": [1, 96, 96], "url": "http://x", "crop_pct": None},
        },
    )
    assert find_architecture(_checkpoint(path), None) == Architecture(
        "timm",
        "resnet26d",
        {
            "num_classes": 5,
            "in_chans": 1,
            "pretrained_cfg_overlay": {"mean": [0.5], "input_size": [1, 96, 96]},
        },
    )


def test_config_json_of_the_old_flat_layout(tmp_path: Path) -> None:
    path = _config(tmp_path, {"architecture": "resnet26d", "num_classes": 5, "std": [1, 1, 1]})
    arguments = find_architecture(_checkpoint(path), None).arguments
    assert arguments == {"num_classes": 5, "pretrained_cfg_overlay": {"std": [1, 1, 1]}}


def test_the_header_goes_before_config_json_and_that_before_the_name(tmp_path: Path) -> None:
    path = _config(tmp_path, {"architecture": "resnet26d"}).with_name("vgg11.safetensors")
    assert find_architecture(_checkpoint(path), None).name == "resnet26d"
    assert find_architecture(_checkpoint(path, {"architecture": "resnet18"}), None).name == "resnet18"


def test_a_config_of_another_library_is_passed_over(tmp_path: Path) -> None:
    path = _config(tmp_path, {"architectures": ["ResNetForImageClassification"]}).with_name("resnet18.safetensors")
    assert find_architecture(_checkpoint(path), None).name == "resnet18"


@pytest.mark.parametrize(
    "config",
    ["{", "[]", {"architecture": 3}, {"architecture": "x.py:net"}, {"architecture": "resnet18", "model_args": 3}],
)
def test_broken_configs(tmp_path: Path, config: Any) -> None:
    _refusal(_checkpoint(_config(tmp_path, config)))


def test_arch_goes_before_everything(tmp_path: Path) -> None:
    path = _config(tmp_path, "{ broken")
    found = find_architecture(_checkpoint(path, {"architecture": "vgg11", "architecture_args": "{"}), "resnet18")
    assert found == Architecture("timm", "resnet18")


def test_arch_takes_the_headers_arguments_where_both_name_the_same_network() -> None:
    metadata = {"architecture": "resnet18", "architecture_args": '{"in_chans": 1}'}
    checkpoint = _checkpoint("x.safetensors", metadata)
    assert find_architecture(checkpoint, "resnet18").arguments == {"in_chans": 1}
    assert find_architecture(checkpoint, "resnet34").arguments == {}


def test_arch_takes_the_headers_arguments_of_a_file_wherever_it_lies() -> None:
    metadata = {"architecture": "cifar_resnet.py:resnet20", "architecture_args": '{"in_chans": 1}'}
    found = find_architecture(_checkpoint("x.safetensors", metadata), f"{MODELS}:resnet20")
    assert found == Architecture("file", f"{MODELS}:resnet20", {"in_chans": 1})


@pytest.mark.parametrize("arch", ["resnet50", "resnet50.a1_in1k", "torchvision:resnet50", f"{MODELS}:resnet20"])
def test_str_gives_back_the_spelling_of_arch(arch: str) -> None:
    assert str(find_architecture(_checkpoint("x.pth"), arch)) == arch


@pytest.mark.parametrize(
    ("arch", "hint"),
    [
        ("resnet5", "resnet50"),
        ("torchvision:resnet5", "resnet50"),
        ("torchvision:", ""),
        ("nets.py", "nets.py:"),
        ("no/such/nets.py:net", "no/such/nets.py"),
        (f"{MODELS}:", ""),
        (f"{MODELS}:a.b", ""),
        ("", ""),
        ("hf-hub:timm/resnet18", ""),
    ],
)
def test_unknown_arch(arch: str, hint: str) -> None:
    assert hint in str(_refusal(_checkpoint("resnet18.pth"), arch))


@pytest.mark.parametrize(
    ("file", "name"),
    [("vit_b_16-c867db91.pth", "vit_b_16"), ("mnasnet1_0-3ffb-7.pth", "mnasnet1_0"), ("wide_resnet50_2x.pth", None)],
)
def test_a_name_of_torchvisions_is_suggested(file: str, name: str | None) -> None:
    remedy = _refusal(_checkpoint(file)).remedy
    assert (f"--arch torchvision:{name}." in remedy) if name else ("torchvision:NAME" in remedy)
