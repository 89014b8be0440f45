package config

import (
	"reflect"
	"slices"
	"strings"
)

// field is a struct field as files see it.
type field struct {
	name      string // the key in files
	index     []int  // for reflect.Value.FieldByIndex
	required  bool   // decoding reports a file without the key
	omitEmpty bool   // encoding leaves the key out if the value is empty
}

// fieldsOf lists the fields of struct type t in their order. An embedded or inlined struct is replaced by its
// fields, because in files its keys stand among those of t. Unexported fields and fields named "-" are left
// out.
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

func fieldNamed(fields []field, name string) (field, bool) {
	i := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
	if i < 0 {
		return field{}, false
	}
	return fields[i], true
}

func fieldNames(fields []field) string {
	var out []string
	for _, f := range fields {
		out = append(out, f.name)
	}
	return strings.Join(out, ", ")
}

// suggestField returns the name of the field that is most similar to an unknown key, or "" if none is
// similar. A field is similar if at most 3 edits make it of the key, and at most half as many as the key has
// bytes.
func suggestField(key string, fields []field) string {
	if len(key) > 40 {
		return ""
	}
	canonical := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "-", "_")) }
	mostSimilar, fewestEdits := "", min(3, len(key)/2)+1
	for _, f := range fields {
		if edits := editDistance(canonical(key), canonical(f.name)); edits < fewestEdits {
			mostSimilar, fewestEdits = f.name, edits
		}
	}
	return mostSimilar
}

// editDistance returns the smallest number of edits that turn a into b. An edit inserts, deletes or changes a
// byte, or swaps two neighbours (optimal string alignment distance). It takes time and memory proportional to
// the product of the lengths.
func editDistance(a, b string) int {
	rows := make([][]int, len(a)+1) // rows[i][j] is the distance of a[:i] and b[:j]
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
