package config

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// document is the file as written: texts stay texts, so that every unreadable one gets its own fault, and what is not there stays nil.
type document struct {
	Site struct {
		Name           *string `toml:"name"`
		PrivateKeyFile *string `toml:"private_key_file"`
	} `toml:"site"`
	Cache struct {
		Dir     *string `toml:"dir"`
		KeyFile *string `toml:"key_file"`
		Size    *string `toml:"size"`
		Memory  *string `toml:"memory"`
	} `toml:"cache"`
	Tunnel struct {
		Listen    *string `toml:"listen"`
		Bandwidth *string `toml:"bandwidth"`
		DSCP      *int64  `toml:"dscp"`
		Lanes     *int64  `toml:"lanes"`
		Governor  *bool   `toml:"governor"`
	} `toml:"tunnel"`
	Peer []struct {
		Name       *string  `toml:"name"`
		PublicKeys []string `toml:"public_keys"`
		Endpoints  []string `toml:"endpoints"`
		Subnets    []string `toml:"subnets"`
	} `toml:"peer"`
	Intercept *struct {
		Interfaces []string `toml:"interfaces"`
		Subnets    []string `toml:"subnets"`
		PassPorts  []int64  `toml:"pass_ports"`
	} `toml:"intercept"`
	Egress struct {
		Source *string  `toml:"source"`
		Allow  []string `toml:"allow"`
	} `toml:"egress"`
	Forward []struct {
		Listen *string `toml:"listen"`
		Peer   *string `toml:"peer"`
		Target *string `toml:"target"`
	} `toml:"forward"`
	Socks *struct {
		Listen *string  `toml:"listen"`
		Allow  []string `toml:"allow"`
	} `toml:"socks"`
	Class []struct {
		Name    *string  `toml:"name"`
		Ports   []any    `toml:"ports"`
		Subnets []string `toml:"subnets"`
		Action  *string  `toml:"action"`
		History *string  `toml:"history"`
		Share   *int64   `toml:"share"`
	} `toml:"class"`
	Limits struct {
		Flows  *int64  `toml:"flows"`
		Memory *string `toml:"memory"`
		Hold   *string `toml:"hold"`
	} `toml:"limits"`
	Stats struct {
		Listen *string  `toml:"listen"`
		Allow  []string `toml:"allow"`
		Token  *string  `toml:"token"`
	} `toml:"stats"`
	Log struct {
		Level        *string `toml:"level"`
		Format       *string `toml:"format"`
		FlowFile     *string `toml:"flow_file"`
		FlowFileSize *string `toml:"flow_file_size"`
	} `toml:"log"`
}

// positions holds where each key of a file stands. Paths are dotted, with indices: "peer[1].subnets[0]".
type positions map[string]position

type position struct {
	line   int
	broken bool // its value was unreadable and has been reported
}

// expression is a key with its value in the file.
type expression struct {
	path string
	raw  unstable.Range
	line int
}

// locate walks the file and notes every key, table and array element. Its error is a syntax error, which decode reports better.
func locate(data []byte) (positions, []expression, error) {
	var p unstable.Parser
	p.Reset(data)
	where := positions{}
	var exprs []expression
	tables := map[string]int{} // array tables seen, by path
	prefix := ""
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			prefix = ""
			line := 0
			for it := e.Key(); it.Next(); {
				prefix = join(prefix, string(it.Node().Data))
				line = p.Shape(it.Node().Raw).Start.Line
				if it.IsLast() && e.Kind == unstable.ArrayTable {
					tables[prefix]++
				}
				if n := tables[prefix]; n > 0 {
					prefix = fmt.Sprintf("%s[%d]", prefix, n-1)
				}
			}
			where[prefix] = position{line: line}
		case unstable.KeyValue:
			path := where.note(&p, prefix, e)
			exprs = append(exprs, expression{path: path, raw: e.Raw, line: where[path].line})
		default: // comments
		}
	}
	return where, exprs, p.Error()
}

// note records a key and all that its value holds, and returns the key's path.
func (w positions) note(p *unstable.Parser, prefix string, kv *unstable.Node) string {
	path, line := prefix, 0
	for it := kv.Key(); it.Next(); {
		path = join(path, string(it.Node().Data))
		line = p.Shape(it.Node().Raw).Start.Line
	}
	w[path] = position{line: line}
	w.value(p, path, line, kv.Value())
	return path
}

func (w positions) value(p *unstable.Parser, path string, line int, v *unstable.Node) {
	switch v.Kind {
	case unstable.Array:
		i := 0
		for it := v.Children(); it.Next(); i++ {
			n := it.Node()
			element := fmt.Sprintf("%s[%d]", path, i)
			if n.Raw.Length > 0 {
				line = p.Shape(n.Raw).Start.Line
			}
			w[element] = position{line: line}
			w.value(p, element, line, n)
		}
	case unstable.InlineTable:
		for it := v.Children(); it.Next(); {
			w.note(p, path, it.Node())
		}
	default: // scalars hold nothing
	}
}

func join(prefix, key string) string {
	if prefix == "" {
		return key
	}
	return prefix + "." + key
}

// fileLimit bounds the configuration file: a thousand times what the largest sensible one needs.
const fileLimit = 4 << 20

// decode reads the file strictly. A value of the wrong kind is reported, blanked out and the file is read again, so that one fault does not hide the next.
func decode(file string, data []byte) (document, positions, Faults) {
	if len(data) > fileLimit {
		return document{}, nil, Faults{{File: file, Problem: "the file is larger than 4 MiB", Advice: "this is hardly the configuration"}}
	}
	where, exprs, err := locate(data)
	if err != nil {
		where, exprs = positions{}, nil // half a map would point at wrong lines
	}
	var faults Faults
	for _, list := range []string{"peer", "forward", "class"} {
		_, single := where[list]
		if _, first := where[list+"[0]"]; single && !first {
			faults = append(faults, Fault{File: file, Line: where[list].line, Key: list, Problem: "this section may stand several times", Advice: "write its header as [[" + list + "]]"})
		}
	}
	if faults != nil {
		return document{}, nil, faults
	}
	text := bytes.Clone(data)
	for {
		doc := document{}
		err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&doc)
		var strict *toml.StrictMissingError
		var bad *toml.DecodeError
		switch {
		case err == nil:
			return doc, where, faults
		case errors.As(err, &strict):
			for _, e := range strict.Errors {
				line, _ := e.Position()
				faults = append(faults, unknownKey(file, line, e.Key()))
			}
			return doc, where, faults
		case !errors.As(err, &bad):
			return document{}, where, append(faults, Fault{File: file, Problem: err.Error()})
		}
		line, column := bad.Position()
		expr, found := expressionAt(text, exprs, line, column)
		if !found {
			return document{}, where, append(faults, Fault{
				File: file, Line: line, Key: strings.Join(bad.Key(), "."),
				Problem: strings.TrimPrefix(bad.Error(), "toml: "), Advice: "correct the TOML syntax at this line",
			})
		}
		faults = append(faults, wrongKind(file, line, expr.path, bad))
		where[expr.path] = position{line: expr.line, broken: true}
		for i := range text[expr.raw.Offset : expr.raw.Offset+expr.raw.Length] {
			if at := int(expr.raw.Offset) + i; text[at] != '\n' {
				text[at] = ' '
			}
		}
	}
}

// expressionAt finds the expression a position lies in, unless it is blanked already.
func expressionAt(text []byte, exprs []expression, line, column int) (expression, bool) {
	offset := 0
	for range line - 1 {
		i := bytes.IndexByte(text[offset:], '\n')
		if i < 0 {
			return expression{}, false
		}
		offset += i + 1
	}
	offset += column - 1
	for _, e := range exprs {
		start, end := int(e.raw.Offset), int(e.raw.Offset+e.raw.Length)
		if start <= offset && offset < end && len(bytes.TrimSpace(text[start:end])) > 0 {
			return e, true
		}
	}
	return expression{}, false
}

// wrongKind words go-toml's complaint about a value of the wrong kind for people who do not know the struct behind it.
func wrongKind(file string, line int, path string, bad *toml.DecodeError) Fault {
	key := plain(path)
	f := Fault{File: file, Line: line, Key: key, Problem: strings.TrimPrefix(bad.Error(), "toml: ")}
	if strings.Contains(f.Problem, "cannot decode") || strings.Contains(f.Problem, "cannot store") {
		f.Problem = "the value is of the wrong kind"
	}
	if k, ok := lookup(key); ok {
		f.Advice = "write it such as " + lastPart(key) + " = " + k.Example
	}
	return f
}

func unknownKey(file string, line int, key toml.Key) Fault {
	name := strings.Join(key, ".")
	f := Fault{File: file, Line: line, Key: name, Problem: "unknown key", Advice: "see docs/configuration.md for all keys"}
	if near := nearest(name); near != "" {
		f.Advice = "did you mean " + near + "?"
	}
	return f
}

// nearest returns the known key or section most like name, or "" when none is near.
func nearest(name string) string {
	best, bestDistance := "", 3 // more than two edits apart is another word
	known := func(k string) {
		if d := distance(name, k, bestDistance); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	for _, k := range Reference() {
		known(k.Name)
	}
	t := reflect.TypeFor[document]()
	for f := range t.Fields() {
		known(f.Tag.Get("toml"))
	}
	return best
}

// distance is the Levenshtein distance of a and b, or limit when it is not below that.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return min(row[len(b)], limit)
}

// plain takes the indices out of a path: "peer[1].subnets[0]" becomes "peer.subnets".
func plain(path string) string {
	var b strings.Builder
	depth := 0
	for _, r := range path {
		switch {
		case r == '[':
			depth++
		case r == ']':
			depth--
		case depth == 0:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func lastPart(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }
