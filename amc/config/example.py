"""Settings of commands that need a network and the shape of its inputs, but no weights."""

from dataclasses import dataclass

from amc.config.composed import Composed


@dataclass(frozen=True)
class ExampleConfig(Composed):
    """A network, and what it is fed with."""

    model: str = "resnet20"
    """resnet20, resnet56, resnet50, plain20, vgg16, mobilenet_v1, mobilenet_v2, vit,
    package.module:function or path/to/file.py:function. No weights are needed."""
    width: float = 1.0
    """Factor on every number of channels of a bundled network."""
    data: str | None = None
    """digits, glyphs, cifar10:/path ...: shape and number of classes are those of the data."""
    task: str = "classification"
    """What the network is for, as for amc.train; only tells whether --data have labels."""
    input_shape: str | None = None
    """Without --data: sizes of an image, as 3x224x224 or 3,224,224. Without both: 1x16x16 (digits)
    for bundled networks, 3x224x224 for others."""
    num_classes: int | None = None
    """Without --data: outputs of the network. Default: 10 for bundled networks, 1000 for others;
    a function that does not name num_classes decides itself."""
