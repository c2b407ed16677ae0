"""A generic export of the transformers network itself, for every type whose parts are known."""

__all__: tuple[str, ...] = ()
