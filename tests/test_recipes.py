"""Recipes: the shipped ones are what they claim to be, and no mistake in one goes unnoticed."""

from dataclasses import fields, replace
from typing import Any, Literal, get_type_hints

import pytest
import yaml
from corpus_trees import write_asvspoof2019
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import ATTACKS, TRAIN, tiny_recipe, write_encoder, write_own_corpus

from spooftrace.trainers import write_recipes
from spooftrace.trainers.recipe import TRAINERS, load_recipe, shipped_recipes
from spooftrace.trainers.recipe_data import load_clips
from spooftrace.trainers.recipe_models import build_model, count_parameters
from spooftrace.trainers.recipe_schema import RecipeError, convert, parse_text
from spooftrace.trainers.rehearse_recipe import rehearse
from spooftrace.trainers.train_recipe import build_arguments


ROWS = {row.name: row for row in write_recipes.rows()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    encoder, corpus = write_encoder(folder / "encoder"), write_own_corpus(folder / "corpus")

    def write(**changes):
        return tiny_recipe(folder / "recipe.yaml", encoder, corpus, **changes)

    return write


def written(path, text: str):
    path.write_text(text, encoding="utf-8")
    return path


MINIMAL = "data: {corpus: own}\ntrainer: erm\nmodel: {frontend: mel}\n"


# --- what is shipped -------------------------------------------------------------------------------------------------


def test_the_shipped_files_are_what_the_script_writes():
    files = {path.stem: path.read_text(encoding="utf-8") for path in write_recipes.FOLDER.glob("mldg-*.yaml")}
    assert files == {name: write_recipes.recipe_text(row) for name, row in ROWS.items()}


@pytest.mark.parametrize("name", ROWS)
def test_every_recipe_is_rehearsed_on_a_tiny_model(name, tmp_path):
    row = ROWS[name]
    plan = "\n".join(rehearse(load_recipe(name, [("use_cpu", "true")]), tmp_path / "run"))
    assert f"{row.row}\n" in plan
    assert f"parameters  {row.trained:,} trained of " in plan
    assert "2,580 bona fide, 22,800 spoof" in plan and "2,548 bona fide, 22,296 spoof" in plan
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["mldg-table3-mldg-r4", "mldg-table3-full"])
def test_a_rehearsal_reads_the_corpus_and_makes_a_step(name, tmp_path):
    write_asvspoof2019(tmp_path / "LA")
    changes = [("data.dir", str(tmp_path / "LA")), ("use_cpu", "true"), ("num_samples", "8000")]
    if "mldg-r" in name:
        changes += [("num_meta_test_domains", "1"), ("clips_per_domain", "2")]
    else:
        changes += [("per_device_train_batch_size", "2")]
    plan = "\n".join(rehearse(load_recipe(name, changes), tmp_path / "run"))
    assert "train       2 bona fide, 2 spoof" in plan
    assert ("A01 2, A06 2" in plan) == ("mldg-r" in name)
    assert "tiny random model: loss" in plan


def test_headers_tell_the_papers_figures_or_that_there_is_none():
    for name, row in ROWS.items():
        header = shipped_recipes()[name].read_text(encoding="utf-8").partition("\n\n")[0].replace("\n# ", " ")
        for figure in [*row.eer.values(), *([row.average] if row.average else [])]:
            assert f"{figure:.2f}" in header
        assert ("the paper's figure was not at hand" in header) == (set(row.eer) != set(write_recipes.CORPORA))


def test_the_published_average_is_that_of_the_published_row():
    row = ROWS["mldg-table3-mldg-r4"]
    assert sum(row.eer.values()) / len(row.eer) == pytest.approx(row.average, abs=0.005)


def test_table_4_has_every_subset_of_the_projections():
    targets = {frozenset(load_recipe(name).lora["target_modules"]) for name in ROWS if "table4" in name}
    assert len(targets) == 15


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_recipe_comes_back_from_its_own_text(tmp_path, tiny):
    for source in ("mldg-table5-seed999", "mldg-table3-full", tiny()):
        recipe = load_recipe(source)
        again = load_recipe(written(tmp_path / f"{recipe.name}.yaml", recipe.to_yaml()))
        assert again == recipe


def test_what_concerns_one_call_and_secrets_are_not_written_down():
    changes = [("hub_token", "hf_secret"), ("output_dir", "here"), ("resume_from_checkpoint", "true"), ("seed", "5")]
    text = load_recipe("mldg-table3-full", changes).to_yaml()
    assert "seed: 5" in text
    assert not any(word in text for word in ("hf_secret", "here", "resume"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("learning_rat: 0.1", "no key is called learning_rat: did you mean learning_rate?"),
        ("lora: {rank: 4}", "no key is called lora.rank: "),
        ("data: {corpus: own, splt: a}", "no key is called data.splt: "),
        ("learning_rate: 1e-5", "learning_rate is a number, got '1e-5'; YAML reads 1e-5 as text"),
        ("max_steps: 2.5", "max_steps is a whole number, got 2.5"),
        ("max_steps: true", "max_steps is a whole number, got True"),
        ("seed: '3'", "seed is a whole number, got '3'"),
        ("crop: middle", "crop is 'random' or 'start', got 'middle'"),
        ("class_weights: [1, 2]", "class_weights is a mapping or a text or null, got [1, 2]"),
        ("beta: 1.0", "beta is no setting of trainer 'erm'"),
        ("trainer: sgd", "trainer is 'erm' or 'mldg' or 'tracing' or 'sastnet' or 'audio_llm', got 'sgd'"),
        ("model: mel", "model has keys of its own, got 'mel'"),
        ("model: {frontend: fft}", "model or lora: "),
        ("lora: {r: 4}", "lora adapts a pretrained encoder: name it as model.base_model"),
        ("data: {}", "data.corpus is missing"),
        ("learning_rate: [", "is not YAML"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(tmp_path, line, message):
    kept = [part for part in MINIMAL.splitlines() if part.split(":")[0] != line.split(":")[0]]
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(tmp_path / "mine.yaml", "\n".join([*kept, line]) + "\n"))
    assert message in str(caught.value)


def test_a_recipe_that_is_not_there_is_named_with_the_nearest(tmp_path):
    with pytest.raises(RecipeError, match="did you mean mldg-table3-mldg-r4"):
        load_recipe("mldg-table3-mldg-r44")
    with pytest.raises(RecipeError, match="no file nowhere/mine.yaml"):
        load_recipe("nowhere/mine.yaml")
    with pytest.raises(RecipeError, match="is no recipe"):
        load_recipe(written(tmp_path / "list.yaml", "- a\n"))


def test_overrides_replace_values_of_any_section():
    changes = {
        "lora.r": "8",
        "lora.target_modules": "q_proj,v_proj",
        "learning_rate": "1e-6",
        "max_steps": "100",
        "data.dir": "123",
        "bf16": "false",
        "early_stopping_patience": "none",
        "class_weights": "{bonafide: 2, spoof: 1}",
    }
    recipe = load_recipe("mldg-table3-mldg-r4", list(changes.items()))
    assert recipe.lora["r"] == 8 and recipe.lora["target_modules"] == ["q_proj", "v_proj"]
    assert recipe.data["dir"] == "123"
    expected = {"learning_rate": 1e-6, "max_steps": 100, "bf16": False, "early_stopping_patience": None}
    assert expected.items() <= recipe.arguments.items()
    assert recipe.arguments["class_weights"] == {"bonafide": 2.0, "spoof": 1.0}
    assert count_parameters(recipe.model_config())[0] == 447_242 + 8 * 2 * 24 * 2 * 1024
    assert recipe.model_config().lora["lora_alpha"] == 16  # the scaling follows the rank


def test_published_figures_stay_with_the_system_that_they_are_of():
    published = load_recipe("mldg-table3-mldg-r4").paper
    assert load_recipe("mldg-table3-mldg-r4", [("data.dir", "elsewhere"), ("bf16", "false")]).paper == published != {}
    for change in (
        ("lora", "none"),
        ("lora.r", "8"),
        ("data.corpus", "own"),
        ("learning_rate", "1e-3"),
        ("trainer", "erm"),
    ):
        assert load_recipe("mldg-table3-mldg-r4", [change]).paper == {}


def test_a_file_with_published_figures_may_need_an_override_to_be_whole(tmp_path):
    path, recipe = tmp_path / "mine.yaml", load_recipe("mldg-table3-mldg-r4")
    path.write_text(replace(recipe, model={"base_model": str(tmp_path / "nowhere")}).to_yaml(), encoding="utf-8")
    found = load_recipe(path, [("model.base_model", recipe.model["base_model"])])
    assert found.model == {"base_model": recipe.model["base_model"]} and found.paper == {}


def test_an_encoder_that_cannot_be_had_is_named_with_the_remedy(tmp_path):
    with pytest.raises(
        OSError, match="the encoder .*nowhere cannot be had: .* --model.base_model FOLDER takes a copy"
    ):
        build_model({"base_model": str(tmp_path / "nowhere")}, None, seed=0)


def test_without_adapters_everything_is_trained():
    recipe = load_recipe("mldg-table3-mldg-r4", [("lora", "none")])
    trained, total = count_parameters(recipe.model_config())
    assert recipe.lora is None and trained == total


def test_another_trainer_leaves_out_what_the_file_says_to_its_own():
    recipe = load_recipe("mldg-table4-qkv", [("trainer", "erm"), ("per_device_train_batch_size", "24")])
    assert recipe.trainer == "erm" and "beta" not in recipe.arguments
    assert recipe.arguments["cycle_steps"] == 4000


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("lora.rr", "8", "did you mean lora.r"),
        ("lora.r", "eight", "lora.r is a whole number, got 'eight'"),
        ("data", "x", "data has keys of its own"),
        ("max_steps", "many", "max_steps is a whole number, got 'many'"),
        ("learning_rate", "[", "cannot be read"),
    ],
)
def test_a_wrong_override_is_named(key, text, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe("mldg-table3-mldg-r4", [(key, text)])
    assert message in str(caught.value)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_default_of_a_configuration_can_be_written_in_a_recipe(trainer, tmp_path):
    """As YAML gives it back, so that no field has a type that recipes cannot spell."""
    config = TRAINERS[trainer][0]
    defaults, hints = config(output_dir=str(tmp_path)), get_type_hints(config)
    checked = 0
    for field in fields(config):
        value = getattr(defaults, field.name)
        if field.init and (value is None or type(value) in (bool, int, float, str, list)):
            convert(field.name, yaml.safe_load(yaml.safe_dump(value)), hints[field.name])
            checked += 1
    assert checked > 100


@given(st.one_of(st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False)))
@settings(max_examples=200, deadline=None)
def test_numbers_of_the_command_line_come_back(value):
    assert parse_text("x", repr(value), float | None) == value
    assert convert("x", yaml.safe_load(yaml.safe_dump(value)), float) == value


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("null", str | None, None),
        ("7", str, "7"),
        ("7", str | None, "7"),
        ("7", int | None, 7),
        ("a, b", list[str], ["a", "b"]),
        ("adam", Literal["adam", "sgd"], "adam"),
        ("{a: 1}", dict[str, Any], {"a": 1}),
    ],
)
def test_texts_become_what_their_field_wants(text, hint, value):
    assert parse_text("x", text, hint) == value


# --- data ------------------------------------------------------------------------------------------------------------


def test_data_of_ones_own_has_its_other_columns_as_domains(tmp_path, tiny):
    folder = write_own_corpus(tmp_path / "own")
    lines = (folder / "manifest.csv").read_text(encoding="utf-8").splitlines()
    lines = [lines[0] + ",room"] + [
        f"{line},{'small' if index % 4 < 2 else 'large'}" for index, line in enumerate(lines[1:])
    ]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe = load_recipe(tiny(data={"corpus": "own", "dir": str(folder)}, domain_column="room"))
    assert {row["room"] for row in load_clips(recipe).train} == {"small", "large"}
    assert "large 6, small 6" in "\n".join(rehearse(recipe, tmp_path / "run"))


def test_tables_of_ones_own_may_be_two(tmp_path, tiny):
    folder = write_own_corpus(tmp_path / "own")
    header, *lines = (folder / "manifest.csv").read_text(encoding="utf-8").splitlines()
    for split in ("train", "validation"):
        own = [line.rpartition(",")[0] for line in lines if line.endswith(split)]
        text = "\n".join([header.rpartition(",")[0], *own]) + "\n"
        (folder / f"{split}.csv").write_text(text, encoding="utf-8")
    (folder / "manifest.csv").unlink()
    tables = {split: str(folder / f"{split}.csv") for split in ("train", "validation")}
    clips = load_clips(load_recipe(tiny(data={"corpus": "own", **tables})))
    assert len(clips.train) == 2 * TRAIN * len(ATTACKS)


def test_data_that_cannot_be_trained_with_is_an_error_with_counts(tmp_path, tiny):
    with pytest.raises(RecipeError, match="no column 'room' to take the domains from.*attack_id"):
        load_clips(load_recipe(tiny(domain_column="room")))
    with pytest.raises(RecipeError, match="data.dir is missing: the folder of your copy of asvspoof2019-la"):
        load_clips(load_recipe("mldg-table3-full"))
    folder = write_own_corpus(tmp_path / "own")
    lines = (folder / "manifest.csv").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if "validation" not in line or "bonafide" not in line]
    (folder / "manifest.csv").write_text("\n".join(kept) + "\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="data.validation 'validation' has 0 bonafide and 9 spoof"):
        load_clips(load_recipe(tiny(data={"corpus": "own", "dir": str(folder)})))


def test_arguments_reach_the_configuration(tmp_path):
    changes = [("use_cpu", "true"), ("gradient_accumulation_steps", "4")]
    args = build_arguments(load_recipe("mldg-table3-mldg-r4", changes), tmp_path)
    assert args.gradient_accumulation_steps == 4 and args.inner_learning_rate == 1e-3
    assert args.output_dir == str(tmp_path)
