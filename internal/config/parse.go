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

// parse parses the file's bytes and returns the root of each of its documents, without the empty ones. It
// reports bad syntax and everything that checkShape refuses. If it reports anything it returns nil, because
// the tree is not safe to decode then.
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
			d.reportSyntaxError(err)
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

// reportSyntaxError reports an error of the yaml package. The line number is taken out of its text, because
// the package has no field for it.
func (d *decoder) reportSyntaxError(err error) {
	line, msg := 0, err.Error()
	if m := yamlError.FindStringSubmatch(msg); m != nil {
		line, _ = strconv.Atoi(m[1])
		msg = m[2]
	}
	d.addFault(line, "", "not valid YAML: %s", printable(msg, 200))
}

// checkShape reports what no file may contain in the tree below n, and returns true if it found nothing.
// depth is the number of levels down to n; the root of a document is at 1.
//
// It refuses aliases and anchors, by which a small file can expand to a huge one; merge keys and tags, which
// make a file mean something else than its reader sees; and duplicate keys, of which one would be ignored.
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

// checkKeys reports the merge keys, the keys that are not text and the duplicate keys of mapping n. It
// returns true if there are none.
func (d *decoder) checkKeys(n *yaml.Node) bool {
	valid := true
	lines := make(map[string]int, len(n.Content)/2) // the line of each key's first appearance
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch firstLine, duplicate := lines[key.Value]; {
		case key.Tag == "!!merge":
			d.addFault(key.Line, "", "merge keys (<<) are not supported: write the keys out")
		case key.Kind != yaml.ScalarNode || isNull(key):
			d.addFault(key.Line, "", "a key must be text")
		case duplicate:
			const format = "duplicate key %s: it is on line %d already"
			d.addFault(key.Line, "", format, quoted(key.Value), firstLine)
		default:
			lines[key.Value] = key.Line
			continue
		}
		valid = false
	}
	return valid
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// quoted returns at most 40 bytes of s in quotes, with control characters escaped, so that a message can
// show it.
func quoted(s string) string { return strconv.Quote(truncate(s, 40)) }

// printable returns at most limit bytes of s, with the characters escaped that a terminal would interpret.
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

// addFault records a fault at a line; 0 means the file as a whole. With a path, the message begins with it.
// Beyond maxFaults it only counts, so that a hostile file with many faults does not cost much memory.
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
