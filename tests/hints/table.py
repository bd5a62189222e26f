"""Every hint that names something to type: how it is followed in a test, or why it is not.

`FOLLOWED` runs a command that fails, types what its hint says, and sees that this leads on. `NOT_FOLLOWED` says why
not, and for which commands the hint is, so that its flags and command lines are still checked against them.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FOLLOWED", "MOVING", "MOVING_REASONS", "NOT_FOLLOWED", "Case", "Reason"]

QUICK = "--no-benchmark -o {OUT}"
SMALL = "--batch-size 1 --sequence-length 8 --threads 1 --block-seconds 0.02 --blocks 2"


@dataclass(frozen=True)
class Case:
    """A command that fails, and what typing its hint does.

    Args:
        hint: The hint as it is written in the source.
        asked: The command; names in braces are those of the fixture `world`.
        which: Which of the alternatives is typed, by the words it begins with.
        given: What stands for the hint's placeholder (MODEL, DATA, FILE …).
        without: What is left out because the hint is typed instead of it.
        more: What is typed beside it, so that the test ends soon.
        ends: Its exit code then.
        then: What the later stage says that it comes to, where it does not end well.
    """

    hint: str
    asked: str
    which: str = ""
    given: str = ""
    without: str = ""
    more: str = ""
    ends: int = 0
    then: str = ""


@dataclass(frozen=True)
class Reason:
    """Why a hint is not followed in a test, and which commands it is for."""

    commands: tuple[str, ...]
    why: str


GATE = "gate {FP32} --baseline {INT8} --sequence-length 8 --threads 1"
FAILS = '"verdict": "fail"'
"""The candidate is larger, which the gate says without measuring."""

_NO_MODULES = "use a model of Transformer, Pooling and optionally Normalize, or --task feature-extraction"
_NO_HEAD = "use --task feature-extraction for the encoder alone, or fine-tune the head first"
_LEARN = "--calibration train.jsonl (labels are not needed)"

FOLLOWED = (
    Case("--against MODEL", "evaluate {FP32} {ROWS} --max-drop 5%", given="{M}"),
    Case("--calibration DATA", f"export {{M}} --int8 --activations static {QUICK}", given="{TRAINING}"),
    Case(_LEARN, "compress {M} --drop-layers 1 -o {OUT}", given="{TRAINING}"),
    Case(
        "--calibration train.jsonl, or corpus: in the recipe",
        "compress {M} --prune-vocabulary -o {OUT}",
        given="{TRAINING}",
    ),
    Case("--column text=sentence", "evaluate {FP32} {OTHER} --column nonsense"),
    Case("--eval DATA", f"{GATE} --limit 5", given="{ROWS}", ends=1, then=FAILS),
    Case("--eval test.jsonl", "export {M} --limit 5 --dry-run", given="{ROWS}"),
    Case("--factorize size=50%", "export {M} --factorize-method svd --dry-run"),
    Case("--fixed batch=1,sequence=128", f"export {{M}} --fixed batch=x {QUICK}"),
    Case("--fixed sequence={}", f"export {{M}} --fixed sequence=4096 {QUICK}"),
    Case("--format bencher=FILE", f"benchmark {{FP32}} --format nonsense {SMALL}", given="{FILE}"),
    Case("--fp16 --target cuda", f"export {{M}} --int8 --target cuda {QUICK}", without="--int8"),
    Case("--fp16 --target cuda, or --int8 for a CPU", f"export {{M}} --fp16 --target portable {QUICK}"),
    Case(
        "--fp16 --target cuda, or --int8 for a CPU",
        f"export {{M}} --fp16 --target portable {QUICK}",
        which="--int8",
        without="--fp16",
    ),
    Case("--int8", "export {M} --activations static --dry-run"),
    Case("--max-drop 0.5% --eval DATA", f"{GATE} --max-drop 1%", given="{ROWS}", ends=1, then=FAILS),
    Case("--retrained --eval DATA", f"{GATE} --retrained", given="{ROWS}", ends=1, then=FAILS),
    Case("--prune 1.5x --recover 3", "export {M} --recover 3 --dry-run"),
    Case(
        "--prune 1.5x, --drop-layers 1 or --prune-vocabulary",
        "compress {M} --recipe int8 -o {OUT}",
        which="--drop-layers",
        more="--calibration {TRAINING}",
    ),
    Case(
        "--prune 1.5x, --drop-layers 1 or --prune-vocabulary",
        "compress {M} --recipe int8 -o {OUT}",
        which="--prune-vocabulary",
        more="--calibration {TRAINING}",
    ),
    Case(
        "--prune flops=0.6",
        f"export {{M}} --prune 1.5x --target cuda {QUICK}",
        ends=2,
        then="needs rows to learn from",
    ),
    Case(
        "a larger --budget, or --accept-false-alarms", f"{GATE} --false-alarm 1%", which="--accept", ends=1, then=FAILS
    ),
    Case("add --overwrite, or choose another --output", "export {M} --no-benchmark -o {COPIED}", which="--overwrite"),
    Case(
        "add --overwrite, or choose another --output",
        "export {M} --no-benchmark -o {COPIED}",
        which="--output",
        given="{ELSEWHERE}",
    ),
    Case("choose an --output beside it", "export {M} --no-benchmark -o {M}/in", given="{ELSEWHERE}"),
    Case("choose another --output", "export {M} --no-benchmark -o {FIXED}", given="{ELSEWHERE}"),
    Case(
        "choose another --output, or remove the folder yourself",
        "export {M} --no-benchmark --overwrite -o {FOREIGN}",
        given="{ELSEWHERE}",
    ),
    Case("choose a shorter --output", "export {M} --no-benchmark -o {LONG}", given="{ELSEWHERE}"),
    Case("choose a labeled split: --split validation", "evaluate {FP32} {SPLITS} --split test"),
    Case("deploycomp compress MODEL --prune 1.5x", "compress", given="{M}", ends=2, then="needs rows to learn from"),
    Case("deploycomp export MODEL --int8", "export", given="{M}", more=QUICK),
    Case("deploycomp recipes", "export {M} --recipe nonsense --dry-run"),
    Case(
        "evaluate on data with the model's labels, or name the right column: --column label=…",
        "evaluate {FP32} {UNKNOWN}",
        given="label=intent",
    ),
    Case("leave --revision away", "export {M} --revision main --no-benchmark -o {OUT}", without="--revision"),
    Case(
        "leave --split out, or name the folder of the split files",
        "evaluate {FP32} {ROWS} --split test",
        without="--split",
    ),
    Case(
        "leave out --attention int8",
        f"export {{M}} --int8 --attention int8 --activations dynamic --calibration {{TRAINING}} {QUICK}",
        without="--attention",
    ),
    Case("name it: --column {}={}", "evaluate {FP32} {CAPTIONS}", given="text=caption"),
    Case("name it: --split {}", "evaluate {FP32} {TRAIN}"),
    Case("name it: --task {}", f"export {{ANONYMOUS}} {QUICK}"),
    Case("name the task: --task {}", f"export {{STRANGE}} {QUICK}", given="feature-extraction"),
    Case(
        "use --task feature-extraction for the encoder alone, or fine-tune the head first",
        f"export {{HEADLESS}} {QUICK}",
    ),
    Case(
        "use --task feature-extraction, or save the model with sentence-transformers",
        f"export {{M}} --task sentence-similarity {QUICK}",
    ),
    Case("use --task {}, or --task feature-extraction for the encoder alone", f"export {{M}} --task fill-mask {QUICK}"),
    Case(
        "use --task {}, or --task feature-extraction for the encoder alone",
        f"export {{M}} --task fill-mask {QUICK}",
        which="--task feature-extraction",
    ),
    Case("use at most --threads {}", f"benchmark {{FP32}} {SMALL} --threads 100000"),
    Case("{} 0.5%", "evaluate {FP32} {ROWS} --against {M} --max-drop 5", ends=2, then="cannot be decided"),
    Case("{} 1,8", f"benchmark {{FP32}} {SMALL} --batch-size x"),
    Case("{} {}", "export {M} --prune nonsense --dry-run"),
)

_ENVIRONMENT = (
    "needs a disk, a quota or rights that a test cannot take away; test_artifact.py fails every write by code"
)
_CLOCK = "measures for a minute or more; the command line is parsed"
_GPU = "needs a GPU, or an onnxruntime without its provider"
_OLDER = "needs an old onnxruntime: `make test-versions` has them"
_PYTHON = "a line of Python; the names in it are looked up"

NOT_FOLLOWED = {
    "--budget {}, or fewer shapes": Reason(("gate",), _CLOCK),
    "--factorize size=50% saves bytes; --prune saves time": Reason(("export", "compress"), _CLOCK),
    "--fixed batch=1,sequence=128 exports it for one shape": Reason(
        ("export",), "no model of the tests fixes a dimension when it is traced; test_export.py makes one up"
    ),
    "--prune, or a smaller goal": Reason(("export", "compress"), _CLOCK),
    "--target auto may allow 8-bit weights; `embeddings: false` in a recipe keeps tables in float; "
    "or accept it with a larger --max-drop": Reason(("export",), "advice, of which none is sure to reach the goal"),
    "calibrate again on a quieter machine, or with a longer --budget": Reason(("gate",), _CLOCK),
    "call model.resize_token_embeddings(len(tokenizer)) before training, and save both": Reason((), _PYTHON),
    "check --revision": Reason(("export",), "needs the hub"),
    "choose --batch-size and --sequence-length that both can run": Reason(("gate",), _CLOCK),
    "choose an --output that you may write to": Reason(("export",), _ENVIRONMENT),
    'convert it once, at your own risk and away from anything precious: python -c "import torch, safetensors.torch '
    "as s; w = torch.load('{}', map_location='cpu', weights_only=True); s.save_file({k: v.clone().contiguous() for k, "
    "v in w.items()}, 'model.safetensors', metadata={'format': 'pt'})\"": Reason(
        (), "followed in tests/models/test_weights.py::test_the_conversion_to_type_works"
    ),
    "convert it to tokenizer.json with transformers.convert_slow_tokenizer": Reason((), _PYTHON),
    "deploycomp --help": Reason((), "shown for options that no command knows; tests/cli/test_output.py runs it"),
    "deploycomp export MODEL": Reason(("export",), "for callers of the library; the command says --int8 too, above"),
    "deploycomp export MODEL -o FOLDER writes one": Reason(
        ("export",), "for callers of the library; followed in test_following.py"
    ),
    "deploycomp gate calibrate ARTIFACT --output FILE writes one": Reason(("gate",), _CLOCK),
    "deploycomp gate calibrate BASELINE --budget {} --output {}": Reason(("gate",), _CLOCK),
    "deploycomp gate calibrate BASELINE --output FILE measures enough of them": Reason(("gate",), _CLOCK),
    "export it again without --fp16, and look at the parity in report.md": Reason(
        ("export",), "a weight that overflows in FP16 is refused at export before it can answer NaN"
    ),
    "export without --int8": Reason(("export",), "no encoder has no product with a weight; test_int8.py makes a graph"),
    "free some space there ({}) or choose another --output": Reason(("export",), _ENVIRONMENT),
    "give the folder that model.save_pretrained(folder) wrote": Reason((), _PYTHON),
    "if the candidate was trained anew: --retrained --eval DATA": Reason(("gate",), _CLOCK),
    "look for NaN or infinite weights before this tensor: deploycomp inspect": Reason(
        ("inspect",), "a checkpoint with such weights is refused when it is loaded; test_calibrate.py makes a graph"
    ),
    "measure the baseline alone: deploycomp benchmark ARTIFACT --blocks 20 --json": Reason(("benchmark",), _CLOCK),
    "name an artifact of `deploycomp export`, or an .onnx file": Reason(
        ("export",), "names what to give, not what to type"
    ),
    "name the artifact as --baseline": Reason(("gate",), "needs a stored baseline of minutes"),
    "pip install 'deploycomp[demo]'": Reason((), "installs; the extra is looked up"),
    "pip install 'deploycomp[sentencepiece]'": Reason((), "installs; the extra is looked up"),
    "pip install onnxruntime-gpu": Reason((), _GPU),
    "save it beside the weights: AutoTokenizer.from_pretrained(BASE_MODEL).save_pretrained(folder)": Reason(
        (), _PYTHON
    ),
    "save it with model.save_pretrained(folder) of transformers, which writes safetensors": Reason((), _PYTHON),
    "set tokenizer.{}": Reason((), _PYTHON),
    "take both from the folder that `deploycomp compress` wrote": Reason(
        ("compress",), "names what to take, not what to type"
    ),
    "the file system is read-only; choose another --output": Reason(("export",), _ENVIRONMENT),
    "use --task feature-extraction": Reason(
        ("export",), "every architecture of the tests has a class for every task; test_tasks.py takes one away"
    ),
    "write the others to files: --format bencher=FILE": Reason(("benchmark",), "the same flag as above"),
    "your quota is used up; choose another --output": Reason(("export",), _ENVIRONMENT),
    "{} {}%, or calibrate with a longer --budget": Reason(("gate",), _CLOCK),
}

# Hints that were being reworded when this was written: the old words and the new. Those that are gone go from here.

MOVING = (
    Case(
        "--calibration train.jsonl",
        f"export {{M}} --int8 --eval {{ROWS}} --calibration {{ROWS}} {QUICK}",
        given="{TRAINING}",
    ),
    Case(_NO_MODULES, f"export {{DENSE}} {QUICK}"),
    Case(
        "--calibration train.jsonl, or --eval with rows that are not in it",
        f"export {{M}} --int8 --eval {{ROWS}} --calibration {{ROWS}} {QUICK}",
        given="{TRAINING}",
    ),
    Case(
        "--task feature-extraction exports the encoder alone, whose token vectors you pool yourself",
        f"export {{DENSE}} {QUICK}",
    ),
    Case("name the column of the texts: --column {}=…", "evaluate {FP32} {BLANK}", given="text=caption"),
    Case(
        "export the encoder alone with --task {}, and give its embeddings to the classifier yourself",
        f"export {{SETFIT}} {QUICK}",
    ),
)

MOVING_REASONS = {
    "merge it first: model.merge_and_unload().save_pretrained(folder)": Reason((), _PYTHON),
    "wait for it, or choose another --output": Reason(("export",), "followed in tests/cli/test_interrupt.py"),
    "this is onnxruntime {}: pip install --upgrade onnxruntime, or export with --opset 18": Reason(
        ("export",), "needs an old onnxruntime: `make test-versions` has them"
    ),
    "--calibration with texts that the model reads": Reason(("export",), "the same flag as above"),
    "Predictor.load(FOLDER)": Reason((), _PYTHON),
    "load it again: Predictor.load(FOLDER)": Reason((), _PYTHON),
    "move them out of the folder, or choose another --output": Reason(("export",), "the same flag as above"),
    "name a folder inside it: --output {}": Reason(("export",), "needs a mount point"),
    "pad on the right, or export with --opset 18: that takes any attention_mask": Reason(
        ("export",), "for callers of the library who pad on the left"
    ),
    "pip install --upgrade onnxruntime, or export with --opset 18, which every one since 1.18 answers rightly": Reason(
        ("export",), _OLDER
    ),
    "pip install 'onnxruntime>={}', or export it again with --opset 18, "
    "which every one since {} answers rightly": Reason(("export",), _OLDER),
    "install it again: pip install deploycomp": Reason((), "installs"),
    "pip install --upgrade deploycomp": Reason((), "installs"),
    "send it to a file or to /dev/null, or add --quiet": Reason(
        ("export",), "needs a stream that is closed or full: tests/cli/test_output.py has them"
    ),
    "ulimit -v unlimited; a cgroup limits what is used instead: docker run --memory 4g": Reason(
        (), "needs a limit on this process: tests of that room set it"
    ),
    "pip install sentence-transformers": Reason((), "installs"),
    "pip install tokenizers numpy": Reason((), "installs"),
    "wait for it, or choose another --output; if you know that it is dead, remove that folder by hand": Reason(
        ("export",), "followed in tests/cli/test_interrupt.py"
    ),
}
