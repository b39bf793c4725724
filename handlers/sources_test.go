package handlers

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"
)

// constants reads the text constants of a file whose type is typeName, or whose names begin with it when they have none.
func constants(t testing.TB, file, typeName string) map[string]string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != len(spec.Names) {
			return true
		}
		typed, _ := spec.Type.(*ast.Ident)
		for i, name := range spec.Names {
			matches := typed != nil && typed.Name == typeName || typed == nil && strings.HasPrefix(name.Name, typeName)
			if value, ok := spec.Values[i].(*ast.BasicLit); ok && matches && value.Kind == token.STRING {
				text, err := strconv.Unquote(value.Value)
				if err != nil {
					t.Fatal(err)
				}
				found[name.Name] = text
			}
		}
		return true
	})
	if len(found) == 0 {
		t.Fatalf("%s has no constants of %s", file, typeName)
	}
	return found
}
