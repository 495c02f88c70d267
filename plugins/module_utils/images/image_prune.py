# SPDX-License-Identifier: MIT
"""Which containers and images of a host go, and which stay and why. Python 2.7 syntax.

Decided on the controller, to be shown, and again on the host right before anything is removed.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import re

# A container that was made a moment ago is about to be started; an image without a tag that is younger
# may be a step of a build that goes on.
CREATED_GRACE = 600
UNTAGGED_GRACE = 60
_STOPPED = ("created", "exited", "dead")
_AGE = re.compile(r"^([1-9][0-9]{0,5})([smhdw]?)\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class PruneError(ValueError):
    """The request is not valid; the message says why, for people."""


def age(text):
    """Return seconds of an age such as ``7d`` or ``12h``; 0 of an empty one. Raises PruneError."""
    text = "%s" % (text or "")
    if text in ("", "0"):
        return 0
    match = _AGE.match(text)
    if not match or not match.group(2):
        raise PruneError("an age is a number of s, m, h, d or w, such as 7d: not %r" % str(text))
    return int(match.group(1)) * _SECONDS[match.group(2)]


def rules(containers=False, images=False, all=False, older_than="", keep=3):
    """Return the rules that decide takes. Without containers and images both are meant. Raises PruneError."""
    if keep < 1:
        raise PruneError("the newest version always stays: keep is 1 or more")
    both = not containers and not images
    return {
        "containers": bool(containers or both),
        "images": bool(images or both or all),
        "all": bool(all),
        "older_than": age(older_than),
        "keep": int(keep),
    }


def decide(found, rules, versions, now, seen=None):
    """Return {containers, images, stay}: what goes, and what stays of the kinds that rules name.

    found: of host_images.read with containers and layers; versions: {repository: as of
    image_versions.lines}; now: seconds since 1970; seen: {image's ID: its tags} as of an earlier
    decision: an image that is not as it was then stays.
    What goes is {id, name or names, bytes, why}; what stays {id, name, why}.
    """
    going, stay, users = [], [], {}
    for one in found["containers"]:
        why = _container_stays(one, rules, now)
        if why is None:
            going.append(
                {
                    "id": one["id"],
                    "name": one["name"],
                    "image": one["image_name"],
                    "bytes": one["bytes"],
                    "why": one["state"],
                }
            )
            continue
        # By its name too: an engine may name the image of one platform, where it lists that of all.
        keys = {one["image"], _whole(one["image_name"])}
        for key in keys:
            users.setdefault(key, []).append(one)
        if rules["containers"]:
            stay.append({"id": one["id"], "name": "container " + one["name"], "why": why})
    newest = _newest(found["images"], versions, rules["keep"])
    images = []
    for one in found["images"]:
        if not rules["images"]:
            break
        using = [user for key in [one["id"]] + one["tags"] + one["digests"] for user in users.get(key, [])]
        why, stays = _image_goes(one, rules, versions, newest, using, now, seen)
        if stays:
            stay.append({"id": one["id"], "name": shown(one), "why": why})
        else:
            images.append((one, why))
    return {"containers": going, "images": _with_bytes(images, found["images"]), "stay": stay}


def total(decision):
    """Return the bytes that a decision frees."""
    return sum(one["bytes"] for one in decision["containers"] + decision["images"])


def shown(image):
    """Return how people name an image."""
    return ", ".join(image["tags"] or image["digests"]) or image["id"].rpartition(":")[2][:12]


def _container_stays(one, rules, now):
    """Return why a container stays, or None where it goes."""
    if one["state"] not in _STOPPED:
        return one["state"]
    if one["keep"]:
        return "label"
    if not rules["containers"]:
        return "container"
    if one["state"] == "created" and now - one["created"] < CREATED_GRACE:
        return "about to start"
    if now - max(one["ended"], one["created"]) < rules["older_than"]:
        return "younger"
    return None


def _whole(name):
    """Return the name of a container's image as images are listed: with its tag."""
    return name if "@" in name or ":" in name.rpartition("/")[2] else name + ":latest"


def _newest(images, versions, keep):
    """Return the names that are among the newest versions of their line, of those present."""
    present = {tag for image in images for tag in image["tags"]}
    result = set()
    for repository, known in versions.items():
        for line in known["lines"]:
            there = [tag for tag in line if repository + ":" + tag in present]
            result.update(repository + ":" + tag for tag in there[-keep:])
    return result


def _image_goes(one, rules, versions, newest, users, now, seen):
    """Return (why, whether it stays) of an image. Whatever is asked, these stay first."""
    running = [user["name"] for user in users if user["state"] not in _STOPPED]
    if running:
        return "runs in " + running[0], True
    if users:
        return "of container " + users[0]["name"], True
    if one["keep"]:
        return "label", True
    kinds = set()
    for tag in one["tags"]:
        repository, _colon, name = tag.rpartition(":")
        known = versions.get(repository) or {"lines": [], "superseded": [], "moving": []}
        if name in known["moving"]:
            return "tag " + name, True
        if tag in newest:
            return "a newest version", True
        kinds.add("old version" if any(name in tags for tags in known["lines"] + [known["superseded"]]) else "other")
    if seen is not None and seen.get(one["id"]) != one["tags"]:
        return "new or tagged meanwhile", True
    if not one["tags"]:
        kinds.add("other" if one["digests"] else "no tag")
    if "other" in kinds and not rules["all"]:
        return "no version: --all", True
    born = max(one["created"], one["tagged"])
    if now - born < rules["older_than"]:
        return "younger", True
    if kinds == {"no tag"} and now - one["created"] < UNTAGGED_GRACE:
        return "of a build", True
    return ("unused" if "other" in kinds else sorted(kinds)[0]), False


def _with_bytes(going, images):
    """Return what goes with the bytes of the layers that no image that stays has; each is counted once."""
    taken = {one["id"] for one, _why in going}
    counted = {chain for image in images if image["id"] not in taken for chain, _size in image["layers"]}
    result = []
    for one, why in going:
        own = 0
        for chain, size in one["layers"]:
            if chain not in counted:
                counted.add(chain)
                own += size
        result.append({"id": one["id"], "names": one["tags"] or one["digests"], "bytes": own, "why": why})
    return result


def layer_bytes(images):
    """Return the bytes of all layers of images, each once."""
    return sum({chain: size for image in images for chain, size in image["layers"]}.values())
