"""Engines for a bundle: built beside its ONNX files and named in its manifest; ``proof.verify`` proves them."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from byolt_export.bundle.folder import FILES, read_manifest, write_manifest
from byolt_export.bundle.golden import read_golden
from byolt_export.bundle.manifest import Manifest, Onnx
from byolt_export.errors import InputError, quoted
from byolt_export.tensorrt.build_engine import WORKSPACE_MIB, build_engines, profile_of
from byolt_export.tensorrt.flavour import Flavour, FlavourName, Target, choose_flavour, resolve_target
from byolt_export.tensorrt.progress import BuildProgress


def choose_targets(names: Sequence[str], flavour: FlavourName | None = None) -> tuple[Flavour, tuple[Target, ...]]:
    """The TensorRT that is installed here and the GPUs to build for; without names, what the flavour builds first.

    Raises:
        MissingPart: No TensorRT is installed, or ``here`` has no GPU.
        InputError: The flavour cannot build for a target; the message says what can.
    """
    chosen = choose_flavour(flavour)
    return chosen, tuple(resolve_target(chosen, name) for name in dict.fromkeys(names or (chosen.default_target,)))


def add_engines(
    path: str | Path,
    flavour: Flavour,
    targets: Sequence[Target],
    *,
    precisions: Sequence[str] = (),
    workspace_mib: int = WORKSPACE_MIB,
    cache_dir: Path | None = None,
    progress: BuildProgress | None = None,
) -> None:
    """Build engines into a bundle; an earlier one of the same name is replaced.

    Only files whose verdict is ``passed`` become engines, which are ``not run here`` until ``verify_engines`` has run
    them. A fault leaves the bundle as it was.

    Args:
        path: The bundle's folder.
        flavour: Of ``choose_targets``.
        targets: Of ``choose_targets``.
        precisions: Which of the bundle's ONNX files; left out, all of them.
        workspace_mib: Most scratch memory that a layer may use on the GPU.
        cache_dir: Folder of timing caches; left out, none is kept.
        progress: Called with the step and the share done, by the building thread; ``False`` stops the build.

    Raises:
        InputError: The bundle is missing or damaged, or holds no such file that passed.
        MissingPart: This version of TensorRT cannot build one of them.
        EngineFault: TensorRT does not take a graph, or does not build it.
        Stopped: ``progress`` said so.
    """
    path = Path(path)
    manifest = read_manifest(path)
    if manifest.contract.output.maps:
        raise InputError(
            f"{path} gives feature maps, and engines that byolt runs give one vector an image: build one with the line "
            f"of `byolt build-engine {path} --print-trtexec`, or export with output: embedding"
        )
    read_golden(path, manifest)  # What is damaged is reported before a build of minutes.
    built = build_engines(
        path,
        _files_to_build(path, manifest, precisions),
        profile_of(manifest.contract.input),
        flavour=flavour,
        targets=targets,
        workspace_mib=workspace_mib,
        cache_dir=cache_dir,
        progress=progress,
    )
    now = read_manifest(path)
    if now.model_copy(update={"engines": manifest.engines, "speeds": manifest.speeds}) != manifest:
        line = f"byolt build-engine {shlex.quote(str(path))}"
        raise InputError(f"{path} was exported again while its engines were built: {line}")
    entries = {engine.name: engine for engine in (*now.engines, *built)}
    write_manifest(path, now.model_copy(update={"engines": tuple(entries.values())}))


def trtexec_lines(
    path: str | Path, *, precisions: Sequence[str] = (), workspace_mib: int = WORKSPACE_MIB
) -> tuple[str, ...]:
    """The ``trtexec`` lines that build what ``add_engines`` builds with classic TensorRT for the GPU at hand.

    They run NVIDIA's own program instead of byolt, to tell a fault of TensorRT from one of byolt's. The manifest does
    not name what they save, so nothing proves it.

    Raises:
        InputError: The bundle is missing or damaged, or holds no such file that passed.
    """
    path = Path(path)
    manifest = read_manifest(path)
    pixels, profile = manifest.contract.input, profile_of(manifest.contract.input)
    batches = {"min": profile.min_batch, "opt": profile.opt_batch, "max": profile.max_batch}
    lines = []
    for file in _files_to_build(path, manifest, precisions):
        words = [
            "trtexec",
            f"--onnx={path / file.name}",
            "--stronglyTyped",  # TensorRT 10 needs it; 11 knows nothing else and ignores it.
            "--noTF32",
            *(
                f"--{end}Shapes={pixels.name}:{'x'.join(map(str, (n, *pixels.tensor_shape)))}"
                for end, n in batches.items()
            ),
            f"--memPoolSize=workspace:{workspace_mib}",
            f"--saveEngine={path / Path(file.name).with_suffix('.trtexec.engine').name}",
            "--skipInference",
        ]
        lines.append(shlex.join(words))
    return tuple(lines)


def _files_to_build(path: Path, manifest: Manifest, precisions: Sequence[str]) -> list[Onnx]:
    """The bundle's ONNX files of these precisions; without any, all of them. INT8 of a CPU is none of TensorRT's.

    Raises:
        InputError: One is not in the bundle, or has not passed.
    """
    buildable = [file for file in manifest.files if file.becomes_engines]
    present = {file.precision for file in buildable}
    if absent := [name for name in precisions if name not in present]:
        raise InputError(
            f"{path} holds no {absent[0]} file: byolt export --precision {','.join([*FILES])}, then build its engines"
        )
    files = [file for file in buildable if file.precision in (precisions or present)]
    for file in files:
        if file.verdict != "passed":
            raise InputError(f"{path / file.name} has not passed ({quoted(file.reason)}): no engine is built from it")
    return files
