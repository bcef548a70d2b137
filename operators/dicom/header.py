"""A data set of which hundreds are read and few elements are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag


class Header(Dataset):
    """A data set whose elements are shared with other headers, until one is asked for as an element or changed.

    The slices of a series have the same patient, scanner and matrix. Their values are had by keyword (`header.Rows`,
    `header.get("Rows")`) without an element of their own, which is most of the time that a header takes. Whatever else
    is done with it first gives it elements of its own; from then on it is a data set like any other.
    """

    def __init__(self, elements: Iterable[tuple[str, DataElement]]) -> None:
        """Make a header.

        Args:
            elements: keyword and element of each, in ascending order; nobody changes them.
        """
        super().__init__()
        shared: dict[BaseTag, DataElement] = {}
        values: dict[str, Any] = {}
        for keyword, element in elements:
            shared[element.tag] = element
            values[keyword] = element.value
        object.__setattr__(self, "_dict", shared)
        object.__setattr__(self, "_values", values)

    def get(self, key: Any, default: Any = None) -> Any:
        """As of any data set."""
        values = self.__dict__.get("_values")
        if values is not None and key.__class__ is str:
            return values.get(key, default)
        return super().get(key, default)

    def __getattr__(self, name: str) -> Any:
        values = self.__dict__.get("_values")
        if values is not None and name in values:
            return values[name]
        return super().__getattr__(name)

    def __getitem__(self, key: Any) -> Any:
        self._own()
        return super().__getitem__(key)

    def __setitem__(self, key: Any, element: Any) -> None:
        self._own()
        super().__setitem__(key, element)

    def __delitem__(self, key: Any) -> None:
        self._own()
        super().__delitem__(key)

    def __delattr__(self, name: str) -> None:
        self._own()
        super().__delattr__(name)

    def get_item(self, key: Any, **options: Any) -> Any:
        """As of any data set."""
        self._own()
        return super().get_item(key, **options)

    def items(self) -> Any:
        """As of any data set."""
        self._own()
        return super().items()

    def values(self) -> Any:
        """As of any data set."""
        self._own()
        return super().values()

    def elements(self) -> Any:
        """As of any data set."""
        self._own()
        return super().elements()

    def _own(self) -> None:
        """Elements of its own, in a dictionary of its own: a shallow copy may hold the one that there was."""
        if self.__dict__.get("_values") is None:
            return
        made = {tag: own_element(element) for tag, element in self._dict.items() if isinstance(element, DataElement)}
        object.__setattr__(self, "_values", None)
        object.__setattr__(self, "_dict", made)


def own_element(element: DataElement) -> DataElement:
    """Return a copy of a shared element that may be changed; its several values are a list again."""
    value = element.value
    own = MultiValue(lambda one: one, value) if isinstance(value, tuple) else value
    return DataElement(element.tag, str(element.VR), own, already_converted=True)


def plain(value: Any) -> Any:
    """Return a value that is equal to another's, whether it is shared or a header's own: several values as a tuple."""
    return tuple(value) if isinstance(value, MultiValue | list) else value
