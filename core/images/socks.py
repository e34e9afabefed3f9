"""Connections through a SOCKS 5 proxy: RFC 1928, CONNECT only, with the user name and password of RFC 1929.

Names go to the proxy as they are: a host that has to ask it often cannot resolve them itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import aiohttp

from core.images import proxies

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler

_PORT = 1080
_ANONYMOUS, _PASSWORD, _NONE = 0, 2, 0xFF
_NAME, _IPV4, _IPV6 = 3, 1, 4
_WHY = {
    1: "it failed",
    2: "its rules do not allow it",
    3: "the network cannot be reached",
    4: "the host cannot be reached",
    5: "the connection was refused",
    6: "the time to live has expired",
    7: "it cannot connect",
    8: "it does not know that kind of address",
}


class Refused(OSError):
    """The proxy does not do what it was asked; ``strerror`` says why."""

    def __init__(self, why: str) -> None:
        super().__init__(0, why)


class Connector(aiohttp.TCPConnector):
    """Goes through a SOCKS proxy where :func:`core.images.proxies.find` names one, else its own way.

    :param own: what the settings of the registry say of proxies
    """

    def __init__(self, own: str, **options: Any) -> None:
        super().__init__(**options)
        self._own = own

    # aiohttp has no public place for this; its version is fixed in pyproject.toml.
    async def _create_direct_connection(
        self, req: aiohttp.ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout, **options: Any
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        proxy = proxies.find(str(req.url), self._own)
        if not proxies.is_socks(proxy):
            return await super()._create_direct_connection(req, traces, timeout, **options)
        assert proxy is not None
        host, port = req.url.raw_host or "", req.url.port or 0
        try:
            async with asyncio.timeout(timeout.sock_connect):
                sock = await connect(proxy, host, port)
        except TimeoutError:
            raise
        except OSError as error:
            raise aiohttp.ClientConnectorError(req.connection_key, error) from error
        context: ssl.SSLContext | None = self._get_ssl_context(req)
        name = host.rstrip(".") if context else None
        try:
            return await self._wrap_existing_connection(
                self._factory, sock=sock, ssl=context, server_hostname=name, req=req, timeout=timeout
            )
        except BaseException:
            sock.close()
            raise


async def connect(proxy: str, host: str, port: int) -> socket.socket:
    """A connection to ``host`` through ``proxy``, a URL of the kind ``socks5://[user:password@]host[:port]``.

    :raises OSError: there is none
    """
    parts = urlsplit(proxy)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(parts.hostname or "", parts.port or _PORT, type=socket.SOCK_STREAM)
    last: OSError = Refused("the proxy has no address")
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
        try:
            await loop.sock_connect(sock, address)
            await _ask(sock, unquote(parts.username or ""), unquote(parts.password or ""), host, port)
            return sock
        except Refused:
            sock.close()
            raise
        except OSError as error:
            sock.close()
            last = error
        except BaseException:
            sock.close()
            raise
    raise last


async def _ask(sock: socket.socket, user: str, password: str, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    methods = bytes([_ANONYMOUS, _PASSWORD] if user else [_ANONYMOUS])
    await loop.sock_sendall(sock, bytes([5, len(methods)]) + methods)
    version, method = await _read(sock, 2)
    if version != 5:
        raise Refused("the proxy does not speak SOCKS 5")
    if method == _PASSWORD and user:
        words = [text.encode() for text in (user, password)]
        if max(map(len, words)) > 255:
            raise Refused("user name or password is too long for the proxy")
        await loop.sock_sendall(sock, b"\1" + b"".join(bytes([len(word)]) + word for word in words))
        if (await _read(sock, 2))[1] != 0:
            raise Refused("the proxy refuses user name or password")
    elif method != _ANONYMOUS:
        raise Refused("the proxy wants a login" if not user else "the proxy does not take this kind of login")
    await loop.sock_sendall(sock, b"\5\1\0" + _address(host) + port.to_bytes(2, "big"))
    version, answer, _, kind = await _read(sock, 4)
    if version != 5 or answer:
        raise Refused(f"the proxy cannot connect: {_WHY.get(answer, f'it says {answer}')}")
    size = {_IPV4: 4, _IPV6: 16}.get(kind) or (await _read(sock, 1))[0]
    await _read(sock, size + 2)  # where it connects from: nobody asks


def _address(host: str) -> bytes:
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        return bytes([_IPV4 if address.version == 4 else _IPV6]) + address.packed
    name = host.encode("idna") if not host.isascii() else host.encode()
    if len(name) > 255:
        raise Refused("the host's name is too long for the proxy")
    return bytes([_NAME, len(name)]) + name


async def _read(sock: socket.socket, count: int) -> bytes:
    """Exactly so many bytes: what follows is the other end's."""
    data = b""
    while len(data) < count:
        more = await asyncio.get_running_loop().sock_recv(sock, count - len(data))
        if not more:
            raise Refused("the proxy has closed the connection")
        data += more
    return data
