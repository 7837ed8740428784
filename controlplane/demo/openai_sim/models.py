"""The models that the simulated OpenAI serves. A request may name an alias; the answer names the dated model."""

import msgspec


class ChatModel(msgspec.Struct, frozen=True):
    """`name` is the dated name. Windows in tokens; a `reasoning` model spends some output on thought."""

    name: str
    created_s: int
    context_tokens: int
    max_output_tokens: int
    reasoning: bool = False


class EmbeddingModel(msgspec.Struct, frozen=True):
    name: str
    created_s: int
    dimensions: int
    context_tokens: int = 8_191


_CHAT = (
    ChatModel("gpt-3.5-turbo-0125", 1706048358, 16_385, 4_096),
    ChatModel("gpt-4-0613", 1686588896, 8_192, 4_096),
    ChatModel("gpt-4-turbo-2024-04-09", 1712601677, 128_000, 4_096),
    ChatModel("gpt-4o-2024-08-06", 1722814719, 128_000, 16_384),
    ChatModel("gpt-4o-mini-2024-07-18", 1721172717, 128_000, 16_384),
    ChatModel("gpt-4.1-2025-04-14", 1744315746, 1_047_576, 32_768),
    ChatModel("gpt-4.1-mini-2025-04-14", 1744317547, 1_047_576, 32_768),
    ChatModel("gpt-4.1-nano-2025-04-14", 1744321025, 1_047_576, 32_768),
    ChatModel("o1-2024-12-17", 1734326976, 200_000, 100_000, reasoning=True),
    ChatModel("o3-2025-04-16", 1744133301, 200_000, 100_000, reasoning=True),
    ChatModel("o3-mini-2025-01-31", 1738010200, 200_000, 100_000, reasoning=True),
    ChatModel("o4-mini-2025-04-16", 1744133506, 200_000, 100_000, reasoning=True),
    ChatModel("gpt-5-2025-08-07", 1754425777, 400_000, 128_000, reasoning=True),
    ChatModel("gpt-5-mini-2025-08-07", 1754425928, 400_000, 128_000, reasoning=True),
    ChatModel("gpt-5-nano-2025-08-07", 1754426384, 400_000, 128_000, reasoning=True),
    ChatModel("gpt-5.1-2025-11-13", 1762800673, 400_000, 128_000, reasoning=True),
    ChatModel("gpt-5.2-2025-12-11", 1765313028, 400_000, 128_000, reasoning=True),
    ChatModel("gpt-5.4-2026-03-05", 1772600000, 1_050_000, 128_000, reasoning=True),
    ChatModel("gpt-5.4-mini-2026-03-17", 1773600000, 400_000, 128_000, reasoning=True),
    ChatModel("gpt-5.4-nano-2026-03-17", 1773600001, 400_000, 128_000, reasoning=True),
    ChatModel("gpt-5.5-2026-04-23", 1776900000, 1_050_000, 128_000, reasoning=True),
)
_CHAT_ALIASES = {
    "gpt-3.5-turbo": "gpt-3.5-turbo-0125",
    "gpt-4": "gpt-4-0613",
    "gpt-4-turbo": "gpt-4-turbo-2024-04-09",
    "gpt-4o": "gpt-4o-2024-08-06",
    "gpt-4o-mini": "gpt-4o-mini-2024-07-18",
    "gpt-4.1": "gpt-4.1-2025-04-14",
    "gpt-4.1-mini": "gpt-4.1-mini-2025-04-14",
    "gpt-4.1-nano": "gpt-4.1-nano-2025-04-14",
    "o1": "o1-2024-12-17",
    "o3": "o3-2025-04-16",
    "o3-mini": "o3-mini-2025-01-31",
    "o4-mini": "o4-mini-2025-04-16",
    "gpt-5": "gpt-5-2025-08-07",
    "gpt-5-mini": "gpt-5-mini-2025-08-07",
    "gpt-5-nano": "gpt-5-nano-2025-08-07",
    "gpt-5.1": "gpt-5.1-2025-11-13",
    "gpt-5.2": "gpt-5.2-2025-12-11",
    "gpt-5.4": "gpt-5.4-2026-03-05",
    "gpt-5.4-mini": "gpt-5.4-mini-2026-03-17",
    "gpt-5.4-nano": "gpt-5.4-nano-2026-03-17",
    "gpt-5.5": "gpt-5.5-2026-04-23",
}
_BY_NAME = {model.name: model for model in _CHAT}
CHAT: dict[str, ChatModel] = _BY_NAME | {alias: _BY_NAME[name] for alias, name in _CHAT_ALIASES.items()}

EMBEDDING: dict[str, EmbeddingModel] = {
    model.name: model
    for model in (
        EmbeddingModel("text-embedding-3-small", 1705948997, 1_536),
        EmbeddingModel("text-embedding-3-large", 1705953180, 3_072),
        EmbeddingModel("text-embedding-ada-002", 1671217299, 1_536),
    )
}


def listed() -> list[dict[str, object]]:
    """All names, as the model list shows them."""
    return [shown(name) for name in sorted(CHAT | EMBEDDING)]


def shown(name: str) -> dict[str, object]:
    model = CHAT.get(name) or EMBEDDING[name]
    owner = "system" if model.created_s > 1_700_000_000 else "openai"
    return {"id": name, "object": "model", "created": model.created_s, "owned_by": owner}
