"""A data set made for reading hundreds of headers and accessing few elements of each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag


class Header(Dataset):
    """A data set that shares its elements with other headers until one is accessed as an element or changed.

    The slices of a series have the same patient, scanner and matrix. Reading values by keyword (`header.Rows`,
    `header.get("Rows")`) makes no elements, which would take most of the time of a header. Any other access first gives
    the header its own elements; from then on it is a data set like any other.
    """

    def __init__(self, elements: Iterable[tuple[str, DataElement]]) -> None:
        """Make a header.

        Args:
            elements: keyword and element, in ascending order; nobody may change them.
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
        """Return a value, as `Dataset.get` does."""
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
        """Return a raw element, as `Dataset.get_item` does."""
        self._own()
        return super().get_item(key, **options)

    def items(self) -> Any:
        """Return tags and elements, as `Dataset.items` does."""
        self._own()
        return super().items()

    def values(self) -> Any:
        """Return the elements, as `Dataset.values` does."""
        self._own()
        return super().values()

    def elements(self) -> Any:
        """Return the elements, as `Dataset.elements` does."""
        self._own()
        return super().elements()

    def _own(self) -> None:
        """Give the header its own elements in its own dictionary, for a shallow copy may hold the old one."""
        if self.__dict__.get("_values") is None:
            return
        made = {tag: own_element(element) for tag, element in self._dict.items() if isinstance(element, DataElement)}
        object.__setattr__(self, "_values", None)
        object.__setattr__(self, "_dict", made)


def own_element(element: DataElement) -> DataElement:
    """Return a copy of a shared element that may be changed; several values become a list again."""
    value = element.value
    own = MultiValue(lambda item: item, value) if isinstance(value, tuple) else value
    return DataElement(element.tag, str(element.VR), own, already_converted=True)


def plain(value: Any) -> Any:
    """Return a value comparable between shared and own elements: several values as a tuple."""
    return tuple(value) if isinstance(value, MultiValue | list) else value
