"""The cart: a Pydantic model whose fields are keys of the session."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel

from examples.shop.catalogue import ITEMS, ItemInPath
from examples.shop.pages import Page, see_other
from examples.shop.sign_in import SignedIn
from examples.shop.users import USERS
from sessiondb import CurrentSession, SessionOf, flash, session_of

router = APIRouter()

MOST = 99


class CartData(BaseModel):
    """``cart``: how many of which item."""

    cart: dict[str, int] = {}


Cart = Annotated[SessionOf[CartData], Depends(session_of(CartData))]


@router.get("/cart")
async def show(page: Page, cart: Cart) -> HTMLResponse:
    """The lines and what they cost."""
    lines = [(ITEMS[item_id], count) for item_id, count in cart.data.cart.items() if item_id in ITEMS]
    return page("cart.html", lines=lines, total=sum(item.price * count for item, count in lines), most=MOST)


@router.post("/cart/{item_id}/add")
async def add(item: ItemInPath, session: CurrentSession) -> RedirectResponse:
    """One more."""

    def one_more(data: dict[str, Any]) -> None:
        cart = data.setdefault("cart", {})
        cart[item.id] = min(cart.get(item.id, 0) + 1, MOST)
        flash(data, f"{item.name} is in your cart.")

    # Two tabs may add at the same moment: modify compares and sets, so both pieces are in the cart.
    await session.modify(one_more)
    return see_other(f"/#{item.id}")


@router.post("/cart/{item_id}")
async def change(item: ItemInPath, quantity: Annotated[int, Form(ge=0, le=MOST)], cart: Cart) -> RedirectResponse:
    """So many, or none. What differs in ``cart.data`` is saved before the response leaves."""
    if quantity:
        cart.data.cart[item.id] = quantity
    else:
        cart.data.cart.pop(item.id, None)
    return see_other("/cart")


@router.post("/checkout")
async def check_out(user_id: SignedIn, cart: Cart) -> RedirectResponse:
    """Empty the cart. Visitors are sent to the sign-in page, and their cart comes along."""
    if cart.data.cart:
        cart.data = CartData()
        flash(cart.session, f"Thank you, {USERS[user_id].name}. Nothing was charged: this shop is a demo.")
    return see_other("/cart")
