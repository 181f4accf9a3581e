"""Secrets: what is read, which mix-ups are named, and that nothing shows them."""

from __future__ import annotations

import base64
import subprocess
import sys
from typing import Any

import pytest

from eventbus.errors import OptionError
from eventbus.webhooks import (
    BlockletServer,
    ComponentSignature,
    GitHub,
    HmacSignature,
    StandardWebhooks,
    Stripe,
)
from eventbus.webhooks._secrets import (
    PublicKey,
    SigningKey,
    SymmetricKey,
    read_standard_secret,
    read_standard_signer,
)
from tests.webhooks.samples import COMPONENT, GITHUB, STRIPE, WHPK, WHSEC, WHSK


def custom(secrets: Any, **options: Any) -> HmacSignature:
    return HmacSignature(secrets, header="X-Signature", **options)


def whsec(size: int) -> str:
    return "whsec_" + base64.b64encode(b"k" * size).decode()


@pytest.mark.parametrize(
    "scheme", [StandardWebhooks, Stripe, GitHub, ComponentSignature, BlockletServer, custom]
)
@pytest.mark.parametrize("secrets", [None, "", b"", [], [""], [None], [WHSEC, ""], 5])
def test_no_secret_is_an_error(scheme: Any, secrets: Any) -> None:
    """A scheme without a secret cannot be made: it would have to allow everything or nothing."""
    with pytest.raises(OptionError, match=r"no (secret|public key)"):
        scheme(secrets)


@pytest.mark.parametrize(
    ("make", "secrets", "complaint"),
    [
        (StandardWebhooks, WHSK, "sender's private key"),
        (StandardWebhooks, WHSEC[6:], "begins with whsec_"),
        (StandardWebhooks, "v1," + WHSEC, "begins with whsec_"),
        (StandardWebhooks, "whsec_", "weak"),
        (StandardWebhooks, "whsec_not-base64!", "no base64.*Stripe"),
        (StandardWebhooks, WHSEC[:-1], "no base64"),
        (StandardWebhooks, "whsec_" + "_-" * 16, "no base64"),
        (StandardWebhooks, "whsec_" + "A" * 42 + "B=", "no base64"),
        (StandardWebhooks, whsec(23), "weak"),
        (StandardWebhooks, whsec(76), "64 at most"),
        (StandardWebhooks, b"k" * 23, "weak"),
        (StandardWebhooks, WHSEC.replace("whsec", "whpk"), "mislabelled"),
        (StandardWebhooks, [WHSEC] * 11, "10 at most"),
        (StandardWebhooks, [WHSEC, 5], "is a str, not int"),
        (Stripe, WHSEC[6:], "begins with whsec_"),
        (Stripe, "sk_live_0123456789abcdef", "API keys"),
        (Stripe, STRIPE + "\n", "white space"),
        (Stripe, "whsec_short", "weak"),
        (GitHub, WHPK, "StandardWebhooks"),
        (GitHub, "hunter2", "weak"),
        (custom, b"0123456789abcde", "weak"),
        (ComponentSignature, COMPONENT["sk"], "secret key"),
        (ComponentSignature, COMPONENT["pk"][:-2], "32 bytes, not 31"),
        (ComponentSignature, COMPONENT["pk"][:-1], "hexadecimal"),
        (ComponentSignature, COMPONENT["address"], "an address"),
    ],
)
def test_mix_ups_are_named(make: Any, secrets: Any, complaint: str) -> None:
    """A secret of another kind, cut off, or weak, is refused with the reason, and not shown."""
    with pytest.raises(OptionError, match=complaint) as raised:
        make(secrets)
    if isinstance(secrets, str) and len(secrets) > 12:
        assert secrets[6:] not in str(raised.value)


@pytest.mark.parametrize(
    ("make", "secret"),
    [
        (StandardWebhooks, whsec(1)),
        (StandardWebhooks, b"k"),
        (Stripe, "short"),
        (GitHub, "hunter2"),
        (BlockletServer, "abc"),
        (custom, b"k"),
    ],
)
def test_weak_secrets_if_asked_for(make: Any, secret: Any) -> None:
    """Who says so may use a weak secret, for tests."""
    make(secret, allow_weak_secret=True)


@pytest.mark.parametrize(
    ("secret", "kind"),
    [
        (WHSEC, SymmetricKey),
        (whsec(64), SymmetricKey),
        (whsec(75), SymmetricKey),
        (b"k" * 24, SymmetricKey),
        (WHPK, PublicKey),
    ],
)
def test_kinds_of_standard_secrets(secret: Any, kind: type) -> None:
    """The prefix says what a secret is; bytes are a symmetric key as they are."""
    key = read_standard_secret(secret)
    assert type(key) is kind
    assert repr(key) == f"{kind.__name__}(…)"


def test_signing_keys_have_two_forms() -> None:
    """A private key may come as its seed alone; both sign alike, and their reprs show nothing."""
    whole = base64.b64decode(WHSK[5:])
    keys = [SigningKey(whole), SigningKey(whole[:32]), read_standard_signer(WHSK)]
    assert len({key.sign(b"x") for key in keys if isinstance(key, SigningKey)}) == 1
    assert repr(keys[0]) == "SigningKey(…)"
    assert isinstance(read_standard_signer(WHSEC), SymmetricKey)


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [(b"k" * 33, "32 bytes, or 64"), (b"k" * 64, "do not belong together")],
)
def test_bad_signing_keys(raw: bytes, complaint: str) -> None:
    """A private key of another length, or of two halves of different keys, is refused."""
    with pytest.raises(OptionError, match=complaint):
        SigningKey(raw)


def test_public_keys_are_no_signers() -> None:
    """Nobody signs with a public key, or with half a private one."""
    for key in (WHPK, "whsk_AAAA", "whsk_!"):
        with pytest.raises(OptionError):
            read_standard_signer(key)


@pytest.mark.parametrize("seconds", [0, 0.5, 3601, -1, "300", float("nan"), None])
def test_a_tolerance_has_limits(seconds: Any) -> None:
    """One second to one hour; anything else is refused when the scheme is made."""
    for make in (
        lambda: StandardWebhooks(WHSEC, tolerance=seconds),
        lambda: Stripe(STRIPE, tolerance=seconds),
        lambda: custom(GITHUB, tolerance=seconds),
        lambda: ComponentSignature(COMPONENT["pk"], lifetime=seconds),
    ):
        with pytest.raises(OptionError, match="1 to 3600"):
            make()


@pytest.mark.parametrize(
    "options",
    [
        {"header": "bad header"},
        {"header": ""},
        {"header": None},
        {"signed": "{bod}"},
        {"signed": "{body}{body}"},
        {"signed": "{timestamp}.{body}"},
        {"timestamp_header": "X-Time"},
        {"signed": "{timestamp}{body}", "timestamp_header": "X-Time"},
        {"signed": "1{timestamp}.{body}", "timestamp_header": "X-Time"},
        {"signed": "{timestamp}0.{body}", "timestamp_header": "X-Time"},
        {"signed": "{id}:{body}", "id_header": "X-Id"},
        {"signed": "{id}{timestamp}.{body}", "id_header": "X-Id", "timestamp_header": "X-Time"},
        {"signed": "{id}.{id}.{body}", "id_header": "X-Id"},
        {"encoding": "base32"},
        {"algorithm": "md5"},
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any]) -> None:
    """A signed text of which two requests could have the same, and other nonsense, is refused."""
    with pytest.raises(OptionError):
        HmacSignature(GITHUB, **{"header": "X-Signature", **options})


@pytest.mark.parametrize("missing", ["cryptography", "jiter"])
def test_without_the_extra(missing: str) -> None:
    """Without the extra's packages, the error says what to install."""
    script = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "try:\n"
        "    from eventbus.webhooks import StandardWebhooks\n"
        f"    StandardWebhooks({WHPK!r})\n"
        "except (ImportError, ValueError) as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "pip install 'eventbus[webhooks]'" in done.stdout
