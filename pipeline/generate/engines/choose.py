"""Prepare, start and release the engine that the parameters name."""

import gc
import sys
from pathlib import Path

from pipeline.generate.engines.interface import Engine
from pipeline.generate.engines.shares import Share
from pipeline.generate.params import GenerateParams
from pipeline.prompts import Prompter
from pipeline.weights.source import Weights


def prepare(params: GenerateParams) -> None:
    """Check that the engine is installed, and set up the process for it. Call this before anything imports torch."""
    if params.engine == "vllm":
        from pipeline.generate.engines import vllm_engine

        vllm_engine.prepare()
    if params.engine == "ray":
        from pipeline.generate.engines import ray_engine

        ray_engine.prepare()


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
