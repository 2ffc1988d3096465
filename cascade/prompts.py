"""Renders Jinja2 templates in a sandbox; knows nothing of policies or models.

Input text is data: it is put into a template's holes and never rendered itself. Undefined variables are errors, loops and
operators are bounded, and a template reads other templates from its own folder only (symlinks that lead out are refused).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import TracebackType
from typing import Any

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cascade.errors import InputError, TemplateError
from cascade.types import Json, Template

MAX_RENDERED = 4 * 1024 * 1024
"""Characters a rendered prompt may have; more is an error, not a bill."""

MAX_REPEAT = 100_000
Includes = tuple[tuple[str, str], ...]
_PADDING = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map"})


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with the operators and methods that make much out of little bounded as well."""

    intercepted_binops = frozenset({"**", "*", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and (abs(left) > 10_000 or abs(right) > 64):
            raise jinja2.TemplateRuntimeError("** is bounded to 10000 ** 64 in templates")
        if operator == "*" and any(isinstance(x, str | list | tuple) for x in (left, right)):
            times = right if isinstance(right, int) else left
            if not isinstance(times, int) or times > MAX_REPEAT:
                raise jinja2.TemplateRuntimeError(f"a text or list can be repeated at most {MAX_REPEAT} times in a template")
        if operator == "%" and isinstance(left, str):
            raise jinja2.TemplateRuntimeError("% formatting is not available in templates; use ~ to join or |round")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return not (isinstance(obj, str) and attr in _PADDING) and super().is_safe_attribute(obj, attr, value)


class _FolderLoader(jinja2.BaseLoader):
    """Loads `{% include "x.j2" %}` from what is `known` already, else from the folder of the including template, and from nowhere else."""

    def __init__(self, folder: str, known: Includes = ()) -> None:
        self.folder = folder
        self.known = dict(known)

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        path = os.path.realpath(os.path.join(self.folder, template))
        if os.path.commonpath([path, self.folder]) != self.folder:
            raise jinja2.TemplateNotFound(template, f"{template} leads out of {self.folder}")
        known = self.known.get(os.path.relpath(path, self.folder))
        if known is not None:
            return known, path, lambda: True
        try:
            with open(path, encoding="utf-8") as file:
                return file.read(), path, lambda: True
        except (OSError, UnicodeDecodeError) as err:
            raise jinja2.TemplateNotFound(template, f"{template}: {err}") from err


@lru_cache(maxsize=64)
def _environment(folder: str, known: Includes = ()) -> _Sandbox:
    env = _Sandbox(undefined=jinja2.StrictUndefined, loader=_FolderLoader(folder, known), autoescape=False, keep_trailing_newline=False,
                   trim_blocks=True, lstrip_blocks=True, auto_reload=False)
    for name in ("center", "format", "indent", "xmlattr"):
        env.filters.pop(name)
    # orjson-like JSON for data in prompts: jinja's own tojson escapes < > & for HTML, which models read badly
    env.policies["json.dumps_kwargs"] = {"sort_keys": False, "ensure_ascii": False}
    env.filters["tojson"] = _to_json
    return env


def _to_json(value: Json, indent: int | None = None) -> str:
    import json

    if isinstance(value, jinja2.Undefined):
        value._fail_with_undefined_error()
    return json.dumps(value, ensure_ascii=False, indent=min(indent, 8) if indent else None)


def _folder(template: Template) -> str:
    return os.path.realpath(os.path.dirname(template.path) or ".")


@lru_cache(maxsize=256)
def _compiled(template: Template) -> jinja2.Template:
    env = _environment(_folder(template), template.includes)
    code = env.compile(template.source, name=template.path, filename=template.path)
    return env.template_class.from_code(env, code, env.make_globals(None), None)


def render(template: Template, variables: Mapping[str, Json]) -> str:
    """The template's text with the variables filled in.

    Raises InputError when a variable is missing, TemplateError for anything else; both name the template's file and line.
    """
    try:
        text = _compiled(template).render(variables)
    except jinja2.UndefinedError as err:
        raise InputError(f"{_place(template, err.__traceback__)}: {err.message}; the inputs have: {_names(variables)}") from err
    except jinja2.TemplateSyntaxError as err:
        raise TemplateError(_syntax(template, err)) from err
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as err:
        raise TemplateError(f"{_place(template, err.__traceback__)}: {err}") from err
    if len(text) > MAX_RENDERED:
        raise InputError(f"{template.path}: the rendered prompt has {len(text)} characters, at most {MAX_RENDERED} are allowed")
    return text


def check(template: Template) -> list[str]:
    """Problems of a template as lines `file:line: what`, without rendering it; [] when it is sound."""
    try:
        for part in parts(template):
            _compiled(part)
    except jinja2.TemplateSyntaxError as err:
        return [_syntax(template, err)]
    except jinja2.TemplateNotFound as err:
        return [f"{template.path}:{template.line}: includes a template that cannot be read: {err.message}"]
    except TemplateError as err:
        return [str(err)]
    return []


def whole(template: Template) -> Template:
    """The template with all it includes, so that it needs no file any more. It must be sound."""
    folder = _folder(template)
    return template._replace(includes=tuple((os.path.relpath(part.path, folder), part.source) for part in parts(template)[1:]))


def variables(template: Template) -> set[str]:
    """The names a template (with all it includes) wants to be given."""
    names: set[str] = set()
    for part in parts(template):
        names |= meta.find_undeclared_variables(_environment(_folder(template)).parse(part.source))
    return names


def digest(template: Template | None) -> str | None:
    """sha256 hex over the template and everything it includes; the place it came from does not count. None for none."""
    if template is None:
        return None
    total = hashlib.sha256()
    for part in parts(template):
        total.update(hashlib.sha256(part.source.encode()).digest())
    return total.hexdigest()


def by_content(options: Mapping[str, Any]) -> dict[str, Json]:
    """Options as JSON for a digest: templates by what they say, not by where they are."""
    return {key: _by_content(value) for key, value in options.items()}


def _by_content(value: Any) -> Json:
    if isinstance(value, list):
        return [_by_content(item) for item in value]
    return digest(value) if isinstance(value, Template) else value


def parts(template: Template) -> list[Template]:
    """The template and, depth first, those it includes, each once."""
    env = _environment(_folder(template), template.includes)
    parts = [template]
    for part in parts:
        for name in meta.find_referenced_templates(env.parse(part.source)):
            if name is None:
                raise TemplateError(f"{part.path}:{part.line}: includes must be named by a plain string")
            assert env.loader is not None
            source, path, _ = env.loader.get_source(env, name)
            if all(path != seen.path for seen in parts):
                parts.append(Template(source, path or name))
    return parts


def _syntax(template: Template, err: jinja2.TemplateSyntaxError) -> str:
    path = err.filename if err.filename and err.filename != "<unknown>" else template.path
    first = template.line if path == template.path else 1
    return f"{path}:{first + err.lineno - 1}: template: {err.message}"


def _place(template: Template, traceback: TracebackType | None) -> str:
    """file:line of the innermost frame that is a template's; jinja2 maps frames of compiled code to template lines."""
    place = f"{template.path}:{template.line}"
    while traceback is not None:
        name = traceback.tb_frame.f_code.co_filename
        if name == template.path:
            place = f"{name}:{template.line + traceback.tb_lineno - 1}"
        elif traceback.tb_frame.f_globals.get("__jinja_template__") is not None:
            place = f"{name}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place


def _names(variables: Mapping[str, Json]) -> str:
    return ", ".join(sorted(variables)) or "nothing"
