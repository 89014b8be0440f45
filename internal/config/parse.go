package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// parse returns the root of each document that is not empty, and reports what no file may contain. After a
// fault it returns nil.
func (d *decoder) parse(data []byte) []*yaml.Node {
	if len(data) > MaxBytes {
		d.addFault(0, "", "the file has %d bytes, more than %d", len(data), MaxBytes)
		return nil
	}
	var roots []*yaml.Node
	for dec := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			d.syntaxFault(err)
			return nil
		}
		if root := doc.Content[0]; !isNull(root) {
			roots = append(roots, root)
		}
	}
	valid := true
	for _, root := range roots {
		valid = d.checkShape(root, 1) && valid
	}
	if !valid {
		return nil
	}
	return roots
}

// yamlError matches the errors of the yaml package.
var yamlError = regexp.MustCompile(`(?s)^yaml: (?:line (\d+): )?(.*)$`)

// syntaxFault reports an error of the yaml package under the line that its text begins with.
func (d *decoder) syntaxFault(err error) {
	line, msg := 0, err.Error()
	if m := yamlError.FindStringSubmatch(msg); m != nil {
		line, _ = strconv.Atoi(m[1])
		msg = m[2]
	}
	d.addFault(line, "", "not valid YAML: %s", printable(msg, 200))
}

// checkShape reports what is refused in any file, and whether the tree below n may be read. Anchors and
// aliases can make a small file huge, merge keys and tags hide what a reader sees, and of two equal keys it
// would be unclear which one counts.
func (d *decoder) checkShape(n *yaml.Node, depth int) bool {
	if depth > MaxDepth {
		d.addFault(n.Line, "", "nested more than %d deep", MaxDepth)
		return false
	}
	valid := true
	refuse := func(format string, args ...any) {
		d.addFault(n.Line, "", format, args...)
		valid = false
	}
	if n.Kind == yaml.AliasNode {
		refuse("aliases (*%s) are not supported: write the value out", printable(n.Value, 40))
		return false // n.Alias may be part of a cycle
	}
	if n.Anchor != "" {
		refuse(
			"anchors (&%s) are not supported: write the value out where it is needed",
			printable(n.Anchor, 40),
		)
	}
	if n.Style&yaml.TaggedStyle != 0 {
		refuse("tags (%s) are not supported: remove it", printable(n.Tag, 40))
	}
	if n.Kind == yaml.MappingNode {
		valid = d.checkKeys(n) && valid
	}
	for _, child := range n.Content {
		valid = d.checkShape(child, depth+1) && valid
	}
	return valid
}

// checkKeys reports keys that are merge keys, no text, or there twice, and whether there were none.
func (d *decoder) checkKeys(n *yaml.Node) bool {
	valid := true
	first := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch line, again := first[key.Value]; {
		case key.Tag == "!!merge":
			d.addFault(key.Line, "", "merge keys (<<) are not supported: write the keys out")
		case key.Kind != yaml.ScalarNode || isNull(key):
			d.addFault(key.Line, "", "a key must be text")
		case again:
			d.addFault(
				key.Line,
				"", "duplicate key %s: it is on line %d already", quoted(key.Value), line,
			)
		default:
			first[key.Value] = key.Line
			continue
		}
		valid = false
	}
	return valid
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// quoted makes a key or a value of a file safe and short enough to show.
func quoted(s string) string { return strconv.Quote(truncate(s, 40)) }

// printable returns s without quotes, and without characters that a terminal interprets.
func printable(s string, limit int) string {
	q := strconv.Quote(truncate(s, limit))
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}

// truncate cuts s after limit bytes, at a whole character.
func truncate(s string, limit int) string {
	for i := range s {
		if i >= limit {
			return s[:i] + "…"
		}
	}
	return s
}

// addFault records a fault. Beyond maxFaults it only counts, so that a hostile file costs no more than
// another.
func (d *decoder) addFault(line int, path, format string, args ...any) {
	if len(d.faults) == maxFaults {
		d.unlisted++
		return
	}
	if path != "" {
		d.faultPaths = append(d.faultPaths, path)
		format, args = "%s: "+format, append([]any{path}, args...)
	}
	d.faults = append(d.faults, Fault{File: d.file, Line: line, Msg: fmt.Sprintf(format, args...)})
}
