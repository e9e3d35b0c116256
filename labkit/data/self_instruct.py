"""Self-instruct: grow a few written tasks into many, with a language model as the author.

Paper: arXiv 2212.10560, section 2.2. Differs: the parts of its pipeline that need no large model
(no split into classification and other tasks), and every decision is kept with its reason.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Generate = Callable[[list[str]], list[str]]
UNFIT_WORDS = frozenset({"image", "images", "picture", "pictures", "graph", "graphs", "video"})
_WORD = re.compile(r"[a-z0-9]+")
_NUMBERED = re.compile(r"^[ \t]*Task[ \t]+(\d+)[ \t]*:[ \t]*", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfInstructConfig:
    """How the pool grows.

    Attributes:
        seeds_shown: Written tasks in a prompt.
        grown_shown: Most generated tasks in a prompt; seeds stand in while there are too few.
        fewest_words: Shorter instructions are dropped.
        most_words: Longer ones too.
        novelty: A candidate is dropped if its ROUGE-L with one of the pool reaches this.
    """

    seeds_shown: int = 6
    grown_shown: int = 2
    fewest_words: int = 4
    most_words: int = 150
    novelty: float = 0.7

    def __post_init__(self) -> None:
        """Raise ValueError with the values met and the way out."""
        if self.seeds_shown < 1 or self.grown_shown < 0:
            raise ValueError(
                f"seeds_shown={self.seeds_shown} must be at least 1 and "
                f"grown_shown={self.grown_shown} at least 0"
            )
        if not 1 <= self.fewest_words <= self.most_words:
            raise ValueError(
                f"fewest_words={self.fewest_words} must lie between 1 and "
                f"most_words={self.most_words}"
            )
        if not 0.0 < self.novelty <= 1.0:
            raise ValueError(f"novelty={self.novelty} must lie in (0, 1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A generated instruction, where it came from and what became of it.

    Attributes:
        instruction: The text.
        shown: Places in the pool of the tasks that its prompt showed.
        round: Of prompts, counted from 1.
        similarity: Largest ROUGE-L with the pool at that time; 0 if it failed before.
        dropped: Why it was refused; "" if it was kept.
    """

    instruction: str
    shown: tuple[int, ...]
    round: int
    similarity: float
    dropped: str


def lcs_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, in O(len(a) len(b)) time and one row of memory."""
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, start=1):
            above = row[j]
            row[j] = diagonal + 1 if x == y else max(above, row[j - 1])
            diagonal = above
    return row[-1]


def words(text: str) -> list[str]:
    """Runs of a-z and 0-9 in lower case, which ROUGE compares; other scripts leave nothing."""
    return _WORD.findall(text.lower())


def rouge_l(a: str, b: str) -> float:
    """F1 of the longest common subsequence of words, 2 LCS / (len(a) + len(b)); 0 without words.

    Paper: Lin 2004, ROUGE, section 3.1, with beta = 1; no stemming.
    """
    x, y = words(a), words(b)
    return 2 * lcs_length(x, y) / (len(x) + len(y)) if x and y else 0.0


def build_prompt(instructions: Sequence[str]) -> str:
    """A numbered list that stops before the next number: a base model goes on with it."""
    shown = [f"Task {i}: {text}" for i, text in enumerate(instructions, start=1)]
    return "\n".join(["A list of varied tasks:", *shown, f"Task {len(shown) + 1}:"])


def parse(continuation: str, first: int) -> list[str]:
    """The instructions in what a model wrote after ``build_prompt``.

    Only numbers that go on from `first` count: the text after another number is cut off. The last
    task is left out if there are several, since the length limit may have cut it.

    Args:
        continuation: What follows "Task {first}:".
        first: The number that the prompt ended in.
    """
    text = f"Task {first}: {continuation}"
    marks = list(_NUMBERED.finditer(text))
    found: list[str] = []
    for i, mark in enumerate(marks):
        if int(mark[1]) != first + i:
            break
        end = marks[i + 1].start() if i + 1 < len(marks) else len(text)
        found.append(" ".join(text[mark.end() : end].split()))
    if len(marks) > 1 and len(found) == len(marks):
        found.pop()
    return [instruction for instruction in found if instruction]


def unfit(instruction: str, config: SelfInstructConfig) -> str:
    """Why an instruction is refused without looking at others; "" if it is not."""
    count = len(instruction.split())
    if count < config.fewest_words:
        return "too short"
    if count > config.most_words:
        return "too long"
    if not (instruction[0].isascii() and instruction[0].isalpha()):
        return "begins with no letter"
    if UNFIT_WORDS & set(words(instruction)):
        return "needs more than text"
    return ""


def judge(instruction: str, pool: Sequence[str], config: SelfInstructConfig) -> tuple[str, float]:
    """Why an instruction is refused ("" if kept), and its largest ROUGE-L with the pool."""
    if reason := unfit(instruction, config):
        return reason, 0.0
    similarity = max((rouge_l(instruction, other) for other in pool), default=0.0)
    return ("like another" if similarity >= config.novelty else "", similarity)


def grow(
    seeds: Sequence[str],
    generate: Generate,
    config: SelfInstructConfig,
    *,
    rounds: int,
    prompts_a_round: int,
    rng: np.random.Generator,
) -> Iterator[Candidate]:
    """Ask for new tasks, round after round, each prompt showing seeds and tasks found so far.

    The pool is the seeds, then the kept candidates in order; that is what `Candidate.shown` counts.

    Args:
        seeds: Written instructions.
        generate: From prompts to their continuations, as many.
        config: Filters and prompts.
        rounds: How often `generate` is called.
        prompts_a_round: Prompts in a call.
        rng: Draws what prompts show.

    Yields:
        Every candidate, kept or not, in the order of judgement.

    Raises:
        ValueError: There are fewer seeds than a prompt shows, or `generate` returns another number
            of texts than it was given.
    """
    slots = config.seeds_shown + config.grown_shown
    if len(seeds) < slots:
        raise ValueError(
            f"{len(seeds)} seeds are fewer than the {slots} tasks of a prompt: "
            "write more, or lower seeds_shown"
        )
    pool = list(seeds)
    for round_number in range(1, rounds + 1):
        shown = [_draw(len(seeds), len(pool), config, rng) for _ in range(prompts_a_round)]
        prompts = [build_prompt([pool[i] for i in places]) for places in shown]
        texts = generate(prompts)
        if len(texts) != len(prompts):
            raise ValueError(f"generate returned {len(texts)} texts for {len(prompts)} prompts")
        for places, text in zip(shown, texts, strict=True):
            for instruction in parse(text, slots + 1):
                dropped, similarity = judge(instruction, pool, config)
                if not dropped:
                    pool.append(instruction)
                yield Candidate(
                    instruction=instruction,
                    shown=places,
                    round=round_number,
                    similarity=similarity,
                    dropped=dropped,
                )


def _draw(
    num_seeds: int, pool_size: int, config: SelfInstructConfig, rng: np.random.Generator
) -> tuple[int, ...]:
    """Places in the pool for one prompt, in random order."""
    grown = min(config.grown_shown, pool_size - num_seeds)
    written = config.seeds_shown + config.grown_shown - grown
    places = [
        *rng.choice(num_seeds, size=written, replace=False),
        *(
            num_seeds + rng.choice(pool_size - num_seeds, size=grown, replace=False)
            if grown
            else ()
        ),
    ]
    return tuple(int(place) for place in rng.permutation(places))
