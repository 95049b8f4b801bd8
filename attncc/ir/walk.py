"""Visiting and rewriting expressions without recursion, so that no formula is too deep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from attncc.ir.nodes import BRANCH_HOOKS, Branch, Expr, Variant

Rule = Callable[[Expr], Expr]


def walk(*roots: Expr) -> Iterator[Expr]:
    """Every distinct node below the roots, operands before users, each once, in a deterministic order."""
    seen: set[Expr] = set()
    for root in roots:
        stack: list[tuple[Expr, bool]] = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if ready:
                yield node
                continue
            if node in seen:
                continue
            seen.add(node)
            stack.append((node, True))
            stack.extend((operand, False) for operand in reversed(node.operands) if operand not in seen)


def rewrite(root: Expr, rule: Rule, memo: dict[Expr, Expr] | None = None) -> Expr:
    """Apply ``rule`` once to every node, operands first. ``memo`` shares work between roots and tells old from new."""
    done = {} if memo is None else memo
    for node in walk(root):
        if node in done:
            continue
        operands = tuple(done[operand] for operand in node.operands)
        done[node] = rule(node if operands == node.operands else node.with_operands(operands))
    return done[root]


def substitute(root: Expr, values: dict[Expr, Expr]) -> Expr:
    """Replace whole nodes; what is put in is not looked into again."""
    memo = dict(values)
    return rewrite(root, lambda node: node, memo)


def map_variant(variant: Variant, change: Rule) -> Variant:
    """``change`` applied to every root expression of a variant; nodes that became others take their spans along."""

    def apply(expr: Expr | None) -> Expr | None:
        return None if expr is None else change(expr)

    def apply_branch(branch: Branch) -> Branch:
        return Branch(branch.name, *(apply(getattr(branch, name)) for name in BRANCH_HOOKS))

    return replace(
        variant,
        tensors=tuple(replace(t, dims=tuple(change(dim) for dim in t.dims)) for t in variant.tensors),
        operands=tuple(replace(o, heads=change(o.heads), dim=change(o.dim)) for o in variant.operands),
        requires=tuple(replace(r, cond=change(r.cond)) for r in variant.requires),
        branches=tuple(apply_branch(branch) for branch in variant.branches),
        output=apply(variant.output),
        emits=tuple(replace(emit, value=change(emit.value)) for emit in variant.emits),
    )


def rewrite_variant(variant: Variant, rule: Rule) -> Variant:
    """``rewrite`` over every expression of a variant, with spans carried from each node to what replaced it."""
    memo: dict[Expr, Expr] = {}
    result = map_variant(variant, lambda expr: rewrite(expr, rule, memo))
    spans = dict(variant.spans)
    for old, new in memo.items():
        if old is not new and old in variant.spans:
            known = spans.get(new, ())
            spans[new] = known + tuple(span for span in variant.spans[old] if span not in known)
    return replace(result, spans=spans)
