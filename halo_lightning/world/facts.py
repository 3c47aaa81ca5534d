"""What is true in the embedded world: the word lists that questions, answers and rules are made of."""

from __future__ import annotations

NUMBERS = {"two": 2, "three": 3, "four": 4}

KINDS: dict[str, tuple[str, ...]] = {
    "animals": ("dog", "cat", "horse", "cow", "lion", "wolf", "bear", "goat"),
    "fruits": ("apple", "pear", "plum", "grape", "cherry", "lemon", "mango", "peach"),
    "colours": ("red", "blue", "green", "yellow", "black", "white", "brown", "pink"),
    "tools": ("hammer", "saw", "drill", "wrench", "axe", "shovel", "rake", "chisel"),
    "drinks": ("water", "milk", "tea", "coffee", "juice", "wine", "beer", "cocoa"),
    "sports": ("tennis", "golf", "rugby", "hockey", "chess", "rowing", "boxing", "cricket"),
    "instruments": ("piano", "violin", "flute", "drum", "guitar", "harp", "trumpet", "cello"),
    "clothes": ("hat", "coat", "shirt", "sock", "glove", "scarf", "shoe", "belt"),
}

OPPOSITES: tuple[tuple[str, str], ...] = (
    ("hot", "cold"),
    ("old", "young"),
    ("tall", "short"),
    ("fast", "slow"),
    ("hard", "soft"),
    ("wet", "dry"),
    ("rich", "poor"),
    ("early", "late"),
    ("open", "closed"),
    ("happy", "sad"),
    ("light", "dark"),
    ("loud", "quiet"),
    ("strong", "weak"),
)
OPPOSITE_OF: dict[str, str] = {**dict(OPPOSITES), **{second: first for first, second in OPPOSITES}}

BY_SIZE: tuple[str, ...] = (  # from the smallest to the biggest
    "a mouse",
    "a cat",
    "a dog",
    "a horse",
    "a bus",
    "a house",
    "a mountain",
)

CAPITALS: dict[str, str] = {
    "France": "Paris",
    "Spain": "Madrid",
    "Italy": "Rome",
    "Germany": "Berlin",
    "Japan": "Tokyo",
    "China": "Beijing",
    "Russia": "Moscow",
    "Greece": "Athens",
    "Egypt": "Cairo",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Finland": "Helsinki",
    "Poland": "Warsaw",
    "Austria": "Vienna",
    "Ireland": "Dublin",
    "Portugal": "Lisbon",
    "Kenya": "Nairobi",
    "Peru": "Lima",
    "Cuba": "Havana",
    "India": "Delhi",
    "Turkey": "Ankara",
    "Hungary": "Budapest",
    "Belgium": "Brussels",
    "Canada": "Ottawa",
}

TRANSLATIONS: dict[str, dict[str, str]] = {
    "French": {
        "red": "rouge",
        "blue": "bleu",
        "green": "vert",
        "yellow": "jaune",
        "black": "noir",
        "white": "blanc",
    },
    "Spanish": {
        "red": "rojo",
        "blue": "azul",
        "green": "verde",
        "yellow": "amarillo",
        "black": "negro",
        "white": "blanco",
    },
    "German": {
        "red": "rot",
        "blue": "blau",
        "green": "grün",
        "yellow": "gelb",
        "black": "schwarz",
        "white": "weiß",
    },
}

DAYS: tuple[str, ...] = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS: tuple[str, ...] = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)

SAYABLE: tuple[str, ...] = (
    "river",
    "window",
    "garden",
    "silver",
    "music",
    "paper",
    "winter",
    "summer",
    "candle",
    "bridge",
    "forest",
    "island",
    "kitchen",
    "letter",
    "mirror",
    "pocket",
    "ribbon",
    "shadow",
    "ticket",
    "valley",
)
TIMES: dict[str, int] = {"twice": 2, "three times": 3, "four times": 4}

SPELLABLE: tuple[str, ...] = (
    "sun",
    "map",
    "box",
    "key",
    "leg",
    "nut",
    "pig",
    "rug",
    "van",
    "web",
    "jam",
    "fog",
    "ship",
    "lamp",
    "tree",
    "nest",
    "wolf",
    "cake",
    "boat",
    "drum",
    "frog",
    "hand",
    "king",
    "milk",
)
