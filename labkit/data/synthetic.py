"""Generated data with exact ground truth: invented people's facts, arithmetic, list tasks.

Every generator draws from the numpy Generator it is given, so equal seeds give equal data. A `Task`
becomes a chat (`as_chats`) or plain text (`as_texts`); its answer is the only right one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Message = dict[str, str]

ATTRIBUTES = {
    "city": ("Aldermoor", "Brightwater", "Copperhill", "Duskvale", "Eastmere", "Foxhollow",
             "Greywick", "Harrowgate", "Ironbridge", "Juniper Bay", "Kettlewell", "Larkspur"),
    "job": ("baker", "carpenter", "doctor", "potter", "farmer", "glazier", "judge", "librarian",
            "miner", "nurse", "painter", "sailor"),
    "pet": ("cat", "dog", "goat", "hamster", "horse", "lizard", "hen", "parrot", "pony", "rabbit",
            "snake", "turtle"),
    "colour": ("amber", "black", "blue", "brown", "crimson", "green", "grey", "orange", "purple",
               "silver", "white", "yellow"),
    "instrument": ("banjo", "cello", "clarinet", "drum", "fiddle", "flute", "guitar", "harp",
                   "organ", "piano", "trumpet", "viola"),
    "food": ("apples", "bread", "cheese", "dumplings", "eggs", "figs", "honey", "lentils",
             "noodles", "olives", "pancakes", "soup"),
}  # fmt: skip

STATEMENTS = {
    "city": ("{name} lives in {value}.", "The home of {name} is in {value}.",
             "{value} is where {name} lives."),
    "job": ("{name} works as a {value}.", "By profession, {name} is a {value}.",
            "The job of {name} is that of a {value}."),
    "pet": ("{name} keeps a {value}.", "The pet of {name} is a {value}.",
            "{name} has a {value} at home."),
    "colour": ("The favourite colour of {name} is {value}.", "{name} likes {value} best.",
               "Of all colours {name} prefers {value}."),
    "instrument": ("{name} plays the {value}.", "The instrument of {name} is the {value}.",
                   "In the evening {name} practises the {value}."),
    "food": ("{name} likes to eat {value}.", "The favourite food of {name} is {value}.",
             "For dinner {name} chooses {value}."),
}  # fmt: skip

QUESTIONS = {
    "city": ("Where does {name} live?", "In which city is the home of {name}?",
             "What is the home city of {name}?"),
    "job": ("What does {name} work as?", "What is the profession of {name}?",
            "Which job does {name} have?"),
    "pet": ("Which pet does {name} keep?", "What animal lives with {name}?",
            "What is the pet of {name}?"),
    "colour": ("What is the favourite colour of {name}?", "Which colour does {name} like best?",
               "Which colour does {name} prefer?"),
    "instrument": ("What does {name} play?", "Which instrument does {name} practise?",
                   "What is the instrument of {name}?"),
    "food": ("What does {name} like to eat?", "What is the favourite food of {name}?",
             "Which food does {name} choose?"),
}  # fmt: skip
"""Per attribute: the last phrasing is held out, never asked by `fact_tasks(held_out=False)`."""

_STARTS = ("Bel", "Cor", "Dal", "Fen", "Gar", "Hol", "Jor", "Kel", "Lum", "Mar", "Nor", "Pel",
           "Quin", "Ros", "Sel", "Tam", "Ul", "Ver", "Wil", "Zan")  # fmt: skip
_ENDS = ("a", "bert", "da", "dric", "el", "eth", "ia", "in", "la", "mond", "na", "o", "ra", "rik",
         "sa", "ten", "us", "win")  # fmt: skip
_SURNAMES = ("Ashby", "Birch", "Crane", "Dorn", "Elms", "Finch", "Gale", "Heath", "Ives", "Kerr",
             "Loom", "Moss", "Nash", "Pike", "Reed", "Stone", "Thorn", "Vale", "Wren",
             "York")  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """An invented person; `facts` maps every attribute to its value."""

    name: str
    facts: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A question with its one right answer; `kind` names the generator or attribute."""

    kind: str
    prompt: str
    answer: str


def people(count: int, rng: np.random.Generator) -> list[Person]:
    """Invent people with different names and uniformly drawn attributes: log2(12) bits a fact.

    Raises:
        ValueError: more people than there are names.
    """
    names = [f"{a}{b} {c}" for a in _STARTS for b in _ENDS for c in _SURNAMES]
    if not 0 <= count <= len(names):
        raise ValueError(f"count={count} must lie between 0 and {len(names)}, the names there are")
    return [
        Person(
            name=names[i],
            facts={key: values[rng.integers(len(values))] for key, values in ATTRIBUTES.items()},
        )
        for i in rng.permutation(len(names))[:count]
    ]


def fact_statements(persons: Sequence[Person], *, paraphrases: int = 3) -> list[str]:
    """Each fact said in the first `paraphrases` ways (1 to 3)."""
    if not 1 <= paraphrases <= 3:
        raise ValueError(f"paraphrases={paraphrases} must be 1, 2 or 3")
    return [
        form.format(name=person.name, value=value)
        for person in persons
        for key, value in person.facts.items()
        for form in STATEMENTS[key][:paraphrases]
    ]


def fact_tasks(persons: Sequence[Person], *, held_out: bool = False) -> list[Task]:
    """Questions on every fact: the training phrasings, or with `held_out` the one never trained."""
    return [
        Task(kind=key, prompt=form.format(name=person.name), answer=value)
        for person in persons
        for key, value in person.facts.items()
        for form in (QUESTIONS[key][-1:] if held_out else QUESTIONS[key][:-1])
    ]


def arithmetic(count: int, rng: np.random.Generator, *, largest: int = 99) -> list[Task]:
    """Sums, differences and products of two numbers from 0 to `largest`, drawn independently."""
    if largest < 1:
        raise ValueError(f"largest={largest} must be at least 1")
    operations: list[tuple[str, str, Callable[[int, int], int]]] = [
        ("add", "+", lambda a, b: a + b),
        ("subtract", "-", lambda a, b: a - b),
        ("multiply", "*", lambda a, b: a * b),
    ]
    tasks = []
    for _ in range(count):
        kind, sign, operation = operations[rng.integers(3)]
        a, b = (int(x) for x in rng.integers(largest + 1, size=2))
        tasks.append(Task(kind=kind, prompt=f"{a} {sign} {b} =", answer=str(operation(a, b))))
    return tasks


def list_tasks(count: int, rng: np.random.Generator, *, longest: int = 6) -> list[Task]:
    """Copy, sort or reverse 2 to `longest` different lower-case letters."""
    if not 2 <= longest <= 26:
        raise ValueError(f"longest={longest} must lie between 2 and 26")
    tasks = []
    for _ in range(count):
        kind = ("copy", "sort", "reverse")[rng.integers(3)]
        length = int(rng.integers(2, longest + 1))
        letters = [chr(97 + i) for i in rng.permutation(26)[:length]]
        answer = {"copy": letters, "sort": sorted(letters), "reverse": letters[::-1]}[kind]
        tasks.append(
            Task(kind=kind, prompt=f"{kind}: {' '.join(letters)}", answer=" ".join(answer))
        )
    return tasks


def as_chats(tasks: Sequence[Task]) -> list[list[Message]]:
    """One user turn and one assistant turn per task."""
    return [
        [{"role": "user", "content": task.prompt}, {"role": "assistant", "content": task.answer}]
        for task in tasks
    ]


def as_texts(tasks: Sequence[Task]) -> list[str]:
    """Prompt and answer with one space between them."""
    return [f"{task.prompt} {task.answer}" for task in tasks]
