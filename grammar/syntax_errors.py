"""What to tell a user about a token that fits nowhere. Knows the table and how people write variants by mistake."""

from __future__ import annotations

from attncc.diagnostics import LanguageError, Source, Span
from attncc.grammar.lexer import BINARY, KEYWORDS, SYMBOLS, Token
from attncc.grammar.table import END_OF_INPUT, Table

_SYMBOL_OF = {kind: symbol for symbol, kind in SYMBOLS.items()}
_KEYWORD_OF = {kind: word for word, kind in KEYWORDS.items()}
_HOOKS = ("sm_scale", "query", "key", "value", "score", "logits", "mask", "weight", "normalize", "output")
# What begins an expression beside a name.
_BEGINS_EXPRESSION = {"INTEGER", "FLOAT", "LPAR", "MINUS", "PLUS", "TILDE", "NOT", "MASK"}
_POSTFIX = {"LPAR", "LSQB", "DOT"}
_FOREIGN = {
    "return": "a hook is written `name = expression`; nothing is returned",
    "while": "there are no loops; `any`, `all` and `sum` go over a constant number of steps",
    "lambda": "write `def f(x) = expression` outside the variant",
    "class": "a file holds `variant`, `mask`, `def` and imports",
    "elif": "chain selections: `a if c else b if d else e`",
    "fn": "write `def f(x) = expression`",
    "func": "write `def f(x) = expression`",
    "function": "write `def f(x) = expression`",
    "var": "write `let name = expression`",
}


def syntax_error(
    table: Table, states: tuple[int, ...], recent: tuple[Token, ...], token: Token, source: Source
) -> LanguageError:
    """The error for ``token`` after ``recent`` (the last few tokens) in the automaton's ``states``."""
    accepted = {kind for kind in table.states[states[-1]] if kind.isupper() and _accepts(table, states, kind)}
    if _accepts(table, states, END_OF_INPUT):
        accepted.add(END_OF_INPUT)
    previous = recent[-1] if recent else None
    span = Span(source, token.start, token.end)
    if token.kind == END_OF_INPUT:
        message = "the file ends too early"
    elif (
        token.kind in _KEYWORD_OF and "NAME" in accepted and token.kind not in ("IF", "ELSE", "AND", "OR", "NOT", "FOR")
    ):
        return LanguageError(
            "A0110",
            f"`{token.text}` is a word of the language",
            span=span,
            expected=_phrase(accepted),
            got=f"`{token.text}`",
            help=_help(accepted, recent, token) or f"choose another name, for example `{token.text}_`",
        )
    elif previous is None:
        message = "a file does not begin like this"
    else:
        message = f"unexpected {_describe(token)} after {_describe(previous)}"
    return LanguageError(
        "A0101",
        message,
        span=span,
        expected=_phrase(accepted),
        got=_describe(token),
        help=_help(accepted, recent, token),
    )


def _accepts(table: Table, states: tuple[int, ...], kind: str) -> bool:
    """Whether the automaton would shift ``kind``, perhaps after reductions."""
    stack = list(states)
    while True:
        action = table.states[stack[-1]].get(kind)
        if action is None:
            return False
        if action >= 0:
            return True
        rule = table.rules[-1 - action]
        del stack[len(stack) - rule.size :]
        stack.append(table.states[stack[-1]][rule.origin])
        if kind == END_OF_INPUT and stack[-1] == table.end:
            return True


def _describe(token: Token) -> str:
    match token.kind:
        case "END":
            return "`;`" if token.text == ";" else "the end of the line"
        case "STRING":
            return "text"
        case _ if token.kind == END_OF_INPUT:
            return "the end of the file"
    shown = token.text if len(token.text) <= 40 else token.text[:37] + "..."
    return f"`{shown}`"


def _phrase(accepted: set[str]) -> str:
    """The accepted tokens in words, the telling ones first."""
    rest = set(accepted)
    words: list[str] = []
    if {"INTEGER", "LPAR"} <= rest:
        words.append("an expression")
        rest -= {*_BEGINS_EXPRESSION, "NAME"}
    elif {"VARIANT", "DEF"} <= rest:
        words.append("`variant`, `mask`, `def`, `from` or `import`")
        rest -= {"VARIANT", "DEF", "MASK", "FROM", "IMPORT", END_OF_INPUT}
    elif {"MASK", "LET"} <= rest:
        words.append("a hook, `let`, `emit`, `require` or `branch`" if "EMIT" in rest else "a hook or `let`")
        rest -= {"NAME", "MASK", "LET", "EMIT", "REQUIRE", "BRANCH"}
    elif "NAME" in rest:
        words.append("a name")
        rest.discard("NAME")
    if {"PLUS", "STAR"} & rest:
        words.append("an operator")
        rest -= BINARY | _POSTFIX
    elif {"LT", "GT"} <= rest:
        rest -= BINARY
        words.append("an operator")
    if "ELSE" in accepted and "IF" not in accepted:
        words.append("`else`")
    if END_OF_INPUT in rest:
        rest -= {END_OF_INPUT, "END"}
        words.append("the end of the statement")
    elif "END" in rest:
        rest.discard("END")
        words.append("the end of the statement")
    if "STRING" in rest:
        rest.discard("STRING")
        words.append("a text in double quotes")
    words.extend(f"`{_KEYWORD_OF.get(kind) or _SYMBOL_OF.get(kind, kind)}`" for kind in sorted(rest))
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _help(accepted: set[str], recent: tuple[Token, ...], token: Token) -> str | None:
    kind = token.kind
    previous = recent[-1] if recent else None
    before = recent[-2].kind if len(recent) > 1 else None
    if "END" in accepted and previous is not None and previous.text in _FOREIGN:
        return _FOREIGN[previous.text]
    if {"VARIANT", "DEF"} <= accepted:
        return _top_level_help(token)
    if accepted == {"ASSIGN"} or (accepted <= {"ASSIGN", "LPAR"} and previous is not None):
        return _assignment_help(recent, token)
    if "ELSE" in accepted and kind in ("END", "RBRACE", "RPAR", "COMMA", END_OF_INPUT):
        return "a selection has two sides: `x if condition else y`"
    if kind == "ASSIGN" and previous is not None and previous.kind == "MASK" and accepted == {"NAME"}:
        return "the hook `mask` belongs inside a variant; `mask name = condition` declares one outside"
    if kind == "ASSIGN" and previous is not None and previous.kind in ("LT", "GT", "EQ", "NE", "PLUS", "MINUS", "STAR"):
        return f"there is no operator `{previous.text}=`"
    if kind == "ASSIGN" and "PLUS" in accepted:
        return "compare with `==`; `=` belongs to hooks, `let` and named arguments"
    if kind == "FOR" or (kind == "COMMA" and "RPAR" in accepted and before == "IN"):
        return "a comprehension is the only argument of `any`, `all` or `sum`: any(x[t] == k for t in n)"
    if kind == "STRING":
        return 'texts stand only in `require condition, "text"` and in imports'
    if kind == "NOT" and "INTEGER" in accepted:
        return "`not` binds looser than this operator; put parentheses around `not ...`"
    if accepted == {"COLON"}:
        name = previous.text if previous is not None else "x"
        return f"a parameter has a type: `{name}: f32`, or `{name}: f32[num_heads]` for a tensor"
    if accepted & {"RPAR", "RSQB"} and kind == "END":
        return "`;` ends a statement, but a bracket is still open"
    if "IN" in accepted and len(accepted) == 1:
        return "write `for t in n`, where n is a constant or an extent"
    if "PLUS" in accepted and "END" in accepted:
        if kind in ("NAME", "INTEGER", "FLOAT", "LPAR", "MASK", *KEYWORDS.values()):
            return "an operator is missing, or a new line (or `;`) between two statements"
        return "a statement ends at the end of the line or at `;`"
    if "PLUS" in accepted and kind in ("NAME", "INTEGER", "FLOAT", "MASK", *KEYWORDS.values()):
        return "an operator or a comma is missing, or a bracket is still open"
    if "INTEGER" in accepted and (kind in BINARY or kind in ("END", "RPAR", "RSQB", "RBRACE", "COMMA", END_OF_INPUT)):
        return "an operand is missing here"
    if accepted <= {"END", "RBRACE"} or accepted <= {"END", END_OF_INPUT}:
        return "begin a new line, or put `;` between two statements"
    if "LBRACE" in accepted:
        return "the hooks of a variant stand in braces: variant name(parameters) { logits = score }"
    if {"MASK", "LET"} <= accepted:
        return "a statement is `hook = expression`, `let`, `emit`, `require` or `branch`"
    if accepted == {"STRING"}:
        return 'name the file in double quotes: from "masks.attn" import causal'
    if accepted == {"AS"}:
        return 'give the file a name: import "masks.attn" as m'
    if accepted == {"NAME"}:
        return "a name begins with a letter or `_`"
    return None


def _top_level_help(token: Token) -> str:
    if token.text in _HOOKS or token.kind in ("BRANCH", "EMIT", "REQUIRE"):
        return f"`{token.text}` belongs inside a variant: variant name {{ ... }}"
    if token.kind == "LET":
        return "outside a variant, write `def name() = expression`"
    return _FOREIGN.get(token.text, "a file holds `variant`, `mask`, `def` and imports")


def _assignment_help(recent: tuple[Token, ...], token: Token) -> str:
    previous = recent[-1]
    before = recent[-2].kind if len(recent) > 1 else None
    if before == "DEF":
        return f"a `def` has parentheses: def {previous.text}(x) = ..."
    if previous.kind == "MASK" and token.kind == "NAME":
        return "masks are declared outside the variant; inside, write `mask = expression`"
    if token.kind in ("EQ", "COLON"):
        return f"a single `=` gives `{previous.text}` its expression"
    if token.kind in BINARY:
        return f"there are no operators like `{token.text}=`; write `{previous.text} = expression`"
    if previous.text in _FOREIGN:
        return _FOREIGN[previous.text]
    return f"write `{previous.text} = expression`"
