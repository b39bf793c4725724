package handlers

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

// Schemas are the JSON Schema files of every message, below schema/: the contract with the developers of apps.
//
//go:embed schema
var Schemas embed.FS

// schemaBase makes the files' relative references resolvable; nothing is ever loaded from outside.
const schemaBase = "file:///"

// identifierSchema is what a value violates that should have been an identifier.
const identifierSchema = "common.json#/$defs/identifier"

// compiler returns a compiler that knows every embedded file.
func compiler() (*jsonschema.Compiler, error) {
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	c.UseLoader(jsonschema.SchemeURLLoader{}) // no scheme: a reference to something that is not embedded is an error
	err := fs.WalkDir(Schemas, "schema", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || path.Ext(name) != ".json" {
			return err
		}
		data, err := Schemas.ReadFile(name)
		if err != nil {
			return err
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return c.AddResource(schemaBase+name, doc)
	})
	if err != nil {
		return nil, fmt.Errorf("read message schemas: %w", err)
	}
	return c, nil
}

// compileFolder compiles the schemas of one folder, by the name of the message.
func compileFolder(c *jsonschema.Compiler, folder string) (map[string]*jsonschema.Schema, error) {
	entries, err := Schemas.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("read message schemas: %w", err)
	}
	compiled := make(map[string]*jsonschema.Schema, len(entries))
	for _, entry := range entries {
		name, isSchema := strings.CutSuffix(entry.Name(), ".json")
		if !isSchema {
			continue
		}
		schema, err := c.Compile(schemaBase + folder + "/" + entry.Name())
		if err != nil {
			return nil, fmt.Errorf("compile message schema %s/%s: %w", folder, entry.Name(), err)
		}
		compiled[name] = schema
	}
	return compiled, nil
}

// violation turns a validation error into a refusal that names the field and the rule, never the value.
func violation(err error) *Refused {
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return refuse(CodeSchema, "does not fit its schema")
	}
	var found []*Refused
	collect(invalid, &found)
	// The validator walks maps, so its order is not fixed; the answer to the same message should be.
	first := slices.MinFunc(found, func(a, b *Refused) int { return strings.Compare(a.Detail, b.Detail) })
	return first
}

func collect(e *jsonschema.ValidationError, found *[]*Refused) {
	if len(e.Causes) > 0 {
		for _, cause := range e.Causes {
			collect(cause, found)
		}
		return
	}
	where := strings.Join(e.InstanceLocation, ".")
	if where == "" {
		where = "message"
	}
	code, rule := CodeSchema, ""
	switch k := e.ErrorKind.(type) {
	case *kind.Required:
		slices.Sort(k.Missing)
		rule = "needs " + strings.Join(k.Missing, ", ")
	case *kind.AdditionalProperties, *kind.FalseSchema:
		// The name of an unknown field is the sender's text: it may be anything, so it is not repeated.
		rule = "has a field that the schema does not know"
		if _, unevaluated := e.ErrorKind.(*kind.FalseSchema); unevaluated {
			where = "message"
		}
	case *kind.Type:
		rule = "must be " + strings.Join(k.Want, " or ")
	case *kind.Enum:
		rule = "must be one of " + list(k.Want)
	case *kind.Const:
		rule = "must be " + list([]any{k.Want})
	case *kind.Pattern, *kind.Not:
		rule = "has characters or a length that are not allowed"
		if strings.HasSuffix(e.SchemaURL, identifierSchema) {
			code, rule = CodeBadIdentifier, fmt.Sprintf("must be 1 to %d characters of A-Z a-z 0-9 _ - and not end in %s", MaxIdentifier, presenceSuffix)
		}
	case *kind.Format:
		rule = "must be a " + k.Want
	case *kind.MaxLength:
		rule = fmt.Sprintf("must have at most %d characters", k.Want)
	case *kind.MinLength:
		rule = fmt.Sprintf("must have at least %d characters", k.Want)
	case *kind.Minimum:
		rule = "must be at least " + k.Want.RatString()
	case *kind.Maximum:
		rule = "must be at most " + k.Want.RatString()
	case *kind.MaxItems:
		rule = fmt.Sprintf("must have at most %d items", k.Want)
	default:
		rule = "breaks the rule " + strings.Join(e.ErrorKind.KeywordPath(), ".")
	}
	*found = append(*found, refuse(code, where+": "+rule))
}

// list prints the values that a schema allows.
func list(values []any) string {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = fmt.Sprint(v)
	}
	return strings.Join(words, ", ")
}
