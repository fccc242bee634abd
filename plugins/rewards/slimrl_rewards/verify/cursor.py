"""A place in a list of tokens, and how far into brackets it is."""

from __future__ import annotations

from typing import Final

from slimrl_rewards.verify.lexer import END, Token
from slimrl_rewards.verify.nodes import TooLarge, Unreadable

MAX_DEPTH: Final = 40


class Cursor:
    """Walks over tokens; at the end it stays on END."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = [*tokens, END, END, END]  # so that looking two ahead needs no test
        self.position = 0
        self.depth = 0

    @property
    def next(self) -> Token:
        return self.tokens[self.position]

    def take(self) -> Token:
        token = self.tokens[self.position]
        if token is not END:
            self.position += 1
        return token

    def at(self, *texts: str) -> bool:
        token = self.tokens[self.position]
        return token.kind in ("sign", "command") and token.text in texts

    def took(self, *texts: str) -> bool:
        if self.at(*texts):
            self.position += 1
            return True
        return False

    def expect(self, *texts: str) -> str:
        if not self.at(*texts):
            raise Unreadable
        return self.take().text

    def deeper(self) -> None:
        """One level down; TooLarge below MAX_DEPTH, so that recursion is bounded."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooLarge
