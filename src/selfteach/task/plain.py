"""One way of writing for what people and models write: Unicode, Markdown and plain mathematics become LaTeX.

Text in, text out, in time linear in its length; nothing is evaluated.
"""

from __future__ import annotations

import re
import unicodedata

_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
    "omega"
)
_FUNCTIONS = "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp"
GREEK = tuple(_GREEK.split())
FUNCTIONS = frozenset(_FUNCTIONS.split())
WORDS = {
    **{name: f"\\{name} " for name in GREEK},
    **{name: f"\\{name} " for name in FUNCTIONS},
    "infinity": "\\infty ",
    "infty": "\\infty ",
    "inf": "\\infty ",
    "oo": "\\infty ",
    "asin": "\\arcsin ",
    "acos": "\\arccos ",
    "atan": "\\arctan ",
    "emptyset": "\\emptyset ",
}
"""Words that stand for a LaTeX command where they stand alone."""

ROOTS = {"sqrt": "\\sqrt", "cbrt": "\\sqrt[3]"}

_SUPERSCRIPT = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱˣ", "0123456789+-()nix", strict=True))
_SUBSCRIPT = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙₓᵢ", "0123456789+-()nxi", strict=True))
_CHARACTERS = {
    **dict.fromkeys("−–—‒―﹣－‐‑", "-"),
    **dict.fromkeys("×✕✖⨯", "\\times "),
    **dict.fromkeys("·⋅∙•∗", "\\cdot "),
    "÷": "\\div ",
    **dict.fromkeys("⁄∕／", "/"),
    "±": "\\pm ",
    "∓": "\\mp ",
    **dict.fromkeys("≤⩽≦", "\\le "),
    **dict.fromkeys("≥⩾≧", "\\ge "),
    "≠": "\\ne ",
    **dict.fromkeys("≈≅≃", "\\approx "),
    "≡": "\\equiv ",
    "∞": "\\infty ",
    "∪": "\\cup ",
    "∩": "\\cap ",
    "∖": "\\setminus ",
    **dict.fromkeys("∅Ø⌀", "\\emptyset "),
    "∈": "\\in ",
    "∉": "\\notin ",
    "ℝ": "\\mathbb{R}",
    "ℤ": "\\mathbb{Z}",
    "ℚ": "\\mathbb{Q}",
    "ℕ": "\\mathbb{N}",
    "ℂ": "\\mathbb{C}",
    **dict.fromkeys("°º˚", "^{\\circ}"),
    "ℓ": "l",
    "∠": "\\angle ",
    "△": "\\triangle ",
    "⟨": "\\langle ",
    "⟩": "\\rangle ",
    "∣": "|",
    "∧": "\\wedge ",
    "∨": "\\vee ",
    "→": "\\to ",
    "′": "'",
    **dict.fromkeys("‘’‚`´", "'"),
    **dict.fromkeys("“”„«»", '"'),
    "…": "\\ldots ",
    "∶": ":",
    "،": ",",
}


def _greek_letters() -> dict[str, str]:
    """By the letters' names, which Unicode spells as LaTeX does (but for lambda); omicron has no command."""
    found = {}
    for name in GREEK:
        spelled = "LAMDA" if name == "lambda" else name.upper()
        found[unicodedata.lookup(f"GREEK SMALL LETTER {spelled}")] = f"\\{name} "
    for name in ("Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Phi", "Psi", "Omega"):
        spelled = "LAMDA" if name == "Lambda" else name.upper()
        found[unicodedata.lookup(f"GREEK CAPITAL LETTER {spelled}")] = f"\\{name} "
    return found


_CHARACTERS |= _greek_letters()

_SCRIPT = re.compile(f"[{re.escape(''.join(_SUPERSCRIPT))}]+|[{re.escape(''.join(_SUBSCRIPT))}]+")
_ROOT = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|[A-Za-z]|(?=[({\\]))")
_ROOT_NAMES = {"√": "\\sqrt", "∛": "\\sqrt[3]", "∜": "\\sqrt[4]"}
_SPACES = re.compile(r"(?:(?<!\\)\\[,;:! ]|~|\\q?quad(?![A-Za-z])|\s)+")
_SIZES = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?)(?=[\\()\[\]{}|./<>])\.?"
    r"|\\(?:displaystyle|textstyle|limits|nolimits|boldsymbol|bm)(?![A-Za-z])"
)
_SPELLINGS = re.compile(
    r"\\(?:dfrac|tfrac|cfrac|leq|geq|leqslant|geqslant|neq|lbrace|rbrace|varnothing|infin)(?![A-Za-z])"
)
_SPELLED = {
    "dfrac": "\\frac",
    "tfrac": "\\frac",
    "cfrac": "\\frac",
    "leq": "\\le",
    "geq": "\\ge",
    "leqslant": "\\le",
    "geqslant": "\\ge",
    "neq": "\\ne",
    "lbrace": "\\{",
    "rbrace": "\\}",
    "varnothing": "\\emptyset",
    "infin": "\\infty",
}
_TOKEN = re.compile(
    r"\\(?:text|mathrm|operatorname|mbox)[a-z]*\s*\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z]+|\\.", re.DOTALL
)
_SCIENTIFIC = re.compile(r"(?<![A-Za-z\d.\\_])(\d+(?:\.\d*)?|\.\d+)[eE]([+-]?\d{1,6})(?![A-Za-z\d.])")
_MIXED = re.compile(r"(?<![\d.,/^_}{a-zA-Z])(\d{1,9}) +(\d{1,9}) ?/ ?(\d{1,9})(?![\d./^!])")
_COEFFICIENT = re.compile(r"(?<![\w./^}])(\d{1,9})/(\d{1,9}) (?=[A-Za-z\\(])")
_POWER = re.compile(r"\^ ?(-?\d+(?:\.\d+)?|-[A-Za-z])(?![\d.])")
_ARGUMENT = re.compile(r" ?[A-Za-z(\\^{]")
_LOG_BASE = re.compile(r"(?<![A-Za-z\\])log_?(2|10) ?(?=\()")
_UNION = re.compile(r"(?<=[)\]]) ?U ?(?=[(\[])")
_FRACTION_COMMAND = re.compile(r"\\frac ?(\d) ?(\d)")
_FRAMES = (
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("$$", "$$"),
    ("$", "$"),
    ("**", "**"),
    ("__", "__"),
    ("*", "*"),
    ("<b>", "</b>"),
    ("<strong>", "</strong>"),
    ("`", "`"),
    ('"', '"'),
)
_FRAMED = (
    "boxed",
    "fbox",
    "text",
    "textbf",
    "textit",
    "textrm",
    "textnormal",
    "mathrm",
    "mathbf",
    "mbox",
    "underline",
    "bf",
    "rm",
)


def latex_of(text: str) -> str:
    """``text`` as LaTeX in one spelling: ``√2/2`` is ``\\sqrt{2}/2``, ``3e8`` is ``3\\times 10^{8}``.

    What is LaTeX already stays what it is, but for spellings that mean the same (``\\dfrac``, ``\\leq``, ``\\left(``,
    spaces).
    """
    text = _SPELLINGS.sub(lambda m: _SPELLED[m.group()[1:]], _ascii(unframed(_shown(text))))
    text = _SPACES.sub(" ", _SIZES.sub("", text)).strip()
    text = _SPACES.sub(" ", _EMPTY.sub(" ", text).replace("{,}", ",").replace("**", "^").replace(":=", "="))
    text = text.replace("<=", "\\le ").replace(">=", "\\ge ").replace("!=", "\\ne ")
    text = _SCIENTIFIC.sub(r"\1\\times 10^{\2}", text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    text = _COEFFICIENT.sub(r"\\frac{\1}{\2}", text)
    text = _UNION.sub(r"\\cup ", text)
    text = _parenthesized(_words(_LOG_BASE.sub(r"\\log_{\1}", text)))
    text = _POWER.sub(r"^{\1}", text)
    text = _FRACTION_COMMAND.sub(r"\\frac{\1}{\2}", text)
    return _SPACES.sub(" ", text.replace("*", "\\cdot ")).strip()


_PREFIXED = re.compile(
    r"(?:\\therefore(?![A-Za-z])|∴|\\(?:large|Large|LARGE|huge|Huge)(?![A-Za-z]))\s*(?=\S)"
)
_STRUCK = re.compile(r"~~(?=\S)[^~]*(?<=\S)~~")
_EMPTY = re.compile(r"\\(?:text|mathrm|mbox)\s*\{\s*\}")
_HIDDEN = re.compile(r"\\(?:[hv]?phantom|[bx]?cancel|sout)\s*(?=\{)")


def _shown(text: str) -> str:
    """Without what takes room only, or is struck out."""
    text, kept, begin = _STRUCK.sub(" ", text), [], 0
    for found in _HIDDEN.finditer(text):
        end = closing(text, found.end()) if found.start() >= begin else -1
        if end >= 0:
            kept.append(text[begin : found.start()])
            begin = end + 1
    return " ".join([*kept, text[begin:]])


def unframed(text: str) -> str:
    """Without what encloses all of it: dollars, ``\\boxed{}``, ``\\text{}``, bold, quotes; and without a full stop."""
    text = text.strip()
    for _ in range(12):
        inner = _inside(text)
        if inner is None or not inner.strip():
            break
        text = inner.strip()
    return text


def _inside(text: str) -> str | None:
    """What the outermost frame holds; None without one."""
    if text.endswith((".", "。")) and not text.endswith(".."):
        return text[:-1]
    if len(text) > 1 and text.endswith((",", ";", ":", "✓", "✅")) and not text.endswith("\\" + text[-1]):
        return text[:-1]
    prefixed = _PREFIXED.match(text)
    if prefixed:
        return text[prefixed.end() :]
    for begin, end in _FRAMES:
        inner = text[len(begin) : len(text) - len(end)]
        if (
            text.startswith(begin)
            and text.endswith(end)
            and inner
            and begin not in inner
            and end not in inner
        ):
            return inner
    command = re.match(r"\\([A-Za-z]+)\s*\{", text)
    if command and command.group(1) in _FRAMED and closing(text, command.end() - 1) == len(text) - 1:
        return text[command.end() : -1]
    return None


def closing(text: str, start: int) -> int:
    """Where the bracket that opens at ``start`` closes; -1 if it does not. Escaped braces do not count."""
    opens = text[start]
    closes = {"{": "}", "(": ")", "[": "]"}[opens]
    depth, i = 0, start
    while i < len(text):
        if text[i] == "\\":
            i += 2
            continue
        depth += (text[i] == opens) - (text[i] == closes)
        if depth == 0:
            return i
        i += 1
    return -1


def _ascii(text: str) -> str:
    """Signs, scripts, fractions, digits and letters of Unicode as LaTeX; what nobody can see is left out."""
    text = _ROOT.sub(lambda m: _ROOT_NAMES[m.group(1)] + (f"{{{m.group(2)}}}" if m.group(2) else ""), text)
    text = _SCRIPT.sub(_script, text)
    written: list[str] = []
    for character in text:
        if character.isascii():
            written.append(character)
        elif character in _CHARACTERS:
            written.append(_CHARACTERS[character])
        else:
            written.append(_compatible(character, written[-1][-1:] if written else ""))
    return "".join(written)


def _script(match: re.Match[str]) -> str:
    found = match.group()
    up = found[0] in _SUPERSCRIPT
    table = _SUPERSCRIPT if up else _SUBSCRIPT
    return f"{'^' if up else '_'}{{{''.join(table[one] for one in found)}}}"


def _compatible(character: str, before: str) -> str:
    """Fractions and full-width or other digits and letters, by what Unicode says that they stand for."""
    if unicodedata.category(character) == "Cf":  # joiners, directions, soft hyphens
        return ""
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    plain = unicodedata.normalize("NFKC", character)
    top, slash, bottom = plain.partition("⁄")
    if slash:
        return f"\\frac{{{top}}}{{{bottom}}}" if top.isdigit() and bottom.isdigit() else f"{top}/{bottom}"
    if plain == character or not plain.isascii():
        return character if not plain.isspace() else " "
    return plain


def _words(text: str) -> str:
    """Names of functions, letters and roots outside commands and ``\\text{}`` as commands."""

    def command(match: re.Match[str]) -> str:
        word = match.group()
        if word.startswith("\\"):
            return word
        if word == "sec" and not _ARGUMENT.match(text, match.end()):
            return word  # seconds
        return ROOTS.get(word) or WORDS.get(word, word)

    return _TOKEN.sub(command, text)


def _parenthesized(text: str) -> str:
    """``\\sqrt(x+1)`` as ``\\sqrt{x+1}``, ``\\sqrt2`` as ``\\sqrt{2}``, ``x^(a+b)`` as ``x^{a+b}``, in one pass."""
    closers: list[bool] = []
    written: list[str] = []
    for match in re.finditer(
        r"(\\sqrt(?:\[[^\[\]]*\])?|\^) ?\(|(\\sqrt(?:\[[^\[\]]*\])?) ?(\d+|[A-Za-z])|\\.|.", text, re.DOTALL
    ):
        found = match.group()
        if match.group(1):
            closers.append(True)
            written.append(f"{match.group(1)}{{")
        elif match.group(2):
            written.append(f"{match.group(2)}{{{match.group(3)}}}")
        elif found == "(":
            closers.append(False)
            written.append("(")
        elif found == ")":
            written.append("}" if closers and closers.pop() else ")")
        else:
            written.append(found)
    return "".join(written) if not any(closers) else text
