"""A program in onnxruntime that can be called like the network it was made of."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from amc.runtime import feed
from amc.runtime.feed import Feed


class OnnxModule(nn.Module):
    """The program on the CPU.

    Args:
        program: the bytes of an ONNX file, or its path.
        outputs: what the network puts out for anything; the program's tensors come in this form.
        threads: of the runtime; None: as many as PyTorch has.
        optimised: whether the runtime may put operators together.

    Raises:
        Exception: of many kinds, where the runtime refuses the program.
    """

    def __init__(
        self,
        program: bytes | Path,
        outputs: Any,
        threads: int | None = None,
        optimised: bool = True,
    ) -> None:
        super().__init__()
        import onnxruntime  # seconds of imports, for those who need it

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if not optimised:
            level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.graph_optimization_level = level
        self.session = onnxruntime.InferenceSession(
            program if isinstance(program, bytes) else str(program),
            options,
            providers=["CPUExecutionProvider"],
        )
        self.names = [one.name for one in self.session.get_inputs()]
        self._leaves, self._form = tree_flatten(outputs)
        self.home = nn.Parameter(torch.zeros(()), requires_grad=False)  # tells the device

    def given(self, sample: Feed) -> dict[str, Any]:
        """Arrays by the names of the program's inputs."""
        tensors = [x for x in feed.leaves(feed.arguments(sample)) if isinstance(x, Tensor)]
        arrays = (x.detach().cpu().contiguous().numpy() for x in tensors)
        return dict(zip(self.names, arrays, strict=True))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network would put out."""
        found = iter(self.session.run(None, self.given((args, kwargs))))
        leaves = [
            torch.from_numpy(next(found)) if isinstance(leaf, Tensor) else leaf
            for leaf in self._leaves
        ]
        return tree_unflatten(leaves, self._form)
