"""A mail server on a free port of the loopback, by aiosmtpd.

Says on its output, a line of JSON each, where it listens and what it was given.
What it does with a letter is told by the recipient's name:
  later-N@…  451 to the first N attempts     never@…  550

usage: smtp_server.py PORT [CERTIFICATE KEY USER PASSWORD]
"""

import asyncio
import collections
import email
import email.policy
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult


def say(**what):
    print(json.dumps(what), flush=True)


class Handler:
    def __init__(self):
        self.attempts = collections.Counter()

    async def handle_RCPT(self, server, session, envelope, address, options):
        name = address.split("@")[0]
        self.attempts[address] += 1
        if name == "never":
            say(event="refused", to=address)
            return "550 5.1.1 no such mailbox"
        if name.startswith("later-") and self.attempts[address] <= int(name.removeprefix("later-")):
            say(event="refused", to=address)
            return "451 4.3.0 not now"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        say(
            event="mail",
            sender=envelope.mail_from,
            to=envelope.rcpt_tos,
            headers={name: str(value) for name, value in message.items()},
            body=message.get_content(),
            tls=session.ssl is not None,
            user=session.auth_data.login.decode() if session.auth_data else "",
        )
        return "250 OK"


def authenticator(user, password):
    def check(server, session, envelope, mechanism, data):
        ok = data.login == user.encode() and data.password == password.encode()
        return AuthResult(success=ok, auth_data=data if ok else None, handled=ok)

    return check


async def main(port, certificate=None, key=None, user=None, password=None):
    handler = Handler()
    options = {"enable_SMTPUTF8": False, "hostname": "localhost"}
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        options |= {
            "tls_context": context,
            "require_starttls": True,
            "auth_required": True,
            "authenticator": authenticator(user, password),
        }
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(handler, loop=loop, **options), "127.0.0.1", int(port))
    say(event="listening", port=server.sockets[0].getsockname()[1])
    # Whoever started this closes its input in the end.
    await loop.run_in_executor(None, sys.stdin.read)


asyncio.run(main(*sys.argv[1:]))
