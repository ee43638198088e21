"""The rules as a whole: deny wins, order is nothing, and query, containment and intersection agree with one another."""

import contextlib
import copy
import pickle
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_worker.permissions import (
    ENFORCED_KINDS,
    IMPLIED_ENV,
    KINDS,
    RULE_MAX,
    Decision,
    RequestError,
    Rule,
    RuleError,
    coverage,
    covers,
    decide,
    distinct,
    hint,
    intersect,
    normalise,
    parse_rule,
    path_prefixes,
    path_verdict,
    verdict,
    without,
)

ROOT = Path(__file__).parent.parent

# Small alphabets, so that rules and requests often concern one another.
ports = st.sampled_from(["", ":80", ":443", ":80,443", ":70-90", ":80-500", ":0-65535"])
hosts = st.sampled_from(
    [
        *("a.example", "A.example.", "b.a.example", "example", "*.example", "*.a.example", "localhost"),
        *("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "[::ffff:10.1.2.3]", "0.0.0.0/0"),
        *("[::1]", "[::]/0", "[2001:db8::]/32", "unix"),
    ]
)
sockets = st.sampled_from(["unix:/a", "unix:/a/b", "unix:/a//b/.", "unix:/proc", "unix:/"])
components = st.lists(st.sampled_from(["a", "b", "ab", "proc", "meminfo", "dev", "null", "..", "."]), max_size=4)
paths = components.map(lambda found: "/" + "/".join(found))
packages = st.sampled_from(["numpy", "lxml", "_cffi_backend"])
functions = st.sampled_from(["get", "storage.get", "storage.put", "storage.a.b"])
variables = st.sampled_from(["A", "A_", "A_B", "B", "LANG", *IMPLIED_ENV])
requests = {
    "fs": paths,
    "net": st.tuples(hosts, st.sampled_from(["", ":80", ":443", ":81"])).map("".join) | sockets,
    "env": variables,
    "run": paths,
    "sys": st.sampled_from(["uid", "gid", "cpus"]),
    "native": packages,
    "host": functions,
}
texts = {
    "fs": paths,
    "net": st.tuples(hosts, ports).map("".join) | sockets,
    "env": variables | st.sampled_from(["A*", "A_*", "L*"]),
    "run": paths,
    "sys": requests["sys"],
    "native": packages,
    "host": functions | st.sampled_from(["storage.*", "storage.a.*"]),
}


def is_legal(parse, text):
    try:
        parse(text)
    except (RuleError, RequestError):
        return False
    return True


def rules_of(kind):
    family = kind.partition(".")[0]
    text = (texts[family] | st.just("*")).filter(lambda text: is_legal(lambda text: parse_rule(kind, text), text))
    private = st.booleans() if family == "net" else st.just(value=False)
    return st.builds(lambda t, p: parse_rule(kind, t, private=p and not t.startswith("unix:/")), text, private)


def requests_of(kind):
    return requests[kind.partition(".")[0]].filter(lambda text: is_legal(lambda text: decide(kind, (), (), text), text))


def with_kind(*strategies):
    """Draw a kind, and one value of each strategy for it."""
    return st.sampled_from(KINDS).flatmap(lambda kind: st.tuples(st.just(kind), *(make(kind) for make in strategies)))


def some(kind):
    return st.lists(rules_of(kind), max_size=4)


def one(kind):
    return rules_of(kind)


def request(kind):
    return requests_of(kind)


@given(with_kind(some, some, request), st.randoms(use_true_random=False))
def test_the_order_of_the_rules_never_matters(case, random):
    kind, allow, deny, target = case
    decision = decide(kind, allow, deny, target)
    random.shuffle(allow)
    random.shuffle(deny)
    assert decide(kind, allow, deny, target) == decision


@given(with_kind(some, some, one, request))
def test_one_more_deny_rule_never_allows(case):
    kind, allow, deny, more, target = case
    assert decide(kind, allow, deny, target).allowed >= decide(kind, allow, [*deny, more], target).allowed


@given(with_kind(some, some, one, request))
def test_one_more_allow_rule_never_lifts_a_deny_and_never_takes_away(case):
    kind, allow, deny, more, target = case
    before, after = decide(kind, allow, deny, target), decide(kind, [*allow, more], deny, target)
    assert after.allowed >= before.allowed
    if before.reason == "deny-rule":
        assert after == before


@given(with_kind(some, some, request))
def test_a_decision_names_a_rule_that_decides_alone(case):
    kind, allow, deny, target = case
    decision = decide(kind, allow, deny, target)
    if decision.reason == "deny-rule":
        assert not decision.allowed
        assert decide(kind, allow, [decision.rule], target).reason == "deny-rule"
    elif decision.reason == "allow-rule":
        assert decision.allowed
        assert decide(kind, [decision.rule], (), target).allowed
    else:
        assert decision.rule is None
        assert decision.allowed == (decision.reason == "implied")


@given(st.sampled_from(["fs.read", "fs.write"]).flatmap(lambda kind: st.tuples(some(kind), some(kind), paths)))
def test_the_query_answers_what_the_audit_hook_enforces(case):
    allow, deny, path = case
    kind = (allow or deny or [parse_rule("fs.read", "/")])[0].kind
    denied = tuple(prefix for prefixes in path_prefixes(deny) for prefix in prefixes)
    enforced = path_verdict(normalise(path), *path_prefixes(allow), denied)
    assert decide(kind, allow, deny, path).allowed == (enforced == 1)


@given(with_kind(some, some, request), st.randoms(use_true_random=False))
def test_an_intersection_allows_exactly_what_both_sides_allow(case, random):
    kind, a, b, target = case
    met = intersect(a, b)
    both = decide(kind, a, (), target).allowed and decide(kind, b, (), target).allowed
    assert decide(kind, met, (), target).allowed == both
    assert [rule.text for rule in met] == sorted(rule.text for rule in met)
    random.shuffle(a)
    random.shuffle(b)
    assert intersect(b, a) == met


@given(with_kind(some, some))
def test_the_rules_of_an_intersection_are_written_as_a_manifest_could(case):
    kind, a, b = case
    for rule in intersect(a, b):
        assert parse_rule(kind, rule.text, private=rule.private) == rule


@given(with_kind(some, one))
def test_coverage_is_what_one_of_the_rules_covers(case):
    _, outers, inner = case
    assert coverage(outers)(inner) == any(covers(outer, inner) for outer in outers)


@given(st.lists(with_kind(one).map(lambda case: case[1]), max_size=6), with_kind(one))
def test_coverage_keeps_the_kinds_apart(outers, case):
    assert coverage(outers)(case[1]) == any(covers(outer, case[1]) for outer in outers)


@given(with_kind(some, request), st.randoms(use_true_random=False))
def test_distinct_rules_allow_what_all_of_them_do(case, random):
    kind, rules, target = case
    kept = distinct(rules)
    assert decide(kind, kept, (), target).allowed == decide(kind, rules, (), target).allowed
    assert len({rule.pattern for rule in kept}) == len(kept)
    if not kind.startswith("net."):  # there two rules may meet in a third, which says nothing new
        assert kept == intersect(rules, rules)
    random.shuffle(rules)
    assert distinct(rules) == kept


@given(with_kind(one, one, request))
def test_a_covering_rule_allows_whatever_the_covered_one_does(case):
    kind, outer, inner, target = case
    if covers(outer, inner):
        assert decide(kind, [outer], (), target).allowed >= decide(kind, [inner], (), target).allowed
        assert [rule.pattern for rule in intersect([outer], [inner])] == [inner.pattern]


@pytest.mark.parametrize(
    ("kind", "outer", "inner", "expected"),
    [
        ("fs.read", "*", "/a", True),
        ("fs.read", "/", "*", True),
        ("fs.read", "/a", "/ab", False),
        ("fs.read", "/", "/proc/meminfo", False),
        ("fs.read", "/proc", "/proc/meminfo", True),
        ("net.connect", "*", "10.0.0.0/8:80", True),
        ("net.connect", "10.0.0.0/8", "10.1.0.0/16", True),
        ("net.connect", "10.1.0.0/16", "10.0.0.0/8", False),
        ("net.connect", "a.example", "a.example:0-65535", True),
        ("net.connect", "a.example:0-65535", "a.example", False),
        ("net.connect", "a.example:1-10", "a.example:1-5,6-9", True),
        ("net.connect", "*.example", "example", False),
        ("net.connect", "*.example", "*.a.example", True),
        ("env", "A*", "A_*", True),
        ("env", "A_*", "A*", False),
        ("env", "A*", "A", True),
        ("run", "/usr/bin", "/usr/bin/git", False),
        ("host", "storage.*", "storage", False),
        ("sys", "*", "uid", True),
    ],
)
def test_one_rule_covers_another(kind, outer, inner, expected):
    assert covers(parse_rule(kind, outer), parse_rule(kind, inner)) is expected


@pytest.mark.parametrize(
    ("kind", "a", "b", "met"),
    [
        ("fs.read", ["/a", "/b/c"], ["/a/x", "/b"], ["/a/x", "/b/c"]),
        ("fs.read", ["*"], ["/proc/meminfo"], []),
        ("net.connect", ["*.example:443"], ["a.example:80,443", "b.example"], ["a.example:443", "b.example:443"]),
        ("net.connect", ["10.0.0.0/8:80-90"], ["10.1.0.0/16:85-99"], ["10.1.0.0/16:85-90"]),
        ("net.connect", ["[2001:db8::]/32:443"], ["[2001:db8:1::]/48"], ["[2001:db8:1::]/48:443"]),
        ("net.connect", ["A.example", "a.example."], ["a.example"], ["A.example"]),
        ("net.connect", ["a.example:443"], ["a.example:80"], []),
        ("env", ["A*", "B"], ["A_*", "C"], ["A_*"]),
        ("run", ["*"], ["/usr/bin/git"], ["/usr/bin/git"]),
        ("host", ["storage.*"], ["storage.get", "ping"], ["storage.get"]),
    ],
)
def test_two_lists_meet_in_their_common_rules(kind, a, b, met):
    sides = [[parse_rule(kind, text) for text in side] for side in (a, b)]
    assert [str(rule) for rule in intersect(*sides)] == met


def test_private_remains_only_where_both_sides_say_it():
    plain = parse_rule("net.connect", "db.example")
    private = parse_rule("net.connect", "db.example", private=True)
    assert intersect([private], [private, plain]) == (private,)
    assert intersect([private], [plain]) == (plain,)
    assert covers(private, plain)
    assert not covers(plain, private)


def test_rules_of_another_kind_neither_allow_nor_deny_nor_meet():
    read, write = parse_rule("fs.read", "/a"), parse_rule("fs.write", "/a")
    assert not decide("fs.write", [read], (), "/a").allowed
    assert decide("fs.read", [read], [write], "/a").allowed
    assert not covers(read, write)
    assert intersect([read], [write]) == ()


def test_of_several_deciding_rules_the_most_specific_is_named():
    rules = [parse_rule("fs.read", text) for text in ("/a/./././././.", "/a/b", "*")]
    assert decide("fs.read", rules, (), "/a/b/c") == Decision(allowed=True, rule=rules[1], reason="allow-rule")
    assert decide("fs.read", rules, rules, "/a") == Decision(allowed=False, rule=rules[0], reason="deny-rule")


def test_a_directory_rule_above_a_special_tree_is_the_stated_reason():
    above, inside = parse_rule("fs.read", "/"), parse_rule("fs.read", "/dev/snd")
    assert decide("fs.read", [above], (), "/dev/snd/x") == Decision(allowed=False, rule=None, reason="special-path")
    assert decide("fs.read", [], (), "/dev/snd/x") == Decision(allowed=False, rule=None, reason="no-rule")
    assert decide("fs.read", [above, inside], (), "/dev/snd/x") == Decision(
        allowed=True, rule=inside, reason="allow-rule"
    )
    assert decide("fs.read", [above, inside], [above], "/dev/snd/x") == Decision(
        allowed=False, rule=above, reason="deny-rule"
    )


@pytest.mark.parametrize("name", IMPLIED_ENV)
def test_an_implied_variable_needs_no_rule_and_yields_to_a_deny_rule(name):
    everything = parse_rule("env", "*")
    assert decide("env", [], (), name) == Decision(allowed=True, rule=None, reason="implied")
    assert decide("env", [everything], (), name) == Decision(allowed=True, rule=everything, reason="allow-rule")
    assert decide("env", [], [everything], name) == Decision(allowed=False, rule=everything, reason="deny-rule")


PORTED = [
    "localhost",
    "deno.land",
    "github.com:3000",
    "127.0.0.1",
    "172.16.0.2:8000",
    "80.example.com:80",
    "*.discord.gg",
]


@pytest.mark.parametrize(
    ("kind", "allow", "deny", "target", "expected"),
    [
        ("fs.read", ["/a/specific/dir/name", "/a/specific", "/b/c"], [], "/a/specific/dir", "allow"),
        ("fs.read", ["/a/specific/dir/name", "/a/specific", "/b/c"], [], "/b/c/sub/path/../path/.", "allow"),
        ("fs.read", ["/a/specific/dir/name", "/a/specific", "/b/c"], [], "/a/b", "deny"),
        ("fs.read", ["/foo"], [], "//foo//bar", "allow"),
        ("fs.read", ["/foo"], [], "/foobar", "deny"),
        ("fs.read", ["/foo"], [], "/", "deny"),
        ("fs.read", ["/foo/specific"], ["/foo"], "/foo/specific/data.txt", "deny"),
        ("fs.read", ["/foo"], ["/foo/specific"], "/foo", "allow"),
        ("fs.read", ["*"], ["*"], "/foo", "deny"),
        ("fs.read", ["*"], [], "/proc/self/environ", "deny"),
        ("fs.write", ["/t/allowed"], [], "/t/allowed/../file.md", "deny"),
        ("fs.write", ["/t/allowed"], [], "t/allowed", "error"),
        ("fs.write", ["t/allowed"], [], "/t/allowed", "error"),
        ("net.connect", PORTED, [], "deno.land:0", "allow"),
        ("net.connect", PORTED, [], "deno.lands:3000", "deny"),
        ("net.connect", PORTED, [], "github.com:2000", "deny"),
        ("net.connect", PORTED, [], "github.com", "deny"),
        ("net.connect", PORTED, [], "foo.discord.gg:443", "allow"),
        ("net.connect", PORTED, [], "discord.gg:443", "deny"),
        ("net.connect", PORTED, [], "80.example.com:81", "deny"),
        ("net.connect", ["*"], ["127.0.0.1:8080"], "[::ffff:127.0.0.1]:8080", "deny"),
        ("net.connect", ["*"], ["127.0.0.1:8080"], "[::ffff:127.0.0.1]:9090", "allow"),
        ("net.connect", ["*"], ["127.0.0.1"], "2130706433", "error"),
        ("net.connect", ["*"], ["localhost"], "LOCALHOST.", "deny"),
        ("net.connect", ["*.example.com:443"], ["api.example.com"], "api.example.com:443", "deny"),
        ("net.connect", ["10.0.0.0/8"], ["10.1.0.0/16"], "10.1.2.3", "deny"),
        ("net.connect", ["10.0.0.0/8"], ["10.1.0.0/16"], "10.2.2.3", "allow"),
        ("net.connect", ["*"], [], "example.com:65536", "error"),
        ("net.listen", ["127.0.0.1:8000-8010"], [], "127.0.0.1:8010", "allow"),
        ("net.listen", ["127.0.0.1:8000-8010"], [], "0.0.0.0:8010", "deny"),
        ("env", ["PREFIX_ALLOWED*", "PREFIX_EXPLICIT"], ["PREFIX*"], "PREFIX_EXPLICIT", "deny"),
        ("env", ["HOME_*"], [], "HOME", "deny"),
        ("env", ["HOME_*"], [], "HOME_", "allow"),
        ("env", ["A"], [], "A=B", "error"),
        ("env", ["A"], [], "TZ", "allow"),
        ("run", ["/usr/bin/git"], [], "/usr/bin/git", "allow"),
        ("run", ["/usr/bin/git"], [], "git", "error"),
        ("sys", ["*"], ["hostname"], "hostname", "deny"),
        ("sys", ["*"], ["hostname"], "loadavg", "allow"),
        ("sys", ["homedir"], [], "uid", "error"),
        ("native", ["numpy"], [], "lxml", "deny"),
        ("host", ["storage.*"], ["storage.wipe"], "storage.wipe", "deny"),
        ("ffi", ["*"], [], "/usr/lib/a.so", "error"),
    ],
)
def test_a_row_gets_its_verdict(kind, allow, deny, target, expected):
    assert verdict(kind, allow, deny, target)[0] == expected


def test_a_verdict_names_the_rule_as_written_or_the_error():
    assert verdict("env", ["A*"], [], "AB") == ("allow", "A*")
    assert verdict("env", ["A*"], ["AB"], "AB") == ("deny", "AB")
    assert verdict("env", [], [], "AB") == ("deny", None)
    assert verdict("env", ["A**"], [], "AB")[1].startswith('"A**" is not legal')


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.binary(max_size=4)
    | st.sampled_from(KINDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@given(junk, junk, junk, junk)
def test_a_row_of_anything_gets_a_verdict_and_never_an_exception(kind, allow, deny, target):
    assert verdict(kind, allow, deny, target)[0] in {"allow", "deny", "error"}


@given(st.sampled_from(KINDS), st.lists(junk, max_size=2), junk | st.text())
def test_a_row_of_a_known_kind_gets_a_verdict_and_never_an_exception(kind, rules, target):
    assert verdict(kind, rules, rules, target)[0] in {"deny", "error"} or (kind, target) == ("env", "TZ")


@given(st.sampled_from(KINDS) | st.text(max_size=5), st.text(st.characters(codec=None), max_size=30))
def test_any_text_is_decided_or_refused_as_a_request(kind, text):
    everything = [parse_rule(kind, "*")] if kind in KINDS else []
    with contextlib.suppress(RequestError):
        assert decide(kind, everything, (), text).rule in {None, *everything}


@given(st.sampled_from(KINDS) | st.text(max_size=5), st.text(st.characters(codec=None), max_size=30))
def test_any_text_is_parsed_or_refused_as_a_rule(kind, text):
    with contextlib.suppress(RuleError):
        assert str(parse_rule(kind, text)) == text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text", ["", "/a\0", "/a\nb", "/a\x7f", "/a\x85", "/a\udc80", "/" + "a" * RULE_MAX, 7, None, ["/a"]]
)
def test_no_kind_takes_an_empty_overlong_or_control_text_as_a_rule(kind, text):
    with pytest.raises(RuleError) as caught:
        parse_rule(kind, text)
    assert caught.value.legal
    assert len(str(caught.value)) < RULE_MAX
    assert str(caught.value).isprintable()


def test_private_is_for_network_rules():
    assert parse_rule("net.listen", "db.example", private=True).private
    with pytest.raises(RuleError, match="private"):
        parse_rule("fs.read", "/a", private=True)


def test_a_text_with_its_own_methods_is_no_request():
    class Liar(str):
        __slots__ = ()

        def startswith(self, *_):
            return True

    with pytest.raises(RequestError):
        decide("fs.read", [parse_rule("fs.read", "/")], (), Liar("/etc/passwd"))


def test_a_file_name_with_control_characters_can_be_requested():
    assert decide("fs.read", [parse_rule("fs.read", "/a")], (), "/a/b\nc\udc80").allowed


@given(with_kind(request))
def test_the_hint_is_a_line_of_toml_that_allows_exactly_the_target(case):
    kind, target = case
    line = hint(kind, target, KINDS)
    try:
        found = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        with pytest.raises(RuleError):
            parse_rule(kind, target)
        return
    for part in kind.split("."):
        found = found[part]
    (text,) = found
    assert decide(kind, [parse_rule(kind, text)], (), target).reason == "allow-rule"
    assert intersect([parse_rule(kind, text)], [parse_rule(kind, target)])[0].pattern == parse_rule(kind, text).pattern


@given(st.sampled_from(["fs.read", "env"]), st.text(st.characters(codec=None), max_size=20).map("/".__add__))
def test_a_hint_for_any_text_is_one_visible_line(kind, target):
    line = hint(kind, target, KINDS)
    assert line.isprintable()
    if not line.startswith("No "):
        assert tomllib.loads(line)


@pytest.mark.parametrize(
    ("kind", "target", "line"),
    [
        ("fs.read", "/etc/passwd", 'fs.read = ["/etc/passwd"]'),
        ("fs.read", '/srv//a/../"b"\\c', r'fs.read = ["/srv/\"b\"\\c"]'),
        ("fs.write", "/srv/\u202ea", r'fs.write = ["/srv/\u202ea"]'),
        ("env", "HOME", 'env = ["HOME"]'),
    ],
)
def test_the_hint_is_the_line_to_add(kind, target, line):
    assert hint(kind, target, ENFORCED_KINDS) == line


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("fs.read", "/proc/self/environ"),
        ("fs.read", "/proc/4711/maps"),
        ("fs.read", "relative"),
        ("fs.read", "/a\nb"),
        ("env", "A*"),
        ("env", "A=B"),
        ("net.connect", "http://example.com"),
        ("run", "sh"),
        ("os.system", "rm"),
    ],
)
def test_where_no_line_can_help_the_hint_says_so(kind, target):
    sentence = hint(kind, target, ENFORCED_KINDS)
    assert sentence.endswith(".")
    assert "= [" not in sentence


@pytest.mark.parametrize("error", [RuleError, RequestError])
def test_an_error_carries_the_text_and_what_is_legal_and_shows_it_bounded_and_visible(error):
    raised = error("\x1b[31m" + "a" * 10_000, "something else")
    assert isinstance(raised, ValueError)
    assert raised.legal == "something else"
    assert str(raised).isprintable()
    assert len(str(raised)) < 500
    again = pickle.loads(pickle.dumps(raised))
    assert (type(again), again.text, again.legal) == (error, raised.text, raised.legal)


@pytest.mark.parametrize(
    "value",
    [parse_rule("net.connect", "a.example:1-2", private=True), Decision(allowed=False, rule=None, reason="no-rule")],
)
def test_rules_and_decisions_are_immutable_values(value):
    for name in (*value.__slots__, "other"):
        with pytest.raises(AttributeError):
            setattr(value, name, True)
        with pytest.raises(AttributeError):
            delattr(value, name)
    again = pickle.loads(pickle.dumps(value))
    assert again == copy.copy(value) == copy.deepcopy(value) == value
    assert hash(again) == hash(value)


def test_a_rule_is_its_text_and_differs_by_kind_text_and_private():
    rule = parse_rule("net.connect", "A.example")
    assert str(rule) == "A.example"
    assert isinstance(rule, Rule)
    assert rule == parse_rule("net.connect", "A.example")
    others = [parse_rule("net.listen", "A.example"), parse_rule("net.connect", "a.example")]
    assert rule not in [*others, parse_rule("net.connect", "A.example", private=True)]


def test_importing_the_rules_loads_nothing_heavy_and_not_the_network_grammar():
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import sandbox_worker.permissions; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    heavy = {
        "typing",
        "dataclasses",
        "enum",
        "re",
        "json",
        "pathlib",
        "collections",
        "functools",
        "logging",
        "ipaddress",
    }
    assert not loaded & (heavy | {"sandbox_worker._network", "host"})


@given(st.data())
def test_what_is_given_up_is_refused_and_nothing_else_changes(data):
    kind = data.draw(st.sampled_from(KINDS))
    allow, deny, dropped = (data.draw(st.lists(rules_of(kind), max_size=size)) for size in (4, 2, 1))
    target = dropped[0].text if dropped else "*"
    request = data.draw(requests_of(kind))

    before, after = decide(kind, allow, deny, request), decide(kind, *without(allow, deny, kind, target), request)

    if before.reason == "allow-rule":
        gone = not decide(kind, allow, [parse_rule(kind, target)], request).allowed
        assert after.allowed is (not gone or after.reason == "implied")
    else:
        assert after.allowed is before.allowed


# --- unix sockets

socket_paths = paths.filter(lambda path: is_legal(lambda text: parse_rule("net.connect", text), f"unix:{path}"))
net_kinds = st.sampled_from(["net.connect", "net.listen"])


@given(net_kinds, socket_paths, socket_paths)
def test_a_rule_for_a_unix_socket_covers_its_one_path(kind, ours, other):
    rule = parse_rule(kind, f"unix:{ours}")
    same = normalise(ours) == normalise(other)
    assert decide(kind, [rule], (), f"unix:{other}").allowed is same
    assert covers(rule, parse_rule(kind, f"unix:{other}")) is same


@given(net_kinds.flatmap(lambda kind: st.tuples(st.just(kind), st.lists(rules_of(kind)))), socket_paths)
def test_no_rule_for_hosts_reaches_a_unix_socket_nor_the_other_way_round(case, path):
    kind, rules = case
    hosts_only = [rule for rule in rules if not rule.pattern.stem.startswith("unix:")]
    everything = [*hosts_only, parse_rule(kind, "*"), parse_rule(kind, "*", private=True)]
    assert not decide(kind, everything, (), f"unix:{path}").allowed
    assert intersect(everything, [parse_rule(kind, f"unix:{path}")]) == ()
    own = [parse_rule(kind, f"unix:{path}")]
    assert not any(decide(kind, own, (), request).allowed for request in ("a.example", "10.1.2.3:80", "unix:80"))


@given(net_kinds, socket_paths)
def test_a_deny_of_everything_denies_unix_sockets_too(kind, path):
    rule = parse_rule(kind, f"unix:{path}")
    assert decide(kind, [rule], [parse_rule(kind, "*")], f"unix:{path}").reason == "deny-rule"
    assert decide(kind, [rule], [rule], f"unix:{path}").reason == "deny-rule"


@pytest.mark.parametrize(
    "text",
    [
        *("unix:", "unix:run/app", "unix:@name", "unix:\0name", "unix:*", "unix:/run/*", "unix:/proc/self/fd/3"),
        *("unix:/proc/1/root/x", "unix:/dev/fd/3", "UNIX:/run/app", "unix:/a\0b", "unix:unix:/a", "unix:${data}/x"),
    ],
)
def test_what_is_no_path_of_one_socket_is_no_rule(text):
    with pytest.raises(RuleError):
        parse_rule("net.connect", text)


def test_a_unix_socket_is_never_private():
    with pytest.raises(RuleError, match="private"):
        parse_rule("net.connect", "unix:/run/app.sock", private=True)


def test_the_hint_for_a_unix_socket_is_its_rule():
    assert hint("net.connect", "unix:/run/app.sock", ENFORCED_KINDS) == 'net.connect = ["unix:/run/app.sock"]'
    assert "unix: and the absolute path" in hint("net.connect", "unix:@abstract", ENFORCED_KINDS)
