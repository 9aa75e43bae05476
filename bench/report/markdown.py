"""Text from records inside Markdown."""

_MARKUP = str.maketrans(
    {**{sign: f"\\{sign}" for sign in "\\`*_[]#"}, **{sign: f"&#{ord(sign)};" for sign in "|<>"}}
)


def escaped(text: object) -> str:
    """Safe inside a table: no pipe, line break or markup of the text's own takes effect."""
    return " ".join(str(text).split()).translate(_MARKUP)
