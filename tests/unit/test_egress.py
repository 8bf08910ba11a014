import socket

import pytest

from ke.contracts.errors import FetchRefused
from ke.web.egress import EgressPolicy, GuardedResolver, is_public
from ke.web.errors import BadUrl

NOT_PUBLIC = [
    *("0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.0.1", "168.63.129.16"),
    *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1"),
    *("192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1"),
    "255.255.255.255",
    *("::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:4136:e378::1", "2001:20::1"),
    *("2001:db8::1", "2002:7f00:1::", "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254"),
    *("fe80::1", "fe80::1%lo", "fec0::1", "ff02::1", "ff0e::1", "nonsense", ""),
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.216.34", "172.32.0.1", "192.0.1.1", "2606:4700::1111", "2a00:1450:4001::200e"]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_special_addresses_are_not_public(address):
    """Every special-purpose range, and every IPv6 form that carries an IPv4 address, is out of bounds."""
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_ordinary_addresses_are_public(address):
    """What is given out as global unicast may be fetched."""
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://[::1]/",
        "http://[::ffff:169.254.169.254]/latest/meta-data/",
        "http://[64:ff9b::169.254.169.254]/",
        "http://169.254.169.254/",
        "http://localhost/",
        "http://LOCALHOST./",
        "http://a.localhost:8000/",
        "http://①②⑦.⓪.⓪.①/",
    ],
)
def test_a_url_that_names_a_special_address_is_refused(url):
    """In whatever spelling a browser would understand."""
    with pytest.raises(FetchRefused, match="operator has not allowed") as refused:
        EgressPolicy().check_url(url)
    assert not refused.value.retryable


def test_only_http_can_be_checked():
    """Other schemes are no matter of addresses."""
    with pytest.raises(BadUrl):
        EgressPolicy().check_url("file:///etc/passwd")


def test_a_public_url_passes_and_comes_back_canonical():
    """The caller goes on with the URL that was checked."""
    assert EgressPolicy().check_url("HTTP://Example.com:80/a#b") == "http://example.com/a"


def test_an_allowed_door_is_open_for_that_spelling_and_port_only():
    """Neither the other port nor the other name of the same address is allowed with it."""
    policy = EgressPolicy(frozenset({"LocalHost:8000", "[::1]:9000", "127.0.0.1:80"}))
    for url in ("http://localhost:8000/x", "http://[0::1]:9000/", "http://127.1/"):
        policy.check_url(url)
    for url in (
        "http://localhost:8001/",
        "http://127.0.0.1:8000/",
        "http://localhost.:8000/",
        "http://[::1]:8000/",
        "https://127.0.0.1/",
        "http://x.localhost:8000/",
    ):
        with pytest.raises(FetchRefused):
            policy.check_url(url)


def resolver_for(*addresses, allow=frozenset()):
    async def lookup(host, port):
        return list(addresses)

    return GuardedResolver(EgressPolicy(allow), lookup)


async def test_a_public_name_with_a_private_address_is_refused():
    """The name is harmless, where it leads is not."""
    with pytest.raises(FetchRefused, match=r"public\.example:80 resolves to 10\.0\.0\.1"):
        await resolver_for("10.0.0.1").resolve("public.example", 80)


async def test_of_mixed_addresses_only_the_public_ones_are_dialled():
    """No fallback, however quick, goes to an address that was not admitted."""
    found = await resolver_for("127.0.0.1", "93.184.216.34", "::1", "2606:4700::1111").resolve("mixed.example", 80)
    assert [entry["host"] for entry in found] == ["93.184.216.34", "2606:4700::1111"]
    assert [entry["family"] for entry in found] == [socket.AF_INET, socket.AF_INET6]


async def test_an_allowed_name_may_lead_anywhere_and_no_other_name_with_it():
    """The door is the name and port that the operator wrote."""
    allow = frozenset({"intranet:8000"})
    found = await resolver_for("10.0.0.1", allow=allow).resolve("intranet", 8000)
    assert found[0]["host"] == "10.0.0.1"
    with pytest.raises(FetchRefused):
        await resolver_for("10.0.0.1", allow=allow).resolve("other", 8000)
    with pytest.raises(FetchRefused):
        await resolver_for("10.0.0.1", allow=allow).resolve("intranet", 8001)


async def test_a_name_without_addresses_is_a_failed_lookup():
    """That is no refusal: it may resolve later."""
    with pytest.raises(OSError, match="no address"):
        await resolver_for().resolve("nothing.example", 80)


def test_the_last_gate_sees_the_address_that_is_dialled():
    """Without a resolved or allowed door no socket is made, whoever asks."""
    policy = EgressPolicy(frozenset({"127.0.0.1:8000"}))
    family = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    policy.open_socket((*family, ("127.0.0.1", 8000))).close()
    policy.open_socket((*family, ("8.8.8.8", 80))).close()
    for address in (("127.0.0.1", 8001), ("169.254.169.254", 80)):
        with pytest.raises(FetchRefused):
            policy.open_socket((*family, address))
