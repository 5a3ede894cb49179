"""Public example texts, from which the ranges of a model's values are measured before it is deployed.

Written for moiety, so anybody may see them: what is measured here becomes part of a public plan. They are varied on purpose
(facts, arithmetic, code, stories, lists, other languages), because a value outside its measured range spoils an answer.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

PASSAGES = (
    "The river rises in the hills behind the village and runs forty kilometres to the sea. In spring, when the snow melts, it "
    "floods the lower meadows, and the farmers move their sheep to the stone barns. A bridge with three arches was built in 1782; "
    "before that, people crossed by a ferry that cost two pennies a head. Today the valley has a railway, a school, two bakeries "
    "and a small museum, where visitors can see tools, letters and photographs of the families who lived there.",
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n    return total / len(values)\n\n\n"
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n        self.items.append(item)\n\n"
    "    def pop(self):\n        if not self.items:\n            raise IndexError('pop from an empty stack')\n"
    "        return self.items.pop()\n\n\nprint(mean([1, 2, 3, 4]))\n",
    "Once there was a fox who could not sleep. Every night she climbed the hill and counted the lights of the town, and every "
    'night one was missing. "Somebody is putting them out," she told the owl. "No," said the owl, "somebody is falling asleep." '
    "So the fox counted on, slower and slower: twelve, eleven, ten. When there were only three lights left she yawned, and when "
    "there was one she closed her eyes. In the morning the owl covered her with leaves and said nothing.",
    "Quarterly report. Revenue grew by 4.2% to $18.6 million, while costs fell from $11.9 million to $11.3 million. The number of "
    "customers rose to 23,450 (previous year: 21,007). We expect 2025 to be harder: prices of copper (+17%), energy (+9%) and "
    "freight (+31%) have gone up since March. The board therefore proposes to: (1) delay the new plant; (2) hire 12 engineers; "
    "(3) pay a dividend of $0.35 per share. Questions may be sent to the office before 30 June.",
    "Water boils at 100 degrees Celsius at sea level, but on a mountain of 3,000 metres it already boils at about 90 degrees, "
    "because the air presses less. That is why beans take longer to cook there. A cell membrane is made of two layers of fat; "
    "proteins in it let salt and sugar pass. Light travels 300,000 kilometres in one second and needs eight minutes from the "
    "sun to us. Whales are mammals, spiders have eight legs, and the heart of an adult beats about seventy times a minute.",
    "Bonjour, je voudrais réserver une table pour quatre personnes, s'il vous plaît. Guten Morgen, der Zug nach München fährt um "
    "8:15 Uhr von Gleis 3. ¿Dónde está la biblioteca? Está cerca de la plaza. Buongiorno, un caffè e due cornetti. "
    "Email: anna@example.org; phone: +41 44 123 45 67; see https://example.org/a?b=1&c=2 #news @all *** !!! :-) <b>bold</b> "
    "{'key': [1, 2.5, null]} 3 x 7 = 21; a^2 + b^2 = c^2; 50% off!!!",
)
"""Plain text of many kinds."""

CHATS = (
    (
        "Which planet is the largest one, and how long is its day?",
        "The largest planet of our solar system is Jupiter. It turns once in a little less than ten hours, so its day is the "
        "shortest of all planets, although it is eleven times as wide as the Earth.",
        "Thank you! And which one is the smallest?",
        "The smallest planet is Mercury. It is only a little larger than our moon and goes around the sun in 88 days.",
    ),
    (
        "A shop sells pens at 3 dollars each. I buy 14 pens and pay with a 50 dollar note. How much change do I get?",
        "14 pens at 3 dollars each cost 14 x 3 = 42 dollars. You pay with 50 dollars, so your change is 50 - 42 = 8 dollars.",
        "And for 16 pens?",
        "16 pens cost 16 x 3 = 48 dollars, and you get 50 - 48 = 2 dollars back.",
    ),
    (
        "Write a Python function that says whether a number is even.",
        "Here is a function that checks whether a number is even:\n\n```python\ndef is_even(number):\n    return number % 2 == 0\n```"
        "\n\nThe operator `%` gives the rest of a division. A number is even if it can be divided by 2 without a rest.",
        "What does it return for 7?",
        "For 7 it returns `False`, because 7 divided by 2 leaves a rest of 1.",
    ),
    (
        "Tell me a short story about a lighthouse.",
        "Old Marta had kept the lighthouse for thirty years. One evening the lamp went dark, and a storm was coming. She took every "
        "candle in the house, put them in jars, and carried them up the stairs, one by one. At midnight a ship saw a hundred small "
        "lights where there should have been one, and turned away from the rocks. The captain sent her a lamp, and a box of candles.",
    ),
    (
        "I have been feeling tired for two weeks. What could be the reason, and what should I do?",
        "I am sorry to hear that. Being tired for some weeks can have many reasons: too little sleep, stress, a lack of iron, an "
        "infection, or a problem of the thyroid. Here are some things that you can try:\n\n1. Sleep for seven to eight hours.\n"
        "2. Drink enough water and eat regularly.\n3. Take a walk every day.\n\nIf it does not get better, please see a doctor.",
    ),
    (
        "Summarise in one sentence: The meeting was moved from Monday to Thursday because the manager is ill, and the room has changed.",
        "The meeting will be on Thursday instead of Monday, in another room, because the manager is ill.",
        "Translate it into German.",
        "Das Treffen findet am Donnerstag statt am Montag und in einem anderen Raum statt, weil der Chef krank ist.",
    ),
)
"""Questions and answers in turn."""

STORIES = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball. "
    "She wanted to play with it, but it was stuck in a tree. Lily asked her mom for help. Her mom was tall and got the ball down. "
    '"Thank you, mom!" said Lily. They played all day and were very happy.',
    "One day, a boy named Tim went for a walk with his dog, Max. They found a small cat under a bush. The cat was sad and cold. "
    'Tim said, "Do not be scared, little cat. We will help you." He gave the cat some milk. Max was nice to the cat too. '
    "The cat went home with them and they all became best friends.",
    "There was a bird who could not fly. All the other birds laughed at her. She was sad. Then an old frog said, "
    '"Jump with me every day." So the bird jumped and jumped. Her legs and her wings grew strong. One morning the wind came, '
    "and she went up, up, up into the blue sky. The frog smiled and waved.",
    "Once upon a time, in a big forest, there lived a rabbit named Ben. Ben liked to run and hop. One day he saw a shiny key. "
    "He showed it to his friends. They looked for a door and found a box full of carrots. They shared it and had fun.",
    'Mia wanted to bake a cake with her dad. "Can I help you?" she asked. "Yes, you can mix the eggs and the milk," said dad. '
    "Mia mixed and mixed, and the bowl fell down. She was sorry. Dad gave her a hug and they made a new cake.",
    "Sam had a toy car. He played with it every day. Then one day his sister Sue took the car and it broke. Sam was very angry and "
    "he cried. Sue said she was sorry. They fixed the car together, and they were happy again.",
)
"""In the few words that a model trained on children's stories knows."""

SENTENCES = (
    *(sentence.strip() for passage in PASSAGES[::2] for sentence in passage.split(".") if sentence.strip()),
    "A man is playing the guitar on a stage in front of a large crowd.",
    "Two dogs run through the snow.",
    "The central bank raised its interest rate by half a point on Wednesday, to 4.25 percent.",
    "Is it safe to eat eggs after their date?",
    "Three children in yellow jackets are waiting for the bus.",
    "A woman slices an onion.",
    "The plane crashed shortly after take-off; all 17 people on board survived.",
    "Shares of Microsoft, IBM and Intel rose 2.3 percent to $41.50 on the Nasdaq.",
    '"We do not know yet," the minister said on Tuesday.',
    "Police: two men arrested in Lagos over theft of 300 cars",
    "How can I remove rust from a bicycle chain?",
    "You should never, ever do that!",
    "I think it depends on what you mean by 'better'.",
    "The black cat sleeps on a wooden table next to a laptop.",
    "Syria, Iran and Russia hold talks in Geneva",
    "It was not the first time that the committee had rejected the proposal of its own chairman.",
    "someone is typing on a keyboard",
    "No.",
)
"""Short ones for sentence encoders."""


def chats(tokenizer: Any, length: int = 96) -> list[torch.Tensor]:
    """Passages and chat exchanges as sequences (1, ``length``), for a model with a chat template."""
    exchanges = [[{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(chat)] for chat in CHATS]
    written = [tokenizer.apply_chat_template(exchange, tokenize=False) for exchange in exchanges]
    return sequences(lambda text: tokenizer(text, add_special_tokens=False)["input_ids"], [*written, *PASSAGES], length)


def stories(tokenizer: Any, length: int = 36) -> list[torch.Tensor]:
    """Children's stories as sequences (1, ``length``)."""
    return sequences(lambda text: tokenizer(text)["input_ids"], STORIES, length)


def sentences(tokenizer: Any, length: int, texts: Sequence[str] = SENTENCES) -> list[torch.Tensor]:
    """The texts cut or joined to (1, ``length``) tokens, the first and last those that mark begin and end."""

    def inner(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    begin, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    cut = sequences(inner, texts, length - 2) if length > 2 else [torch.empty(1, 0, dtype=torch.long)]
    return [torch.tensor([[begin, *tokens[0].tolist(), end]]) for tokens in cut]


def sequences(tokens_of: Callable[[str], Sequence[int]], texts: Sequence[str], length: int) -> list[torch.Tensor]:
    """The tokens of each text, cut to ``length``; a shorter text is followed by the next ones."""
    found = [list(tokens_of(text)) for text in texts]
    out = []
    for first in range(len(found)):
        row: list[int] = []
        for step in range(len(found) * length):
            if len(row) >= length:
                break
            row += found[(first + step) % len(found)]
        out.append(torch.tensor([row[:length]]))
    return out
