"""Text that anybody may have written, made fit for a terminal, a picture or a page: nothing in it commands anything."""


def printable(text: str) -> str:
    """Return text in one line, with the escapes of Python for whatever cannot be printed.

    That is every control character, such as those that command a terminal or begin a line, marks that turn the
    direction of writing around, unusual spaces, and halves of letters, which cannot be encoded.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def printable_lines(text: str) -> str:
    """Return the same for each line of a text of several lines."""
    return "\n".join(printable(line) for line in text.split("\n"))
