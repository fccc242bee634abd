r"""Inputs made to hang, crash or fill the memory of a grader, scored by each mathematical reward.

Every one is scored in a child process with a deadline of 5 s and 1 GiB of memory to come, and none may need them.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

FIXTURE = Path(__file__).parents[1] / "fixtures" / "rewards" / "adversarial.jsonl"
DRIVER = Path(__file__).with_name("hostile_driver.py")
REWARDS = {
    "math": "slimrl_rewards.math",
    "deepscaler": "slimrl_rewards.deepscaler",
    "math_verify": "slimrl_rewards.math_verify_reward",
}
MAX_SECONDS = 2.5  # of CPU time; the slowest takes less than half a second

ANSWERS = {
    "a tower of powers": "9**9**9**9",
    "a tower in braces": "9^{9^{9^{9}}}",
    "a tower of letters": "x^{x^{x^{x^{x^{9^{9}}}}}}",
    "a hundred powers": "^".join(["9"] * 100),
    "a power in a quotient": "9^{10^9x/x}",
    "a power of e": "e^{e^{e^{e^{e}}}}",
    "a power that nearly cancels": "9^{(10^{30}+10^9)-10^{30}}",
    "a negative power": "2^{-9999999999}",
    "a power of a fraction": r"\left(\frac{99999}{99998}\right)^{99999999}",
    "a small power of a long number": f"({'7' * 900})^{{9999}}",
    "a root of a huge index": r"\sqrt[999999999]{2}",
    "a huge power below a root": r"\sqrt{2^{999999999}}",
    "a huge factorial": "9999999999!",
    "factorials of factorials": "((9!)!)!",
    "factorials without brackets": "9!!!!!!!!!!",
    "a huge binomial": r"\binom{999999999}{499999999}",
    "a sine of a huge number": r"\sin(10^{1000})",
    "a sine of an imaginary one": r"\sin(i10^{1000})",
    "a hyperbolic cosine": r"\cosh(10^{30})",
    "a logarithm of a tower": r"\ln(9^{9^{9^{9}}})",
    "expansion": "((x+1)^{999}-(x-1)^{999})/x",
    "nested sums of powers": "((((x+y)^9)^9)^9)^9",
    "a thousand fractions": r"\frac{" * 1_000 + "1" + "}{2}" * 1_000,
    "a thousand fractions without braces": r"\frac1" * 1_000 + "1",
    "a thousand roots": r"\sqrt{" * 1_000 + "2" + "}" * 1_000,
    "a thousand roots without braces": r"\sqrt" * 1_000 + "2",
    "a hundred sines": r"\sin" * 100 + "x",
    "a thousand brackets": "(" * 1_000 + "x" + ")" * 1_000,
    "a thousand opening brackets": "(" * 1_000,
    "a thousand bars": "|" * 1_000,
    "a thousand sets": r"\{" * 1_000 + r"\}" * 1_000,
    "ten thousand digits": "7" * 10_000,
    "a decimal of ten thousand digits": "0." + "3" * 10_000,
    "a repeating decimal": r"0.\overline{" + "7" * 1_000 + "}",
    "a decimal exponent": "1e999999999",
    "an exponent of many digits": "1e" + "9" * 1_000,
    "a base": "1" * 1_000 + "_{36}",
    "many groups of thousands": "1" + ",111" * 100_000,
    "many terms": "x+" * 20_000 + "x",
    "many factors": "x" * 1_400,
    "many terms below the limit": "+".join(["x^2"] * 300),
    "many functions": "+".join([r"\sin x"] * 200),
    "many signs": "-" * 100_000 + "1",
    "many signs below the limit": "-" * 900 + "1",
    "many plus-minus signs": r"\pm" * 400 + "1",
    "many percent signs": "1" + r"\%" * 500,
    "many degree signs": "1" + r"^\circ" * 200,
    "many inversions": "~" * 3_000 + "1",
    "many elements": ",".join(map(str, range(700))),
    "many roots": r"\{" + ",".join(rf"\sqrt{{{i}}}" for i in range(2, 100)) + r"\}",
    "many unions": r"\cup".join(["(1,2)"] * 150),
    "many holes": r"\mathbb{R}" + "".join(rf"\setminus\{{{i}\}}" for i in range(70)),
    "many relations": "<".join(["x"] * 500),
    "a large matrix": r"\begin{pmatrix}" + r"\\".join("&".join(["x"] * 18) for _ in range(18)) + r"\end{pmatrix}",
    "a determinant": r"\det\begin{pmatrix}" + r"\\".join("&".join(["x"] * 9) for _ in range(9)) + r"\end{pmatrix}",
    "an integral": r"\int_0^1 \sin(x^{x^{x}})\cos(\ln(x))^{7} dx",
    "a sum": r"\sum_{n=1}^{10^{10}} n^{n}",
    "a product": r"\prod_{n=1}^{10^{10}} n",
    "a limit": r"\lim_{x\to 0} \frac{\sin(x^{99})}{x^{99}}",
    "a greatest common divisor": r"\gcd(10^{5000}+1,10^{4999}+1)",
    "unbalanced environments": r"\begin{pmatrix}" * 300,
    "a megabyte of blanks": " " * 1_000_000,
    "a megabyte of backslashes": "\\" * 1_000_000,
    "blanks below the limit": "1" + " " * 1_400 + "2",
    "backslashes below the limit": "\\" * 1_400,
    "dollars below the limit": "$" * 1_400,
    "underscores": "_" * 1_400,
    "text below the limit": r"\text{a b }" * 130,
    "words": "a. " * 480,
    "code": '__import__("os").system("false")',
    "attributes": "x.__class__.__mro__",
    "string multiplication": '"a"*10**9',
    "list multiplication": "[0]*10**9",
    "a lambda": "(lambda x: x(x))(lambda x: x(x))",
    "a file": r"\input{/etc/passwd}",
    "a macro that calls itself": r"\def\a{\a\a}\a",
    "bold digits": "\N{MATHEMATICAL BOLD DIGIT NINE}" * 1_000,
    "superscripts": "9" + "⁹" * 1_000,
    "a letter that only looks like x": "\N{CYRILLIC SMALL LETTER HA}+1",
    "full-width digits": "\N{FULLWIDTH DIGIT FOUR}" * 400,
    "a null": "\0" * 100,
    "marks without letters": "\N{COMBINING ACUTE ACCENT}" * 1_000,
    "ligatures that grow": "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}" * 1_000,
    "half a character": "\ud800",
}
LABELS = ("x+1", r"\frac{1}{3}")
REPLIES = {
    "a megabyte without a box": "the answer is " * 70_000,
    "a megabyte of numbers": "1 + " * 250_000,
    "a megabyte of brackets": "(" * 1_000_000,
    "a megabyte of dollars": "$" * 1_000_000,
    "a megabyte of boxes": r"\boxed{" * 140_000,
    "a megabyte of fractions": r"\frac{1}{2}" * 90_000,
    "digits and signs": "1-" * 1_000 + "!",
    "thoughts without an end": "<think>" * 100_000,
}


def cases() -> list[dict[str, Any]]:
    """Name, response, label, metadata and the verdicts that are right (None: only that it is a verdict)."""
    found = []
    for line in FIXTURE.read_text(encoding="utf-8").splitlines():
        given = json.loads(line)
        texts = {
            key: zlib.decompress(base64.b64decode(given[f"{key}_zlib_b64"])).decode()
            if f"{key}_zlib_b64" in given
            else given[key]
            for key in ("response", "label")
        }
        right = given["correct"] if given["rm_type"] in REWARDS else None
        found.append({"name": given["id"], **texts, "metadata": given["metadata"], "right": right})
    for name, answer in ANSWERS.items():
        for label in LABELS:
            found.append(case(f"{name} for {label}", f"</think> so $\\boxed{{{answer}}}$.", label, 0))
        found.append(case(f"{name} as the label", r"</think>\boxed{x+1}", answer, 0))
        found.append(case(f"{name} for a sum", f"</think>\\boxed{{{answer}}}", f"1+{answer}", None))
        found.append(case(f"{name} without a box", f"</think> The answer is ${answer}$", "x+1", 0))
    found.extend(case(name, response, "x+1", 0) for name, response in REPLIES.items())
    return found


def case(name: str, response: str, label: str, right: int | None) -> dict[str, Any]:
    return {"name": name, "response": response, "label": label, "metadata": {}, "right": right}


@pytest.mark.parametrize("reward", REWARDS)
def test_a_hostile_answer_gets_its_verdict_at_once_and_in_little_memory(reward: str) -> None:
    given = cases()
    ran = subprocess.run(
        [sys.executable, str(DRIVER), REWARDS[reward]],
        input="\n".join(json.dumps(case) for case in given),
        capture_output=True,
        text=True,
        check=True,
        timeout=280,
    )
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [result["name"] for result in found] == [case["name"] for case in given]
    wrong = [
        (result, case["right"])
        for case, result in zip(given, found, strict=True)
        if result["seconds"] > MAX_SECONDS or not is_right(result["verdict"], case["right"])
    ]
    assert wrong == []


def is_right(verdict: Any, right: int | None) -> bool:
    """A failure, or what is right; a label that says nothing is an error, and never a score."""
    if isinstance(verdict, str):
        return verdict.startswith("error: RewardError: label")
    return verdict in (0, 1) if right is None else verdict in (0, right)
