"""What a rank really sent: bytes that the kernel counted on this process's TCP connections."""

import os
import socket
import stat
import struct
import sys

# struct tcp_info of linux/tcp.h: tcpi_bytes_sent and tcpi_bytes_retrans, since Linux 4.19.
_BYTES_SENT, _SIZE = 200, 216


def sent_bytes() -> int:
    """Bytes that this process has ever sent over TCP, what was lost and sent again counted once.

    gloo's payload and its headers, whichever library called it; not what goes through shared
    memory.

    Raises:
        OSError: the system does not count them: it is not Linux, or an old one.
    """
    if sys.platform != "linux":
        raise OSError(f"{sys.platform} does not say what a socket has sent: Linux does")
    return sum(map(_sent, _descriptors()))


def _descriptors() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/fd")]


def _sent(descriptor: int) -> int:
    """Of one descriptor; 0 for what is no TCP socket, or was closed since it was listed."""
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return 0
        connection = socket.socket(fileno=os.dup(descriptor))
    except OSError:
        return 0
    with connection:
        if connection.family not in (socket.AF_INET, socket.AF_INET6):
            return 0
        if connection.type != socket.SOCK_STREAM:
            return 0
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
    if len(info) < _SIZE:
        raise OSError("this kernel does not count what a TCP socket has sent: Linux 4.19 does")
    sent, again = struct.unpack_from("QQ", info, _BYTES_SENT)
    return int(sent - again)
