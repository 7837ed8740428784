"""Leases conserve: whatever order messages take, and however often they come, no line is ever lent out twice."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from dataplane.core.reservation import MAX_WAITING_PER_KEY, LeaseBook, WaitingRoom

LINES = ("key:k:usd:day:0", "agent:a:usd:day:0", "org:default:usd:total:0")
NEEDS = st.dictionaries(st.sampled_from(LINES), st.integers(1, 20), min_size=1)


class Leasing(RuleBasedStateMachine):
    """One ledger that lends cumulatively, two books that it lends to, and a network that keeps every message."""

    @initialize(caps=st.fixed_dictionaries({line: st.integers(0, 120) for line in LINES}))
    def begin(self, caps: dict[str, int]) -> None:
        self.caps = caps
        self.books = {"n1": LeaseBook(), "n2": LeaseBook()}
        self.rooms = {"n1": WaitingRoom(), "n2": WaitingRoom()}
        self.granted = {node: dict.fromkeys(LINES, 0) for node in self.books}
        self.returned = {node: dict.fromkeys(LINES, 0) for node in self.books}
        self.settled = dict.fromkeys(LINES, 0)
        self.used = {node: dict.fromkeys(LINES, 0) for node in self.books}
        self.needs: dict[str, dict[str, int]] = {}
        self.count = 0

    messages = Bundle("messages")
    held = Bundle("held")

    def remaining(self, line: str) -> int:
        """By the ledger's figures: what is lent and not known to be back or used is leased."""
        leased = sum(self.granted[n][line] - self.returned[n][line] - self.used[n][line] for n in self.books)
        return self.caps[line] - self.settled[line] - leased

    @rule(target=messages, node=st.sampled_from(["n1", "n2"]), needs=NEEDS)
    def lend(self, node: str, needs: dict[str, int]) -> tuple[str, dict[str, int]]:
        if all(self.remaining(line) >= amount for line, amount in needs.items()):
            for line, amount in needs.items():
                self.granted[node][line] += amount
        return node, {line: self.granted[node][line] for line in needs}

    @rule(message=messages)
    def deliver_late_or_again(self, message: tuple[str, dict[str, int]]) -> None:
        node, granted = message
        self.books[node].credit(granted)

    @rule(target=held, node=st.sampled_from(["n1", "n2"]), needs=NEEDS)
    def reserve(self, node: str, needs: dict[str, int]) -> tuple[str, dict[str, int]]:
        book = self.books[node]
        before = {line: book.free(line) for line in LINES}
        lacking = book.lacking(needs)
        taken = not self.rooms[node].blocks(needs) and book.reserve(needs)
        for line in LINES:
            assert book.free(line) == before[line] - (needs.get(line, 0) if taken else 0)
        assert not (taken and lacking)
        return node, needs if taken else {}

    @rule(reservation=consumes(held), share=st.integers(0, 30))
    def settle(self, reservation: tuple[str, dict[str, int]], share: int) -> None:
        node, needs = reservation
        used = dict.fromkeys(needs, share)
        self.books[node].settle(needs, used)
        for line, amount in needs.items():
            self.used[node][line] += min(amount, share)
            self.settled[line] += min(amount, share)

    @rule(reservation=consumes(held))
    def release(self, reservation: tuple[str, dict[str, int]]) -> None:
        node, needs = reservation
        self.books[node].release(needs)

    @rule(node=st.sampled_from(["n1", "n2"]), lines=st.sets(st.sampled_from(LINES), min_size=1))
    def recall(self, node: str, lines: set[str]) -> None:
        self.books[node].credit({line: self.granted[node][line] for line in lines})
        for line, total in self.books[node].give_back(lines).items():
            self.returned[node][line] = max(self.returned[node][line], total)
        assert all(self.books[node].free(line) == 0 for line in lines)

    @rule(node=st.sampled_from(["n1", "n2"]), needs=NEEDS)
    def wait(self, node: str, needs: dict[str, int]) -> None:
        self.count += 1
        waiter = f"w{self.count}"
        assert self.rooms[node].enter(waiter, "k", needs, self.books[node])
        self.needs[waiter] = needs

    @rule(target=held, node=st.sampled_from(["n1", "n2"]))
    def serve_one_and_release_the_rest(self, node: str) -> tuple[str, dict[str, int]]:
        order = list(self.rooms[node]._waiting)
        served = self.rooms[node].serve(self.books[node])
        assert served == [waiter for waiter in order if waiter in served], "in order of arrival"
        for waiter in served[1:]:
            self.books[node].release(self.needs[waiter])
        return node, self.needs[served[0]] if served else {}

    @invariant()
    def nothing_is_lent_twice(self) -> None:
        if not hasattr(self, "books"):
            return
        for line in LINES:
            held = sum(b.leases[line].reserved for b in self.books.values() if line in b.leases)
            free = sum(b.free(line) for b in self.books.values())
            assert all(book.free(line) >= 0 for book in self.books.values())
            assert self.settled[line] + held + free <= self.caps[line]
            assert self.remaining(line) >= 0


Leasing.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLeasing = Leasing.TestCase


def book_with(**free: int) -> LeaseBook:
    book = LeaseBook()
    book.credit(free)
    return book


def test_a_grant_after_its_recall_is_worth_nothing() -> None:
    book = book_with()
    book.credit({"x": 10})
    assert book.give_back(["x"]) == {"x": 10}
    assert book.credit({"x": 10}) == []
    assert book.free("x") == 0
    assert book.credit({"x": 13}) == ["x"]
    assert book.free("x") == 3
    assert book.give_back(["x"]) == {"x": 13}


def test_who_came_first_is_served_first_and_blocks_only_what_it_lacks() -> None:
    book, room = book_with(x=5, y=5), WaitingRoom()
    room.enter("big", "k", {"x": 8, "y": 1}, book)
    assert room.blocks({"x": 1})
    assert not room.blocks({"y": 4})
    room.enter("small", "k", {"x": 1}, book)
    assert room.serve(book) == []
    room.enter("other", "k", {"y": 2}, book)
    assert room.serve(book) == ["other"]
    book.credit({"x": 8})
    assert room.serve(book) == ["big"]
    room.leave("absent")
    book.credit({"x": 9})
    assert room.serve(book) == ["small"]
    assert not room.blocks({"x": 100})


def test_who_gives_up_blocks_nobody_any_more() -> None:
    book, room = book_with(x=5), WaitingRoom()
    room.enter("big", "k", {"x": 8}, book)
    room.enter("small", "k", {"x": 5}, book)
    room.leave("big")
    assert room.serve(book) == ["small"]


def test_one_key_cannot_fill_the_room() -> None:
    book, room = book_with(), WaitingRoom()
    for number in range(MAX_WAITING_PER_KEY):
        assert room.enter(f"w{number}", "loud", {"x": 1}, book)
    assert not room.enter("one more", "loud", {"x": 1}, book)
    assert room.enter("other", "quiet", {"x": 1}, book)
    room.leave("w0")
    assert room.enter("one more", "loud", {"x": 1}, book)
    assert len(room.empty()) == MAX_WAITING_PER_KEY + 1
    assert not room.blocks({"x": 1})


def test_a_settlement_uses_at_most_the_bound_and_never_less_than_nothing() -> None:
    book = book_with(x=10, y=10)
    assert book.reserve({"x": 6, "y": 6})
    book.settle({"x": 6, "y": 6}, {"x": 99, "y": -5})
    assert (book.free("x"), book.free("y")) == (4, 10)


def test_tight_lines_say_what_is_left_over() -> None:
    book = book_with(x=5, y=5)
    book.tighten(["x", "z"], until_ns=100)
    assert book.left_over(["x", "y", "z"], now_ns=99) == ["x"]
    assert book.left_over(["x", "y", "z"], now_ns=100) == []


def test_a_line_in_use_is_not_forgotten() -> None:
    book = book_with(x=5)
    assert not book.forget("x")
    assert book.reserve({"x": 5})
    assert not book.forget("x")
    book.settle({"x": 5}, {"x": 5})
    assert book.forget("x")
    assert book.forget("never seen")
