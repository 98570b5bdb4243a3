"""The networks of a pipeline: all compiled at once, or lean, one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Lock, Thread

from lowres_seg.bundle.bundle import NetworkFiles
from lowres_seg.bundle.dropout import DropoutMask
from lowres_seg.bundle.pipeline import Pipeline
from lowres_seg.errors import last_line
from lowres_seg.logs import log
from lowres_seg.runtime.compiled_cache import CompiledCache
from lowres_seg.runtime.engine import Array, Engine
from lowres_seg.runtime.openvino_engine import (
    InferencePrecision,
    OpenVinoEngine,
    Rewrite,
    is_kept,
    read_graph,
)
from lowres_seg.runtime.requests import inside


class LeanEngine:
    """A network that is compiled when it first runs, and dropped when it is released.

    Of several networks, only one is then in memory at a time. Parameters are those of `OpenVinoEngine`.
    """

    lean = True

    def __init__(
        self,
        network: NetworkFiles | Path,
        *,
        threads: int,
        inference_precision: InferencePrecision,
        rewrite: Rewrite | None = None,
        cache: CompiledCache | None = None,
    ) -> None:
        self._network = network
        self._cache = cache
        self._rewrite = rewrite
        self._threads = threads
        self._inference_precision: InferencePrecision = inference_precision
        self._engine: OpenVinoEngine | None = None
        self._compiling = Lock()
        self._preparing: Thread | None = None

    def prepare(self) -> None:
        """Compile the network in a thread, if the system grants one more.

        What goes wrong there goes wrong once more in `run`, which tells of it.
        """
        if self._engine is None and self._preparing is None:
            ahead = Thread(target=self._compiled_ahead, name="lowres-seg compiles")
            try:
                ahead.start()
            except RuntimeError as error:
                log.debug("a network is compiled when it runs, and not ahead (%s)", last_line(error))
                return
            self._preparing = ahead

    @property
    def masks(self) -> Sequence[DropoutMask]:
        """Masks of dropout layers that are kept on, as the bundle lists them."""
        return () if isinstance(self._network, Path) else self._network.dropout

    def run(self, x: Array, masks: Sequence[Array] = ()) -> Array:
        """Compute the scores (1, channels out, D, H, W) of one input (1, channels in, D, H, W).

        Raises
        ------
        EngineError
            If OpenVINO cannot read, compile or run the network.
        IntegrityError
            If a file has changed since its bundle was opened.
        """
        return self._compiled().run(x, masks)

    def release(self) -> None:
        """Drop the compiled network. The last result owns a share of its memory, and stays valid."""
        preparing, self._preparing = self._preparing, None
        if preparing is not None:
            preparing.join()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.drop()

    def _compiled(self) -> OpenVinoEngine:
        with inside(), self._compiling:
            if self._engine is None:
                self._engine = OpenVinoEngine(
                    self._network,
                    threads=self._threads,
                    inference_precision=self._inference_precision,
                    rewrite=self._rewrite,
                    cache=self._cache,
                )
            return self._engine

    def _compiled_ahead(self) -> None:
        with suppress(Exception):
            self._compiled()


def compile_networks(
    pipeline: Pipeline,
    files: Mapping[str, NetworkFiles],
    *,
    threads: int,
    lean: bool = False,
    rewrite: Rewrite | None = None,
    cache: CompiledCache | None = None,
) -> dict[str, list[Engine]]:
    """Engines for a `Segmenter`: for each stage, one for each of its networks.

    Parameters
    ----------
    pipeline : Pipeline
    files : mapping of str to NetworkFiles
        Files of each network, by name.
    threads : int
    lean : bool
        Compile each network when its turn comes, and drop it after.
    rewrite : callable, optional
        Changes each openvino.Model before it is compiled.
    cache : CompiledCache, optional
        Where compiled networks are kept.

    Raises
    ------
    EngineError
        If a network cannot be read or compiled, or is another than the bundle says.
    IntegrityError
        If a file has changed since its bundle was opened.
    """
    if lean:  # the others are read when they are compiled, now; one that is kept was read before it was compiled
        precisions = {name: stage.inference_precision for stage in pipeline.stages for name in stage.networks}
        for name, precision in precisions.items():
            if files[name].shapes is not None and not is_kept(cache, files[name], threads, precision, rewrite):
                read_graph(files[name])
    engine = LeanEngine if lean else OpenVinoEngine
    shared = partial(engine, threads=threads, rewrite=rewrite, cache=cache)
    return {
        stage.name: [shared(files[name], inference_precision=stage.inference_precision) for name in stage.networks]
        for stage in pipeline.stages
    }
