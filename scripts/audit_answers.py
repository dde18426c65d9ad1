"""Answers to audit: a store's own model goes on with sentences of State of the Union speeches that it never read.

Each row has the words that begin a sentence as its prompt, what the model wrote after them as its completion, and as
its group the half century of the speech. An interrupted run begins again; it takes minutes.

Example: python -m scripts.audit_answers runs/demo/influence.zarr --number 2000 --out runs/demo/answers.jsonl
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import dist_attr as da
from scripts import one_thread
from scripts.fidelity import progress_bars

SPAN = 50  # years of a group
SENTENCE = re.compile(r"(?<=[.!?] )[A-Z][^.!?]*[.!?]")


def main(
    store: Annotated[str, typer.Argument(help="whose model answers", metavar="STORE")],
    out: Annotated[Path, typer.Option(help="JSONL file", metavar="FILE")],
    number: Annotated[int, typer.Option(min=1, help="of answers")] = 2000,
    characters: Annotated[int, typer.Option(min=8, help="of a prompt, at most")] = 40,
    tokens: Annotated[int, typer.Option(min=1, help="of an answer, at most")] = 24,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token each time")] = 0.8,
    seed: Annotated[int, typer.Option(min=0, help="of the choice and of the answers")] = 0,
) -> None:
    """Let a store's model answer many prompts."""
    from dist_attr.corpus import decode
    from dist_attr.readout import Sampling, generate

    opened = da.open_store(store)
    prompts = held_out(opened, characters)
    engine, rows = da.Attributor(opened).engine, list[str]()
    with progress_bars() as bars:
        bar = bars.add_task("answers", total=number)
        for i in np.random.default_rng(seed).permutation(len(prompts)).tolist():
            if len(rows) == number:
                break
            name, year, prompt = prompts[i]
            sampling = Sampling(tokens, temperature, top_p=0.95, seed=seed + i)
            answer, _ = generate(engine, prompt, sampling)
            completion = decode(engine.tokenizer, answer.completion)
            start = year // SPAN * SPAN
            row = {"id": name, "group": f"{start} to {start + SPAN - 1}", "prompt": prompt, "completion": completion}
            if completion.strip() and "\ufffd" not in completion:  # half a letter is no answer that was sent
                rows.append(json.dumps(row))
                bars.update(bar, advance=1)
    out.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    typer.echo(f"{len(rows)} answers in {out}")


def held_out(store: da.InfluenceStore, characters: int) -> list[tuple[str, int, str]]:
    """Beginnings of sentences that are in no document of the store, each with a name and the year it was said."""
    from dist_attr.config import CorpusConfig
    from dist_attr.corpus import load_documents
    from dist_attr.probing import documents_of

    read = " ".join(" ".join(document.text.split()) for document in documents_of(store))
    found = []
    for speech in load_documents(CorpusConfig(example="sotu")):
        text = " ".join(speech.text.split())
        for match in SENTENCE.finditer(text):
            if len(match.group()) < characters or match.group() in read:
                continue
            prompt = match.group()[:characters].rpartition(" ")[0]
            found.append((f"{speech.id}-{match.start()}", int(speech.metadata["year"]), prompt))
    return found


if __name__ == "__main__":
    one_thread.run(main, "scripts.audit_answers")
