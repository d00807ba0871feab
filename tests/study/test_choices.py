"""Classes and functions that a study names: what is loaded, and in which words the rest is refused."""

import pytest
from torch import nn
from toy_choices import Mine

from mixar.study import choices


def test_a_class_and_a_function_are_loaded_by_name():
    assert choices.load_class("toy_choices:Mine", "network", nn.Module, ["encode"]) is Mine
    assert choices.load_function("math:sqrt", "metric")(4) == 2


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("toy_choices", "network 'toy_choices': expected 'module:Class'"),
        (":Mine", "expected 'module:Class'"),
        ("./mine:Mine", "expected 'module:Class', a module's name and not a path"),
        ("/tmp/mine.py:Mine", "expected 'module:Class', a module's name and not a path"),
        ("no_such_module:Mine", "No module named 'no_such_module'; it must be importable from where mixar runs"),
        ("damaged_module:Mine", "importing damaged_module fails: ZeroDivisionError: division by zero"),
        ("needy_module:Mine", "importing needy_module fails: ModuleNotFoundError: No module named 'no_such_module'$"),
        ("wordless_module:Mine", "importing wordless_module fails: RuntimeError$"),
        ("ending_module:Mine", r"importing ending_module fails: it ends Python \(SystemExit: 0\)"),
        ("toy_choices:Yours", "toy_choices has no Yours"),
        ("toy_choices:pytest", "a subclass of torch.nn.modules.module.Module"),
        ("builtins:dict", "a subclass of torch.nn.modules.module.Module"),
        ("toy_choices:Mine", "the class has no decode and no fly"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(where, message, tmp_path, monkeypatch):
    (tmp_path / "damaged_module.py").write_text("1 / 0\n")
    (tmp_path / "needy_module.py").write_text("import no_such_module\n")
    (tmp_path / "wordless_module.py").write_text("raise RuntimeError\n")
    (tmp_path / "ending_module.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ValueError, match=message):
        choices.load_class(where, "network", nn.Module, ["encode", "decode", "fly"])


def test_what_is_no_function_is_refused():
    with pytest.raises(ValueError, match="metric 'toy_choices:NUMBER': expected 'module:function', found a int"):
        choices.load_function("toy_choices:NUMBER", "metric")


class Base(nn.Module):
    def __init__(self, colour="red"):
        super().__init__()


class Middle(Base):
    def __init__(self, size, **common):
        super().__init__(**common)


class Last(Middle):
    def __init__(self, *sizes, speed=1, **rest):
        super().__init__(*sizes, **rest)


class Open(nn.Module):
    def __init__(self, size, **anything):
        super().__init__()


def test_the_options_of_a_class_are_its_own_and_those_that_it_hands_on():
    assert choices.options_of(Mine, 1) == ["speed"]
    assert choices.options_of(Middle, 1) == ["colour"]
    assert choices.options_of(Last, 1) == ["speed", "colour"]
    assert choices.options_of(Open, 1) is None
    with pytest.raises(ValueError, match=r"a\.options: x:Last has no option 'sped'; did you mean 'speed'\? it takes"):
        choices.construct(Last, "x:Last", "a.options", 2, sped=5)


class Broken(nn.Module):
    def __init__(self, error):
        raise error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("colour"), "cannot be built: KeyError: 'colour'"),
        (AssertionError(), "cannot be built: AssertionError$"),
        (ValueError(), "cannot be built: ValueError$"),
        (TypeError("no"), "refuses them: TypeError: no"),
        (SystemExit(0), r"cannot be built: it ends Python \(SystemExit: 0\)"),
    ],
)
def test_a_constructor_that_fails_is_named_with_its_error(error, said):
    with pytest.raises(ValueError, match=f"a.options: x:Broken {said}"):
        choices.construct(Broken, "x:Broken", "a.options", error)


def test_options_go_to_the_constructor_and_others_are_named():
    assert choices.construct(Mine, "toy_choices:Mine", "options", 2, speed=5).speed == 5
    with pytest.raises(ValueError, match=r"a\.options: toy_choices:Mine has no option 'colour'; it takes speed"):
        choices.construct(Mine, "toy_choices:Mine", "a.options", 2, colour=5)
