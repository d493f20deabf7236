"""quantize_saved: a model in a folder, quantised without training."""

from __future__ import annotations

import pytest
import torch
from tests.finetuning.tiny import make_model, write_jsonl

from ketune.errors import DataError, KetuneError
from ketune.finetuning import evaluate_loss, load_base, load_task
from ketune.finetuning.quantizing_saved import quantize_saved
from ketune.quantization import CodedLinear, QuantizationError, QuantizeConfig, dequantize_, quantize_

INNS = {"data": "builtin:inns", "limit": 12, "batch_size": 4}


def logits(model):
    with torch.no_grad():
        return model(torch.arange(40).view(2, 20)).logits


def test_rounding_is_that_of_quantize_and_the_loss_is_that_of_what_was_written(tmp_path):
    found = quantize_saved("builtin:base", tmp_path / "q", "w3a16", clip=0.95, **INNS)
    loaded, tokenizer = load_base(found.folder)
    base, _ = load_base("builtin:base")
    exact = {name: module.weight.detach().clone() for name, module in base.named_modules() if name in found.errors}
    task = load_task("builtin:inns", limit={"validation": 12})
    scores = [evaluate_loss(model, tokenizer, task.validation, batch_size=4)["loss"] for model in (base, loaded)]
    assert [found.loss_before, found.loss_after] == pytest.approx(scores, rel=1e-6)
    assert scores[1] > scores[0] + 0.01
    dequantize_(loaded)
    for name, error in found.errors.items():
        weight = loaded.get_submodule(name).weight
        assert error == pytest.approx(float((weight - exact[name]).norm() / exact[name].norm()), rel=1e-5)
    assert len(found.errors) == 42
    assert found.mean_error < found.errors[found.worst_layer] == max(found.errors.values())


def test_ranges_of_least_error_and_outliers_bring_the_weights_nearer(tmp_path):
    plain = quantize_saved("builtin:base", tmp_path / "plain", "w3a16")
    nearer = quantize_saved("builtin:base", tmp_path / "mse", "w3a16", range="mse")
    apart = quantize_saved("builtin:base", tmp_path / "apart", "w3a16", range="mse", outliers=0.005)
    assert apart.mean_error < nearer.mean_error < plain.mean_error
    assert apart.n_bytes > nearer.n_bytes
    layers = [m for m in load_base(apart.folder)[0].modules() if isinstance(m, CodedLinear)]
    assert all(len(m.outlier_value) == round(0.005 * m.in_features * m.out_features) for m in layers)


def test_sizes_are_those_of_the_files(tmp_path):
    found = quantize_saved("builtin:base", tmp_path / "q", "w4a16")
    assert (found.loss_before, found.loss_after, found.split, found.n_rows) == (None, None, None, 0)
    assert found.before.bits_per_weight == 32
    coded = found.after.bits_per_coded_weight
    assert coded is not None
    # 32 bits of step and 32 of zero point for each row of 160 or 448 codes
    assert 4 + 64 / 448 < coded < 4 + 64 / 160
    header = 20_000
    assert found.after.n_bytes < found.n_bytes < found.after.n_bytes + header < found.before.n_bytes / 3


def test_gptq_is_nearer_to_the_outputs_though_farther_from_the_weights(tmp_path):
    options = {**INNS, "n_calibration": 24}
    nearest, gptq = (
        quantize_saved("builtin:base", tmp_path / rounding, "w3a16", rounding=rounding, **options)
        for rounding in ("nearest", "gptq")
    )
    assert nearest.loss_before == gptq.loss_before
    assert gptq.mean_error > nearest.mean_error
    base, tokenizer = load_base("builtin:base")
    rows = load_task("builtin:inns", limit={"validation": 12}).validation  # none of them calibrates
    batch = tokenizer([p + c for p, c in zip(rows["prompt"], rows["completion"])], padding=True, return_tensors="pt")
    seen = batch["attention_mask"].bool()
    with torch.no_grad():
        exact, *quantised = (
            model(**batch).logits[seen] for model in (base, load_base(nearest.folder)[0], load_base(gptq.folder)[0])
        )
    rounded, better = ((found - exact).norm() / exact.norm() for found in quantised)
    assert better < 0.85 * rounded


@pytest.mark.parametrize("rotations", ["adaptive", "always"])
def test_rotated_models_are_written_with_their_rotations(rotations, tmp_path):
    seen: list[tuple[str, int, int]] = []
    found = quantize_saved(
        "builtin:base",
        tmp_path / "q",
        "w4a4kv4",
        rotations=rotations,
        n_calibration=6,
        on_phase=lambda *phase: seen.append(phase),
        **INNS,
    )
    assert any(choice.chosen for choice in found.rotations.choices)
    loaded, tokenizer = load_base(found.folder)
    task = load_task("builtin:inns", limit={"validation": 12})
    assert evaluate_loss(loaded, tokenizer, task.validation)["loss"] == pytest.approx(found.loss_after, rel=1e-4)
    phases = {}
    for phase, done, total in seen:
        assert phases.get(phase, (-1, total)) == (done - 1, total)  # one by one, of as many
        phases[phase] = done, total
    assert phases["loss before"] == phases["loss after"] == (3, 3)
    assert phases.get("choosing rotations") == ((6, 6) if rotations == "adaptive" else None)  # 3 times 2 batches


def test_calibration_takes_so_many_training_rows_by_the_seed(tmp_path, llama_folder):
    rows = [{"prompt": f"a fox and {n}:", "completion": f" {'owls ' * (n % 7)}{n * n}"} for n in range(40)]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)

    def errors(seed: int, n_calibration: int) -> dict[str, float]:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        options = {"rounding": "gptq", "data": data, "n_calibration": n_calibration, "seed": seed}
        return quantize_saved(llama_folder, place, "w4a16", **options).errors

    assert errors(0, 4) == errors(0, 4)
    assert errors(0, 4) != errors(1, 4)
    assert errors(0, 4) != errors(0, 8)


def test_what_stays_in_full_precision_has_the_dtype_and_steps_do_not(tmp_path):
    found = quantize_saved("builtin:base", tmp_path / "q", "w4a16", dtype="bfloat16")
    assert found.before.bits_per_weight == 16
    loaded, _ = load_base(found.folder, "bfloat16")
    layer = loaded.model.layers[0].mlp.up_proj
    assert layer.scale.dtype == torch.float32
    assert loaded.model.embed_tokens.weight.dtype == layer.compute_dtype == torch.bfloat16
    again = quantize_(load_base("builtin:base", "bfloat16")[0], QuantizeConfig("w4a16", "convert"))
    assert torch.equal(logits(loaded), logits(again))


def test_nothing_is_left_where_the_work_fails(tmp_path, tokenizer):
    model = make_model("llama")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(QuantizationError, match="group_size=7"):
        quantize_saved(tmp_path / "model", tmp_path / "q", "w4a16g7")
    with pytest.raises(DataError, match="max_length"):
        quantize_saved(tmp_path / "model", tmp_path / "q", "w4a16", max_length=3, **INNS)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    with pytest.raises(KetuneError, match="pass a new folder"):
        quantize_saved(tmp_path / "model", tmp_path / "full")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "model"]
