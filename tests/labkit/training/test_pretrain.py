"""The recipe of `mini` on a tiny model: one run, one interrupted run, and what they leave."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from labkit.data import doc_text, packing, pydoc_corpus
from labkit.data.batch import Example
from labkit.model.huggingface import load_folder
from labkit.training import pretrain, pretrain_card, pretrain_data
from labkit.training.pretrain_rows import mixed_batches, packed

FILES = {"config.json", "model.safetensors", "tokenizer.json", "curve.jsonl", "card.json"}


@pytest.fixture(scope="module")
def corpus():
    return pretrain_data.sources(pretrain.smoke().data)


@pytest.fixture(scope="module")
def whole():
    """Every document of the standard library and the generators."""
    return pretrain_data.sources(replace(pretrain.smoke().data, max_documents=None))


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return pretrain_data.train_tokenizer(corpus, vocab_size=400, max_bytes=20_000)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain")
    records = list(pretrain.run("smoke", folder / "out", work_dir=folder / "work", device="cpu"))
    return folder / "out", records


def untimed(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


class TestRun:
    def test_loss_falls_and_the_folder_is_whole(self, finished):
        out, records = finished
        assert [record.step for record in records] == list(range(1, 13))
        assert records[-1].loss_nats < records[0].loss_nats - 0.3
        assert {path.name for path in out.iterdir()} >= FILES | {"README.md"}
        model, tokenizer = load_folder(out, dtype="float32", device="cpu")
        assert model.config == pretrain.smoke().model
        assert tokenizer.vocab_size == model.config.vocab_size

    def test_curve_is_the_records(self, finished):
        out, records = finished
        curve = untimed(out / "curve.jsonl")
        assert [row["loss_nats"] for row in curve] == pytest.approx(
            [record.loss_nats for record in records], abs=1e-5
        )

    def test_card_holds_what_the_exported_model_scores(self, finished, corpus):
        out, records = finished
        card = json.loads((out / "card.json").read_text())
        assert card["tokens"] == sum(record.tokens for record in records)
        assert card["corpus_sha256"] == pretrain_data.corpus_hash(corpus)
        model, tokenizer = load_folder(out, dtype="float32", device="cpu")
        readme = (out / "README.md").read_text()
        for source, row in zip(corpus, card["sources"], strict=True):
            rows = packed(source.held_out, tokenizer, 128)
            measured = pretrain_card.held_out_loss(model, rows)
            assert row["held_out"] == pytest.approx(measured, rel=1e-5)
            assert f"| {source.name} |" in readme
            assert f"{measured['perplexity']:.2f}" in readme
        assert "labkit pretrain --preset smoke" in readme

    def test_an_interrupted_run_resumes_to_the_same_model(self, finished, tmp_path):
        out, _ = finished
        settings = {"work_dir": tmp_path / "work", "device": "cpu"}
        first = pretrain.run("smoke", tmp_path / "out", **settings)
        assert len(list(itertools.islice(first, 8))) == 8
        first.close()
        assert not (tmp_path / "out").exists(), "nothing half-made is exported"
        second = list(pretrain.run("smoke", tmp_path / "out", resume=True, **settings))
        assert [record.step for record in second] == [6, 7, 8, 9, 10, 11, 12]
        weights = [
            (folder / "model.safetensors").read_bytes() for folder in (out, tmp_path / "out")
        ]
        assert weights[0] == weights[1]
        assert untimed(tmp_path / "out" / "curve.jsonl") == untimed(out / "curve.jsonl")

    def test_another_corpus_is_refused_on_resume(self, tmp_path):
        plan = pretrain.smoke()
        next(pretrain.run(plan, tmp_path / "out", work_dir=tmp_path / "work"))
        other = replace(plan, data=replace(plan.data, num_people=4))
        with pytest.raises(
            ValueError, match="the corpus or its tokenizer has changed since the checkpoint"
        ):
            next(pretrain.run(other, tmp_path / "out", work_dir=tmp_path / "work", resume=True))

    def test_starting_anew_leaves_other_files_alone(self, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        next(pretrain.run("smoke", tmp_path / "out", work_dir=tmp_path))
        assert (tmp_path / "notes.txt").read_text() == "mine"


class TestRecipe:
    def test_unknown_preset(self):
        with pytest.raises(ValueError, match="preset 'maxi' is unknown: use one of mini, smoke"):
            next(pretrain.run("maxi", "nowhere"))

    def test_rows_longer_than_the_model(self):
        plan = pretrain.smoke()
        with pytest.raises(ValueError, match="length=129 must lie between 2 and max_length=128"):
            replace(plan, data=replace(plan.data, length=129))
        with pytest.raises(ValueError, match="batch_size=0"):
            replace(plan, batch_size=0)

    def test_a_source_without_a_share(self):
        plan = pretrain.smoke()
        with pytest.raises(ValueError, match="must name the source 'python'"):
            pretrain_data.sources(replace(plan.data, shares={"facts": 1.0}))

    def test_mini_is_small_enough_to_commit(self):
        plan = pretrain.mini()
        assert 2 * plan.model.num_parameters < 8e6
        assert sum(plan.data.shares.values()) == pytest.approx(1.0)


class TestSplit:
    def test_no_document_is_on_both_sides(self, whole):
        train = {json.dumps(document) for source in whole for document in source.train}
        held_out = {json.dumps(document) for source in whole for document in source.held_out}
        assert train
        assert held_out
        assert not train & held_out
        assert all(source.held_out for source in whole)

    def test_no_training_text_quotes_a_held_out_function(self, whole):
        _, held_out = pydoc_corpus.split(pydoc_corpus.functions())
        summaries = {doc_text.normalised(function.summary) for function in held_out}
        sources = {source.name: source for source in whole}
        chats = [doc_text.normalised(chat[1]["content"]) for chat in sources["questions"].train]
        assert not summaries & set(chats)
        texts = [*sources["topics"].train, *sources["python"].train]
        read = "\n".join(doc_text.normalised(text) for text in texts)
        assert not [s for s in summaries if len(s.split()) >= 5 and s in read]

    def test_held_out_questions_ask_about_held_out_functions(self, whole):
        names = {f.name for f in pydoc_corpus.split(pydoc_corpus.functions())[1]}
        (questions,) = (source for source in whole if source.name == "questions")
        asked = {chat[0]["content"].split("`")[1] for chat in questions.held_out}
        assert asked <= names


class TestRows:
    def test_special_tokens_are_single_ids(self, tokenizer):
        ids = tokenizer.encode("<|im_start|>user\n1 + 2 =<|im_end|>\n<|endoftext|>")
        for token in pretrain_data.SPECIAL_TOKENS:
            assert ids.count(tokenizer.token_id(token)) == 1
        assert tokenizer.eos_id == tokenizer.token_id("<|im_end|>")
        assert tokenizer.pad_id == tokenizer.token_id("<|endoftext|>")

    def test_rows_hold_every_document_once(self, tokenizer):
        documents = ["short", "a longer text " * 20, [{"role": "user", "content": "hello"}]]
        rows = packed(documents, tokenizer, 23)
        expected = [
            tokenizer.encode(text)
            for text in (
                "short<|endoftext|>",
                "a longer text " * 20 + "<|endoftext|>",
                "<|im_start|>user\nhello<|im_end|>\n",
            )
        ]
        pieces = [ids[i : i + 23] for ids in expected for i in range(0, len(ids), 23)]
        found = []
        for row in rows:
            assert row.ids.shape == (1, 23)
            for document in row.document_ids[0].unique():
                mine = row.document_ids[0] == document
                if (row.labels[0][mine] >= 0).any():
                    found.append(row.ids[0][mine].tolist())
        assert sorted(found) == sorted(pieces)

    def batches(self, seed=0):
        sources = [
            [self.row(100 * source + number) for number in range(count)]
            for source, count in enumerate((7, 3, 5))
        ]
        return mixed_batches(
            sources, (0.6, 0.1, 0.3), batch_size=4, rng=np.random.default_rng(seed)
        )

    @staticmethod
    def row(token):
        (row,) = packing.pack([Example((token, token), (token, token))], length=2, pad_id=0)
        return row

    def test_the_order_follows_the_seed(self):
        def first(seed):
            return torch.cat([b.ids for b in itertools.islice(self.batches(seed), 9)])

        assert torch.equal(first(0), first(0))
        assert not torch.equal(first(0), first(1))

    def test_shares_and_rounds(self):
        taken = [
            int(token)
            for batch in itertools.islice(self.batches(), 500)
            for token in batch.ids[:, 0]
        ]
        for source, (count, share) in enumerate(((7, 0.6), (3, 0.1), (5, 0.3))):
            mine = [token for token in taken if token // 100 == source]
            assert len(mine) / len(taken) == pytest.approx(share, abs=0.04)
            rounds = [mine[i : i + count] for i in range(0, len(mine) - count, count)]
            assert all(len(set(one)) == count for one in rounds)
