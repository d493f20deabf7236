import pytest

from ketune.quantization import QuantizationError, QuantizationScheme, TensorScheme


@pytest.mark.parametrize("text", ["w4a4kv4", "w4a16", "w2a16g128", "w16a8", "w3a8kv2g16"])
def test_a_spelling_is_read_and_written_back(text):
    assert str(QuantizationScheme.parse(text)) == text


def test_sixteen_bits_leave_a_tensor_as_it_is():
    scheme = QuantizationScheme.parse("w16a4")
    assert scheme.weights is None
    assert scheme.kv is None
    assert scheme.activations == TensorScheme(4)


def test_groups_may_stand_beside_the_weights_bits_or_at_the_end():
    assert QuantizationScheme.parse("w2g64a8") == QuantizationScheme.parse("w2a8g64")


@pytest.mark.parametrize("text", ["", "4bit", "w4", "w4g32a4g32", "a4w4", "w9a16"])
def test_other_spellings_are_refused_with_what_is_allowed(text):
    with pytest.raises(QuantizationError, match=r"w4a4kv4|1 to 8"):
        QuantizationScheme.parse(text)


@pytest.mark.parametrize(
    "wrong", [{"bits": 0}, {"bits": 9}, {"bits": 4, "clip": 0}, {"bits": 4, "group_size": 1}, {"bits": True}]
)
def test_values_out_of_range_are_named(wrong):
    with pytest.raises(QuantizationError, match=next(reversed(wrong))):
        TensorScheme(**wrong)


def test_a_scheme_survives_json():
    scheme = QuantizationScheme.parse("w4a4kv4g32", clip=0.9, symmetric=True)
    assert QuantizationScheme.from_dict(scheme.to_dict()) == scheme


def test_groups_have_to_fill_a_row():
    with pytest.raises(QuantizationError, match="divisor of 100"):
        TensorScheme(4, group_size=32).size_of_groups(100)
