"""The subset of Go templates behind --format; what is expected is what Go's text/template gives."""

from __future__ import annotations

import pytest

from core.cli.output import render_rows
from core.cli.template import Template
from core.errors import InvalidArgument

DATA = {
    "Name": "/web",
    "State": {"Status": "running", "Running": True, "Pid": 42, "Error": "", "OOM": None},
    "Config": {"Labels": {"app": "web", "com.example/x": "y"}, "Env": ["A=1", "B=2"], "Cmd": []},
    "Ratio": 0.5,
    "Ports": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}], "53/udp": None},
    "Label": {"app": "web"}.get,
}

GIVES = {
    "plain text": "plain text",
    "{{.Name}}": "/web",
    "{{ .State.Pid }}|{{.State.Running}}|{{.State.OOM}}|{{.Ratio}}": "42|true|<nil>|0.5",
    "{{.Config.Env}} {{.Config.Labels}}": "[A=1 B=2] map[app:web com.example/x:y]",
    "{{json .Config.Env}}{{json .State.OOM}}": '["A=1","B=2"]null',
    "{{json .}}": None,
    '{{index .Config.Labels "app"}}/{{index .Config.Labels "none"}}': "web/",
    '{{index .Config.Env 1}} {{(index (index .Ports "80/tcp") 0).HostPort}}': "B=2 8080",
    "{{.Config.Labels.app}} {{.Config.Labels.none}}": "web <no value>",
    "{{range .Config.Env}}<{{.}}>{{end}}": "<A=1><B=2>",
    "{{range $i, $e := .Config.Env}}{{$i}}={{$e}};{{end}}": "0=A=1;1=B=2;",
    "{{range $k, $v := .Config.Labels}}{{$k}}:{{$v}} {{end}}": "app:web com.example/x:y ",
    "{{range .Config.Cmd}}x{{else}}none{{end}}": "none",
    "{{range .Config.Env}}{{$.Name}} {{end}}": "/web /web ",
    "{{if .State.Running}}up{{else}}down{{end}}": "up",
    "{{if .State.Error}}a{{else if .State.Running}}b{{else}}c{{end}}": "b",
    "{{if .State.Health}}{{.State.Health.Status}}{{else}}no health{{end}}": "no health",
    "{{with .State}}{{.Status}}{{end}}{{with .State.Error}}x{{else}}-{{end}}": "running-",
    '{{join .Config.Env ","}} {{upper .State.Status}} {{.State.Status | upper | lower}}': "A=1,B=2 RUNNING running",
    '{{len .Config.Env}} {{len (split "a-b-c" "-")}} {{title "abc"}}': "2 3 Abc",
    '{{println "a" 1}}{{print "b"}}': "a 1\nb",
    '{{printf "%-5s|%5d|%q|%v|%.1f%%" "x" 7 "q\\"" true 0.25}}': 'x    |    7|"q\\""|true|0.2%',
    '{{if and .State.Running (eq .State.Status "running" "paused")}}y{{end}}': "y",
    "{{if or .State.Error .Nothing}}y{{else}}n{{end}}{{not .State.Running}}": "nfalse",
    "{{if gt .State.Pid 41}}{{if le 1 1}}{{if ne 1 2}}ok{{end}}{{end}}{{end}}": "ok",
    "a {{- .Name -}} b": "a/webb",
    "{{/* a comment */}}x": "x",
    "{{$n := .Name}}{{$n}}{{$n}}": "/web/web",
    '{{.Label "app"}}{{ `raw"` }}': 'webraw"',
    "{{slice .Name 1}} {{slice .Name 0 2}} {{truncate .State.Status 3}}": "web /w run",
    "{{range $p, $b := .Ports}}{{$p}} {{if $b}}{{(index $b 0).HostPort}}{{end}};{{end}}": "53/udp ;80/tcp 8080;",
    "{{true}} {{nil}}": "true <nil>",
}


@pytest.mark.parametrize("source", GIVES)
def test_gives(source: str) -> None:
    text = Template(source).render(DATA)
    if GIVES[source] is None:
        assert text.startswith('{"Name":"/web"')
        assert 'Label":<' not in text
    else:
        assert text == GIVES[source]


WRONG = {
    "{{.Name": "without }}",
    "{{.Nope}}": "there are: Config, Label, Name",
    "{{.State.Nope}}": "no field 'Nope'",
    "{{.Name.X}}": "has no field 'X'",
    "{{if .Name}}": "no {{end}}",
    "{{end}}": "without a block",
    "{{else}}": "without a block",
    "{{if .Name}}{{else}}{{else}}{{end}}": "two {{else}}",
    "{{}}": "empty",
    "{{nofunction .Name}}": "no function 'nofunction'",
    '{{template "x"}}': "not supported",
    '{{define "x"}}{{end}}': "not supported",
    "{{range .State.Pid}}{{end}}": "range cannot go over",
    "{{$x}}": "no such variable $x",
    "{{(.Name}}": "not closed",
    "{{.Name | .State}}": "nothing can be piped",
    "{{index .Config.Env 9}}": "index:",
    "{{join .Config.Env}}": "join:",
    "{{.Name)}}": "unexpected",
    "{{ # }}": "cannot read",
    '{{printf "%d" .Name}}': "printf:",
}


@pytest.mark.parametrize("source", WRONG)
def test_errors_say_what_is_wrong(source: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Template(source).render(DATA)
    assert WRONG[source] in caught.value.why
    assert caught.value.exit_code == 125


ROWS = [{"ID": "abc", "Names": "web"}, {"ID": "def", "Names": "a-longer-name"}]
COLUMNS = (("CONTAINER ID", "ID"), ("NAMES", "Names"))


def test_tables_are_aligned() -> None:
    expected = ["CONTAINER ID   NAMES", "abc            web", "def            a-longer-name"]
    assert render_rows(ROWS, COLUMNS, None) == render_rows(ROWS, COLUMNS, "table") == expected
    assert render_rows([], COLUMNS, None) == expected[:1]


def test_table_of_a_template_has_heads() -> None:
    lines = render_rows(ROWS, COLUMNS, "table {{.Names}}\\t{{.ID}}")
    assert lines == ["NAMES           CONTAINER ID", "web             abc", "a-longer-name   def"]


def test_json_and_templates_of_rows() -> None:
    assert render_rows(ROWS, COLUMNS, "json")[0] == '{"ID":"abc","Names":"web"}'
    assert render_rows(ROWS, COLUMNS, "{{.ID}}:{{.Names}}") == ["abc:web", "def:a-longer-name"]
    assert render_rows([], COLUMNS, "{{.ID}}") == []


def test_nothing_in_a_table_reaches_the_terminal_as_a_command() -> None:
    line = render_rows([{"ID": "a\x1b[2Jb\nc", "Names": "n"}], COLUMNS, None)[1]
    assert line == "a\\x1b[2Jb\\nc   n"
