"""A tiny reference model, trained: what it learns, what it leaves, and that no interruption shows in it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from patience import FakeClock

from moesaic.bench.reference import loop
from moesaic.bench.reference.card import model_card
from moesaic.bench.reference.description import Description, read_description
from moesaic.bench.reference.export import export
from moesaic.bench.reference.loop import Limit
from moesaic.bench.reference.run import Machine, Texts, only_process, train
from moesaic.bench.reference.state import last_state, read_progress
from moesaic.cli.main import main
from moesaic.evaluate.texts import embedded_text
from moesaic.models.checkpoint import load
from moesaic.models.errors import SetupError
from moesaic.models.tokenizer import Tokenizer

SIZES = {"width": 32, "layers": 2, "heads": 2, "ffn_width": 256, "context": 64, "vocabulary": 400, "batch": 4}
OPT = {"family": "opt", **SIZES, "tokens": 24 * 256, "learning_rate": 0.01, "precision": "float32", "warmup_steps": 2}
LLAMA = OPT | {"family": "llama", "ffn_width": 64, "heads": 4, "kv_heads": 2}
QUIET: list[str] = []


def trained(out: Path, values: dict[str, Any], limit: Limit | None = None, threads: int = 1) -> Description:
    description = read_description(values)
    text = [embedded_text()]
    with only_process(out, description):
        machine = Machine("cpu", threads)
        assert train(out, description, Texts(text, text), limit or Limit(), machine, QUIET.append)
    return description


@pytest.fixture(scope="session")
def opt_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "opt"
    trained(out, OPT | {"validate_every": 12, "valid_windows": 4})
    export(out)
    return out


@pytest.fixture(scope="session")
def llama_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "llama"
    trained(out, LLAMA, threads=2)
    export(out)
    return out


def state_of(out: Path) -> Path:
    state: Path | None = last_state(out)
    assert state is not None
    return state


def same_bytes(one: Path, other: Path, name: str) -> bool:
    return (one / name).read_bytes() == (other / name).read_bytes()


def test_a_few_steps_lower_the_loss(opt_run: Path) -> None:
    progress = read_progress(state_of(opt_run))
    assert progress.step == 24
    assert progress.losses[0] == pytest.approx(torch.tensor(400.0).log().item(), rel=0.02)
    assert progress.losses[-1] < progress.losses[0] - 0.5
    assert [step for step, _ in progress.valid] == [12, 24]


KILLED = """
import os, signal
from moesaic.bench.reference import state, train
save, saved = state.save_file, []
def kill_in_the_sixth_save(tensors, file):
    saved.append(file)
    if len(saved) == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    save(tensors, file)
state.save_file = kill_in_the_sixth_save
train.main()
"""


def test_a_killed_run_goes_on_and_ends_in_the_same_bits(opt_run: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "killed", tmp_path / "tiny.yaml"
    file.write_text(json.dumps(OPT | {"validate_every": 12, "valid_windows": 4}))
    texts = ["--text", str(embedded_text()), "--valid", str(embedded_text())]
    often = ["--threads", "1", "--device", "cpu", "--save-minutes", "1e-9"]
    command = [sys.executable, "-c", KILLED, str(file), str(out), *texts, *often]
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == -signal.SIGKILL
    assert read_progress(state_of(out)).step == 5
    trained(out, json.loads(file.read_text()))
    ours, unbroken = read_progress(state_of(out)), read_progress(state_of(opt_run))
    assert ours.losses == unbroken.losses and ours.valid == unbroken.valid
    for name in ("weights.safetensors", "moments.safetensors"):
        assert same_bytes(state_of(out), state_of(opt_run), name)


def test_a_stop_signal_saves_first(tmp_path: Path) -> None:
    description = read_description(OPT | {"tokens": 10**9})
    text = [embedded_text()]
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("step 1/"):
            os.kill(os.getpid(), signal.SIGTERM)

    with only_process(tmp_path / "run", description):
        assert not train(tmp_path / "run", description, Texts(text), Limit(), Machine("cpu", 1), say)
    saved = read_progress(state_of(tmp_path / "run")).step
    assert saved >= 1 and f"stopped, saved at step {saved}" in lines[-1]


@pytest.mark.parametrize("kind", ["opt", "llama"])
def test_the_model_gives_transformers_logits(kind: str, request: pytest.FixtureRequest) -> None:
    transformers = pytest.importorskip("transformers")
    folder = request.getfixturevalue(f"{kind}_run") / "model"
    ids = torch.arange(60).remainder(400).view(2, 30)
    with torch.no_grad():
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(ids).logits
        ours = load(folder)(ids)
    assert type(ours) is torch.Tensor
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_both_tokenizers_give_the_same_ids_and_the_text_back(opt_run: Path) -> None:
    transformers = pytest.importorskip("transformers")
    text = "A horse, 12 years old:  naïve — 日本語 \n\n\tx = y[3]"
    ours = Tokenizer.open(opt_run / "model")
    theirs = transformers.AutoTokenizer.from_pretrained(opt_run / "model")
    assert ours.encode(text) == theirs(text)["input_ids"]
    assert ours.decode(ours.encode(text)) == text
    assert ours.bos_id == theirs.bos_token_id == 0 and ours.eos_ids == (0,) and ours.vocab_size == 400


def test_the_card_and_the_curve_tell_the_run(opt_run: Path) -> None:
    card = (opt_run / "model" / "README.md").read_text()
    assert card == model_card(json.loads((opt_run / "model" / "card.json").read_text()))
    curve = json.loads((opt_run / "model" / "curve.json").read_text())
    progress = read_progress(state_of(opt_run))
    assert "6,144 (" in card and "black_beauty.txt" in card and "public domain (Anna Sewell, 1877)" in card
    assert f"{progress.valid[-1][1]:.4f} nats" in card
    assert curve["valid"]["tokens"] == [12 * 256, 24 * 256]
    assert curve["train"]["nats_per_token"] == [round(loss, 5) for loss in progress.losses]
    assert (opt_run / "model" / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_workers_share_a_batch_without_changing_the_result(opt_run: Path, tmp_path: Path) -> None:
    trained(tmp_path / "two", OPT | {"tokens": 4 * 256}, threads=2)
    trained(tmp_path / "one", OPT | {"tokens": 4 * 256}, threads=1)
    two, one = (read_progress(state_of(tmp_path / name)).losses for name in ("two", "one"))
    assert two == pytest.approx(one, abs=1e-4)


def test_minutes_bring_the_learning_rate_down_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a second."""
    clock, one_step = FakeClock(), loop.Loop._one_step
    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(loop.Loop, "_one_step", lambda self: (clock.sleep(1.0), one_step(self)))
    trained(tmp_path / "run", OPT | {"tokens": 10**9}, Limit(minutes=1.0))
    progress = read_progress(state_of(tmp_path / "run"))
    assert progress.plan.share(progress.step) == 1.0
    assert progress.step == progress.plan.last == 60 and clock.now == 60.0


def test_a_folder_of_another_run_is_refused(opt_run: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="another description .layers is 2 there and 3 here"):
        trained(opt_run, OPT | {"validate_every": 12, "valid_windows": 4, "layers": 3})
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(SetupError, match="something else"):
        trained(tmp_path, OPT)


def test_other_limits_and_other_text_are_refused_on_going_on(opt_run: Path, tmp_path: Path) -> None:
    values = OPT | {"validate_every": 12, "valid_windows": 4}
    with pytest.raises(SetupError, match="planned for the description's tokens"):
        trained(opt_run, values, Limit(steps=3))
    (tmp_path / "other.txt").write_text("other")
    with pytest.raises(SetupError, match=r"packed from other text \(black_beauty.txt\)"):
        train(
            opt_run, read_description(values), Texts([tmp_path / "other.txt"]), Limit(), Machine("cpu", 1), QUIET.append
        )


def test_two_processes_do_not_share_a_folder(opt_run: Path) -> None:
    description = read_description(OPT | {"validate_every": 12, "valid_windows": 4})
    with only_process(opt_run, description), pytest.raises(SetupError, match="another process"):
        with only_process(opt_run, description):
            pass


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path / "run", OPT | {"tokens": 10 * 256}, Limit(steps=2))
    before = state_of(tmp_path / "run")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(SetupError, match="run the same command again"):
        trained(tmp_path / "full", OPT)
    assert before.is_dir() and last_state(tmp_path / "full") is None


def test_the_command_exports_a_run_under_a_name_of_its_own(opt_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reference", "export", str(opt_run), "--name", "tiny"]) == 0
    assert (opt_run / "model" / "README.md").read_text().startswith("# tiny\n") and "written" in capsys.readouterr().out
