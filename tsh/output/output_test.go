package output_test

import (
	"encoding/json"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	"github.com/threshold-access/threshold/tsh/output"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Whatever a value contains, no format writes a character that a terminal obeys; JSON and YAML keep the
// value.
func TestNoFormatWritesInvisibleCharacters(t *testing.T) {
	t.Parallel()
	value := map[string]string{"note": "x\x1b[2J\u202e\U000e0041y"}
	var asJSON, asYAML, table, pairs strings.Builder
	for name, err := range map[string]error{
		"JSON":  output.WriteJSON(&asJSON, value),
		"YAML":  output.WriteYAML(&asYAML, value),
		"table": output.WriteTable(&table, []string{"NOTE"}, [][]string{{value["note"]}}),
		"pairs": output.WritePairs(&pairs, [2]string{"Note", value["note"]}),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, text := range []string{asJSON.String(), asYAML.String(), table.String(), pairs.String()} {
		if strings.ContainsAny(text, "\x1b\u202e\U000e0041") {
			t.Errorf("got %q, want no character that a terminal obeys", text)
		}
	}
	var got map[string]string
	if err := json.Unmarshal([]byte(asJSON.String()), &got); err != nil || got["note"] != value["note"] {
		t.Errorf("JSON: got %q (%v), want the value unchanged", got, err)
	}
	if err := yaml.Unmarshal([]byte(asYAML.String()), &got); err != nil || got["note"] != value["note"] {
		t.Errorf("YAML: got %q (%v), want the value unchanged", got, err)
	}
}

func TestTablesAndPairsAreAligned(t *testing.T) {
	t.Parallel()
	var table, pairs strings.Builder
	rows := [][]string{{"한국", ""}, {"long", "x"}}
	if err := output.WriteTable(&table, []string{"A", "B"}, rows); err != nil {
		t.Fatal(err)
	}
	if want := "A     B\n한국    -\nlong  x\n"; table.String() != want {
		t.Errorf("got %q, want %q", table.String(), want)
	}
	list := [][2]string{{"User", "a"}, {"None", ""}, {"Cluster", "b"}}
	if err := output.WritePairs(&pairs, list...); err != nil {
		t.Fatal(err)
	}
	if want := "User:     a\nCluster:  b\n"; pairs.String() != want {
		t.Errorf("got %q, want %q", pairs.String(), want)
	}
}

func TestFormatFlag(t *testing.T) {
	t.Parallel()
	for _, name := range output.Formats {
		var f output.Format
		if err := f.Set(name); err != nil || f.String() != name {
			t.Errorf("%s: got %q (%v)", name, f, err)
		}
	}
	var f output.Format
	if err := f.Set("csv"); err == nil {
		t.Error("csv: got accepted, want refused")
	}
}
