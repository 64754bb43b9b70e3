"""Plan a training before it is paid for: tokens, steps, memory of a GPU, hours, disk and money."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.options import Json
from pipeline.commands.text_tables import lay_out
from pipeline.params import ParamsFile
from pipeline.stage import UserError, say

if TYPE_CHECKING:
    from train.plan.costs import Plan, StagePlan

RECIPES = Path(__file__).parents[2] / "recipes"


def find_params(name: str) -> Path:
    """Return the parameter file of a recipe; raises UserError if there is none."""
    names = sorted(file.stem for file in RECIPES.glob("*.yaml"))
    if name not in names:
        raise UserError(f"--recipe: found {name}, expected one of {', '.join(names)}")
    return RECIPES / f"{name}.yaml"


def describe(plan: "Plan") -> str:
    """Lay out a plan as tables and a list of what it assumes."""
    columns = [_describe_stage(stage) for stage in plan.stages]
    table = [["", *(f"{stage.kind}" for stage in plan.stages)]]
    table += [[name, *(column[name] for column in columns)] for name in columns[0]]
    disk = [["disk", "GB"], *([name, f"{size:,.1f}"] for name, size in plan.disk_gb.items())]
    disk.append(["total", f"{sum(plan.disk_gb.values()):,.1f}"])
    training, most = (sum(getattr(stage, name) for stage in plan.stages) for name in ("gpu_hours", "gpu_hours_at_most"))
    generating = plan.generating_gpu_hours
    lines = [
        f"{plan.name} on {plan.count} x {plan.gpu}",
        "",
        lay_out(table),
        "",
        lay_out(disk),
        "",
        f"generation: {plan.generated_tokens / 1e6:,.1f} M tokens, {generating:,.2f} GPU hours",
        f"training: {training:,.2f} to {most:,.2f} GPU hours, {training / plan.count:,.2f} to "
        f"{most / plan.count:,.2f} hours on {plan.count} GPU(s)",
    ]
    if plan.money is not None and plan.money_at_most is not None:
        lines.append(f"money: {plan.money:,.2f} to {plan.money_at_most:,.2f}, at {plan.price:g} a GPU hour")
    lines += ["", "assumed:", *(f"  - {line}" for line in plan.assumptions), ""]
    tight = [stage.kind for stage in plan.stages if stage.memory.head_room < 0]
    lines.append(
        f"plan: {', '.join(tight)}: a batch does not fit into {plan.gpu}; lower fit.*.batches"
        if tight
        else "plan: both stages fit into memory"
    )
    return "\n".join(lines)


def _describe_stage(stage: "StagePlan") -> dict[str, str]:
    memory = stage.memory
    return {
        "rows": f"{stage.rows:,}",
        "hours of audio": f"{stage.audio_hours:,.1f}",
        "epochs": f"{stage.epochs:,.2f}",
        "steps": f"{stage.steps:,}",
        "clips a step": f"{stage.clips_per_step:,.1f}",
        "encoder frames, M": f"{stage.encoder_frames / 1e6:,.2f}",
        "student positions, M": f"{stage.student_positions / 1e6:,.2f}",
        "teacher positions, M": f"{stage.teacher_positions / 1e6:,.2f}",
        "real frames": f"{stage.real_frames:.1%}",
        "real positions": f"{stage.real_positions:.1%}",
        "TFLOP a batch": f"{stage.tflop_a_batch:,.1f}",
        "GiB: weights": f"{memory.weights:,.2f}",
        "GiB: optimizer": f"{memory.optimizer:,.2f}",
        "GiB: gradients": f"{memory.gradients:,.2f}",
        "GiB: activations": f"{memory.activations:,.2f}",
        "GiB: loss": f"{memory.loss:,.2f}",
        "GiB: most of a step": f"{memory.largest:,.2f}",
        "GiB: CUDA and gaps": f"{memory.context + memory.gaps:,.2f}",
        "GiB: total": f"{memory.total:,.2f}",
        "GiB: head room": f"{memory.head_room:,.2f}",
        "GPU hours": f"{stage.gpu_hours:,.2f}",
        "GPU hours at most": f"{stage.gpu_hours_at_most:,.2f}",
    }


def main(
    name: Annotated[
        str | None, typer.Option("--recipe", help="A recipe of recipes/; without it, the parameter file.")
    ] = None,
    gpu: Annotated[str, typer.Option(help="The card, such as h100, h200 or a100.")] = "h100",
    count: Annotated[int, typer.Option(help="Number of GPUs.")] = 1,
    price: Annotated[float | None, typer.Option(help="Price of a GPU hour, in any currency.")] = None,
    as_json: Json = False,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Plan a training before it is paid for.

    Prints tokens, steps, memory of a GPU and GPU hours of both stages; hours of
    generation; disk; money; and what was assumed, with sources. Rows come from
    data/packed, else manifests/, else published sizes (recipes/facts). Needs no
    GPU, network, data or weights.

    \b
    JSON: name; gpu; count; price; stages; generated_tokens;
    generating_gpu_hours; disk_gb; gpu_hours; money; money_at_most;
    assumptions; fits.
    """
    from train.plan.costs import make_plan

    file, folder = params_file, params_file.parent
    if name is not None:
        file, folder = find_params(name), Path("runs") / name
    plan = make_plan(name or str(params_file), file, folder, gpu, count, price)
    if as_json:
        say(json.dumps({**dataclasses.asdict(plan), "fits": plan.fits}, indent=2, ensure_ascii=False))
    else:
        say(describe(plan))
