"""Values: sums, products, powers, functions and what they are of."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from slimrl_rewards.verify import lexer
from slimrl_rewards.verify.cursor import Cursor
from slimrl_rewards.verify.lexer import Token
from slimrl_rewards.verify.nodes import (
    VALUES,
    Answer,
    Apply,
    Based,
    Constant,
    Number,
    Several,
    Symbol,
    Unreadable,
    Value,
)

MAX_POSTFIXES: Final = 8
GREEK: Final = frozenset(
    [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "varepsilon",
        "zeta",
        "eta",
        "theta",
        "vartheta",
        "kappa",
        "lambda",
        "mu",
        "nu",
        "xi",
        "rho",
        "sigma",
        "tau",
        "phi",
        "varphi",
        "chi",
        "psi",
        "omega",
        "Gamma",
        "Delta",
        "Theta",
        "Lambda",
        "Xi",
        "Sigma",
        "Phi",
        "Psi",
        "Omega",
        "ell",
    ]
)
FENCES: Final = {"lfloor": ("rfloor", "floor"), "lceil": ("rceil", "ceil")}
STARTS: Final = lexer.FUNCTIONS | GREEK | FENCES.keys() | {"frac", "binom", "pi", "infty"}
OF_SEVERAL: Final = frozenset(["gcd", "lcm", "max", "min"])
MINUS_ONE: Final = Apply("neg", (Number(Fraction(1)),))


class Arithmetic(Cursor):
    """The part of the grammar whose results are values, if what is in brackets is one."""

    def __init__(self, tokens: list[Token]) -> None:
        super().__init__(tokens)
        self.bar_ends = False  # inside |x|, and before the bar of a set's condition
        self.has_signs = False  # a plus-minus was read

    def answers(self) -> Answer:
        """Whatever brackets may hold."""
        raise NotImplementedError

    def structure(self, name: str) -> Answer:
        """What a command begins that is no value: a set or a matrix."""
        raise NotImplementedError

    def sum(self) -> Answer:
        """Terms with signs between them."""
        first = self.signed()
        if not self.at("+", "-", "pm", "mp"):
            return first
        terms = [as_value(first)]
        while self.at("+", "-", "pm", "mp"):
            operator = self.take().text
            terms.append(self.with_sign(operator, as_value(self.term())))
        return Apply("add", tuple(terms))

    def signed(self) -> Answer:
        """A term that may begin with a sign."""
        if self.at("+", "-", "pm", "mp"):
            operator = self.take().text
            return self.with_sign(operator, as_value(self.term()))
        return self.term()

    def with_sign(self, operator: str, term: Value) -> Value:
        """A term after its sign."""
        if operator == "+":
            return term
        if operator == "-":
            return Apply("neg", (term,))
        self.has_signs = True
        return Apply(operator, (term,))

    def term(self) -> Answer:
        """Factors, with or without a sign between them."""
        first = self.unary()
        factors = [first]
        while True:
            if self.took("*"):
                factors.append(as_value(self.unary()))
            elif self.took("/"):
                factors.append(Apply("inverse", (as_value(self.unary()),)))
            elif self.took("over"):
                return Apply("mul", (*map(as_value, factors), Apply("inverse", (as_value(self.sum()),))))
            elif self.starts_factor():
                if self.next.kind == "number" and self.tokens[self.position - 1].kind == "number":
                    raise Unreadable  # `4 2` is neither 42 nor 8
                factors.append(as_value(self.factor()))
            elif len(factors) == 1:
                return first
            else:
                return Apply("mul", tuple(map(as_value, factors)))

    def unary(self) -> Answer:
        """A factor that may have signs: `2 * -3`."""
        is_negative = False
        while self.at("+", "-"):
            is_negative ^= self.take().text == "-"
        factor = self.factor()
        return Apply("neg", (as_value(factor),)) if is_negative else factor

    def starts_factor(self) -> bool:
        """Whether the next token may go on a product without a sign."""
        token = self.next
        if token.kind == "sign":
            return token.text in "([{" or (token.text == "|" and not self.bar_ends)
        return token.kind in ("number", "letter") or (token.kind == "command" and token.text in STARTS)

    def factor(self) -> Answer:
        """Something with its powers, factorial, percent or degree sign."""
        base = self.primary()
        for _ in range(MAX_POSTFIXES):
            if self.took("^"):
                base = Apply("pow", (as_value(base), as_value(self.exponent())))
            elif self.took("!"):
                base = Apply("factorial", (as_value(base),))
                if self.at("!"):
                    raise Unreadable  # a double factorial
            elif self.took("%"):
                base = Apply("percent", (as_value(base),))
            elif self.took("degree"):
                base = Apply("degree", (as_value(base),))
            else:
                return base
        raise Unreadable

    def exponent(self) -> Answer:
        """What follows `^`: powers of powers from the right."""
        self.deeper()
        if self.took("-"):
            exponent: Answer = Apply("neg", (as_value(self.exponent()),))
        elif self.at("{"):
            exponent = self.group()
        else:
            exponent = self.primary()
            if self.took("^"):
                exponent = Apply("pow", (as_value(exponent), as_value(self.exponent())))
        self.depth -= 1
        return exponent

    def primary(self) -> Answer:
        """The smallest whole: a number, a letter, a function or what brackets hold."""
        self.deeper()
        token = self.take()
        if token.kind == "number":
            found: Answer = self.number(token)
        elif token.kind == "letter":
            found = self.letter(token.text)
        elif token.kind == "sign" and token.text in ("(", "[", "{"):
            found = self.bracketed(token.text)
        elif token.kind == "sign" and token.text == "|":
            found = Apply("abs", (as_value(self.fenced("|", bar_ends=True)),))
        elif token.kind == "command":
            found = self.command(token.text)
        else:
            raise Unreadable
        self.depth -= 1
        return found

    def fenced(self, *closing: str, bar_ends: bool = False) -> Answer:
        """What is inside, up to and with the closing fence."""
        saved, self.bar_ends = self.bar_ends, bar_ends
        inside = self.answers()
        self.bar_ends = saved
        self.expect(*closing)
        return inside

    def bracketed(self, opening: str) -> Answer:
        """A group, a tuple or an interval; braces without a backslash only group."""
        if opening == "{":
            return self.fenced("}")
        inside = self.fenced(")", "]")
        closing = self.tokens[self.position - 1].text
        if isinstance(inside, Several) and inside.kind == "list":
            return Several(opening + closing, inside.items)
        if (opening == "(") != (closing == ")"):
            raise Unreadable
        return inside

    def group(self) -> Answer:
        """An argument: a group in braces, or the next digit, letter or command."""
        return self.fenced("}") if self.took("{") else self.primary()

    def digit(self) -> Answer:
        r"""An argument of `\frac`, which takes one digit of a number that is not in braces."""
        token = self.next
        if token.kind == "number" and token.text.isdecimal():
            rest = token.text[1:]
            if not rest:
                self.take()
            else:
                self.tokens[self.position] = Token("number", rest, value=Fraction(rest))
            return Number(Fraction(token.text[0]))
        return self.group()

    def number(self, token: Token) -> Value:
        if self.at("_"):
            self.take()
            base = self.group()
            if not (isinstance(base, Number) and base.value.denominator == 1 and 2 <= base.value <= 36):
                raise Unreadable
            return Based(token.text, int(base.value))
        number = Number(token.value)
        if token.value.denominator != 1:
            return number
        start = self.position
        if self.took("frac"):  # a mixed number
            numerator, denominator = self.digit(), self.digit()
            if isinstance(numerator, Number) and isinstance(denominator, Number) and not self.at("^"):
                return Apply("add", (number, Apply("div", (numerator, denominator))))
            self.position = start
        elif self.next.kind == "number" and self.next.after_blank:
            slash, divisor = self.tokens[self.position + 1], self.tokens[self.position + 2]
            if slash.text == "/" and divisor.kind == "number" and divisor.value:
                above = self.take().value
                self.position += 2
                return Number(token.value + above / divisor.value)
        return number

    def letter(self, name: str) -> Value:
        while self.took("'"):
            name += "'"
        if self.took("_"):
            start = self.position
            self.group()
            return Symbol(
                name + "_" + "".join(t.text for t in self.tokens[start : self.position] if t.text not in "{}")
            )
        return Constant(name) if name in ("e", "i") else Symbol(name)

    def command(self, name: str) -> Answer:
        if name == "frac":
            numerator = as_value(self.digit())
            return Apply("div", (numerator, as_value(self.digit())))
        if name == "binom":
            upper = as_value(self.digit())
            return Apply("binom", (upper, as_value(self.digit())))
        if name in lexer.FUNCTIONS:
            return self.function(name)
        if name in GREEK:
            return self.letter("\\" + name)
        if name in ("pi", "infty"):
            return Constant("oo" if name == "infty" else "pi")
        if name in FENCES:
            closing, function = FENCES[name]
            return Apply(function, (as_value(self.fenced(closing)),))
        return self.structure(name)

    def function(self, name: str) -> Value:
        if name == "sqrt":
            return self.root()
        base: Value | None = None
        power: Value | None = None
        if name == "log" and self.took("_"):
            base = as_value(self.digit())
        if self.took("^"):
            power = as_value(self.exponent())
        argument = self.argument()
        if isinstance(argument, Several) and argument.kind == "()" and name in OF_SEVERAL:
            return Apply(name, tuple(as_value(item) for item in argument.items))
        if power == MINUS_ONE and "arc" + name in lexer.FUNCTIONS:
            name, power = "arc" + name, None
        value: Value = Apply("ln" if name == "log" else name, (as_value(argument),))
        if base is not None:
            value = Apply("div", (value, Apply("ln", (base,))))
        return value if power is None else Apply("pow", (value, power))

    def root(self) -> Value:
        index: Value | None = None
        if self.took("["):
            index = as_value(self.sum())
            self.expect("]")
        argument = as_value(self.group())
        return Apply("sqrt", (argument,)) if index is None else Apply("root", (argument, index))

    def argument(self) -> Answer:
        """What a function is of: brackets, or the product that follows it."""
        if self.at("(", "[", "|", "{"):
            return self.primary()
        is_negative = self.took("-")
        factors = [as_value(self.factor())]
        while self.starts_factor() and self.next.text not in lexer.FUNCTIONS and not self.at("(", "["):
            factors.append(as_value(self.factor()))
        product = Apply("mul", tuple(factors))
        return Apply("neg", (product,)) if is_negative else product


def as_value(answer: Answer) -> Value:
    """The answer if it is a value; arithmetic with anything else is not read here."""
    if isinstance(answer, VALUES):
        return answer
    raise Unreadable
