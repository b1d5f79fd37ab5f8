import pytest

from bandstop.edit.errors import InputError
from bandstop.edit.request import ForgetRequest, parse_forget

NAMES = ("cat", "dog", "7", "salt, pepper")


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("cat", (0,)),
        ("1", (1,)),
        ("7", (2,)),  # an exact name comes before an index
        ("#3", (3,)),
        ("dog,cat", (0, 1)),
        ("salt, pepper", (3,)),
    ],
)
def test_classes_are_named_or_numbered(text: str, classes: tuple[int, ...]) -> None:
    assert parse_forget(text, NAMES).classes == classes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bird", "no class 'bird'.*cat, dog.*0..3"),
        ("4", "no class '4'"),
        ("-1", "no class '-1'"),
        ("", "no class ''"),
        ("\u0663", "no class"),  # a digit, but not an ASCII one
        ("cat,0", "named twice"),
        ("0,1,#2,3", "all 4 classes"),
    ],
)
def test_bad_requests_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_forget(text, NAMES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("classes", "instances"), [((), ()), ((1,), (2,)), ((2, 1), ()), ((1, 1), ())]
)
def test_a_request_is_for_one_thing_in_order(
    classes: tuple[int, ...], instances: tuple[int, ...]
) -> None:
    with pytest.raises(InputError):
        ForgetRequest(classes, instances)


def test_a_name_that_two_classes_share_is_refused_with_their_indices() -> None:
    with pytest.raises(InputError, match="2 classes are called 'crane'; say #0 or #2"):
        parse_forget("crane", ("crane", "kite", "crane"))
    assert parse_forget("#2", ("crane", "kite", "crane")).classes == (2,)
