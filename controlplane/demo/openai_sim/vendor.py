"""The simulated OpenAI as a vendor: authenticate, route, answer."""

import msgspec

from controlplane.demo.credentials import same_or_false
from controlplane.demo.ids import Ids
from controlplane.demo.openai_sim import chat, embeddings, models, show
from controlplane.demo.openai_sim.chat import Prompt
from controlplane.demo.openai_sim.refuse import Refused, unparseable
from controlplane.demo.wire import Answer, Call

_CACHED_PROMPTS = 1_024  # beginnings of prompts; 32 bytes each
_ERROR_TYPES = {429: "rate_limit_error"}
# A cookie as the vendor's edge sets one, so that a gateway can be seen to drop it.
_HEADERS = (
    ("openai-version", "2020-10-01"),
    ("openai-organization", "demo-organization"),
    ("openai-processing-ms", "1"),
    ("Set-Cookie", "__cf_demo=1; path=/; HttpOnly"),
)


class OpenAiVendor:
    """See `controlplane.demo.wire.Vendor`. `api_key` is the only credential that it accepts."""

    name = "openai"
    body_limit_bytes = 16 << 20  # prompts with images in them

    def __init__(self, api_key: str, seed: bytes) -> None:
        self._api_key = api_key
        self._ids = Ids(seed)
        self.reset()

    def reset(self) -> None:
        """Forget the prompt cache. Ids go on counting."""
        self._prefixes: dict[bytes, None] = {}

    def begin(self, call: Call) -> Answer | None:
        if not call.token:
            message = (
                "You didn't provide an API key. You need to provide your API key in an Authorization header using "
                "Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
            )
            return self._refuse(call, Refused(401, message))
        if not same_or_false(call.token, self._api_key):
            # As the real vendor does, so that a gateway can be seen not to pass it on.
            message = f"Incorrect API key provided: {call.token[:3]}****{call.token[-4:]}."
            return self._refuse(call, Refused(401, message, code="invalid_api_key"))
        return None

    def execute(self, call: Call) -> Answer:
        if call.path == "/v1/chat/completions" and call.method == "POST":
            return self._chat(call)
        if call.path == "/v1/embeddings" and call.method == "POST":
            return self._embed(call)
        if call.method == "GET" and call.path == "/v1/models":
            return self._answer(call, msgspec.json.encode({"object": "list", "data": models.listed()}))
        if call.method == "GET" and call.path.startswith("/v1/models/"):
            return self._model(call, call.path.removeprefix("/v1/models/"))
        return self._refuse(call, Refused(404, f"Invalid URL ({call.method} {call.path[:200]})"))

    def abandon(self, call: Call) -> None:
        """Nothing is claimed before execution."""

    def failure(self, call: Call, status: int, message: str) -> Answer:
        kind = _ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        code = "rate_limit_exceeded" if status == 429 else None
        return self._refuse(call, Refused(status, message, code=code, type=kind))

    def _chat(self, call: Call) -> Answer:
        problem = _not_json(call)
        request = problem or chat.decode(call.body)
        if isinstance(request, Refused):
            return self._refuse(call, request)
        prompt = chat.read_prompt(request)
        cached = prompt.prefix_tokens if prompt.prefix in self._prefixes else 0
        reply = chat.decide(request, prompt, call, self._ids.make("chatcmpl-"), cached)
        if isinstance(reply, Refused):
            return self._refuse(call, reply)
        self._remember(prompt)
        headers = self._headers(call)
        if not request.stream:
            return Answer(200, show.completion(reply), headers, executed=True, usage=reply.usage)
        options = request.stream_options
        return Answer(
            200,
            headers=headers,
            content_type="text/event-stream; charset=utf-8",
            chunks=show.events(reply, include_usage=options is not None and options.include_usage),
            executed=True,
            usage=reply.usage,
        )

    def _remember(self, prompt: Prompt) -> None:
        if not prompt.prefix_tokens:
            return
        self._prefixes[prompt.prefix] = None
        if len(self._prefixes) > _CACHED_PROMPTS:
            del self._prefixes[next(iter(self._prefixes))]

    def _embed(self, call: Call) -> Answer:
        result = _not_json(call) or embeddings.answer(call.body)
        if isinstance(result, Refused):
            return self._refuse(call, result)
        body, usage = result
        return Answer(200, body, self._headers(call), executed=True, usage=usage)

    def _model(self, call: Call, name: str) -> Answer:
        if name not in models.CHAT and name not in models.EMBEDDING:
            message = f"The model '{name[:200]}' does not exist"
            return self._refuse(call, Refused(404, message, code="model_not_found", param="model"))
        return self._answer(call, msgspec.json.encode(models.shown(name)))

    def _answer(self, call: Call, body: bytes) -> Answer:
        return Answer(200, body, self._headers(call), executed=True)

    def _refuse(self, call: Call, refused: Refused) -> Answer:
        return Answer(refused.status, refused.body(), self._headers(call))

    @staticmethod
    def _headers(call: Call) -> tuple[tuple[str, str], ...]:
        return (("x-request-id", call.request_id), *_HEADERS)


def _not_json(call: Call) -> Refused | None:
    kind = call.header("Content-Type").partition(";")[0].strip().lower()
    return None if kind == "application/json" else unparseable(f"the content type is {kind[:100] or 'missing'}")
