"""Renders a Helm chart without Helm, as far as deploy/helm/sublet needs it.

    templates = render("deploy/helm/sublet", {"mps": {"enabled": True}})
    templates["rbac.yaml"]

    helm_render.py [--check]     writes deploy/manifests anew, or says what is stale there

Debian has no Helm, so this knows the part of Go's templates that the chart keeps to: actions if,
else, else if, with, range, define, include; $, . and fields of both; strings, numbers, booleans;
pipelines and parentheses; the functions of FUNCTIONS; comments; trimmed blanks. Anything else is an
error with its line, not a guess. manifests_test.py compares it with Go's own text/template and
sprig where they are installed, and with `helm template` where Helm is.
"""

import copy
import pathlib
import re
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/sublet"
MANIFESTS = ROOT / "deploy/manifests"

# Plain manifests by folder: what is applied, and what takes it back.
FOLDERS = {
    "": {},
    "cleanup": {"cleanup": {"enabled": True}, "mps": {"enabled": True}, "cdi": {"enabled": True}},
}
RELEASE = {"Name": "sublet", "Namespace": "kube-system"}
HEADER = ("# Rendered from deploy/helm/sublet by tests/integration/helm_render.py: change that, "
          "and render anew.\n")

ACTION = re.compile(r"\{\{(-(?=\s))?((?:\"(?:[^\"\\]|\\.)*\"|[^\"])*?)((?<=\s)-)?\}\}", re.S)
TOKEN = re.compile(r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<number>-?\d+)|(?P<mark>[()|])|
                       (?P<path>\$?(?:\.\w+)+|[.$])|(?P<word>[A-Za-z]\w*))""", re.X)


class TemplateError(Exception):
    pass


class _Dumper(yaml.SafeDumper):
    """As sigs.k8s.io/yaml writes it, which toYaml uses."""


def _text(dumper, value):
    if "\n" in value:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|")
    # What would be read as something else stands in double quotes, as Go has it.
    kind = yaml.resolver.Resolver().resolve(yaml.ScalarNode, value, (True, False))
    style = None if kind == "tag:yaml.org,2002:str" else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(value):
    return yaml.dump(whole_numbers(value), Dumper=_Dumper, width=1 << 20, sort_keys=True,
                     default_flow_style=False).removesuffix("\n...\n").rstrip("\n")


def mapped(value, change):
    """`value` with each number in it changed."""
    if isinstance(value, dict):
        return {name: mapped(inner, change) for name, inner in value.items()}
    if isinstance(value, list):
        return [mapped(inner, change) for inner in value]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return change(value) if is_number else value


def whole_numbers(value):
    return mapped(value, lambda number: int(number) if number == int(number) else number)


def truth(value):
    return bool(value)


def as_text(value):
    if value is None:
        return "<no value>"
    value = whole_numbers(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def indent(count, text):
    return "\n".join(" " * count + line for line in text.split("\n"))


def equal(first, *others):
    if any(type(other) is not type(first) for other in others):
        raise TemplateError("eq compares what has different types")
    return first in others


def quote(value):
    return '"' + as_text(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def first_true(*values):
    return next((value for value in values if truth(value)), values[-1])


def first_false(*values):
    return next((value for value in values if not truth(value)), values[-1])


# As in Helm, but for what the chart never asks of them.
FUNCTIONS = {
    "and": first_false,
    "default": lambda fallback, value: value if truth(value) else fallback,
    "eq": equal,
    "indent": indent,
    "int": int,
    "ne": lambda one, other: not equal(one, other),
    "nindent": lambda count, text: "\n" + indent(count, text),
    "not": lambda value: not truth(value),
    "or": first_true,
    "printf": lambda form, *values: form % values,
    "quote": quote,
    "toYaml": to_yaml,
    "trim": str.strip,
}


class Template:
    """One file, as a tree: (kind, line, ...) with lists of such below."""

    def __init__(self, path, defines):
        self.name = path.name
        self.defines = defines
        self.pieces = list(self.split(path.read_text()))
        self.at = 0
        self.tree, end = self.block()
        if end:
            raise TemplateError(f"{self.name}:{end[1]}: {end[0]} without a beginning")

    def split(self, source):
        """Yields (is_action, line, text), blanks trimmed where a mark says so."""
        at, trim = 0, False
        for action in ACTION.finditer(source):
            text = source[at:action.start()]
            text = text.lstrip() if trim else text
            yield False, 0, text.rstrip() if action[1] else text
            line = source.count("\n", 0, action.start()) + 1
            yield True, line, action[2].strip()
            at, trim = action.end(), bool(action[3])
        rest = source[at:]
        if "{{" in rest:
            line = source.count("\n", 0, at + rest.index("{{")) + 1
            raise TemplateError(f"{self.name}:{line}: an action without its end")
        yield False, 0, rest.lstrip() if trim else rest

    def block(self):
        """What stands until an else or end, and which that was: (word, line, rest)."""
        nodes = []
        while self.at < len(self.pieces):
            is_action, line, text = self.pieces[self.at]
            self.at += 1
            if not is_action:
                nodes.append(("text", line, text))
                continue
            if text.startswith("/*") and text.endswith("*/"):
                continue
            word, _, rest = text.partition(" ")
            if word in ("else", "end"):
                return nodes, (word, line, rest)
            if word == "define":
                inner, _ = self.until_end(line)
                self.defines[rest.strip().strip('"')] = (self, inner)
            elif word in ("if", "with", "range"):
                nodes.append(self.branch(word, line, rest))
            else:
                nodes.append(("print", line, self.parse(text, line)))
        return nodes, None

    def until_end(self, line):
        inner, end = self.block()
        if not end:
            raise TemplateError(f"{self.name}:{line}: no end")
        return inner, end

    def branch(self, word, line, text):
        condition = self.parse(text, line)
        then, (closing, at, rest) = self.until_end(line)
        otherwise = []
        if closing == "else" and rest.startswith("if "):
            otherwise = [self.branch("if", at, rest[3:])]
        elif closing == "else" and not rest:
            otherwise, (closing, at, rest) = self.until_end(at)
            if closing != "end":
                raise TemplateError(f"{self.name}:{at}: a second else")
        elif rest:
            raise TemplateError(f"{self.name}:{at}: not known: {closing} {rest}")
        return (word, line, condition, then, otherwise)

    def parse(self, text, line):
        """A pipeline: a list of calls, each a list of operands."""
        tokens, at = [], 0
        while text[at:].strip():
            token = TOKEN.match(text, at)
            if not token:
                raise TemplateError(f"{self.name}:{line}: not known: {text[at:].strip()}")
            tokens.append((token.lastgroup, token[token.lastgroup]))
            at = token.end()
        pipeline, rest = self.pipeline(tokens, line)
        if rest:
            raise TemplateError(f"{self.name}:{line}: not expected: {rest[0][1]}")
        return pipeline

    def pipeline(self, tokens, line):
        calls = [[]]
        while tokens and tokens[0] != ("mark", ")"):
            (kind, text), tokens = tokens[0], tokens[1:]
            if (kind, text) == ("mark", "|"):
                calls.append([])
            elif kind == "mark":
                inner, tokens = self.pipeline(tokens, line)
                if not tokens:
                    raise TemplateError(f"{self.name}:{line}: no closing parenthesis")
                tokens = tokens[1:]
                calls[-1].append(("pipeline", inner))
            else:
                calls[-1].append((kind, text))
        if not all(calls):
            raise TemplateError(f"{self.name}:{line}: nothing to evaluate")
        return calls, tokens

    # Execution.

    def run(self, nodes, dot, top):
        return "".join(self.node(node, dot, top) for node in nodes)

    def node(self, node, dot, top):
        kind, line, value = node[:3]
        if kind == "text":
            return value
        try:
            result = self.evaluate(value, dot, top)
        except (TypeError, ValueError, AttributeError) as error:
            raise TemplateError(f"{self.name}:{line}: {error}") from error
        except TemplateError as error:
            if str(error).startswith(f"{self.name}:"):
                raise
            raise TemplateError(f"{self.name}:{line}: {error}") from error
        if kind == "print":
            return as_text(result)
        then, otherwise = node[3:]
        if not truth(result):
            return self.run(otherwise, dot, top)
        if kind == "range":
            if not isinstance(result, list):
                raise TemplateError(f"{self.name}:{line}: range is over lists only")
            return "".join(self.run(then, item, top) for item in result)
        return self.run(then, result if kind == "with" else dot, top)

    def evaluate(self, calls, dot, top):
        piped = []
        for operands in calls:
            (kind, text), *arguments = operands
            values = [self.operand(one, dot, top) for one in arguments] + piped
            if kind == "word" and text == "include":
                name, context = values
                if name not in self.defines:
                    raise TemplateError(f"include of what isn't defined: {name}")
                template, inner = self.defines[name]
                piped = [template.run(inner, context, context)]
            elif kind == "word" and text in FUNCTIONS:
                piped = [FUNCTIONS[text](*values)]
            elif values:
                raise TemplateError(f"not a function: {text}")
            else:
                piped = [self.operand((kind, text), dot, top)]
        return piped[0]

    def operand(self, operand, dot, top):
        kind, text = operand
        if kind == "pipeline":
            return self.evaluate(text, dot, top)
        if kind == "string":
            return re.sub(r"\\(.)", r"\1", text[1:-1])
        if kind == "number":
            return int(text)
        if kind == "word":
            if text in ("true", "false"):
                return text == "true"
            raise TemplateError(f"not a function: {text}")
        value = top if text.startswith("$") else dot
        for name in filter(None, text.lstrip("$").split(".")):
            if not isinstance(value, dict):
                raise TemplateError(f"no field {name} in {text}")
            if name not in value:
                # Helm would go on with nothing; here every value has a default.
                raise TemplateError(f"no such value: {text}")
            value = value[name]
        return value


def merged(base, over):
    """`over` laid on `base`, as Helm does with values: maps are joined, all else is replaced."""
    result = copy.deepcopy(base)
    for name, value in over.items():
        if isinstance(value, dict) and isinstance(result.get(name), dict):
            result[name] = merged(result[name], value)
        else:
            result[name] = copy.deepcopy(value)
    return result


def chart_values(chart, values):
    return merged(yaml.safe_load((pathlib.Path(chart) / "values.yaml").read_text()), values)


def render(chart, values, release=None):
    """The text of each template, by its name."""
    chart = pathlib.Path(chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    context = {
        # To Helm, which reads values as JSON, all numbers in them are floating: 0 isn't equal to
        # them, and int makes one that is.
        "Values": mapped(chart_values(chart, values), float),
        "Release": release or RELEASE,
        "Chart": {name[0].upper() + name[1:]: value for name, value in about.items()},
    }
    defines = {}
    paths = sorted((chart / "templates").iterdir())
    templates = [Template(path, defines) for path in paths]
    return {template.name: template.run(template.tree, context, context).strip("\n") + "\n"
            for template in templates if not template.name.startswith("_")}


def manifests():
    """What deploy/manifests is to have: text by path below it."""
    files = {}
    for folder, values in FOLDERS.items():
        for name, text in render(CHART, values).items():
            if name.endswith(".yaml") and text.strip():
                files[str(pathlib.PurePath(folder, name))] = HEADER + text
    return files


def main(arguments):
    wanted = manifests()
    there = {str(path.relative_to(MANIFESTS)): path for path in MANIFESTS.rglob("*.yaml")}
    stale = sorted(set(there) - set(wanted)) + [
        name for name, text in sorted(wanted.items())
        if name not in there or there[name].read_text() != text]
    if arguments == ["--check"]:
        for name in stale:
            print(f"stale: deploy/manifests/{name}")
        return 1 if stale else 0
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    for name in stale:
        path = MANIFESTS / name
        if name not in wanted:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[name])
        print(f"deploy/manifests/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
