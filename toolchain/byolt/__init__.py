"""Learn an image encoder from unlabelled images with BYOL, measure what it learned, and deliver it with proof.

The public API, each name loaded when it is first asked for; every command calls one of these functions::

    import byolt

    recipe = byolt.load_recipe("recipes/folder.yaml", {"data.root": "images"})
    run = byolt.pretrain(recipe, on_log=print)
    metrics = byolt.evaluate(run)
    encoder = run.encoder()  # the plain torchvision or timm module
    bundle = byolt.export(run, precisions=("fp32", "int8"))

A fault of the user or the machine is a ``byolt_export.errors.ByoltError``, whose text is one sentence.

Reading order, from the command to the maths: ``cli`` and ``commands`` parse, call and print; ``recipe`` turns YAML into
a frozen ``Recipe``; ``training.loop`` is the run; ``methods.byol`` is the paper's section 3. Beside them: ``data``
(images in), ``views`` (the two augmentations), ``networks`` (encoder and heads), ``evaluation`` (kNN, linear probe,
fine-tuning, collapse), ``studies`` (methods compared), ``delivery`` (bundle, embeddings, speed), ``run`` (a run's
folder).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from byolt.data.folder_check import check_folder as check_folder
    from byolt.data.packing import pack as pack
    from byolt.delivery.bench import bench as bench
    from byolt.delivery.embed import embed as embed
    from byolt.delivery.export import export as export
    from byolt.doctor.findings import examine as examine
    from byolt.evaluation.evaluate import evaluate as evaluate
    from byolt.evaluation.finetune_run import finetune as finetune
    from byolt.evaluation.predictions import compare as compare
    from byolt.recipe.explain import explain as explain
    from byolt.recipe.load import load_recipe as load_recipe
    from byolt.recipe.schema import Recipe as Recipe
    from byolt.reporting.report import report as report
    from byolt.run import Run as Run
    from byolt.run import open_run as open_run
    from byolt.studies.lengths import study_lengths as study_lengths
    from byolt.studies.starts import study_starts as study_starts
    from byolt.studies.study import ablate as ablate
    from byolt.studies.study import study as study
    from byolt.training.dry_run import dry_run as dry_run
    from byolt.training.loop import pretrain as pretrain

__version__ = "0.1.0"
_MODULES = {
    "Recipe": "byolt.recipe.schema",
    "Run": "byolt.run",
    "ablate": "byolt.studies.study",
    "bench": "byolt.delivery.bench",
    "check_folder": "byolt.data.folder_check",
    "compare": "byolt.evaluation.predictions",
    "dry_run": "byolt.training.dry_run",
    "embed": "byolt.delivery.embed",
    "evaluate": "byolt.evaluation.evaluate",
    "examine": "byolt.doctor.findings",
    "explain": "byolt.recipe.explain",
    "export": "byolt.delivery.export",
    "finetune": "byolt.evaluation.finetune_run",
    "load_recipe": "byolt.recipe.load",
    "open_run": "byolt.run",
    "pack": "byolt.data.packing",
    "pretrain": "byolt.training.loop",
    "report": "byolt.reporting.report",
    "study": "byolt.studies.study",
    "study_lengths": "byolt.studies.lengths",
    "study_starts": "byolt.studies.starts",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
