"""The frozen LLM divided over the processes (`fit.*.shard_llm`), for an LLM that does not fit on one GPU.

Each process keeps a share of the frozen weights of each decoder layer. torch's FSDP2 gathers a layer before it is
computed, also before its gradient is, and frees it afterwards. So few layers lie whole on a GPU at the same time. A
layer is computed with the same weights as before, so the results differ by rounding at most.

All other weights stay whole in each process. The trained ones are small, and DistributedDataParallel reduces their
gradients as without this parameter. The output matrix must be whole, because the loss uses it outside of the LLM's
forward.

All processes have to run the LLM equally often, because each layer is gathered from all of them.
"""

import math

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed import get_world_size
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from train.model import SpeechLLM
from train.model.checkpointed_layers import decoder_layers

WHOLE_LAYERS = 3
"""The most layers in the memory of a process at once: the one that is computed, the next one, and a buffer."""


def shard_llm(model: SpeechLLM, device: torch.device) -> None:
    """Divide the frozen weights of the LLM's layers over all processes, and move each share to `device`.

    Call it before the rest of the model is moved to the device, so that the LLM never lies there as a whole. Raises
    UserError if the layers are not found.
    """
    mesh = init_device_mesh(device.type, (get_world_size(),))
    for layer in decoder_layers(model.llm, "shard_llm"):
        fully_shard(layer, mesh=mesh, ignored_params=set(layer.parameters()) - set(divisible(layer)))
    base = model.llm.base_model
    fully_shard(base, mesh=mesh, ignored_params=set(base.parameters()))  # a layer is gathered while another computes


def divisible(layer: nn.Module) -> list[nn.Parameter]:
    """Return the weights of a layer that `shard_llm` divides: all but trained weights and single numbers."""
    return [weight for weight in layer.parameters() if not weight.requires_grad and weight.ndim]


def saved_bytes(llm: PreTrainedModel, num_processes: int) -> int:
    """Return by how much `shard_llm` lowers the memory of a process; below 0 if it raises it."""
    layers = [sum(weight.nbytes for weight in divisible(layer)) for layer in decoder_layers(llm, "shard_llm")]
    return sum(layers) - math.ceil(sum(layers) / num_processes) - WHOLE_LAYERS * max(layers)


def prepare_model(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Do what `accelerator.prepare_model` does, which refuses a model with divided weights in several processes."""
    divided = [name for name, weight in model.named_parameters() if isinstance(weight, DTensor)]
    if not divided:
        return accelerator.prepare_model(model)  # type: ignore[no-any-return]
    model = accelerator.prepare_model(model, evaluation_mode=True)  # only the precision
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, divided)
    return DistributedDataParallel(model)
