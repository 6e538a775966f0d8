"""What there is to buy, and the home page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException
from fastapi.responses import HTMLResponse

from examples.shop.pages import Page
from sessiondb import CurrentSession

router = APIRouter()


@dataclass(frozen=True)
class Item:
    """One piece. ``shape`` names a drawing in ``templates/_art.html``; ``glaze_at`` is where the glaze ends."""

    id: str
    name: str
    glaze: str
    price: int
    shape: str
    colour: str
    clay: str = "#c7a684"
    glaze_at: int = 120


ITEMS = {
    item.id: item
    for item in (
        Item("tide-bowl", "Tide bowl", "cobalt", 42, "bowl", "#2f4f9e", glaze_at=122),
        Item("mist-vase", "Mist vase", "celadon", 68, "vase", "#8bab98", glaze_at=104),
        Item("salt-pig", "Salt pig", "bare clay, salt-fired", 38, "pig", "#b07d55", "#a8744d", glaze_at=96),
        Item("dusk-teapot", "Dusk teapot", "tenmoku", 96, "teapot", "#3b2c28", "#6b5042", glaze_at=138),
        Item("winter-cup", "Winter cup", "nuka white", 24, "cup", "#efece4", glaze_at=128),
        Item("harvest-plate", "Harvest plate", "ochre", 34, "plate", "#c6953a"),
        Item("kitchen-jug", "Kitchen jug", "chun blue", 56, "jug", "#7d9cc2", glaze_at=112),
        Item("long-bottle", "Long bottle", "copper red", 74, "bottle", "#8a3040", glaze_at=126),
        Item("morning-mug", "Morning mug", "kaki", 28, "mug", "#b85a31", "#7a5542", glaze_at=124),
        Item("larder-jar", "Larder jar", "ash", 52, "jar", "#a9a78f", glaze_at=126),
        Item("sill-planter", "Sill planter", "iron green", 46, "planter", "#5d7250", glaze_at=134),
        Item("night-light", "Night light", "midnight", 32, "candle", "#2a3350", "#8d7560", glaze_at=158),
    )
}


def find_item(item_id: str) -> Item:
    """The item of that id, or 404."""
    item = ITEMS.get(item_id)
    if item is None:
        raise HTTPException(404, "There is no such piece.")
    return item


ItemInPath = Annotated[Item, Depends(find_item)]


@router.get("/")
async def home(page: Page, session: CurrentSession) -> HTMLResponse:
    """The catalogue. It counts the visits of those who have a session; others stay without one."""
    if session.sid is not None:
        await session.modify(count_visit)
    return page("home.html", items=ITEMS.values())


def count_visit(data: dict[str, Any]) -> None:
    """For ``session.modify``: it runs on the freshest data, so visits in parallel are all counted."""
    data["visits"] = data.get("visits", 0) + 1
