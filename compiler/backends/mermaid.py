"""The stack as a Mermaid flowchart: what lies on what."""

from __future__ import annotations

from typing import Final

from dmspec.compiler.backends.base import Backend
from dmspec.runtime.plan import Device, Plan
from dmspec.runtime.units import SECTOR_BYTES, bytes_text


def emit(plan: Plan) -> bytes:
    """The diagram."""
    names = [one.name for one in plan.disks] + [one.name for one in plan.devices]
    names += [one.name for one in plan.filesystems]
    nodes = {name: f"n{index}" for index, name in enumerate(names)}
    lines = ["flowchart TD"]
    lines += [f'    {nodes[one.name]}(["{_text(one.name)}<br/>filesystem"])' for one in plan.filesystems]
    lines += [f'    {nodes[one.name]}["{_text(one.name)}<br/>{_text(_targets(one))}"]'
              for one in reversed(plan.devices)]
    for disk in plan.disks:
        size = bytes_text(disk.sectors * SECTOR_BYTES)
        lines.append(f'    {nodes[disk.name]}[("{_text(disk.name)}<br/>{size}")]')
    lines += [f"    {nodes[one.name]} --> {nodes[one.device]}" for one in plan.filesystems]
    lines += [f"    {nodes[one.name]} --> {nodes[below]}"
              for one in plan.devices for below in _below(one, nodes)]
    return ("\n".join(lines) + "\n").encode()


def _targets(device: Device) -> str:
    words = [line.split() for line in device.table]
    return ", ".join(dict.fromkeys(one[2] for one in words if len(one) > 2))


def _below(device: Device, nodes: dict[str, str]) -> list[str]:
    """Names that the table's parameters have in them, each once, in order."""
    words = [word for line in device.table for word in line.split()[3:]]
    return list(dict.fromkeys(word for word in words if word in nodes and word != device.name))


def _text(text: str) -> str:
    return text.replace("&", "#amp;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")


MERMAID: Final = Backend("mermaid", "a picture of the stack, as a Mermaid flowchart", emit)
