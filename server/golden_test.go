package server

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/fault"
)

// decodeGolden decodes a configuration file of testdata after the first old in it was replaced by text.
func decodeGolden(t *testing.T, name, old, text string) (file, error) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var f file
	err = config.Decode(name, []byte(strings.Replace(string(b), old, text, 1)), &f)
	return f, err
}

// addKeys adds to keys those of the struct v, by their paths, and whether one has a value.
func addKeys(keys map[string]bool, path string, v reflect.Value) {
	for i := range v.NumField() {
		field, value := v.Type().Field(i), v.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		key := path + name
		keys[key] = keys[key] || !value.IsZero()
		if value.Kind() == reflect.Pointer {
			if value.IsNil() {
				continue
			}
			value = value.Elem()
		}
		if value.Kind() == reflect.Struct && value.Type().PkgPath() == reflect.TypeFor[file]().PkgPath() {
			addKeys(keys, key+".", value)
		}
	}
}

// The golden files have every key, and are accepted.
func TestEveryKeyOfAConfigurationIsAccepted(t *testing.T) {
	t.Parallel()
	keys := map[string]bool{}
	for _, name := range []string{"threshold.yaml", "proxy.yaml"} {
		f, err := decodeGolden(t, name, "", "")
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		addKeys(keys, "", reflect.ValueOf(f))
	}
	for key, hasValue := range keys {
		if !hasValue {
			t.Errorf("got no value of %s from the golden files, want one", key)
		}
	}
}

// Configuration is typed by people, so a key of another release is an error and not ignored, and so is
// another version. The error says where it is.
func TestConfigurationsOfOtherReleasesAreRefused(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ old, text, want string }{
		"an unknown key":     {"  drain: 10s", "  tomorrow: 1", "threshold.yaml:7"},
		"the next version":   {"version: v1", "version: v2", "this program reads v1"},
		"another kind":       {"kind: server", "kind: node", "kind: server"},
		"a label of another": {"self.rack", "env", "write self.env"},
	} {
		_, err := decodeGolden(t, "threshold.yaml", tt.old, tt.text)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
}
