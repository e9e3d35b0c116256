"""A language model that sees: against transformers' LLaVA with the same weights, and on disk."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from labkit.data.pictures import ImageTokens
from labkit.inference import generate
from labkit.inference.sampling import SamplingConfig
from labkit.model import minillm, vision
from labkit.runtime.errors import CorruptFileError
from labkit.tuning import adapter_files, lora, multimodal, multimodal_files
from labkit.tuning.lora import LoraConfig
from labkit.tuning.multimodal import ProjectorConfig, VisionLanguageModel

IMAGE_ID = 90
VISION = vision.VisionConfig(width=12, num_layers=2, num_heads=3, ffn_width=20, patch_size=4)
LORA = LoraConfig(rank=2)
CONFIGS = [ProjectorConfig(), ProjectorConfig(kind="mlp", group=2)]


def build(
    language_model: nn.Module, config: ProjectorConfig = CONFIGS[0], seed: int = 1
) -> VisionLanguageModel:
    encoder = vision.VisionEncoder(VISION)
    vision.initialise(encoder, torch.Generator().manual_seed(5))
    drawn = torch.Generator().manual_seed(seed)
    return VisionLanguageModel(
        encoder.eval(), language_model, config, image_id=IMAGE_ID, generator=drawn
    )


@pytest.fixture
def model(tiny_model: minillm.MiniLLM) -> VisionLanguageModel:
    return build(tiny_model)


@pytest.fixture
def images(gen: torch.Generator) -> Tensor:
    return torch.rand(3, 1, 8, 8, generator=gen)


def rows(count: int = 4) -> Tensor:
    """Three rows of 11 tokens; each shows its picture at another place."""
    ids = torch.arange(33).view(3, 11)
    for row, start in enumerate((0, 3, 7)):
        ids[row, start : start + count] = IMAGE_ID
    return ids


def as_llava(
    model: VisionLanguageModel, as_llama: Callable[[minillm.MiniLLM], nn.Module]
) -> nn.Module:
    """LLaVA over the same decoder; what it projects are our encoder's vectors."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    llama = as_llama(model.language_model)
    tower = SiglipVisionConfig(
        hidden_size=12, intermediate_size=20, num_hidden_layers=1, num_attention_heads=3,
        image_size=8, patch_size=4, num_channels=1,
    )  # fmt: skip
    llava = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=tower,
            text_config=llama.config,
            image_token_id=IMAGE_ID,
            projector_hidden_act="gelu",
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )
    ).eval()
    llava.model.language_model = llama.model
    llava.lm_head = llama.lm_head
    projector = llava.model.multi_modal_projector
    projector.linear_1.load_state_dict(model.projector.hidden.state_dict())
    projector.linear_2.load_state_dict(model.projector.out.state_dict())

    class Tower(nn.Module):
        def forward(self, pixel_values: Tensor, **_: object) -> BaseModelOutputWithPooling:
            found = model.encoder(pixel_values)
            return BaseModelOutputWithPooling(last_hidden_state=found, hidden_states=(found,))

    llava.model.vision_tower = Tower()
    return llava


def test_logits_and_gradients_equal_llavas(
    tiny_model: minillm.MiniLLM, as_llama: Callable[[minillm.MiniLLM], nn.Module], images: Tensor
) -> None:
    model = multimodal.train_only(build(tiny_model, ProjectorConfig(kind="mlp")), ["projector"])
    llava = as_llava(model, as_llama)
    ours = model(rows(), images)
    theirs = llava(input_ids=rows(), pixel_values=images).logits
    assert (ours - tiny_model(rows())).abs().max() > 1e-2  # the pictures matter
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    expected = llava.model.multi_modal_projector.linear_1.weight.grad
    got = model.projector.hidden.weight.grad
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-6)


@torch.no_grad()
def test_a_transformers_decoder_gives_the_same(
    model: VisionLanguageModel, as_llama: Callable[[minillm.MiniLLM], nn.Module], images: Tensor
) -> None:
    over = build(as_llama(model.language_model))
    torch.testing.assert_close(over(rows(), images), model(rows(), images), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_each_token_is_put_where_a_loop_puts_it(model: VisionLanguageModel, images: Tensor) -> None:
    ids, shown = rows(), model.image_tokens(images)
    table = model.language_model.model.embed_tokens.weight
    expected = table[ids].clone()
    for row in range(3):
        taken = 0
        for column in range(11):
            if ids[row, column] == IMAGE_ID:
                expected[row, column] = shown[row, taken]
                taken += 1
    got = multimodal.place(table[ids], ids, shown, model.tokens)
    assert torch.equal(got, expected)


@torch.no_grad()
def test_a_row_sees_its_own_picture_only(model: VisionLanguageModel, images: Tensor) -> None:
    before = model(rows(), images)
    other = images.clone()
    other[1] = 1 - other[1]
    after = model(rows(), other)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert torch.equal(before[1, :3], after[1, :3])  # tokens before the picture
    assert (before[1, 3:] - after[1, 3:]).abs().max() > 1e-4


@torch.no_grad()
def test_generating_from_a_cache_equals_whole_rows(byte_loaded, images: Tensor) -> None:
    model = build(copy.deepcopy(byte_loaded.model))
    prompts = [[IMAGE_ID] * 4 + [65, 66], [67, *[IMAGE_ID] * 4, 68, 69], [70, *[IMAGE_ID] * 4]]
    config = SamplingConfig(max_new_tokens=5, temperature=0.0, ignore_eos=True)
    with model.showing(images) as seeing:
        answers = generate.generate_tokenized(seeing, byte_loaded.tokenizer, prompts, config)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids = list(prompt)
        for token in answer.ids:
            logits = model(torch.tensor([ids]), images[row : row + 1])
            assert int(logits[0, -1].argmax()) == token
            ids.append(token)


def test_afterwards_the_language_model_is_what_it_was(
    model: VisionLanguageModel, images: Tensor
) -> None:
    def fail_while_showing() -> None:
        with model.showing(images) as seeing:
            assert not torch.equal(seeing(rows()), before)
            raise ZeroDivisionError

    before = model.language_model(rows())
    with pytest.raises(ZeroDivisionError):
        fail_while_showing()
    assert torch.equal(model.language_model(rows()), before)
    assert not model.language_model.model.embed_tokens._forward_hooks


@torch.no_grad()
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_image_tokens_begin_as_large_as_embeddings(config: ProjectorConfig, images: Tensor) -> None:
    wide = minillm.MiniLLM(
        minillm.ModelConfig(
            vocab_size=97, width=512, num_layers=1, num_heads=2, num_kv_heads=1, head_width=4,
            ffn_width=8,
        )
    )  # fmt: skip
    minillm.initialise(wide, torch.Generator().manual_seed(0))
    tokens = build(wide, config).image_tokens(images)
    assert tokens.shape == (3, 4 // config.group, 512)
    assert tokens.square().mean().sqrt().item() == pytest.approx(minillm.INIT_STD, rel=0.2)


@torch.no_grad()
def test_neighbours_are_joined_in_their_order(gen: torch.Generator) -> None:
    projector = multimodal.Projector(ProjectorConfig(group=2), 3, 5)
    x = torch.randn(2, 4, 3, generator=gen)
    expected = [torch.cat((x[:, i], x[:, i + 1]), dim=-1) for i in (0, 2)]
    expected = [e @ projector.out.weight.T + projector.out.bias for e in expected]
    torch.testing.assert_close(projector(x), torch.stack(expected, dim=1))


def trained(model: VisionLanguageModel) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_only_the_chosen_parts_train(model: VisionLanguageModel, images: Tensor) -> None:
    assert trained(model) == set()
    lora.apply(model.language_model, LORA)
    assert trained(multimodal.train_only(model, ["projector"])) == {
        "projector.out.weight", "projector.out.bias",
    }  # fmt: skip
    both = trained(multimodal.train_only(model, ["projector", "adapters"]))
    rest = {name for name in both if not name.startswith("projector.")}
    assert len(rest) == 2 * 2 * 3  # A and B on two layers of three blocks
    assert all("lora_" in name for name in rest)
    everything = trained(multimodal.train_only(model, multimodal.PARTS))
    assert {n for n, _ in model.named_parameters() if n.startswith("encoder.")} < everything
    model(rows(), images).square().sum().backward()
    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == everything


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "must be some of"),
        (["projector", "head"], "must be some of"),
        (["adapters"], "call lora.apply on it first"),
    ],
)
def test_impossible_parts_are_refused(
    model: VisionLanguageModel, parts: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        multimodal.train_only(model, parts)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_what_was_saved_comes_back(
    tiny_model: minillm.MiniLLM, config: ProjectorConfig, images: Tensor, tmp_path: Path
) -> None:
    base = copy.deepcopy(tiny_model)
    model = build(tiny_model, config)
    lora.apply(model.language_model, LORA)
    with torch.no_grad():
        for layer in lora.layers(model.language_model).values():
            layer.lora_B.weight.normal_(generator=torch.Generator().manual_seed(2))
    multimodal_files.save(model, tmp_path)
    adapter_files.save(model.language_model, tmp_path, LORA)
    loaded = multimodal_files.load(adapter_files.load(base, tmp_path), tmp_path)
    ids = rows(model.tokens.count)
    assert torch.equal(loaded(ids, images), model(ids, images))
    assert loaded.tokens == model.tokens
    other = build(copy.deepcopy(tiny_model), config, seed=9)
    assert not torch.equal(other(ids, images), model(ids, images))


def test_files_hold_nothing_of_the_language_model(
    model: VisionLanguageModel, tmp_path: Path
) -> None:
    from safetensors import safe_open

    multimodal_files.save(model, tmp_path)
    with safe_open(tmp_path / multimodal_files.WEIGHTS_NAME, "pt") as file:
        names = set(file.keys())
    assert {name.partition(".")[0] for name in names} == {"encoder", "projector"}


@pytest.mark.parametrize("name", [multimodal_files.WEIGHTS_NAME, multimodal_files.CONFIG_NAME])
def test_damaged_and_absent_files_are_named(
    model: VisionLanguageModel, name: str, tmp_path: Path
) -> None:
    multimodal_files.save(model, tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptFileError, match=name):
        multimodal_files.load(model.language_model, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        multimodal_files.load(model.language_model, tmp_path)


def test_parts_of_a_model_of_another_width_are_refused(
    model: VisionLanguageModel, byte_loaded, tmp_path: Path
) -> None:
    multimodal_files.save(model, tmp_path)
    wider = minillm.MiniLLM(
        minillm.ModelConfig(
            vocab_size=97, width=32, num_layers=1, num_heads=2, num_kv_heads=1, head_width=4,
            ffn_width=8,
        )
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"does not fit this model.*\(32, 12\).*\(24, 12\)"):
        multimodal_files.load(wider, tmp_path)


@pytest.mark.parametrize("count", [0, 3, 8])
def test_a_wrong_number_of_image_tokens_is_refused(
    model: VisionLanguageModel, images: Tensor, count: int
) -> None:
    ids = torch.zeros(3, 12, dtype=torch.long)
    ids[:, 1:5] = IMAGE_ID
    ids[2, 1:] = 0
    ids[2, 1 : 1 + count] = IMAGE_ID
    with pytest.raises(ValueError, match=f"row 2 has {count} image tokens, a picture takes 4"):
        model(ids, images)


def test_rows_without_any_picture_and_too_few_pictures_are_refused(
    model: VisionLanguageModel, images: Tensor
) -> None:
    with pytest.raises(ValueError, match="no row has an image token"):
        model(torch.zeros(3, 5, dtype=torch.long), images)
    with (
        model.showing(images[:2]) as seeing,
        pytest.raises(ValueError, match="3 rows need as many pictures, got 2"),
    ):
        seeing(rows())


def test_wrong_settings_are_refused(tiny_model: minillm.MiniLLM) -> None:
    with pytest.raises(ValueError, match="kind='conv' must be one of"):
        ProjectorConfig(kind="conv")
    with pytest.raises(ValueError, match="group=0 must be at least 1"):
        ProjectorConfig(group=0)
    with pytest.raises(ValueError, match="group=3 must divide the encoder's 4 patches"):
        build(tiny_model, ProjectorConfig(group=3))
    projector = multimodal.Projector(ProjectorConfig(group=3), 2, 2)
    with pytest.raises(ValueError, match="group=3 must divide the 4 patches"):
        projector(torch.zeros(1, 4, 2))
    with pytest.raises(ValueError, match=r"image_id=97 must lie in \[0, 97\)"):
        VisionLanguageModel(
            vision.VisionEncoder(VISION), tiny_model, ProjectorConfig(), image_id=97
        )


def test_tokens_say_how_a_prompt_must_be_encoded(tiny_model: minillm.MiniLLM) -> None:
    model = build(tiny_model, ProjectorConfig(group=2))
    assert model.tokens == ImageTokens(image_id=IMAGE_ID, count=2)
