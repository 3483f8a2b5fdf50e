"""Ways in which a file comes to harm, byte by byte; and structured ones for the formats that kd3d reads."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
from mutate_onnx import changed_graph
from mutate_values import json_text, text_lines

Random = np.random.Generator
_FLOATS = (np.nan, np.inf, -np.inf, 1e38, -1e38, 1e-45, 0.0)
_SIZES = (0, 1, -1, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 10**6)


def mutated(name: str, content: bytes, random: Random) -> tuple[bytes, str]:
    """A damaged copy of a file and what was done to it; the name's ending says which format it has."""
    ways = [damaged_bytes]
    ways += [way for endings, way in _FORMATS if name.endswith(endings) for _ in range(3)]
    for _ in range(8):
        changed, what = ways[random.integers(len(ways))](content, random)
        if changed != content:
            return changed, what
    return content + b"\0", "one byte more"


def damaged_bytes(content: bytes, random: Random) -> tuple[bytes, str]:
    """Without knowing the format."""
    size = len(content)
    way = str(random.choice(["flip", "cut", "longer", "zeros", "noise", "number", "float", "swap", "empty", "repeat"]))
    data = bytearray(content)
    if way == "empty" or size < 16:
        return b"", "emptied"
    at = int(random.integers(size - 8))
    length = int(min(size - at, 2 ** random.uniform(0, np.log2(size))))
    if way == "flip":
        for _ in range(int(random.integers(1, 9))):
            data[random.integers(size)] ^= 1 << int(random.integers(8))
    elif way == "cut":
        del data[at:]
    elif way == "longer":
        data += random.bytes(length)
    elif way == "zeros":
        data[at : at + length] = bytes(length)
    elif way == "noise":
        data[at : at + length] = random.bytes(length)
    elif way == "number":
        data[at : at + 8] = int(random.choice(_SIZES)).to_bytes(8, "little", signed=True)
    elif way == "float":
        at -= at % 4
        data[at : at + 4] = np.float32(random.choice(_FLOATS)).tobytes()
    elif way == "swap":
        data[at : at + length], data[:length] = data[:length], data[at : at + length]
    else:
        data[at:at] = data[at : at + length]
    return bytes(data), f"{way} at byte {at} of {size}"


def changed_json(content: bytes, random: Random) -> tuple[bytes, str]:
    """A JSON file, or one line of a file of JSON lines, with a value that was changed."""
    text = content.decode()
    try:
        changed, what = json_text(text, random)
    except ValueError:
        lines = text.splitlines()
        place = int(random.integers(len(lines)))
        lines[place], what = json_text(lines[place], random)
        changed, what = "\n".join(lines) + "\n", f"line {place}: {what}"
    return changed.encode(errors="surrogatepass"), what


def changed_text(content: bytes, random: Random) -> tuple[bytes, str]:
    """Lines of a text file."""
    changed, what = text_lines(content.decode(), random)
    return changed.encode(), what


def changed_header(content: bytes, random: Random) -> tuple[bytes, str]:
    """The JSON header of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    header, what = json_text(content[8 : 8 + length].decode(), random)
    told = header.encode(errors="surrogatepass")
    return len(told).to_bytes(8, "little") + told + content[8 + length :], f"header: {what}"


def changed_zip(content: bytes, random: Random) -> tuple[bytes, str]:
    """One member of a zip file: damaged, left out, doubled, or under another name."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = str(random.choice(list(members)))
    way = str(random.choice(["damage"] * 6 + ["leave out", "double", "rename"]))
    what, body = f"{way} {name}", members.pop(name)
    if way == "damage":
        members[name], inner = mutated(name, body, random)
        what = f"{name}: {inner}"
    elif way == "double":
        members[name] = members[f"{name}.copy"] = body
    elif way == "rename":
        members[str(random.choice(["../outside", "/outside", "x" * 300, "data.pkl", "points.npy"]))] = body
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", int(random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as archive:
        for each, inside in members.items():
            archive.writestr(each, inside)
    return buffer.getvalue(), what


def changed_array(content: bytes, random: Random) -> tuple[bytes, str]:
    """A numpy array of another type or shape, or with values that are none."""
    array = np.load(io.BytesIO(content), allow_pickle=False)
    way = str(random.choice(["type", "shape", "rows", "value", "object", "huge"]))
    made: Any = array
    if way == "type":
        made = array.astype(
            str(random.choice(["f2", "f8", "i1", "i8", "c8", "?", "U4", "S3", "M8[s]"])), casting="unsafe"
        )
    elif way == "shape":
        made = array.reshape((-1,) if random.random() < 0.5 else (*array.shape, 1))
    elif way == "rows":
        made = array[: int(random.integers(0, max(1, len(array))))] if array.ndim else array
    elif way == "value" and array.size and array.dtype.kind == "f":
        made = array.copy()
        made.flat[random.integers(array.size, size=3)] = random.choice(_FLOATS)
    elif way == "object":
        made = np.array([Planted()], object)
    buffer = io.BytesIO()
    np.save(buffer, made, allow_pickle=way == "object")
    told = buffer.getvalue()
    if way == "huge":  # the header alone claims it
        claim = str(array.shape).encode()
        told = told.replace(claim + b", }", (b"(9%s,), }" % (b"0" * int(random.integers(6, 18)))), 1)
    return told, f"array: {way}"


class Planted:
    """Would make the folder that stands for code that was run, when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.mkdir, (CANARY,)


CANARY = "code-was-run"
_PICKLES = (
    b"cos\nmkdir\n(V" + CANARY.encode() + b"\ntR",
    b"cbuiltins\neval\n(Vopen('" + CANARY.encode() + b"','w')\ntR",
)


def planted_pickle(content: bytes, random: Random) -> tuple[bytes, str]:
    """A pickle with an instruction to run something, at its beginning or where an object begins."""
    places = [2] + [
        place for place in range(2, min(len(content), 4000)) if content[place : place + 1] in (b"(", b"}", b"X")
    ]
    at = int(random.choice(places))
    return content[:at] + _PICKLES[random.integers(2)] + content[at:], f"planted at byte {at}"


_FORMATS = (
    ((".json", ".jsonl", ".log"), changed_json),
    ((".txt", ".yaml", ".py", ".kitti"), changed_text),
    (".safetensors", changed_header),
    ((".zip", ".npz", ".zip.pth", ".pt"), changed_zip),
    (".npy", changed_array),
    (".onnx", changed_graph),
    ((".pkl", ".legacy.pth"), planted_pickle),
)
