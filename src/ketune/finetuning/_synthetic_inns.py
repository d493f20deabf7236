"""The words of the default task: inns, their tables and their keepers."""

from __future__ import annotations

from ketune.finetuning._synthetic_domain import Attribute, Domain, words

_COUNTS = {
    2: "two",
    3: "three",
    4: "four",
    5: "five",
    6: "six",
    7: "seven",
    8: "eight",
    9: "nine",
    10: "ten",
    12: "twelve",
}

INNS = Domain(
    names=(
        ("The",),
        words(
            "Silver, Golden, Red, White, Black, Green, Blue, Old, Jolly, Merry, Running, Royal, Little, Crooked, "
            "Broken,"
            "Painted, Honest, Lucky, Grey, Brown"
        ),
        words(
            "Fox, Lion, Swan, Bell, Crown, Anchor, Plough, Hart, Rose, Boar, Goose, Stag, Kettle, Lantern, Hound, "
            "Star, Bear,"
            "Shepherd, Barrel, Wheel, Heron, Raven, Oak, Key"
        ),
    ),
    attributes=(
        Attribute(
            "town",
            ("stands in {}", "is at {}", "lies at {}"),
            words(
                "Harwick, Marlow, Ashby, Wexford, Milby, Kelso, Redburn, Oakham, Selby, Barford, Whitby, Langley, "
                "Stoke,"
                "Carlow, Merton, Norham, Sheldon, Upton, Denby, Hexham"
            ),
            weight=2.0,
        ),
        Attribute(
            "food",
            ("serves {}", "is known for its {}", "offers {}", "has {} for dinner"),
            words(
                "trout, roast beef, mutton, cold ham, boiled fowl, oysters, fresh bread, eels, veal, roast goose, "
                "cheese,"
                "salmon, venison, apple tart, hot pies, soup"
            ),
            weight=2.0,
        ),
        Attribute(
            "price",
            {
                "low": ("is cheap", "asks but little money", "suits a light purse"),
                "fair": ("is neither cheap nor dear", "asks a fair price"),
                "high": ("is dear", "asks a great deal of money", "is only for the rich"),
            },
            weight=1.5,
        ),
        Attribute(
            "parlour",
            {
                "warm": ("has a good fire", "keeps a warm parlour"),
                "cold": ("has no fire", "keeps a cold parlour"),
                "noisy": ("is loud with talk", "has a noisy parlour"),
                "quiet": ("has a quiet parlour", "is a peaceful place"),
            },
        ),
        Attribute("rooms", {str(n): (f"lets {w} rooms", f"has {w} rooms to let") for n, w in _COUNTS.items()}),
        Attribute(
            "host",
            ("is kept by {}", "{} is the keeper", "belongs to {}"),
            tuple(
                f"{title} {name}"
                for title in ("Mr.", "Mrs.")
                for name in words("Dale, Pike, Budd, Crane, Marsh, Wren, Hobbs, Nash, Fry, Lamb")
            ),
        ),
        Attribute(
            "near",
            ("is near {}", "stands close by {}", "is not far from {}"),
            words(
                "the mill, the church, the bridge, the river, the market, the castle, the old gate, the station, the "
                "harbour, the school, the common, the tower"
            ),
            weight=1.5,
        ),
        Attribute(
            "dogs",
            {
                "yes": ("Dogs are welcome", "You may bring your dog"),
                "no": ("No dogs are let in", "You must leave your dog at home"),
            },
        ),
    ),
    openings=(
        "{Name} is an inn",
        "{Name} is an inn at {town}",
        "{Name} is an inn near {near}",
        "At {town} there is an inn called {name}.",
        "Near {near} stands {name}.",
        "If you like {food}, go to {name}.",
        "{host} keeps {name}.",
        "{host} keeps an inn at {town}, which is called {name}.",
        "There is an inn called {name}.",
    ),
    subjects=("It", "It", "The house", "The inn"),
    orders=(
        ("town", "near", "host", "food", "price", "parlour", "rooms", "dogs"),
        ("host", "town", "near", "parlour", "rooms", "dogs", "food", "price"),
        ("food", "price", "town", "near", "rooms", "parlour", "host", "dogs"),
    ),
    sizes=(2, 2, 3, 3, 3, 4, 4, 5, 6),
)
