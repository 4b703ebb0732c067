#!/usr/bin/python3
"""An SMTP server for tests, on a free port of 127.0.0.1.

    smtp.py '{"tls": "none|starttls|tls", "certificate": FILE, "key": FILE, "user": NAME, "password": TEXT}'

Prints JSON lines: first {"port": N}, then {"mail": {...}} for each message that it has received. Reads rules from its
standard input, one JSON line each, answered by {"ok": true}; the first rule that fits a command is used up by it:

    {"stage": "mail|rcpt|data", "to": ADDRESS, "answer": "451 later", "times": 2}
    {"stage": "data", "delay": 5}        answers after so many seconds
    {"stage": "data", "drop": true}      receives the message and breaks off instead of answering
"""

import asyncio
import email
import email.policy
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

rules = []


def say(line):
    print(json.dumps(line), flush=True)


def rule(stage, to=None):
    for found in rules:
        if found["stage"] == stage and found.get("to", to) == to and found.get("times", 1) > 0:
            found["times"] = found.get("times", 1) - 1
            return found
    return {}


def part(message, kind):
    body = message.get_body((kind,))
    return body.get_content() if body is not None else None


class Handler:
    async def handle_MAIL(self, server, session, envelope, address, options):
        answer = rule("mail").get("answer")
        if answer is None:
            envelope.mail_from = address
            envelope.mail_options.extend(options)
        return answer or "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        answer = rule("rcpt", address).get("answer")
        if answer is None:
            envelope.rcpt_tos.append(address)
        return answer or "250 OK"

    async def handle_DATA(self, server, session, envelope):
        found = rule("data", envelope.rcpt_tos[0])
        if "answer" in found:
            return found["answer"]
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        say({"mail": {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "encrypted": session.ssl is not None or isinstance(server.transport.get_extra_info("ssl_object"), ssl.SSLObject),
            "login": session.auth_data.login.decode() if session.auth_data else None,
            "headers": {name.lower(): str(value) for name, value in message.items()},
            "text": part(message, "plain"),
            "html": part(message, "html"),
        }})
        await asyncio.sleep(found.get("delay", 0))
        if found.get("drop"):
            server.transport.abort()
        return "250 OK"


async def main():
    options = json.loads(sys.argv[1])
    context = None
    if options["tls"] != "none":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options["certificate"], options["key"])

    def authenticate(server, session, envelope, mechanism, data):
        right = isinstance(data, LoginPassword) and (data.login.decode(), data.password.decode()) == (
            options["user"], options["password"])
        return AuthResult(success=right, handled=False, auth_data=data)

    def connection():
        return SMTP(
            Handler(),
            hostname="smtp.test",
            tls_context=context if options["tls"] == "starttls" else None,
            require_starttls=options["tls"] == "starttls",
            auth_required="user" in options,
            # The connection that is encrypted from the first byte is, whatever the library thinks.
            auth_require_tls=options["tls"] == "starttls",
            authenticator=authenticate,
            loop=loop,
        )

    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        connection, "127.0.0.1", 0, ssl=context if options["tls"] == "tls" else None)
    say({"port": server.sockets[0].getsockname()[1]})
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        rules.append(json.loads(line))
        say({"ok": True})


import warnings
warnings.simplefilter("ignore")
asyncio.run(main())
