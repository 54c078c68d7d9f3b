"""Whole files whose header, or the config.json beside them, describes a network that is absurd, foreign or code."""

import json
from collections.abc import Iterator
from typing import Any

from hostile_case import ARCH, CLASSES, Case, Outcome, text, whole_file, with_config, writes

RESNET, VIT, SWIN = "test_resnet", "test_vit", "swin_tiny_patch4_window7_224"

ARGUMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "a million million classes": (ARCH, {"num_classes": 10**12}),
    "ten million classes": (ARCH, {"num_classes": 10**7}),
    "a hundred million classes": (RESNET, {"num_classes": 10**8}),
    "classes beyond 64 bits": (ARCH, {"num_classes": 10**30}),
    "negative classes": (ARCH, {"num_classes": -1}),
    "classes as text": (ARCH, {"num_classes": "3"}),
    "classes as a list": (ARCH, {"num_classes": [3]}),
    "classes as a number with a point": (ARCH, {"num_classes": 3.5}),
    "infinite classes": (ARCH, {"num_classes": float("inf")}),
    "negative input channels": (ARCH, {"in_chans": -3}),
    "no input channels": (ARCH, {"in_chans": 0}),
    "a million million input channels": (ARCH, {"in_chans": 10**12}),
    "a hundred million input channels": (ARCH, {"in_chans": 10**8}),
    "images of a million pixels a side": (VIT, {"img_size": 1_000_000}),
    "images of ten thousand pixels a side": (VIT, {"img_size": 10_000}),
    "windows over a million pixels": (SWIN, {"img_size": 1_000_000}),
    "windows over ten thousand pixels": (SWIN, {"img_size": 9_996}),
    "windows over a list": (SWIN, {"img_size": [5_000, 5_000]}),
    "a window of ten thousand": (SWIN, {"window_size": 10_000}),
    "negative image size": (VIT, {"img_size": -224}),
    "patches of nothing": (VIT, {"patch_size": 0}),
    "a thousand million blocks": (VIT, {"depth": 10**9}),
    "ten thousand blocks": (VIT, {"depth": 10_000}),
    "a thousand million layers": (RESNET, {"layers": [10**9, 1, 1, 1]}),
    "ten thousand layers": (RESNET, {"layers": [9_999, 9_999, 9_999, 9_999]}),
    "ten thousand stages": (RESNET, {"layers": [1] * 10_000, "channels": [8] * 10_000}),
    "a million channels": (RESNET, {"channels": [10**6, 10**6, 10**6, 10**6]}),
    "wide beyond everything": (VIT, {"embed_dim": 9_984, "depth": 500}),
    "no heads": (VIT, {"num_heads": 0}),
    "ratio of a million": (VIT, {"mlp_ratio": 1e6}),
    "ratio of a million million": (VIT, {"mlp_ratio": 1e12}),
    "multiplied channels": (ARCH, {"channel_multiplier": 1e6}),
    "multiplied depth": (ARCH, {"depth_multiplier": 1e6}),
    "drop rate beyond everything": (ARCH, {"drop_path_rate": 1e300}),
    "unknown key": (ARCH, {"no_such_argument": 1}),
    "a name of no argument": (ARCH, {"__class__": 1}),
    "a name with dots": (ARCH, {"os.system": "true"}),
    "an empty name": (ARCH, {"": 1}),
    "a name of a million letters": (ARCH, {"a" * 10**6: 1}),
    "pretrained": (ARCH, {"pretrained": True}),
    "a path": (ARCH, {"checkpoint_path": "/etc/passwd"}),
    "a folder": (ARCH, {"cache_dir": "/tmp"}),
    "a configuration": (ARCH, {"pretrained_cfg": {"url": "http://localhost/x"}}),
    "an overlay of an address": (ARCH, {"pretrained_cfg_overlay": {"url": "http://localhost/x"}}),
    "an overlay of a file": (ARCH, {"pretrained_cfg_overlay": {"file": "/etc/passwd"}}),
    "an overlay that is a list": (ARCH, {"pretrained_cfg_overlay": []}),
    "code as an activation": (ARCH, {"act_layer": "__import__('os').mkdir('canary')"}),
    "a function as an activation": (ARCH, {"act_layer": "os.mkdir"}),
    "a function as a norm": (ARCH, {"norm_layer": "builtins.eval"}),
    "a function as a block": (VIT, {"block_fn": "os.system"}),
    "a block that is no class": (RESNET, {"block": "os.system"}),
    "text where a class belongs": (VIT, {"embed_layer": "builtins.exec"}),
    "features only": (ARCH, {"features_only": True, "out_indices": [10**9]}),
    "a state dict": (ARCH, {"pretrained_model_args": {"weights_only": False}}),
    "weights": ("torchvision:resnet18", {"weights": "DEFAULT"}),
    "weights of a backbone": ("torchvision:fcn_resnet50", {"weights_backbone": "DEFAULT"}),
    "a block of torchvision": ("torchvision:resnet18", {"block": "os.system"}),
    "torchvision's classes": ("torchvision:resnet18", {"num_classes": 10**9}),
    "torchvision's groups": ("torchvision:resnet18", {"width_per_group": 10**7}),
    "arguments nested deep": (ARCH, {"act_layer": [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}),
    "a list of a million": (ARCH, {"act_layer": [1] * 10**6}),
    "a text of ten million": (ARCH, {"act_layer": "a" * 10**7}),
}  # fmt: skip

TENSORS_DECIDE = frozenset({"negative classes", "no input channels"})
"""What is absurd, and nothing comes of: classes and input channels are read off the tensors."""

ABSURD_TEXTS = {
    "no object": "[]", "null": "null", "a number": "1", "not closed": "{", "empty": "", "deep lists": "[" * 100_000,
    "deep and closed": '{"a":' * 5000 + "1" + "}" * 5000, "a number of 5,000 digits": '{"a":' + "9" * 5000 + "}",
    "ten million brackets": '{"a":[' + "[]," * 10_000_000 + "[]]}",
}  # fmt: skip

NAMES = {
    "a file of code": "model.py:build", "a file of code elsewhere": "/tmp/model.py:build", "only a file": "model.py",
    "the Hub": "hf-hub:timm/resnet18", "the Hub again": "hf_hub:timm/resnet18", "a local folder": "local-dir:/tmp",
    "an address": "https://localhost/model.py:build", "a climbing name": "../../etc/passwd", "no name": "",
    "torchvision's nothing": "torchvision:", "torchvision's unknown": "torchvision:os.system",
    "torchvision's other": "torchvision:__init__", "a method": "resnet18.__class__", "escape codes": "\x1b[2J" * 9,
    "a million letters": "r" * 10**6, "a null": "resnet18\0", "another network": "resnet18",
    "two networks": "resnet18,vgg11",
}  # fmt: skip


def network_cases() -> Iterator[Case]:
    """Yield all of them."""
    for name, (arch, arguments) in ARGUMENTS.items():
        outcome: Outcome = "read" if name in TENSORS_DECIDE else "refused"
        # Only text is large here, and the largest is not worth two files.
        header = {"architecture": arch, "architecture_args": json.dumps(arguments)}
        yield Case("header's arguments", name, writes(whole_file(header)), outcome, arch=None)
        config = text({"architecture": arch, "model_args": arguments})
        yield Case("config.json", name, with_config(writes(whole_file()), config), outcome, arch=None)
    for name, value in ABSURD_TEXTS.items():
        header = {"architecture": ARCH, "architecture_args": value}
        yield Case("header's arguments", name, writes(whole_file(header)), arch=None)
        config = f'{{"architecture": "{ARCH}", "model_args": {value}}}'.encode()
        # A config.json whose arguments are null has none.
        outcome = "read" if name in ("null", "no object") else "refused"
        yield Case("config.json", name, with_config(writes(whole_file()), config), outcome, arch=None)
    for name, value in NAMES.items():
        header = whole_file({"architecture": value})
        yield Case("header's network", name, writes(header), arch=None)
        config = text({"architecture": value})
        yield Case("config.json", name, with_config(writes(whole_file()), config), arch=None)
    yield from _configs()
    # The user's word goes first, and the arguments of another network do not count.
    header = {"architecture": "resnet18", "architecture_args": '{"num_classes": 1000000000000}'}
    yield Case("header's arguments", "of another network", writes(whole_file(header)), "read")


def _configs() -> Iterator[Case]:
    """Yield what else a config.json may be."""
    whole = writes(whole_file())
    configs: dict[str, tuple[bytes, str]] = {
        "no JSON": (b"architecture: resnet18", "refused"), "binary": (bytes(range(256)), "refused"),
        "only a list": (b"[]", "refused"), "names nothing": (b"{}", "refused"),
        "no text": (text({"architecture": 1}), "refused"),
        "100 MB of spaces": (b" " * 10**8 + text({"architecture": ARCH}), "refused"),
        "nested deep": (b"[" * 1_000_000, "refused"), "30 MB of brackets": (b"[" + b"[]," * 10**7 + b"[]]", "refused"),
        "absurd classes": (text({"architecture": ARCH, "num_classes": 10**12}), "refused"),
        "classes of no number": (text({"architecture": ARCH, "num_classes": "os.system"}), "refused"),
        "absurd preprocessing": (
            text({"architecture": ARCH, "pretrained_cfg": {"input_size": [3, 10**9, 10**9]}}), "refused"),
        "preprocessing of no kind": (text({"architecture": ARCH, "pretrained_cfg": {"mean": "eval"}}), "refused"),
        "transformers": (text({"architectures": ["ViTModel"], "auto_map": {"AutoModel": "x.py"}}), "refused"),
        "sound": (text({"architecture": ARCH, "num_classes": CLASSES}), "read"),
        "sound, with preprocessing": (
            text({"architecture": ARCH, "num_classes": CLASSES,
                  "pretrained_cfg": {"input_size": [3, 96, 96], "url": "http://localhost/"}}), "read"),
    }  # fmt: skip
    for name, (config, outcome) in configs.items():
        expected = "read" if outcome == "read" else "refused"
        yield Case("config.json", name, with_config(whole, config), expected, arch=None)
        if name in ("absurd classes", "absurd preprocessing", "nested deep"):
            yield Case(
                "config.json", f"{name}, by the command line", with_config(whole, config), arch=None, command="inspect"
            )


def resized_cases() -> Iterator[Case]:
    """Yield files whose header describes changed widths or cross-attention sets that the network cannot have."""
    whole, unshaped = "sizes that are not whole numbers", "and the file's is [24, 3, 3, 3]"
    numbers = {
        "negative": (-1, whole), "none": (0, whole), "huge": (2**31 - 1, unshaped), "beyond 64 bits": (2**70, whole),
        "a point": (1.5, whole), "text": ("8", whole),
    }  # fmt: skip
    widths: dict[str, tuple[Any, str]] = {
        f"a width that is {name}": ({"out_channels": size}, says) for name, (size, says) in numbers.items()
    }
    widths |= {
        "an unknown size": ({"depth": 2}, "'depth', which a Conv2d has not"), "no size": ({}, whole),
        "a list": ([8], whole), "another width": ({"out_channels": 7}, unshaped),
    }  # fmt: skip
    structures: dict[str, tuple[Any, str]] = {
        name: ({"version": 1, "widths": {"conv_stem": sizes}, "attention": {}}, says)
        for name, (sizes, says) in widths.items()
    }
    uncounted, foreign = "written channels that are not whole numbers", "a written channel that is not one of its 24"
    folded, extreme, long = (
        "written channels that do not ascend",
        "written channels as new, not some",
        "characters, more than",
    )
    sets: dict[str, tuple[Any, str]] = {
        "negative": ([-1], uncounted), "beyond": ([10**6], foreign), "huge": ([2**31 - 1], foreign),
        "descending": ([2, 1], folded), "twice": ([1, 1], folded), "none": ([], extreme),
        "all": ([*range(24)], extreme),
        "text": (["1"], uncounted), "a number": (1, uncounted), "a million": ([*range(10**6)], long),
    }  # fmt: skip
    for name, (chosen, says) in sets.items():
        attention = {"conv_stem": {"written": chosen, "read": [0]}}
        structures[f"a set that is {name}"] = ({"version": 1, "widths": {}, "attention": attention}, says)
    read = {"conv_stem": {"written": [0], "read": [3]}}
    structures["a read channel beyond"] = (
        {"version": 1, "widths": {}, "attention": read}, "a read channel that is not one of its 3")  # fmt: skip
    unnamed, parts = "which the network lacks", "does not consist of attention, version, widths"
    structures |= {
        "no layer": ({"version": 1, "widths": {"nothing": {"out_channels": 8}}, "attention": {}}, unnamed),
        "another version": ({"version": 10**9, "widths": {}, "attention": {}}, "is of version 1000000000"),
        "no attention": ({"version": 1, "widths": {}}, parts), "a list of all": ([], parts), "null": (None, parts),
        "a hundred thousand layers": (
            {"version": 1, "widths": {f"{n}": {"x": 1} for n in range(10**5)}, "attention": {}}, unnamed),
    }  # fmt: skip
    texts = {name: (json.dumps(structure), says) for name, (structure, says) in structures.items()}
    texts |= {
        "no JSON": ("{", "is not JSON"), "deep": ("[" * 100_000, "nested deeper than 8"), "empty": ("", "is not JSON"),
        "a million lists": ("[" + "[]," * 10**6 + "[]]", long),
    }  # fmt: skip
    for name, (described, says) in texts.items():
        header = {"architecture": ARCH, "surgeon_structure": described}
        yield Case("header's structure", name, writes(whole_file(header)), arch=None, says=says)
