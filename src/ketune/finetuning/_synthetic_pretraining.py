"""The words of the records that the bundled base model is pre-trained on: the form of the task, none of its sentences.

A change here changes the text of the base model: run tools/pretrain_base.py again and say so in the model card.
"""

from __future__ import annotations

from ketune.finetuning._synthetic_domain import Attribute, Domain, words

_SURNAMES = words(
    "Harding, Lovell, Carey, Trent, Winslow, Mostyn, Bellamy, Grant, Holt, Sutton, Verney, Ashton, Dacre, Foster, "
    "Hale, Ingram,"
    "Jervis, Kemp, Lisle, Mercer, Norton, Ormond, Parry, Quinn, Ridley, Sayer, Thorpe, Usher, Vane, Wyatt, Yorke, "
    "Blake"
)

SHIPS = Domain(
    names=(
        ("The",),
        words(
            "Northern, Morning, Brave, Bonny, Swift, Distant, Flying, Eastern, Proud, Fair, Gallant, Restless, "
            "Happy, Lonely"
        ),
        words(
            "Venture, Maid, Light, Sailor, Dolphin, Hope, Spray, Return, Duchess, Trader, Gull, Tempest, Promise, "
            "Thistle"
        ),
    ),
    attributes=(
        Attribute(
            "kind",
            ("is a {}", "was built as a {}"),
            words("brig, schooner, frigate, cutter, steamer, whaler, barque, sloop"),
        ),
        Attribute(
            "port",
            ("hails from {}", "was fitted out at {}", "belongs to the port of {}"),
            words(
                "Bristol, Hull, Leith, Cardiff, Plymouth, Cork, Greenock, Yarmouth, Boston, Lisbon, Bergen, "
                "Genoa, Dover"
            ),
        ),
        Attribute(
            "cargo",
            ("carries {}", "is laden with {}", "has {} in the hold"),
            words("tea, coal, timber, wool, sugar, rum, wheat, salt, ivory, silk, cotton, iron, wine, tobacco, spices"),
        ),
        Attribute(
            "captain",
            ("is commanded by {}", "sails under {}", "{} has the command"),
            tuple(f"Captain {name}" for name in _SURNAMES),
        ),
        Attribute(
            "masts",
            {"1": ("has a single mast",), "2": ("has two masts",), "3": ("carries three masts", "has three masts")},
        ),
        Attribute("crew", ("has a crew of {} men", "is worked by {} hands"), tuple(str(n) for n in range(11, 90))),
        Attribute(
            "state",
            {
                "sound": ("is as sound as a bell", "has not a rotten plank in {him}"),
                "leaky": ("lets in the water", "must be pumped night and day"),
                "lost": ("was never seen again", "went down with all hands"),
            },
        ),
        Attribute(
            "bound",
            ("is bound for {}", "sails for {}"),
            words("Madras, Jamaica, Canton, Naples, Boston, Riga, Malta, Quebec, Lima, Sydney"),
        ),
    ),
    openings=(
        "{Name} is a ship",
        "{Name} is a {kind} of {port}",
        "{captain} commands {name}.",
        "{captain} sails {name} out of {port}.",
        "This is the story of {name}.",
        "{Name} carries {cargo}",
        "Bound for {bound} is {name}.",
        "They call the ship {name}.",
    ),
    subjects=("It", "The ship", "The vessel"),
    orders=(
        ("kind", "port", "masts", "captain", "crew", "cargo", "bound", "state"),
        ("captain", "crew", "kind", "masts", "cargo", "port", "bound", "state"),
        ("bound", "cargo", "kind", "masts", "captain", "crew", "port", "state"),
    ),
)

PERSONS = Domain(
    names=(
        words("Mr., Mrs., Miss, Sir, Lady, Dr."),
        words(
            "John, Jane, Francis, Evelyn, Leslie, Robin, Hilary, Vivian, Sidney, Beverley, Clare, Shirley, "
            "Jocelyn, Aubrey"
        ),
        _SURNAMES,
    ),
    attributes=(
        Attribute(
            "age",
            ("is {} years old", "has seen {} summers", "is {} years of age"),
            tuple(str(n) for n in range(18, 91)),
        ),
        Attribute(
            "home",
            ("lives in {}", "dwells at {}", "comes from {}"),
            words(
                "London, Bath, York, Kent, Devon, Oxford, Paris, Dublin, Surrey, Chester, Exeter, Durham, Rome, Norfolk"
            ),
        ),
        Attribute(
            "trade",
            ("earns {his} bread by {}", "is busy with {}", "has taken to {}"),
            words(
                "farming, teaching, painting, writing, sewing, preaching, gardening, baking, printing, nursing, "
                "banking, weaving"
            ),
        ),
        Attribute(
            "temper",
            {
                "mild": ("was never known to be angry", "has a gentle heart"),
                "hot": ("flies into a passion at a word", "is soon angry"),
                "sad": ("seldom smiles", "has a melancholy way"),
                "gay": ("laughs from morning till night", "is always merry"),
            },
        ),
        Attribute(
            "fortune",
            {
                "none": ("has not a penny in the world", "is as poor as a mouse"),
                "small": ("has just enough to live upon", "lives on a little income"),
                "great": ("is rich", "has more gold than {he} can spend"),
            },
        ),
        Attribute(
            "hair",
            ("has {} hair", "wears {his} {} hair long"),
            words("brown, fair, dark, curly, silver, chestnut, auburn, golden"),
        ),
        Attribute(
            "loves",
            ("loves {}", "cares for nothing but {}", "is fond of {}"),
            words("music, horses, roses, cards, poetry, hunting, cats, gossip, the sea, old china, sermons, dancing"),
        ),
        Attribute(
            "wed",
            {"yes": ("is married", "married long ago"), "no": ("is not married", "never married")},
        ),
    ),
    openings=(
        "{Name} is well known to us",
        "{Name} lives in {home}",
        "{Name} is {age} years old",
        "You must have heard of {Name}.",
        "In {home} lives {Name}.",
        "{Name} of {home} is fond of {loves}",
        "Let me tell you of {Name}.",
        "{Name} is {age}, and {his} hair is {hair}.",
    ),
    subjects=("{he}",),
    orders=(
        ("age", "home", "trade", "fortune", "temper", "hair", "loves", "wed"),
        ("home", "wed", "age", "hair", "temper", "loves", "trade", "fortune"),
        ("fortune", "trade", "loves", "temper", "age", "wed", "home", "hair"),
    ),
)

BOOKS = Domain(
    names=(
        words("Secrets, Letters, Tales, Memoirs, Poems, Legends, Travels, Sermons, Songs, Thoughts, Rambles, Sketches"),
        words("of, from, concerning"),
        words(
            "Italy, a Wanderer, the North, Youth, the Sea, a Lady, Old Times, the Garden, Venice, Solitude, the "
            "Heart, a Soldier, India, the Road, Winter, a Clerk"
        ),
    ),
    attributes=(
        Attribute(
            "author",
            ("was written by {}", "is the work of {}", "comes from the pen of {}"),
            tuple(f"{letter}. {name}" for letter in "ABCEGHJMRTW" for name in _SURNAMES),
        ),
        Attribute(
            "year",
            ("was printed in {}", "first appeared in {}", "dates from {}"),
            tuple(str(n) for n in range(1701, 1900)),
        ),
        Attribute("pages", ("has {} pages", "runs to {} pages"), tuple(str(n) for n in range(60, 900, 7))),
        Attribute(
            "cover",
            ("is bound in {}", "has a cover of {}"),
            words("red leather, green cloth, calf, black silk, blue paper, vellum, brown cloth, crimson velvet"),
        ),
        Attribute(
            "fame",
            {
                "none": ("is known to nobody", "lies forgotten on the shelves"),
                "some": ("has found a few readers", "is not quite unknown"),
                "wide": ("is in every house", "is praised by all the world"),
            },
        ),
        Attribute(
            "style",
            {
                "dull": ("will send you to sleep", "is tedious beyond measure"),
                "lively": ("cannot be laid down", "is full of life"),
                "grave": ("is written in a serious vein", "never stoops to a jest"),
            },
        ),
        Attribute(
            "owner",
            ("belongs to {}", "was lent to me by {}"),
            tuple(f"{t} {n}" for t in ("Miss", "Dr.", "Lady") for n in _SURNAMES),
        ),
    ),
    openings=(
        "{Name} is a book",
        "{Name} is a book by {author}",
        "{Name} appeared in {year}",
        "{author} is the author of {Name}.",
        "In {year} there appeared a book called {Name}.",
        "{owner} has a copy of {Name}.",
        "Upon the table lies {Name}.",
        "I have been reading {Name}.",
    ),
    subjects=("It", "The book", "The volume"),
    orders=(
        ("author", "year", "pages", "cover", "style", "fame", "owner"),
        ("cover", "pages", "owner", "author", "year", "fame", "style"),
        ("style", "fame", "author", "year", "owner", "cover", "pages"),
    ),
)

HORSES = Domain(
    names=(
        words("Black, Dapple, Bold, Gipsy, Merry, Noble, Sweet, Wild, Lucky, Prince, King, Dusty"),
        words("Bess, Thunder, Star, Arrow, Jack, Beauty, Dan, Robin, Fire, Ruby, Storm, Dancer, Boy, Juno"),
    ),
    attributes=(
        Attribute(
            "colour", ("is {} all over", "has a {} coat"), words("grey, bay, chestnut, roan, dun, cream, brown, white")
        ),
        Attribute("hands", ("stands {} hands high", "measures {} hands"), words("12, 13, 14, 15, 16, 17")),
        Attribute("age", ("is {} years old", "was foaled {} years ago"), tuple(str(n) for n in range(2, 25))),
        Attribute(
            "owner",
            ("is owned by {}", "was bought by {}", "{} is the master"),
            tuple(f"{t} {n}" for t in ("Squire", "Farmer", "Mr.", "Colonel") for n in _SURNAMES),
        ),
        Attribute(
            "pace",
            {
                "slow": ("will not be hurried", "goes at a snail's pace"),
                "fast": ("runs like the wind", "has won every race"),
                "lame": ("halts upon one leg", "can hardly walk"),
            },
        ),
        Attribute(
            "work",
            {
                "plough": ("draws the plough",),
                "coach": ("goes in the coach", "pulls the coach"),
                "hunt": ("follows the hounds",),
                "mill": ("turns the mill",),
            },
        ),
        Attribute("cost", ("was sold for {} guineas", "cost {} guineas"), tuple(str(n) for n in range(8, 160, 3))),
    ),
    openings=(
        "{Name} is a horse",
        "{Name} is a {colour} horse",
        "{owner} rides a horse called {Name}.",
        "In the stable stands {Name}.",
        "{Name} cost {cost} guineas",
        "A good horse is {Name}.",
        "{Name} belongs to {owner}",
        "There goes {Name}.",
    ),
    subjects=("It", "The horse", "The animal"),
    orders=(
        ("colour", "hands", "age", "owner", "cost", "work", "pace"),
        ("owner", "cost", "age", "colour", "hands", "pace", "work"),
        ("pace", "work", "colour", "hands", "age", "owner", "cost"),
    ),
)
