"""Customers: names to hang payments on."""

from controlplane.demo.stripe_sim import cards
from controlplane.demo.stripe_sim.fields import Fields
from controlplane.demo.stripe_sim.intents import as_json
from controlplane.demo.stripe_sim.records import Account, Customer, Done
from controlplane.demo.stripe_sim.refuse import Refused, no_such

ECHOED = frozenset({"address", "description", "name", "phone", "preferred_locales", "shipping", "tax_exempt"})
CREATE = frozenset({"email", "source", "metadata", "expand"}) | ECHOED
UPDATE = CREATE


def create(account: Account, _: str, fields: Fields, now_s: int) -> Done | Refused:
    email, source, metadata = fields.text("email"), _source(fields), fields.metadata({})
    if fields.problem:
        return fields.problem
    customer = Customer(
        id=account.ids.make("cus_", 14),
        created_s=now_s,
        source=source,
        email=email,
        metadata=metadata,
        echoed=_echoed(fields),
    )
    account.customers.add(customer)
    return Done(customer)


def update(account: Account, object_id: str, fields: Fields, _: int) -> Done | Refused:
    customer = account.customers.get(object_id)
    if customer is None or customer.deleted:
        return no_such("customer", object_id, "id")
    email, source, metadata = fields.text("email"), _source(fields), fields.metadata(customer.metadata)
    if fields.problem:
        return fields.problem
    customer.email, customer.source = email or customer.email, source or customer.source
    customer.metadata = metadata
    customer.echoed.update(_echoed(fields))
    return Done(customer)


def delete(account: Account, object_id: str, _: Fields, __: int) -> Done | Refused:
    customer = account.customers.get(object_id)
    if customer is None or customer.deleted:
        return no_such("customer", object_id, "id")
    customer.deleted = True
    return Done(customer)


def _source(fields: Fields) -> str | None:
    source = fields.text("source")
    if source is not None and cards.find(source) is None:
        fields.fail(no_such("token", source, "source"))
    return source


def _echoed(fields: Fields) -> dict[str, object]:
    return {name: as_json(value) for name in ECHOED if (value := fields.raw(name)) is not None}
