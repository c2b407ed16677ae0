"""The worker's side: answers requests about the cases of one configuration with one session."""

from __future__ import annotations

import faulthandler
import gc
import math
import os
import platform
import sys
import time
import traceback
from pathlib import Path
from typing import BinaryIO

import numpy as np

from slmbench._version import __version__
from slmbench.backend import (
    UNASKED,
    Draws,
    LoopSession,
    Placement,
    Session,
    TellsSettings,
    Tokens,
    load_backend,
)
from slmbench.case import Case, Workload
from slmbench.errors import BadInputError, CannotRunError, first_error_line, one_line
from slmbench.evaluation.task_answer import answer
from slmbench.evaluation.token_divergence import judge_window, start_judging
from slmbench.export.golden_record import golden_prompts
from slmbench.measure import own_proof
from slmbench.measure.energy import EnergyReader
from slmbench.measure.generate import Generation, ShortGenerationError
from slmbench.measure.proof import Agreement, agreement, telling_prompt, tolerance_of
from slmbench.measure.random_prompts import PromptSource, PromptStream, pad_batch
from slmbench.measure.warmup import beginning, warm_up
from slmbench.measure.workload import carry_out, prompts_of, reserve, said_tokens
from slmbench.models.artifact import Artifact, GoldenPrompt
from slmbench.records.schema import FailureReason
from slmbench.system.extras import installed_version
from slmbench.worker import protocol as p
from slmbench.worker.environment import described
from slmbench.worker.open_request import checked_artifact, checked_options
from slmbench.worker.picture_prompts import AskedPicture, PicturePrompts, ShownPrompts
from slmbench.worker.unused_packages import hide_unused_packages


def serve(requests: BinaryIO, replies: BinaryIO, service: Service) -> None:
    """Answer requests, one line each, until ``close`` or the end of the pipe."""
    faulthandler.enable()
    hello = p.Hello(protocol=p.PROTOCOL, slmbench=__version__, python=platform.python_version(), pid=os.getpid())
    # On a line of its own: a site customisation may have printed, without an end of line.
    _write(replies, b"\n")
    _send(replies, hello)
    for line in requests:
        request = p.REQUEST.validate_json(line)
        reply = _answer(service, request)
        sys.stdout.flush()
        _send(replies, reply)
        if isinstance(request, p.Close):
            return
    service.close()


def _send(replies: BinaryIO, reply: p.Reply) -> None:
    _write(replies, reply.model_dump_json().encode() + b"\n")


def _write(replies: BinaryIO, line: bytes) -> None:
    view = memoryview(line)
    try:
        while view:
            view = view[replies.write(view) or 0 :]
    except BrokenPipeError:
        # The host is gone; there is nobody to tell.
        os._exit(0)


def _answer(service: Service, request: p.Request) -> p.Reply:
    try:
        return service.answer(request)
    except ShortGenerationError as error:
        return p.Failed(reason=FailureReason.SHORT_GENERATION, message=one_line(str(error)))
    except (BadInputError, CannotRunError) as error:
        return p.Failed(reason=FailureReason.CANNOT_RUN, message=one_line(str(error)))
    except MemoryError as error:
        traceback.print_exc()
        return p.Failed(
            reason=FailureReason.ERROR, message=_placed(service, request, f"out of memory: {error}".rstrip(": "))
        )
    except Exception as error:  # an engine may raise anything; it is this case's result, with its text
        traceback.print_exc()
        said = first_error_line(error)
        name = type(error).__name__
        return p.Failed(
            reason=FailureReason.ERROR, message=_placed(service, request, name if said == name else f"{name}: {said}")
        )


def _placed(service: Service, request: p.Request, said: str) -> str:
    """Return what an engine said of an artifact, with the artifact's folder: its words name a node at best."""
    folder = request.artifact if isinstance(request, p.Open) else service.folder
    return one_line(f"{folder}: {said}" if folder else said)


class Service:
    """What a worker knows: at most one open session."""

    def __init__(self) -> None:
        self._open: _OpenCase | None = None

    @property
    def session(self) -> Session | LoopSession:
        """Return the open session."""
        return self._opened().session

    @property
    def folder(self) -> Path | None:
        """Return the folder of the artifact that is open."""
        return self._open.artifact.folder if self._open else None

    def answer(self, request: p.Request) -> p.Reply:
        """Do what the request asks."""
        if isinstance(request, p.Describe):
            return described(request)
        if isinstance(request, p.PreparePictures):
            from slmbench.worker.picture_process import listen

            return p.PreparesPictures(address=listen(request.key))
        if isinstance(request, p.Open):
            self._open = _OpenCase(request)
            return self._open.opened
        if isinstance(request, p.Close):
            self.close()
            return p.Closed()
        return self._opened().answer(request)

    def close(self) -> None:
        """Free the session."""
        if self._open:
            self._open.session.close()
            self._open = None

    def _opened(self) -> _OpenCase:
        if self._open is None:
            raise BadInputError("no session is open")
        return self._open


class _OpenCase:
    """The session of a configuration, opened and run once, and the case that it is prepared for."""

    def __init__(self, request: p.Open) -> None:
        self.case: Case = request.case
        self.artifact: Artifact = checked_artifact(request)
        checkpoint = self.artifact.manifest.checkpoint
        self.family, self.pad, self.eos = checkpoint.family, checkpoint.pad_token_id, checkpoint.eos_token_ids
        self.seed = request.seed
        self.source = PromptSource(request.seed, checkpoint.geometry.vocab_size, request.avoid)
        self.energy = EnergyReader.open(self.case.device)
        self.tokenizer = None
        if request.tokenizer:
            from slmbench.measure.text_prompts import load_tokenizer

            self.tokenizer = load_tokenizer(request.tokenizer)
        if not self.artifact.manifest.spec.pictures:
            hide_unused_packages(self.case.backend)
        backend = load_backend(self.case.backend)
        options = checked_options(backend, request.options)
        begin = time.perf_counter_ns()
        opened = self.artifact.with_ends() if request.natural_ends else self.artifact
        #: Ends that the model may give; those that are suppressed are ``eos``.
        self.ends = self.eos if request.natural_ends else ()
        self.eos = opened.manifest.checkpoint.eos_token_ids
        self.session = backend.open(opened, self.case.device, options)
        whole = time.perf_counter_ns() - begin
        phases = self.session.load_phases_ns()
        self.pictures: PicturePrompts | None = None
        if self.artifact.manifest.spec.pictures:
            self.pictures = PicturePrompts(
                self.session, self.artifact, request.seed, request.picture, request.picture_process
            )
        self._reserved_image_tokens = 0
        self._reserve_workload()
        # This is the first warm-up, unless warm-ups run the whole workload: then two tokens are enough here.
        read_first = beginning(self.case.workload)
        first = self._generate(PromptStream.WARM_UP, 0, 0, most=read_first.output_tokens if read_first else 2)
        self._read_first = (read_first, (first.token_ns[0], first.token_ns[-1]))
        # Everything allocated so far stays until the worker ends: later collections need not visit it.
        gc.collect()
        gc.freeze()
        self.opened = p.Opened(
            load_ns=phases.get("load", whole), compile_ns=phases.get("compile"), first_inference_ns=first.token_ns[0]
        )

    def answer(
        self, request: p.Prove | p.WarmUp | p.TakeSample | p.Answer | p.StartJudging | p.JudgeWindow | p.Exercise
    ) -> p.Reply:
        """Do what the request asks of an open case."""
        if isinstance(request, p.Answer):
            return self._answer(request)
        if isinstance(request, p.Prove):
            return self._prove(full=request.full)
        if isinstance(request, p.WarmUp):
            return self._warm_up(request)
        if isinstance(request, p.TakeSample):
            return self._sample(request)
        if isinstance(request, p.StartJudging):
            start_judging(self.session, request.reference, request.windows)
            return p.JudgingStarted()
        if isinstance(request, p.JudgeWindow):
            judged = judge_window(self.session, request.reference, request.windows, request.window, self.family)
            return p.WindowJudged(**judged.model_dump())
        self._turn_to(request.workload)
        self._generate(PromptStream.MEMORY, 0, 0)
        return p.Exercised()

    def _turn_to(self, work: Workload) -> None:
        """Prepare the session for another workload; for the one that it is prepared for there is nothing to do."""
        if work != self.case.workload:
            # What is reserved is what this workload needs, as in a load of its own: also less than before.
            self.case = self.case.model_copy(update={"workload": work})
            self._reserve_workload()

    def _reserve_workload(self) -> None:
        work = self.case.workload
        self._reserved_image_tokens = self.pictures.most_tokens(work) if self.pictures else 0
        reserve(self.session, work, self.family, self._reserved_image_tokens)

    def _generate(self, stream: PromptStream, group: int, index: int, *, most: int | None = None) -> Generation:
        work = self.case.workload
        if most is not None:
            first = {"turns": 1, "added_tokens": None, "last_output_tokens": None}
            work = work.model_copy(update={**first, "output_tokens": min(most, work.output_tokens)})
        prompts = self._draw(work, stream, group, index)
        if self.pictures:
            prompts = self._show(work, prompts, stream, group, index).prompts
        return self._carry_out(work, prompts, None, index)

    def _show(
        self,
        work: Workload,
        prompts: list[Tokens],
        stream: PromptStream,
        group: int,
        index: int,
        asked: AskedPicture | None = None,
    ) -> ShownPrompts:
        """Give the session the pictures of a generation; return its prompts with their places."""
        assert self.pictures is not None
        shown = self.pictures.show(work, prompts, stream, group, index, asked)
        if shown.image_tokens > self._reserved_image_tokens:
            # A picture of the user that is cut into more tiles than those before it.
            self._reserve_workload()
        return shown

    def _draw(self, work: Workload, stream: PromptStream, group: int, index: int) -> list[Tokens]:
        drawn = self.source.draw(stream, group, index, batch=work.batch, length=said_tokens(work))
        return prompts_of(work, drawn)

    def _carry_out(self, work: Workload, prompts: list[Tokens], mask: Tokens | None, seed: int) -> Generation:
        return carry_out(self.session, work, prompts, mask, self.family, eos_token_ids=self.eos, seed=self.seed + seed)

    def _prove(self, *, full: bool) -> p.Proven:
        # Placement first: it speaks of the inference before it, which was the workload's.
        placement = self.session.placement()
        if not self.artifact.has_golden:
            return self._proven(placement, self._own_agreement(full=full), reference=False)
        prompts, tolerance = self._golden_prompts(), tolerance_of(self.case)
        chosen = [telling_prompt(prompts, tolerance)] if prompts and not full else prompts
        if chosen:
            # An engine's own loop is forced by growing its prompt.
            grown = 0 if isinstance(self.session, Session) else max(len(g.tokens) for g in chosen)
            longest = max(len(g.input_ids) for g in chosen) + grown
            self.session.reserve(1, longest, max(len(g.tokens) for g in chosen))
        if isinstance(self.session, Draws):
            self.session.draw(None)
        golden = self.pictures.golden if self.pictures else None
        found = agreement(self.session, chosen, tolerance, self.family, pixels_of=golden)
        return self._proven(placement, found)

    def _own_agreement(self, *, full: bool) -> Agreement:
        """Return how far the session agrees with itself and with the first load: there is no reference."""
        checkpoint, backend = self.artifact.manifest.checkpoint, load_backend(self.case.backend)
        prompts = [one.tolist() for one in golden_prompts(checkpoint)][: None if full else 1]
        self.session.reserve(1, max(map(len, prompts)) + own_proof.TOKENS, own_proof.TOKENS)
        if isinstance(self.session, Draws):
            self.session.draw(None)
        versions = {one: installed_version(one) or "" for one in backend.distributions}
        kept = self.artifact.folder / own_proof.name_of_kept(self.case, versions)
        return own_proof.own_agreement(self.session, prompts, self.case, self.family, kept)

    def _proven(self, placement: Placement, found: Agreement, *, reference: bool = True) -> p.Proven:
        self._reserve_workload()
        return p.Proven(
            reference=reference,
            agreement=found.share,
            agreement_tokens=found.compared,
            executed_on=placement.executed_on,
            nodes=placement.nodes,
            compute_precision=self.session.compute_precision(),
            threads=self.session.threads(),
            attention_path=self.session.attention_path(),
            cross_kv_once=self.artifact.manifest.cross_kv_once,
            settings=self._settings(),
        )

    def _settings(self) -> dict[str, tuple[str, str]]:
        told = dict(self.session.settings()) if isinstance(self.session, TellsSettings) else {}
        return told | ({"picture processor": (UNASKED, self.pictures.settings)} if self.pictures else {})

    def _golden_prompts(self) -> list[GoldenPrompt]:
        """Return the golden prompts, those of a static artifact cut to the bounds of its graphs."""
        spec, prompts = self.artifact.manifest.spec, list(self.artifact.golden().prompts)
        if spec.layout == "dynamic":
            return prompts
        most = spec.output_tokens
        return [
            GoldenPrompt(input_ids=g.input_ids, tokens=g.tokens[:most], margins=g.margins[:most])
            for g in prompts
            if spec.input_tokens is None or len(g.input_ids) <= spec.input_tokens
        ]

    def _warm_up(self, request: p.WarmUp) -> p.Warm:
        work = request.workload
        self._turn_to(work)
        generated, (read_first, took_ns) = beginning(work), self._read_first
        steps = generated.output_tokens if generated else None
        before = took_ns if generated and generated == read_first else None

        def once(index: int) -> tuple[int, int]:
            made = self._generate(PromptStream.WARM_UP, request.load + 1, index, most=steps)
            return made.token_ns[0], made.token_ns[-1]

        warm = warm_up(once, request.most, before)
        longer = work.output_tokens / steps if steps else 1
        return p.Warm(
            generations=warm.generations, stationary=warm.stationary, last_ns=math.ceil(warm.last_ns * longer)
        )

    def _sample(self, request: p.TakeSample) -> p.Sampled:
        work = self.case.workload
        phases: dict[str, int] = {}
        if request.texts:
            begin = time.perf_counter_ns()
            ids, mask = pad_batch([self._token_ids(text) for text in request.texts], self.family, self.pad)
            prompts = [ids]
            phases["tokenise"] = time.perf_counter_ns() - begin
        else:
            prompts = self._draw(work, PromptStream.SAMPLE, request.round, request.retake)
            mask = None
        image_tokens = 0
        if self.pictures:
            place = (PromptStream.SAMPLE, request.round, request.retake)
            shown = self._show(work, prompts, *place, request.picture)
            prompts, image_tokens = shown.prompts, shown.image_tokens
            phases |= shown.phases_ns
        before = self.energy.read_j() if self.energy else None
        made = self._carry_out(work, prompts, mask, request.round)
        after = self.energy.read_j() if self.energy else None
        # Two equal readings: the counter is too coarse for this sample, and what is not measured is empty.
        joules = after - before if before is not None and after is not None and after > before else None
        return p.Sampled(
            token_ns=made.token_ns,
            phases_ns={**phases, **made.phases_ns},
            input_tokens=prompts[0].shape[1],
            image_tokens=image_tokens,
            turn_start_ns=made.turn_start_ns,
            turn_tokens=made.turn_tokens,
            energy_j=joules,
        )

    def _answer(self, request: p.Answer) -> p.Answered:
        made = answer(self.session, np.array([request.input_ids], np.int64), request.most, self.ends)
        return p.Answered(tokens=made.tokens, ttft_ns=made.ttft_ns, answer_ns=made.answer_ns, ended=made.ended)

    def _token_ids(self, text: str) -> list[int]:
        from slmbench.measure.pictures import text_with_place
        from slmbench.measure.text_prompts import token_ids

        vision = self.artifact.manifest.checkpoint.vision
        if self.pictures and vision:
            return text_with_place(self.tokenizer, text, vision.image_token_id)
        return token_ids(self.tokenizer, text)
