"""Processes of clients that parts of scripts/soak start next to a server: attackers, and good clients.

    clients.py ROLE URL SETTINGS

Each works until its standard input ends, which also happens when the part is killed, and then prints what it saw as
JSON. `Clients` starts one.
"""

import contextlib
import http.client
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time

LONGEST = 900.0
"""Seconds after which a process ends on its own."""
PATIENCE = 20.0
"""Longest wait for a reply, in seconds: what takes longer has failed."""
PAUSE = 0.1
"""Between two requests of a client that must be served."""
BIND_NO_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)
KEYS = 100
"""Keys of a check-all; with them its body is over 1 KiB."""


class Clients:
    """A process of clients. It is killed with the block, and `finish` ends it properly before."""

    def __init__(self, role, url, **settings):
        command = [sys.executable, os.path.abspath(__file__), role, url, json.dumps(settings)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def end(self):
        """Tells the clients to end, which they do soon."""
        self.process.stdin.close()

    def ended(self):
        return self.process.poll() is not None

    def finish(self):
        """Ends the clients and returns what they saw."""
        self.end()
        return self.saw()

    def saw(self):
        """Waits for clients that end by themselves or are told to, and returns what they saw."""
        ready, _, _ = select.select([self.process.stdout], [], [], 3 * PATIENCE)
        if not ready:
            raise AssertionError("clients hang")
        return json.loads(self.process.stdout.read())


def request(method, path, token, body=b"", length=None):
    """The bytes of a request. `length` announces another length than the body's."""
    bearer = f"Authorization: Bearer {token}\r\n" if token else ""
    announced = f"Content-Length: {len(body) if length is None else length}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{bearer}{announced}\r\n".encode() + body


def connection_from(source):
    """A socket with its own address: attackers must not take the ports of good clients."""
    connection = socket.socket()
    connection.setsockopt(socket.IPPROTO_IP, BIND_NO_PORT, 1)
    connection.bind((source, 0))
    return connection


def flood(address, over, source, token, ahead):
    """Connects, sends this many checks at once and closes without reading, again and again."""
    bytes_at_once = request("POST", "/v1/check", token, b'{"key":"k"}') * ahead
    connections = failed = 0
    while not over.is_set():
        try:
            with connection_from(source) as connection:
                connection.settimeout(5)
                connection.connect(address)
                connection.sendall(bytes_at_once)
                connections += 1
        except OSError:
            failed += 1
            over.wait(0.002)
    return {"connections": connections, "requests": connections * ahead, "failed": failed}


class Holding:
    """A connection that has sent what it will, or is about to, and then stalls."""

    def __init__(self, address, source, to_send):
        self.socket = connection_from(source)
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            self.socket.connect(address)
        self.left = memoryview(to_send)

    def send(self):
        self.left = self.left[self.socket.send(self.left):]
        return not self.left


def hold(address, over, source, count, to_send, reads):
    """Holds this many connections that sent this, and opens another one for each that is cut. Those that do not read
    notice that they are cut by the end of the connection alone."""
    to_send = to_send.encode()
    watch = select.EPOLLRDHUP | (select.EPOLLIN if reads else 0)
    poll, held = select.epoll(), {}
    connections = sent = cut = failed = 0
    while not over.is_set():
        while len(held) < count:
            try:
                holding = Holding(address, source, to_send)
            except OSError:
                failed += 1
                break
            held[holding.socket.fileno()] = holding
            poll.register(holding.socket, watch | select.EPOLLOUT)
            connections += 1
        for number, event in poll.poll(0.05):
            holding = held[number]
            try:
                ended = bool(event & (select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP))
                if event & select.EPOLLOUT and not ended and holding.send():
                    poll.modify(number, watch)
                    sent += 1
                if event & select.EPOLLIN and not ended:
                    ended = not holding.socket.recv(65536)
            except BlockingIOError:
                ended = False
            except OSError:
                ended = True
            if ended:
                poll.unregister(number)
                held.pop(number).socket.close()
                cut += 1
        time.sleep(0.01)
    return {"connections": connections, "requests": sent, "cut": cut, "failed": failed}


class Good:
    """A well-behaved client with one kind of request, on a connection that it keeps or on a new one for each."""

    def __init__(self, address, token, kind, keeps):
        self.address, self.keeps, self.kind, self.turn = address, keeps, kind, 0
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.connection = None
        self.answered, self.reopened, self.slowest, self.failures = 0, 0, 0.0, []

    def body(self):
        if self.kind == "check":
            return "/v1/check", {"key": "good/0"}
        if self.kind == "check-all":
            return "/v1/check-all", {"items": [f"good/{index}" for index in range(KEYS)]}
        # The values that stand, and every other time new ones.
        rate = 1_000_000_000 + self.turn // 2 % 2
        return "/v1/limits", {"key": "good/configured", "rate": rate, "per": "366d"}

    def ask(self):
        """A reply's status. A kept connection may have been closed meanwhile: then there is another one, once."""
        path, body = self.body()
        body = json.dumps(body).encode()
        for last in (False, True):
            kept, response = self.connection is not None and self.connection.sock is not None, None
            if not kept:
                self.connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE)
            try:
                self.connection.request("POST", path, body, self.headers)
                response = self.connection.getresponse()
                response.read()
                return response.status
            except (ConnectionError, http.client.HTTPException):
                self.connection.close()
                if not kept or last or response is not None:
                    raise
                self.reopened += 1
        raise AssertionError("a second failure is raised")

    def work(self, over):
        while not over.is_set():
            begun, problem = time.monotonic(), None
            try:
                status = self.ask()
                if status != 200:
                    problem = f"answered {status}"
            except (OSError, http.client.HTTPException) as error:
                problem = f"{error!r}"
                self.connection.close()
            took = time.monotonic() - begun
            self.turn += 1
            self.answered += problem is None
            self.slowest = max(self.slowest, took)
            if problem is not None:
                where = "" if self.keeps else " on a new connection"
                self.failures.append([time.time(), f"{self.kind}{where}: {problem}"])
            if not self.keeps and self.connection is not None:
                self.connection.close()
            over.wait(PAUSE)


def good(address, over, token):
    """Clients of each kind, with kept and with new connections."""
    kinds = ("check", "check-all", "configure")
    clients = [Good(address, token, kind, keeps) for kind in kinds for keeps in (True, False)]
    threads = [threading.Thread(target=client.work, args=(over,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "answered": sum(client.answered for client in clients),
        "reopened": sum(client.reopened for client in clients),
        "kept": max(client.slowest for client in clients if client.keeps),
        "new": max(client.slowest for client in clients if not client.keeps),
        "failures": [failure for client in clients for failure in client.failures],
    }


class Busy:
    """A kept connection that always has this many checks in flight."""

    def __init__(self, address, one, ahead):
        self.socket = socket.create_connection(address, PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.one, self.received, self.left = one, b"", one * ahead
        self.sent_bytes, self.answered, self.told = 0, 0, False
        self.begun, self.slowest, self.statuses = time.monotonic(), 0.0, {}

    def send(self):
        """Sends what it can of what is left. Only what was sent whole counts as a request."""
        if self.left:
            with contextlib.suppress(BlockingIOError):
                count = self.socket.send(self.left)
                self.left, self.sent_bytes = self.left[count:], self.sent_bytes + count

    def unanswered(self):
        return self.sent_bytes // len(self.one) - self.answered

    def receive(self, asks):
        """Takes the replies that have come, and asks again for each. False when the connection is over."""
        more = self.socket.recv(65536)
        self.received += more
        while True:
            head, found, rest = self.received.partition(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
            if not found or len(rest) < length:
                break
            self.received = rest[length:]
            now, status = time.monotonic(), lines[0].split(b" ")[1].decode()
            self.slowest, self.begun = max(self.slowest, now - self.begun), now
            self.answered += 1
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if b"connection: close" in lines:
                # What is on the way beyond this reply is not answered, and the client knows it.
                self.told = True
                return False
            if asks:
                self.left += self.one
        self.send()
        return bool(more)


def busy(address, over, token, count, ahead, reopens):
    """Busy clients. Where they do not reopen, they end with their connections; otherwise each that is closed is
    followed by another one, until they are asked to end, and then all wait for what they are owed."""
    one = request("POST", "/v1/check", token, b'{"key":"k"}')
    poll, clients = select.epoll(), {}
    seen = {"connections": 0, "requests": 0, "answered": 0, "unanswered": 0, "cut": 0, "told": 0, "slowest": 0.0}
    seen.update(statuses={}, reasons={})

    def begin():
        client = Busy(address, one, ahead)
        clients[client.socket.fileno()] = client
        poll.register(client.socket, select.EPOLLIN)
        seen["connections"] += 1
        client.send()

    def end(number, why):
        client = clients.pop(number)
        poll.unregister(number)
        client.socket.close()
        seen["requests"] += client.sent_bytes // len(one)
        seen["answered"] += client.answered
        seen["slowest"] = max(seen["slowest"], client.slowest)
        seen["told"] += client.told
        for status, times in client.statuses.items():
            seen["statuses"][status] = seen["statuses"].get(status, 0) + times
        owed = 0 if client.told else client.unanswered()
        seen["unanswered"] += owed
        seen["cut"] += owed > 0
        if owed:
            seen["reasons"][why] = seen["reasons"].get(why, 0) + 1

    for _ in range(count):
        begin()
    deadline = None
    while clients:
        if over.is_set() and deadline is None:
            deadline = time.monotonic() + PATIENCE
        for number, _ in poll.poll(0.05):
            client, why = clients[number], "the connection's end"
            try:
                goes_on = client.receive(asks=not over.is_set())
            except BlockingIOError:
                continue
            except OSError as error:
                goes_on, why = False, repr(error)
            if not goes_on:
                end(number, why)
                if reopens and not over.is_set():
                    begin()
        for number, client in list(clients.items()):
            if over.is_set() and client.unanswered() == 0 and reopens:
                end(number, "")
            elif deadline is not None and time.monotonic() > deadline:
                end(number, f"no answer within {PATIENCE} s")
    return seen


def main():
    role, url, settings = sys.argv[1:]
    over = threading.Event()
    host, _, port = url[len("http://"):].rpartition(":")

    def watch():
        sys.stdin.buffer.read()
        over.set()

    threading.Thread(target=watch, daemon=True).start()
    bound = threading.Timer(LONGEST, over.set)
    bound.daemon = True
    bound.start()
    roles = {"flood": flood, "hold": hold, "good": good, "busy": busy}
    print(json.dumps(roles[role]((host, int(port)), over, **json.loads(settings))), flush=True)
    # The thread that waits for the end of input is not waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
