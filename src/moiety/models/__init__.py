"""Real pretrained models as plain PyTorch modules. Nothing here knows of shares, and nothing touches the network.

- :mod:`~moiety.models.smollm2`: SmolLM2-135M-Instruct, a decoder that answers questions (Apache-2.0).
- :mod:`~moiety.models.minilm`: all-MiniLM-L6-v2, a sentence encoder (Apache-2.0).
- :mod:`~moiety.models.stories`: stories260K, a 260-thousand-parameter decoder for tests (MIT).
- :mod:`~moiety.models.efficientnet`: EfficientNet-Lite0, which says what an image shows (Apache-2.0).
- :mod:`~moiety.models.images`: images as it takes them, and the names of its classes.
- :mod:`~moiety.models.files`: where their files lie, and their digests.

Each model has one function, ``load() -> (tokenizer or names of classes, model)``; importing it imports torch.
"""
