"""Prepare, start and release the engine that the parameters name."""

import gc
import os
import sys
from pathlib import Path

from pipeline.generate.engines import shares
from pipeline.generate.engines.interface import Engine
from pipeline.generate.engines.shares import Share
from pipeline.generate.params import GenerateParams
from pipeline.params import Processes, count_processes
from pipeline.prompts import Prompter
from pipeline.stage import UserError
from pipeline.weights.source import Weights


def prepare(params: GenerateParams) -> None:
    """Check that the engine is installed, and set up the process for it. Call this before anything imports torch."""
    if params.engine == "vllm":
        from pipeline.generate.engines import vllm_engine

        vllm_engine.prepare()
    if params.engine == "ray":
        from pipeline.generate.engines import ray_engine

        ray_engine.prepare()


def start_many(params: GenerateParams, wanted: Processes, llm: Weights, model: Path, prompter: Prompter) -> Engine:
    """Start as many engines as the parameters and this machine allow; they work as one engine.

    `wanted` is the parameter `processes`. A single engine runs in this process, unless it needs several GPUs.
    """
    engines = share_machine(params, wanted, model)
    if len(engines) == 1 and len(engines[0].gpus) <= 1:
        return start(params, llm, model, prompter)
    from pipeline.generate.engines.local_engines import LocalEngines

    return LocalEngines(params, llm, model, engines)


def share_machine(params: GenerateParams, wanted: Processes, model: Path) -> list[Share]:
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


def release(params: GenerateParams) -> None:
    """Free the memory of an engine that is no longer used, so that another one has room."""
    gc.collect()
    if params.engine == "vllm" and "vllm" in sys.modules:
        from pipeline.generate.engines import vllm_engine

        vllm_engine.release()


def start(params: GenerateParams, llm: Weights, model: Path, prompter: Prompter, share: Share | None = None) -> Engine:
    """Start the engine named in `params` with the LLM `llm`, in this process.

    `model` is the folder of the LLM; `prompter` holds its tokenizer. `share` is what the engine has of a machine that
    it shares with others; None: the engine is alone.
    """
    if params.engine == "echo":
        from pipeline.generate.engines.echo_engine import EchoEngine

        return EchoEngine(prompter.answer_ids, params.max_new_tokens)
    end_ids = prompter.end_ids
    if params.server is not None:
        from pipeline.generate.engines.server_engine import ServerEngine

        return ServerEngine(params, params.server, model, llm.source, end_ids)
    if params.ray is not None:
        from pipeline.generate.engines.ray_engine import RayEngine

        return RayEngine(params, params.ray, llm, model, end_ids)
    if params.engine == "vllm":
        from pipeline.generate.engines.vllm_engine import VllmEngine

        return VllmEngine(params, model, end_ids, share)
    from pipeline.generate.engines.transformers_engine import TransformersEngine

    return TransformersEngine(params, model, end_ids)
