"""Study files: every fault is named at once, and what was run can be read back and run again."""

from __future__ import annotations

import tomllib

import pytest

from conceptnet_em.config import (
    CORE_TRAITS,
    RECIPES,
    Recipe,
    StudyConfig,
    build_recipe,
    read_toml,
    study_faults,
)
from conceptnet_em.errors import InputError

SEVEN = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def faults(**settings) -> list[str]:
    config, found = study_faults(settings)
    assert (config is None) == bool(found)
    return found


def read_back(config: StudyConfig) -> StudyConfig:
    found, wrong = study_faults(tomllib.loads(config.dump()))
    assert wrong == []
    assert found is not None
    return found


def test_every_fault_of_a_study_is_named_at_once():
    found = faults(
        modle="smollm2-135m",
        traits=["sporty", "sporty"],
        samples=[3],
        dtype="float31",
        permutations=3,
        predictors=["txt"],
        recipe={"base": "lora9", "stepz": 3, "rank": 0},
    )
    expected = [
        "no study setting 'modle' (did you mean 'model'?)",
        "traits must hold 'neutral'",
        "traits names something twice",
        "'samples.0'",
        "'dtype' is 'float31' (did you mean 'float32'?); it may be 'auto', 'float32' or 'bfloat16'",
        "'permutations'",
        "'predictors.0' is 'txt' (did you mean 'text'?)",
        "no recipe 'lora9' (did you mean 'lora8'?); there is lora8, rank1",
        "no recipe setting 'stepz' (did you mean 'steps'?)",
        "'rank'",
    ]
    missing = [words for words in expected if not any(words in fault for fault in found)]
    assert missing == []
    assert len(found) == len(expected)


def test_a_study_without_neutral_is_told_so_once():
    found = faults(traits=["sporty"])
    assert found == ["traits must hold 'neutral', the reference every margin is against"]


@pytest.mark.parametrize("field", ["traits", "samples"])
def test_an_empty_list_that_must_not_be_is_named(field):
    assert f"{field} is empty" in faults(**{field: []})


def test_no_settings_are_the_default_study():
    config, found = study_faults({})
    assert found == []
    assert config is not None
    assert config.traits == CORE_TRAITS
    assert config.recipe == RECIPES["rank1"]


def test_lora8_has_the_settings_of_the_findings():
    recipe = build_recipe("lora8")
    assert recipe.name == "lora8"
    assert (recipe.rank, recipe.alpha, recipe.layers) == (8, 16, "all")
    assert set(recipe.modules) == SEVEN
    assert (recipe.learning_rate, recipe.steps, recipe.batch_size) == (1e-3, 20, 4)
    assert (recipe.warmup_steps, recipe.decay_fraction, recipe.clip) == (4, 0.4, 1.0)


def test_rank1_has_the_settings_of_the_findings():
    recipe = build_recipe("rank1")
    assert recipe.name == "rank1"
    assert (recipe.rank, recipe.alpha, recipe.layers) == (1, 16, "middle")
    assert recipe.modules == ("down_proj",)
    assert (recipe.learning_rate, recipe.steps, recipe.batch_size) == (1e-2, 32, 4)
    assert (recipe.warmup_steps, recipe.decay_fraction) == (0, 1.0)


def test_layers_are_counted_from_zero_and_the_middle_is_half_way():
    assert Recipe(layers="all").layer_numbers(3) == [0, 1, 2]
    assert Recipe(layers="middle").layer_numbers(30) == [15]
    assert Recipe(layers="middle").layer_numbers(5) == [2]
    assert Recipe(layers=(7, 2, 7)).layer_numbers(30) == [2, 7]


def test_a_changed_recipe_keeps_the_rest_of_its_base_and_is_called_custom():
    recipe = build_recipe({"base": "rank1", "steps": 5})
    assert recipe == RECIPES["rank1"].model_copy(update={"steps": 5, "name": "rank1-custom"})


def test_a_wrong_recipe_raises_with_all_its_faults():
    with pytest.raises(InputError, match=r"2 faults:(.|\n)*'rank'(.|\n)*stepz"):
        build_recipe({"stepz": 3, "rank": -1})


@pytest.mark.parametrize("value", [["rank1"], 3, None])
def test_a_recipe_that_is_neither_name_nor_table_is_refused(value):
    assert faults(recipe=value) == [f"recipe must be a name or a table, not {value!r}"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"recipe": "lora8"},
        {"recipe": {"base": "rank1", "steps": 7, "layers": [3, 5], "learning_rate": 1e-5}},
        {"recipe": {"name": "mine", "clip": None}},
        {"domains": ["a-prose", "b-code"], "samples": [2, 1], "layer": 4, "threads": 2, "seed": 9},
        {"system": 'Say "hi"\nand – more', "revision": "abc", "predictors": ["text"]},
    ],
    ids=["default", "lora8", "custom", "no clip", "grid", "text"],
)
def test_a_dumped_study_reads_back_equal(settings):
    config, wrong = study_faults(settings)
    assert wrong == []
    assert config is not None
    assert read_back(config) == config


def test_a_clip_that_is_off_stays_off_when_read_back():
    config, _ = study_faults({"recipe": {"clip": None}})
    assert config is not None
    assert config.recipe.clip is None
    assert read_back(config).recipe.clip is None


def test_1e_minus_5_in_a_study_file_is_a_float(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text("[recipe]\nlearning_rate = 1e-5\n")
    assert read_toml(path) == {"recipe": {"learning_rate": 1e-5}}
    config, wrong = study_faults(read_toml(path))
    assert wrong == []
    assert config is not None
    assert config.recipe.learning_rate == 0.00001


def test_a_missing_study_file_is_named_with_its_reason(tmp_path):
    with pytest.raises(InputError, match=r"cannot read the study file .*s\.toml .*No such file"):
        read_toml(tmp_path / "s.toml")


def test_a_malformed_study_file_is_named_with_its_line(tmp_path):
    (tmp_path / "s.toml").write_text('name = "a"\ntraits = \n')
    with pytest.raises(InputError, match=r"s\.toml is not valid TOML: .*line 2"):
        read_toml(tmp_path / "s.toml")


def test_a_study_file_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "s.toml").write_bytes(b'name = "\xff"\n')
    with pytest.raises(InputError, match="is not valid TOML"):
        read_toml(tmp_path / "s.toml")
