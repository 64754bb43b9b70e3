"""Start the engines of this machine: one for each GPU, or as the parameter `processes` says."""

import os
from pathlib import Path

from pipeline.generate.engines import choose, shares
from pipeline.generate.engines.interface import Engine
from pipeline.generate.engines.local_engines import LocalEngines
from pipeline.generate.engines.shares import Share
from pipeline.generate.params import GenerateParams
from pipeline.params import Processes, count_processes
from pipeline.prompts import Prompter
from pipeline.stage import UserError
from pipeline.weights.source import Weights


def start(params: GenerateParams, wanted: Processes, llm: Weights, model: Path, prompter: Prompter) -> Engine:
    """Start the engine named in `params` with the LLM `llm`; several of it work as one.

    `wanted` is the parameter `processes`. A single engine runs in this process, unless it needs several GPUs.
    """
    engines = share(params, wanted, model)
    if len(engines) == 1 and len(engines[0].gpus) <= 1:
        return choose.start(params, llm, model, prompter)
    return LocalEngines(params, llm, model, engines)


def share(params: GenerateParams, wanted: Processes, model: Path) -> list[Share]:
    """Return what each engine gets of this machine; raises UserError if that is too little.

    The engines server and ray run elsewhere, so there is one of them.
    """
    whole = [Share((), frozenset())]
    if params.engine in ("server", "ray") or (wanted == 1 and params.tensor_parallel == 1):
        return whole
    memories = shares.gpu_memories() if _uses_gpus(params) else []
    if memories:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = given.split(",") if given else [str(i) for i in range(len(memories))]
        size = shares.weight_bytes(model) if params.engine == "vllm" else 0
        return shares.divide_gpus(wanted, params.tensor_parallel, gpus[: len(memories)], min(memories), size)
    if params.tensor_parallel not in ("auto", 1):
        raise UserError(
            f"generate.tensor_parallel: found {params.tensor_parallel}, expected auto or 1 on a machine without GPUs"
        )
    count = count_processes(wanted, 0)
    return whole if count == 1 else shares.divide_cores(count, sorted(os.sched_getaffinity(0)))


def _uses_gpus(params: GenerateParams) -> bool:
    if params.engine == "echo":
        return False
    if params.engine == "vllm":
        from pipeline.generate.engines import vllm_engine

        _, on_cpu = vllm_engine.find()
        if on_cpu:
            return False
    import torch

    return torch.cuda.device_count() > 0
