package config_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"consultd/config"
	"consultd/states"
)

var update = flag.Bool("update", false, "rewrite docs/config.md")

const docsFile = "../docs/config.md"

// TestDocs keeps docs/config.md equal to the struct: every field, its default, its variable and its comment.
func TestDocs(t *testing.T) {
	t.Parallel()
	want := render(t)
	if *update {
		if err := os.WriteFile(docsFile, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("docs/config.md is not what the struct says; run make docs")
	}
}

func render(t *testing.T) string {
	t.Helper()
	comments := fieldComments(t)
	var b strings.Builder
	b.WriteString(`# Configuration

Generated from ` + "`config/config.go`" + ` by ` + "`make docs`" + `.

One YAML file, named by ` + "`consultd run --config FILE`" + `; an unknown field is an error. The environment overrides the file: the variable of
` + "`redis.addr`" + ` is ` + "`CONSULTD_REDIS_ADDR`" + `, a list is written ` + "`a,b`" + `, a map as YAML (` + "`{cardiology: [dr-a]}`" + `).
` + "`consultd check-config FILE`" + ` reports every problem at once, each with its line. [consultd.example.yaml](consultd.example.yaml) is a whole file.

Durations are numbers with a unit, down to milliseconds: ` + "`500ms`, `30s`, `5m`, `12h`" + `.
A secret is written as ` + "`file:/run/secrets/name`" + ` or ` + "`env:NAME`" + ` (or in clear, which production warns about), is read once at start, and prints as ` + "`[redacted]`" + `.
`)
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		section := v.Type().Name()
		rows := 0
		for i := range v.NumField() {
			f := v.Type().Field(i)
			name := f.Tag.Get("yaml")
			if name == "" || isSection(f.Type) {
				continue
			}
			if rows++; rows == 1 {
				title, meaning := "Top level", ""
				if path != "" {
					title = "`" + path + "`"
					_, meaning, _ = strings.Cut(comments[section], " is ")
				}
				fmt.Fprintf(&b, "\n## %s\n\n", title)
				if meaning != "" {
					fmt.Fprintf(&b, "%s%s\n\n", strings.ToUpper(meaning[:1]), meaning[1:])
				}
				b.WriteString("| field | default | meaning |\n|---|---|---|\n")
			}
			meaning := comments[section+"."+f.Name]
			if meaning == "" {
				t.Errorf("field %s of %s has no comment", f.Name, section)
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", name, defaultText(v.Field(i)), strings.ReplaceAll(meaning, "|", "\\|"))
		}
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.Tag.Get("yaml") != "" && isSection(f.Type) {
				walk(v.Field(i), strings.TrimPrefix(path+"."+f.Tag.Get("yaml"), "."))
			}
		}
	}
	walk(reflect.ValueOf(config.Default()).Elem(), "")
	return b.String()
}

func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t != reflect.TypeFor[config.Secret]()
}

// fieldComments reads the comments of config.go: by type name, and by type and field name.
func fieldComments(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	comments := map[string]string{}
	text := func(group *ast.CommentGroup) string { return strings.Join(strings.Fields(group.Text()), " ") }
	for _, decl := range file.Decls {
		general, ok := decl.(*ast.GenDecl)
		if !ok || general.Tok != token.TYPE {
			continue
		}
		for _, spec := range general.Specs {
			typ, ok := spec.(*ast.TypeSpec)
			if !ok {
				continue
			}
			comments[typ.Name.Name] = text(general.Doc)
			structure, ok := typ.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, field := range structure.Fields.List {
				for _, name := range field.Names {
					comments[typ.Name.Name+"."+name.Name] = text(field.Doc)
				}
			}
		}
	}
	return comments
}

func defaultText(v reflect.Value) string {
	short := func(d time.Duration) string {
		text := d.String()
		if strings.HasSuffix(text, "m0s") {
			text = strings.TrimSuffix(text, "0s")
		}
		if strings.HasSuffix(text, "h0m") {
			text = strings.TrimSuffix(text, "0m")
		}
		return text
	}
	var parts []string
	switch d := v.Interface().(type) {
	case config.Secret:
		return ""
	case time.Duration:
		return "`" + short(d) + "`"
	case []time.Duration:
		for _, wait := range d {
			parts = append(parts, short(wait))
		}
		return "`[" + strings.Join(parts, ", ") + "]`"
	case map[states.Severity]time.Duration:
		for _, severity := range []states.Severity{states.SeverityUrgent, states.SeverityCritical, states.SeverityLifeThreatening} {
			parts = append(parts, fmt.Sprintf("%s: %s", severity, short(d[severity])))
		}
		return "`{" + strings.Join(parts, ", ") + "}`"
	case []string:
		if len(d) == 0 {
			return ""
		}
		return "`[" + strings.Join(d, ", ") + "]`"
	}
	if v.Kind() == reflect.Map || v.Kind() == reflect.Slice || v.Kind() == reflect.String && v.Len() == 0 {
		return ""
	}
	return fmt.Sprintf("`%v`", v.Interface())
}
