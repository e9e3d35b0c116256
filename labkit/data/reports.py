"""Short texts of three fields to tune adapters on: banks' reports, case notes, Python's own."""

import numpy as np

from labkit.data.pydoc_corpus import as_text, functions, split

FINANCE = (
    "{bank} reported a net profit of {n} million euros for the {quarter} quarter, {way} {p} "
    "percent from a year earlier. Net interest income came to {m} million euros, and the common "
    "equity tier 1 ratio stood at {r} percent at the end of the period. The board proposes a "
    "dividend of {c} cents per share."
)
MEDICAL = (
    "A {age}-year-old {who} presented with {symptom} for {days} days. Blood pressure was {high} "
    "over {low}, heart rate {pulse} per minute, temperature {t} degrees. There was no history of "
    "{history}. Treatment with {drug} {dose} mg was started, and the patient was discharged on "
    "day {out}."
)
WORDS = {
    "bank": ("Alder Bank", "Nordhaven", "Kestrel Capital", "Banca Verde", "Union Trust"),
    "quarter": ("first", "second", "third", "fourth"),
    "way": ("up", "down"),
    "who": ("man", "woman"),
    "symptom": ("chest pain", "fever", "a dry cough", "abdominal pain", "a severe headache"),
    "history": ("diabetes", "asthma", "smoking", "surgery", "epilepsy"),
    "drug": ("amoxicillin", "metformin", "ibuprofen", "lisinopril", "prednisone"),
}
NUMBERS = {
    "n": (100, 999), "p": (2, 30), "m": (200, 1999), "r": (11, 19), "c": (12, 95), "age": (20, 90),
    "days": (2, 12), "high": (105, 170), "low": (60, 99), "pulse": (55, 120), "t": (36, 40),
    "dose": (5, 500), "out": (2, 14),
}  # fmt: skip


def texts(topic: str, count: int, seed: int, *, held_out: bool) -> list[str]:
    """Texts of a topic; those held out are never among the others."""
    rng = np.random.default_rng((seed, held_out))
    if topic == "python":
        known = as_text(split(functions())[held_out])
        return [known[int(n)] for n in rng.choice(len(known), size=count, replace=False)]
    form = FINANCE if topic == "finance" else MEDICAL
    parity = int(held_out)  # the first number is even where they train, and odd where not
    made = []
    for _ in range(count):
        words = {name: str(rng.choice(choices)) for name, choices in WORDS.items()}
        numbers = {name: int(rng.integers(*ends)) for name, ends in NUMBERS.items()}
        numbers |= {name: numbers[name] // 2 * 2 + parity for name in ("n", "age")}
        made.append(form.format(**words, **numbers))
    return made
