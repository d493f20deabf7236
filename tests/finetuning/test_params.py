import json

import pytest

from ketune.finetuning import ParamsError, TrainingParams


def test_settings_survive_a_file(tmp_path):
    params = TrainingParams(max_steps=7, epochs=0.5, report_to=["tensorboard"], max_length=64)
    params.save(tmp_path / "deep" / "training_params.json")
    assert TrainingParams.load(tmp_path / "deep" / "training_params.json") == params
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["training_params.json"]


def test_missing_settings_have_their_defaults(tmp_path):
    (tmp_path / "p.json").write_text('{"max_steps": 3}')
    assert TrainingParams.load(tmp_path / "p.json") == TrainingParams(max_steps=3)


def test_an_unknown_setting_is_answered_with_a_near_miss():
    with pytest.raises(ParamsError, match="'learning_rat'; did you mean 'learning_rate'"):
        TrainingParams.from_dict({"learning_rat": 1})
    with pytest.raises(ParamsError, match="unknown setting 'zzz'; known are max_steps"):
        TrainingParams().replace(zzz=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_steps": 0},
        {"max_steps": 1.5},
        {"max_steps": True},
        {"batch_size": -1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": "1e-3"},
        {"warmup_ratio": 1.0},
        {"epochs": 0},
        {"max_length": 1},
        {"dtype": "float16"},
        {"dtype": "float"},
        {"lr_scheduler": "cosin"},
        {"optimizer": "adam"},
        {"save_total_limit": 1},
        {"gradient_checkpointing": "yes"},
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ParamsError) as caught:
        TrainingParams(**wrong)
    assert str(caught.value).startswith(f"TrainingParams({name}={value!r}): ")


@pytest.mark.parametrize("text", ["not json", "[1]", '{"seed": 1}'])
def test_a_broken_file_is_refused(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ParamsError):
        TrainingParams.load(tmp_path / "p.json")


def test_every_setting_is_explained_and_plain_json():
    assert set(TrainingParams.help()) == set(TrainingParams().to_dict())
    assert all(TrainingParams.help().values())
    json.dumps(TrainingParams().to_dict())
