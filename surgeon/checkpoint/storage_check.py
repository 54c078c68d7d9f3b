"""Whether the numbers of the storages that a pickle asks for are in the file, each of them, and for no other storage.

PyTorch itself leaves a storage without numbers where an old file does not list it, and reads beyond a record.
"""

import struct
from collections.abc import Mapping
from mmap import mmap

from surgeon.checkpoint.pickle_calls import Kind, Storage, Value
from surgeon.checkpoint.zip_directory import Record

COUNT = struct.Struct("<q")
FOLDER = b"data/"


class StorageError(ValueError):
    """A storage that the file does not have as its pickle says; the message goes on from the file's name."""


def check_blocks(content: bytes | mmap, place: int, keys: Value, storages: Mapping[str, Storage]) -> None:
    """Check the blocks of a file of PyTorch before 1.6: of each storage how many numbers it has, and these.

    Args:
        content: the whole file.
        place: where the blocks begin.
        keys: what is known of the list of their keys, which is in their order.
        storages: what the pickle asks for, by key.

    Raises:
        StorageError: the list is not of just these keys, or the blocks are not what they are said to be.
    """
    listed = [key.name for key in keys.parts if key.kind is Kind.TEXT]
    if keys.kind is not Kind.LIST or len(keys.parts) != len(storages) or {*listed} != storages.keys():
        raise StorageError("lists other storages than its tensors have")
    for key in listed:
        if place + COUNT.size > len(content):
            raise StorageError("is truncated or damaged")
        (count,) = COUNT.unpack_from(content, place)
        if count != storages[key].size:
            raise StorageError("has a storage that is not as large as its tensors have it")
        place += COUNT.size + storages[key].nbytes
    if place != len(content):
        raise StorageError("is truncated or damaged" if place > len(content) else "goes on behind its last storage")


def check_records(pickle: bytes, storages: Mapping[str, Storage], records: Mapping[bytes, Record]) -> None:
    """Check the records of an archive that has its storages in a folder beside the pickle.

    Args:
        pickle: the name of its record.
        storages: what the pickle asks for, by key.
        records: all of the archive, by name in small letters.

    Raises:
        StorageError: a record is missing, has not as many bytes as the numbers of its storage, or is that of another
            storage, too: each would be a copy of it.
    """
    home = pickle[: pickle.rfind(b"/") + 1] + FOLDER
    taken = set()
    for key, storage in storages.items():
        name = (home + key.encode(errors="surrogatepass")).lower()
        record = records.get(name)
        if record is None or record.size != storage.nbytes:
            raise StorageError("has a storage that is not as large as its tensors have it")
        # Case is nothing to the reader of PyTorch.
        if name in taken:
            raise StorageError("has two storages in one record")
        taken.add(name)
