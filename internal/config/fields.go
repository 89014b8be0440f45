package config

import (
	"reflect"
	"slices"
	"strings"
)

// field is a struct field under the name that it has in files.
type field struct {
	name      string
	index     []int
	required  bool
	omitEmpty bool
}

// fieldsOf lists a struct's fields in order, with the fields of an embedded struct in its place.
func fieldsOf(t reflect.Type) []field {
	var out []field
	for i := range t.NumField() {
		sf := t.Field(i)
		tag, tagged := sf.Tag.Lookup("yaml")
		if !tagged {
			tag = sf.Tag.Get("json")
		}
		name, options, _ := strings.Cut(tag, ",")
		if name == "-" {
			continue
		}
		if sf.Type.Kind() == reflect.Struct && (sf.Anonymous && name == "" || hasOption(options, "inline")) {
			for _, f := range fieldsOf(sf.Type) {
				f.index = append([]int{i}, f.index...)
				out = append(out, f)
			}
			continue
		}
		if !sf.IsExported() {
			continue
		}
		if name == "" {
			name = strings.ToLower(sf.Name)
		}
		out = append(out, field{
			name: name, index: sf.Index,
			required:  hasOption(sf.Tag.Get("config"), "required"),
			omitEmpty: hasOption(options, "omitempty") || hasOption(options, "omitzero"),
		})
	}
	return out
}

// hasOption reports whether a tag, as "name,omitempty", has the option behind its name.
func hasOption(options, want string) bool { return slices.Contains(strings.Split(options, ","), want) }

func find(fields []field, name string) (field, bool) {
	i := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
	if i < 0 {
		return field{}, false
	}
	return fields[i], true
}

func names(fields []field) string {
	var out []string
	for _, f := range fields {
		out = append(out, f.name)
	}
	return strings.Join(out, ", ")
}

// suggest returns the name of the field that is nearest to a mistyped key, or "" when none is near.
func suggest(key string, fields []field) string {
	if len(key) > 40 {
		return ""
	}
	canon := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "-", "_")) }
	best, least := "", min(3, len(key)/2)+1
	for _, f := range fields {
		if n := distance(canon(key), canon(f.name)); n < least {
			best, least = f.name, n
		}
	}
	return best
}

// distance counts the insertions, deletions, changes and swaps of neighbours that turn a into b (optimal
// string alignment).
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			n := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				n++
			}
			n = min(n, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				n = min(n, rows[i-2][j-2]+1)
			}
			rows[i][j] = n
		}
	}
	return rows[len(a)][len(b)]
}
