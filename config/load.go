package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// EnvPrefix begins the name of every environment variable that sets a value: CONSULTD_REDIS_ADDR sets redis.addr.
const EnvPrefix = "CONSULTD_"

// Load reads the file, lets the environment override it, resolves the secrets and checks the whole. The error is an *Error
// with every problem, or that of reading the file.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path) // #nosec G304 -- the operator names the file
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	c, problems := load(data, os.Environ())
	if Refused(problems) {
		return nil, &Error{File: path, Problems: problems}
	}
	c.warnings = problems
	return c, nil
}

// Check says everything that Load would find in such a file, warnings included, in the order of the file.
func Check(data []byte) []Problem {
	_, problems := load(data, os.Environ())
	return problems
}

func load(data []byte, environ []string) (*Config, []Problem) {
	c := Default()
	l := &loader{report: report{places: map[string]place{}}, env: map[string]string{}}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		l.env[name] = value
	}
	if !l.file(c, data) {
		return c, l.sorted() // what a broken file leaves unset would only be noise
	}
	l.environment(c)
	l.unread = map[string]bool{}
	for _, p := range l.problems {
		l.unread[p.Path] = true
	}
	l.check(c)
	return c, l.sorted()
}

// loader fills the struct from nodes by reflection, so that one wrong value does not hide the next.
type loader struct {
	report
	env     map[string]string
	anchors map[string]ast.Node
	inClear []string // paths of secrets that are written out in the file
}

// file reads YAML into c and says whether it could be parsed at all.
func (l *loader) file(c *Config, data []byte) bool {
	root, ok := l.parse(data, "")
	if !ok {
		return false
	}
	if root != nil {
		l.node(root, reflect.ValueOf(c).Elem(), "")
	}
	return true
}

func (l *loader) parse(data []byte, path string) (ast.Node, bool) {
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		p := Problem{Path: path, Message: "not readable as YAML", Hint: "mend the indentation or the quotes at this place"}
		if known, ok := errors.AsType[yaml.Error](err); ok {
			p.Message += ": " + known.GetMessage()
			if t := known.GetToken(); t != nil && t.Position != nil {
				p.Line, p.Column = t.Position.Line, t.Position.Column
			}
		}
		l.problems = append(l.problems, p)
		return nil, false
	}
	var bodies []ast.Node
	for _, document := range file.Docs {
		if document.Body != nil && document.Body.Type() != ast.CommentType {
			bodies = append(bodies, document.Body)
		}
	}
	if len(bodies) == 0 {
		return nil, true
	}
	if len(bodies) > 1 {
		l.places[path] = nodePlace(bodies[1])
		l.fail(path, "a second document in one file", "keep one, without `---` between the sections")
		return nil, false
	}
	l.anchors = map[string]ast.Node{}
	for _, anchor := range ast.Filter(ast.AnchorType, bodies[0]) {
		if a, ok := anchor.(*ast.AnchorNode); ok {
			l.anchors[a.Name.GetToken().Value] = a.Value
		}
	}
	return bodies[0], true
}

// environment overrides values by the variables named after their paths.
func (l *loader) environment(c *Config) {
	known := map[string]bool{}
	for _, f := range fields(reflect.ValueOf(c).Elem(), "") {
		name := envName(f.path)
		known[name] = true
		text, ok := l.env[name]
		if !ok {
			continue
		}
		l.places[f.path] = place{env: name}
		l.fromEnvironment(f, text)
	}
	var strangers []string
	for name := range l.env {
		if strings.HasPrefix(name, EnvPrefix) && !known[name] {
			strangers = append(strangers, name)
		}
	}
	slices.Sort(strangers)
	for _, name := range strangers {
		l.problems = append(l.problems, Problem{
			Warning: true, Env: name, Message: "sets nothing", Hint: "docs/config.md lists the variables",
		})
	}
}

// fromEnvironment sets one field: scalars as they stand, lists also as a,b,c, maps as YAML.
func (l *loader) fromEnvironment(f field, text string) {
	kind := f.value.Kind()
	if kind == reflect.Slice && !strings.HasPrefix(strings.TrimSpace(text), "[") {
		items := strings.Split(text, ",")
		list := reflect.MakeSlice(f.value.Type(), 0, len(items))
		for _, item := range items {
			if item = strings.TrimSpace(item); item == "" {
				continue
			}
			element := reflect.New(f.value.Type().Elem()).Elem()
			l.scalar(item, element, f.path)
			list = reflect.Append(list, element)
		}
		f.value.Set(list)
		return
	}
	if kind != reflect.Slice && kind != reflect.Map {
		l.scalar(text, f.value, f.path)
		return
	}
	at := l.places[f.path]
	before := len(l.problems)
	if root, ok := l.parse([]byte(text), f.path); ok && root != nil {
		l.node(root, f.value, f.path)
	}
	for i := range l.problems[before:] { // lines of a variable's text mean nothing to a reader
		p := &l.problems[before+i]
		p.Line, p.Column, p.Env = 0, 0, at.env
	}
	for path := range l.places {
		if path == f.path || strings.HasPrefix(path, f.path+".") || strings.HasPrefix(path, f.path+"[") {
			l.places[path] = at
		}
	}
}

// node fills v from a node.
func (l *loader) node(n ast.Node, v reflect.Value, path string) {
	n = l.unwrap(n)
	if _, seen := l.places[path]; !seen {
		l.places[path] = nodePlace(n)
	}
	if n.Type() == ast.NullType {
		return // a key without a value keeps the default
	}
	switch {
	case v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[Secret]():
		l.section(n, v, path)
	case v.Kind() == reflect.Map:
		l.table(n, v, path)
	case v.Kind() == reflect.Slice:
		l.list(n, v, path)
	default:
		text, ok := scalarText(n, v)
		if !ok {
			hint := ""
			if nodeName(n) == "section" {
				hint = "put it in quotes: a text with a colon can look like a section"
			}
			l.fail(path, "a "+nodeName(n)+" where "+kindName(v.Type())+" is expected", hint)
			return
		}
		l.scalar(text, v, path)
		if v.Type() == reflect.TypeFor[Secret]() && text != "" && !isReference(text) {
			l.inClear = append(l.inClear, path)
		}
	}
}

func (l *loader) unwrap(n ast.Node) ast.Node {
	for range 8 { // an anchor may hold an alias; deeper nesting is a loop
		switch t := n.(type) {
		case *ast.AnchorNode:
			n = t.Value
		case *ast.AliasNode:
			target, ok := l.anchors[t.Value.GetToken().Value]
			if !ok {
				return n
			}
			n = target
		case *ast.TagNode:
			n = t.Value
		default:
			return n
		}
	}
	return n
}

// entries lists a mapping's keys and values and reports keys that come twice.
func (l *loader) entries(n ast.Node, path string) ([]entry, bool) {
	var values []*ast.MappingValueNode
	switch t := n.(type) {
	case *ast.MappingNode:
		values = t.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{t}
	default:
		l.fail(path, "a "+nodeName(n)+" where a section is expected", "write its fields indented below it")
		return nil, false
	}
	first := map[string]int{}
	list := make([]entry, 0, len(values))
	for _, value := range values {
		key := value.Key.GetToken()
		e := entry{name: key.Value, path: join(path, key.Value), value: value.Value}
		if line, twice := first[e.name]; twice {
			l.problems = append(l.problems, Problem{
				Path: e.path, Line: key.Position.Line, Column: key.Position.Column,
				Message: fmt.Sprintf("stands here for the second time, first on line %d", line), Hint: "keep one of them",
			})
			continue
		}
		first[e.name] = key.Position.Line
		l.places[e.path] = tokenPlace(key)
		list = append(list, e)
	}
	return list, true
}

type entry struct {
	name, path string
	value      ast.Node
}

func (l *loader) section(n ast.Node, v reflect.Value, path string) {
	list, ok := l.entries(n, path)
	if !ok {
		return
	}
	names := make([]string, 0, v.NumField())
	byName := map[string]reflect.Value{}
	for i := range v.NumField() {
		if name := v.Type().Field(i).Tag.Get("yaml"); name != "" {
			names = append(names, name)
			byName[name] = v.Field(i)
		}
	}
	for _, e := range list {
		field, ok := byName[e.name]
		if !ok {
			hint := "the fields here are " + strings.Join(names, ", ")
			if near := nearest(e.name, names); near != "" {
				hint = "did you mean " + near + "?"
			}
			l.fail(e.path, "no such field", hint)
			continue
		}
		l.node(e.value, field, e.path)
	}
}

func (l *loader) table(n ast.Node, v reflect.Value, path string) {
	list, ok := l.entries(n, path)
	if !ok {
		return
	}
	table := reflect.MakeMap(v.Type())
	for _, key := range v.MapKeys() {
		table.SetMapIndex(key, v.MapIndex(key))
	}
	for _, e := range list {
		element := reflect.New(v.Type().Elem()).Elem()
		l.node(e.value, element, e.path)
		table.SetMapIndex(reflect.ValueOf(e.name).Convert(v.Type().Key()), element)
	}
	v.Set(table)
}

func (l *loader) list(n ast.Node, v reflect.Value, path string) {
	sequence, ok := n.(*ast.SequenceNode)
	if !ok {
		l.fail(path, "a "+nodeName(n)+" where a list is expected", "write it as [a, b]")
		return
	}
	list := reflect.MakeSlice(v.Type(), len(sequence.Values), len(sequence.Values))
	for i, value := range sequence.Values {
		l.node(value, list.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
	v.Set(list)
}

// scalar sets one value from its text. Texts of secrets never reach a problem.
func (l *loader) scalar(text string, v reflect.Value, path string) {
	switch v.Interface().(type) {
	case Secret:
		l.secret(text, v, path)
		return
	case time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			l.fail(path, fmt.Sprintf("%q is not a duration", text), "write a number and a unit, such as 500ms, 30s, 5m or 12h")
			return
		}
		v.SetInt(int64(d))
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		if text != "true" && text != "false" {
			l.fail(path, fmt.Sprintf("%q is neither true nor false", text), "")
			return
		}
		v.SetBool(text == "true")
	case reflect.Int:
		number, err := strconv.Atoi(text)
		if err != nil {
			l.fail(path, fmt.Sprintf("%q is not a whole number", text), "")
			return
		}
		v.SetInt(int64(number))
	default:
		v.SetString(text)
	}
}

func isReference(text string) bool {
	return strings.HasPrefix(text, "file:") || strings.HasPrefix(text, "env:")
}

func (l *loader) secret(text string, v reflect.Value, path string) {
	set := func(text string) { v.Set(reflect.ValueOf(NewSecret(text))) }
	if name, ok := strings.CutPrefix(text, "env:"); ok {
		value, found := l.env[name]
		if !found || value == "" {
			l.fail(path, fmt.Sprintf("the environment has no variable %q", name), "set it for the daemon's process")
		}
		set(value)
		return
	}
	name, ok := strings.CutPrefix(text, "file:")
	if !ok {
		set(text)
		return
	}
	data, err := os.ReadFile(name) // #nosec G304 -- the operator names the file
	switch value := strings.TrimSpace(string(data)); {
	case err != nil:
		l.fail(path, "the file of this secret cannot be read: "+pathless(err), "mount "+name+" for the daemon's user")
	case value == "":
		l.fail(path, "the file "+name+" of this secret is empty", "write the secret into it")
	default:
		set(value)
	}
}

// pathless is the cause alone; the path is already in the hint.
func pathless(err error) string {
	if known, ok := errors.AsType[*os.PathError](err); ok {
		return known.Err.Error()
	}
	return err.Error()
}

// field is one value that can be set: its path and where it lives.
type field struct {
	path  string
	value reflect.Value
}

// fields lists the values of a section and its subsections in the order of the struct.
func fields(v reflect.Value, path string) []field {
	var list []field
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("yaml")
		if name == "" {
			continue
		}
		at := join(path, name)
		if v.Field(i).Kind() == reflect.Struct && v.Field(i).Type() != reflect.TypeFor[Secret]() {
			list = append(list, fields(v.Field(i), at)...)
			continue
		}
		list = append(list, field{path: at, value: v.Field(i)})
	}
	return list
}

func envName(path string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func nodePlace(n ast.Node) place {
	if t := n.GetToken(); t != nil {
		return tokenPlace(t)
	}
	return place{}
}

func tokenPlace(t *token.Token) place {
	if t.Position == nil {
		return place{}
	}
	return place{line: t.Position.Line, column: t.Position.Column}
}

// scalarText is the text of a scalar node if its YAML type fits: a bare 42 is no string and a quoted "42" no number,
// because what YAML makes of 1e3, 010 or no is rarely what was meant.
func scalarText(n ast.Node, v reflect.Value) (string, bool) {
	isText := v.Kind() == reflect.String || v.Kind() == reflect.Struct || v.Type() == reflect.TypeFor[time.Duration]()
	switch t := n.(type) {
	case *ast.StringNode:
		return t.Value, isText
	case *ast.LiteralNode:
		return t.Value.Value, isText
	case *ast.IntegerNode:
		text := t.Token.Value
		return text, v.Kind() == reflect.Int || v.Kind() == reflect.Int64 && text == "0"
	case *ast.BoolNode:
		return fmt.Sprint(t.Value), v.Kind() == reflect.Bool
	default:
		return "", false
	}
}

func nodeName(n ast.Node) string {
	switch n.Type() {
	case ast.MappingType, ast.MappingValueType:
		return "section"
	case ast.SequenceType:
		return "list"
	case ast.IntegerType, ast.FloatType:
		return "bare number"
	case ast.BoolType:
		return "bare true or false"
	case ast.StringType, ast.LiteralType:
		return "text"
	default:
		return strings.ToLower(n.Type().String())
	}
}

func kindName(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "a duration such as 30s or 500ms"
	case t == reflect.TypeFor[Secret]():
		return "a secret (in quotes, or file:/path, or env:NAME)"
	case t.Kind() == reflect.Int:
		return "a whole number"
	case t.Kind() == reflect.Bool:
		return "true or false"
	default:
		return "a text (in quotes where it looks like something else)"
	}
}

// nearest is the name that is at most two letters away from what was written.
func nearest(written string, names []string) string {
	best, distance := "", 3
	for _, name := range names {
		if d := editDistance(written, name); d < distance && d < len(name) {
			best, distance = name, d
		}
	}
	return best
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
