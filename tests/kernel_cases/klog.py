"""Prints the kernel log of a mount since the last time, as `<level>text`: no imports that take time.

The socket's path is in CASE_SOCKET.  Only what the answer of the question `log` holds is decoded: maps and lists
of short texts and of booleans.
"""

import os
import socket
from typing import Any

REQUEST = b"\x83\xa6dmspec\x01\xa3ask\xa3log\xa5clear\xc3"


def decode(data: bytes, at: int) -> tuple[Any, int]:
    """The msgpack value at a place, and where the next one is."""
    head = data[at]
    sizes = {0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4}
    if head in (0xC2, 0xC3):
        return head == 0xC3, at + 1
    if head in sizes:
        behind = at + 1 + sizes[head]
        count, is_text = int.from_bytes(data[at + 1:behind], "big"), head < 0xDC
    elif 0xA0 <= head < 0xC0:
        behind, count, is_text = at + 1, head & 0x1F, True
    else:
        behind, count, is_text = at + 1, (head & 0x0F) * (2 if head < 0x90 else 1), False
    if is_text:
        return data[behind:behind + count].decode(errors="replace"), behind + count
    values = []
    for _ in range(count):
        value, behind = decode(data, behind)
        values.append(value)
    return values, behind


with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
    connection.connect(os.environ["CASE_SOCKET"])
    connection.sendall(len(REQUEST).to_bytes(4, "little") + REQUEST)
    answer = b""
    while len(answer) < 4 or len(answer) < 4 + int.from_bytes(answer[:4], "little"):
        part = connection.recv(1 << 16)
        if not part:
            break
        answer += part
if answer:
    words = decode(answer, 4)[0]
    for level, text in words[words.index("lines") + 1]:
        print(f"<{level}>{text}")
