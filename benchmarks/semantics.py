"""
What is lost without a teacher LLM? `KeywordTeacher` against a teacher's file, on the same SID index.

    python benchmarks/semantics.py --data_dir amazon/Industrial_and_Scientific

Three questions, three tables (`coverage.csv`, `distinctness.csv`, `summary.csv`) and one plot (`curves.png`):

- coverage: how many tokens are described, with how many keywords, and how many items of a cluster mention one of them;
- distinctness: mean Jaccard similarity of the keywords of two tokens of a level, as whole keywords and as single
  words;
- training: the loss curve of `sa_init_study.py` with SA-Init from either source (about 4 minutes a run on a CPU core),
  and, as controls, with the keywords of either permuted among the tokens of a level (`--shuffled False` leaves these
  out). Finished runs are not repeated; `--train False` leaves out all of them.

`--semantics_files mine.json` adds files of other teachers.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import sa_init_study
from common import DataArguments, Runs, markdown_table, run_script, write_csv
from sklearn.feature_extraction.text import CountVectorizer
from small_models import load_semantics

from tsrec_hf import KeywordTeacher, SIDIndex, TokenSemantics, TSRecTokenizer, describe_tokens, load_minionerec


LEAST_KEYWORDS = 15
SHUFFLED = "-shuffled"


@dataclass(kw_only=True)
class BenchmarkArguments(DataArguments):
    """What to compare and how long to train."""

    semantics_files: list[str] = field(default_factory=list, metadata={"help": "Further files to compare."})
    initialization: str = field(default="idf-centered-match_resize", metadata={"help": "A variant of the study."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Training runs per file."})
    shuffled: bool = field(default=True, metadata={"help": "Whether to train with shuffled keywords too."})
    train: bool = field(default=True, metadata={"help": "Whether to train at all."})
    max_steps: int = field(default=160, metadata={"help": "Steps of a run."})
    quick: bool = field(default=False, metadata={"help": "One run of a few steps a file, to show that it works."})
    output_dir: str = field(default="outputs/semantics", metadata={"help": "Folder of the results."})

    def __post_init__(self):
        known = sa_init_study.INITIALIZATIONS
        usable = [name for name, settings in known.items() if settings and not settings.get("shuffle_seed")]
        if self.initialization not in usable or (self.shuffled and self.initialization + SHUFFLED not in known):
            raise ValueError(
                f"Expected an initialisation that uses keywords, among {usable}, and with `--shuffled` one that the "
                f"study has a control of, but found {self.initialization!r}."
            )
        self.seeds = self.seeds[:1] if self.quick else self.seeds


def words_of(text: str) -> list[str]:
    """Words as scikit-learn counts them."""
    return CountVectorizer().build_analyzer()(text)


def coverage(semantics: TokenSemantics, index: SIDIndex, texts: list[str]) -> dict[str, float]:
    """How many tokens are described, by how many keywords, and how many items of a cluster mention them."""
    described = [token for level in index.tokens for token in level if token in semantics]
    sizes = np.array([len(semantics[token].keywords) for token in described])
    # An item mentions a keyword if its text has the words of it in a row.
    spelled = {token: {" ".join(words_of(word)) for word in semantics[token].keywords} - {""} for token in described}
    column = {word: number for number, word in enumerate(sorted(set().union(*spelled.values())))}
    longest = max(len(word.split(" ")) for word in column)
    vectorizer = CountVectorizer(ngram_range=(1, longest), binary=True, vocabulary=column)
    mentions = vectorizer.transform(texts).tocsr()  # (items, keywords)
    reached, used = [], []
    for level, tokens in enumerate(index.tokens):
        for code in np.unique(index.codes[:, level]):
            columns = [column[word] for word in spelled.get(tokens[code], ())]
            found = mentions[np.flatnonzero(index.codes[:, level] == code)][:, columns].toarray() > 0
            reached.append(found.any(axis=1).mean())
            used.extend(found.any(axis=0))
    return {
        "tokens described": len(described) / sum(index.level_sizes),
        "keywords a token": sizes.mean(),
        f"tokens with at least {LEAST_KEYWORDS} keywords": (sizes >= LEAST_KEYWORDS).mean(),
        "items that mention a keyword of their token": np.mean(reached),
        "keywords that some item of the cluster mentions": np.mean(used),
    }


def mean_jaccard(sets: list[set[str]]) -> float:
    """Mean over all pairs of `|a & b| / |a | b|`."""
    names = {name: number for number, name in enumerate(sorted(set().union(*sets)))}
    member = np.zeros((len(sets), len(names)))
    for row, one in enumerate(sets):
        member[row, [names[name] for name in one]] = 1
    shared = member @ member.T
    sizes = member.sum(axis=1)
    either = sizes[:, None] + sizes[None, :] - shared
    pairs = np.triu_indices(len(sets), k=1)
    return float((shared[pairs] / np.maximum(either[pairs], 1)).mean())


def distinctness(semantics: TokenSemantics, index: SIDIndex) -> dict[str, float]:
    """Mean Jaccard similarity between tokens of each level, and the share of keywords that belong to one token."""
    figures = {}
    for level, tokens in enumerate(index.tokens):
        keywords = [{word.casefold() for word in semantics[token].keywords} for token in tokens if token in semantics]
        words = [{part for word in one for part in words_of(word)} for one in keywords]
        uses = Counter(word for one in keywords for word in one)
        name = "abcdefgh"[level]
        figures[f"level {name}: Jaccard of keywords"] = mean_jaccard(keywords)
        figures[f"level {name}: Jaccard of single words"] = mean_jaccard(words)
        figures[f"level {name}: keywords of one token alone"] = float(np.mean([n == 1 for n in uses.values()]))
    return figures


def write_table(figures: dict[str, dict[str, float]], path: Path) -> None:
    """Writes a table as CSV and prints it as Markdown: a row a figure, a column a teacher."""
    header = ["", *figures]
    names = next(iter(figures.values()))
    rows = [[name, *(f"{figures[teacher][name]:.3f}" for teacher in figures)] for name in names]
    write_csv(path, header, rows)
    print(markdown_table(header, rows), flush=True)


def digest(semantics: TokenSemantics) -> str:
    """Fingerprint of the keywords, so that runs with different ones are not averaged."""
    keywords = {token: meaning.keywords for token, meaning in sorted(semantics.items())}
    return hashlib.sha256(json.dumps(keywords).encode()).hexdigest()


def train(args: BenchmarkArguments, teachers: dict[str, TokenSemantics], dataset, folder: Path) -> None:
    """Runs the study's training once per file, control and seed, and writes its summary and curves."""
    # The control starts with the same rows, permuted within each level.
    initializations = [args.initialization, *([args.initialization + SHUFFLED] if args.shuffled else [])]
    study = sa_init_study.StudyArguments(
        data_dir=args.data_dir,
        quick=args.quick,
        max_steps=None if args.quick else args.max_steps,
        variants=initializations,
        seeds=args.seeds,
        output_dir=str(folder),
    )
    backbone = study.backbone(folder)
    tokenizer = TSRecTokenizer.from_backbone(backbone, dataset.sid_index)
    runs = Runs(folder / "runs", study.settings())
    variants = {
        name + initialization.removeprefix(args.initialization): (initialization, name, semantics)
        for name, semantics in teachers.items()
        for initialization in initializations
    }
    results = []
    for seed in args.seeds:
        for variant, (initialization, name, semantics) in variants.items():
            result = runs.get(
                f"{name}-{initialization}-seed{seed}",
                lambda: sa_init_study.run(study, initialization, seed, backbone, dataset, semantics, tokenizer),
                semantics=digest(semantics),
            )
            print({key: result[key] for key in ("eval_loss", "hr@10", "ndcg@10", "seconds")}, flush=True)
            results.append(result | {"variant": variant})
    results.sort(key=lambda result: list(variants).index(result["variant"]))
    sa_init_study.plot(results, folder / "curves.png")
    print(sa_init_study.summarize(results, folder))


def main(args: BenchmarkArguments) -> None:
    folder = Path(args.output_dir)
    dataset = load_minionerec(args.data_dir)
    teachers = {
        "teacher": load_semantics(args.data_dir),
        "KeywordTeacher": describe_tokens(dataset.items, dataset.sid_index, KeywordTeacher()),
    }
    teachers |= {Path(path).stem: TokenSemantics.from_json(path) for path in args.semantics_files}
    row_of = {item_id: row for row, item_id in enumerate(dataset.items["item_id"])}
    texts = [f"{title}\n{text}" for title, text in zip(dataset.items["title"], dataset.items["description"])]
    texts = [texts[row_of[item_id]] for item_id in dataset.sid_index.item_ids]
    write_table({n: coverage(s, dataset.sid_index, texts) for n, s in teachers.items()}, folder / "coverage.csv")
    write_table({n: distinctness(s, dataset.sid_index) for n, s in teachers.items()}, folder / "distinctness.csv")
    if args.train:
        train(args, teachers, dataset, folder)


if __name__ == "__main__":
    run_script(main, BenchmarkArguments)
