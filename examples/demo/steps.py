"""The steps in order, and what is said before each."""

from __future__ import annotations

from examples.demo import devices_story, story
from examples.demo.world import Step

STEPS = (
    Step(
        "Just looking",
        "A visitor who changes nothing costs nothing: no cookie, no row. One address, two server processes.",
        story.just_looking,
    ),
    Step("An anonymous cart", "Two pieces go into the cart. Nobody is signed in yet.", story.anonymous_cart),
    Step("The other process", "The same browser asks the other process.", story.other_process),
    Step(
        "Signing in",
        "Login is a border: new session, new token. The cart comes along; whoever knew the old cookie holds nothing.",
        story.signing_in,
    ),
    Step(
        "kill -9",
        "Both servers are killed while requests are writing, and started again. What was answered is kept.",
        story.crash,
    ),
    Step(
        f"{story.CROWD} writes at once",
        "Concurrent requests over both processes, each with a key of its own. Only the key that changed is sent, so "
        "nobody overwrites anybody.",
        story.crowd,
    ),
    Step(
        f"{story.INCREMENTS} increments at once",
        "The shop counts visits with session.modify: compare and set, over both processes.",
        story.counter,
    ),
    Step("A second device", "Ada signs in on her phone, with 'remember me'.", devices_story.second_device),
    Step("The devices page", "Where is Ada signed in? One indexed query.", devices_story.device_list),
    Step("Signing out the other device", "Ada has lost her phone.", devices_story.revoke_one),
    Step(
        "Logout beats a slow request",
        "A request is still at work when its user signs out. It may finish; it may not bring the session back.",
        devices_story.logout_race,
    ),
    Step(
        "Sign out everywhere",
        "From a device: all others. From a script: all of them.",
        devices_story.everywhere,
    ),
    Step(
        "Fifteen days later",
        "The sweeper with a clock that is 15 days ahead: what was idle for 14 days is ended, what had ended 7 days "
        "before is deleted.",
        devices_story.expiry,
    ),
    Step("Nothing to steal", "Who copies the database can open no session.", devices_story.nothing_to_steal),
)
