"""The Python front end: traces a function into a Variant; it knows the IR and nothing below it."""
