"""The command that tells before training what else a fine-tune would teach."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from conceptnet_em.cli_shared import Device, Dtype, Json, Root, say
from conceptnet_em.errors import InputError


def register(app: typer.Typer) -> None:
    """Add ``forecast`` to a command line."""
    app.command()(forecast)


def forecast(
    data: Annotated[Path, typer.Argument(metavar="DATA.jsonl", help="Chat data, any dialect.")],
    run: Annotated[
        Path | None, typer.Option("--run", help="A finished run folder to calibrate on.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The base model; must be the run's, which is the default.")
    ] = None,
    trait: Annotated[
        list[str] | None, typer.Option(help="Tell about this trait; may be given several times.")
    ] = None,
    scale: Annotated[str, typer.Option(help="contrast or net.")] = "contrast",
    limit: Annotated[int, typer.Option(min=1, help="Rows to read, evenly spaced.")] = 200,
    root: Root = None,
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the table here, CSV.")] = None,
    as_json: Json = False,
) -> None:
    """Tell, before any training, what else a fine-tune on DATA would teach the model."""
    from conceptnet_em.chatdata import read_chat

    found = read_chat(data, limit=limit)
    result = _finished(run)
    _refuse_unknown(trait or [], scale, result)
    from conceptnet_em.corpus import load_corpus
    from conceptnet_em.forecast import calibrate
    from conceptnet_em.forecast import forecast as predict
    from conceptnet_em.study import load_base

    corpus = load_corpus(root, traits=result.config.traits)
    given = {"model": model, "device": device, "dtype": dtype}
    config = result.config.model_copy(update={k: v for k, v in given.items() if v is not None})
    say("load the model and look at the corpus …")
    calibration = calibrate(result, corpus, load_base(config), scale=scale)
    told = predict(calibration, found, traits=trait or [])
    if out is not None:
        from conceptnet_em.store import write_text

        write_text(out, told.to_table().to_csv(index=False))
        say(f"written to {out}")
    print(told.to_json() if as_json else told)
    if told.reason:
        say(f"no forecast: {told.reason}; a run of more domains or replicates may do better")


def _finished(run: Path | None) -> Any:
    """Return the run to calibrate on, or say how to make one."""
    from conceptnet_em.study import Result

    how = "make one with conceptnet-em run STUDY.toml --out DIR (or conceptnet-em demo)"
    if run is None:
        raise InputError(f"a forecast is calibrated on a finished run; give it as --run DIR; {how}")
    if not (run / "verdict.json").is_file():
        raise InputError(f"{run} holds no finished run to calibrate on; {how}")
    return Result.load(run)


def _refuse_unknown(traits: list[str], scale: str, result: Any) -> None:
    """Refuse before a model is loaded what is refused after it anyway."""
    from conceptnet_em.errors import raise_all, unknown
    from conceptnet_em.forecast import SCALES

    faults = [unknown("trait", name, result.traits) for name in traits if name not in result.traits]
    raise_all(faults + ([] if scale in SCALES else [unknown("scale", scale, SCALES)]))
