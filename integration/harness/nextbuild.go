package harness

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// NextCritical names the environment variable by which programs of the next build are told the format whose
// new field they call critical: a key of nextFormats. Without it they call none critical.
const NextCritical = "THRESHOLD_NEXT_CRITICAL"

// edit is a change of one source file for the next build. old must be there once.
type edit struct{ file, old, new string }

// nextFormats are the places where this repository writes a format as JSON. The next build adds a field to
// each, and reads it.
var nextFormats = map[string][]edit{
	"identity": {{
		"internal/identity/identity.go",
		"	b, err := json.Marshal(id)\n",
		"	b, err := json.Marshal(id)\n	b = wire.AddNext(\"identity\", b)\n",
	}},
	"signed": {{ // documents and heads
		"internal/rules/document.go",
		"	payload, err := json.Marshal(content)\n",
		"	payload, err := json.Marshal(content)\n	payload = wire.AddNext(\"signed\", payload)\n",
	}},
	"tunnel": {{ // greetings, headers of streams, requests for rules
		"internal/tunnel/message.go",
		"	body, err := json.Marshal(v)\n",
		"	body, err := json.Marshal(v)\n	body = wire.AddNext(\"tunnel\", body)\n",
	}},
	"dial": {{ // requests and replies
		"internal/dial/dial.go",
		"	body, err := json.Marshal(message)\n",
		"	body, err := json.Marshal(message)\n	body = wire.AddNext(\"dial\", body)\n",
	}},
	"event": {{
		"internal/audit/event.go",
		"	b, err := json.Marshal(e)\n",
		"	b, err := json.Marshal(e)\n	b = wire.AddNext(\"event\", b)\n",
	}},
	"record": {{ // of auth's store
		"auth/state/records.go",
		"	b, err := json.Marshal(envelope[T]{V: recordVersion, D: v})\n",
		"	b, err := json.Marshal(envelope[T]{V: recordVersion, D: v})\n	b = wire.AddNextIn(\"record\", b)\n",
	}},
	"keyring": {{
		"ca/keyring/generate.go",
		"	raw, err := json.Marshal(doc)\n",
		"	raw, err := json.Marshal(doc)\n	raw = wire.AddNext(\"keyring\", raw)\n",
	}},
	"membership": {{
		"internal/member/disk.go",
		"	b, err := json.Marshal(m)\n",
		"	b, err := json.Marshal(m)\n	b = wire.AddNext(\"membership\", b)\n",
	}},
	"profile": {{
		"tsh/profile/info.go",
		"	b, err := json.MarshalIndent(info, \"\", \"  \")\n",
		"	b, err := json.MarshalIndent(info, \"\", \"  \")\n	b = wire.AddNext(\"profile\", b)\n",
	}},
	"machine-locks": {{ // in a profile
		"tsh/profile/machinelocks.go",
		"	b, err := json.Marshal(keptMachineLocks{V: machineLocksVersion, Document: locks.Signed()})\n",
		"	b, err := json.Marshal(keptMachineLocks{V: machineLocksVersion, Document: locks.Signed()})\n" +
			"	b = wire.AddNext(\"machine-locks\", b)\n",
	}},
	"request": {{ // of the API of auth, which has no critical fields
		"internal/authrpc/client.go",
		"	b, err := json.Marshal(req)\n",
		"	b, err := json.Marshal(req)\n	b = wire.AddNext(\"\", b)\n",
	}},
}

// knownToNext lets the next build read the field that it adds.
var knownToNext = edit{
	"internal/wire/wire.go",
	"		if !slices.Contains(known, name) {\n",
	"		if name != nextField && !slices.Contains(known, name) {\n",
}

// nextSource is added to package wire.
const nextSource = `package wire

import (
	"encoding/json"
	"os"
)

// nextField is the field that this build adds to every format.
const nextField = "next_field"

// AddNext adds nextField to the JSON object b, and calls it critical if the environment names the format.
func AddNext(format string, b []byte) []byte {
	var object map[string]json.RawMessage
	if json.Unmarshal(b, &object) != nil || object == nil {
		return b
	}
	return add(format, object, object)
}

// AddNextIn is AddNext for the object in the field d of b.
func AddNextIn(format string, b []byte) []byte {
	var object, inner map[string]json.RawMessage
	if json.Unmarshal(b, &object) != nil || json.Unmarshal(object["d"], &inner) != nil || inner == nil {
		return b
	}
	inner[nextField] = json.RawMessage("{\"more\":[1,2,3]}")
	object["d"], _ = json.Marshal(inner)
	return add(format, object, map[string]json.RawMessage{})
}

func add(format string, object, with map[string]json.RawMessage) []byte {
	with[nextField] = json.RawMessage("{\"more\":[1,2,3]}")
	if format != "" && os.Getenv("THRESHOLD_NEXT_CRITICAL") == format {
		var critical []string
		_ = json.Unmarshal(object["critical"], &critical)
		object["critical"], _ = json.Marshal(append(critical, nextField))
	}
	out, err := json.Marshal(object)
	if err != nil {
		panic(err)
	}
	return out
}
`

// next has the result of building the next programs, once for all tests.
var next struct {
	once sync.Once
	dir  string
	err  error
}

// NextBin returns the path of a program of the next build: it writes one field more than this repository into
// every format, and reads it. The sources are changed by an overlay of the go command, and only there.
func NextBin(t testing.TB, name string) string {
	t.Helper()
	next.once.Do(func() { next.dir, next.err = buildNext(filepath.Dir(filepath.Dir(Bin(t, "tsh")))) })
	if next.err != nil {
		t.Fatal(next.err)
	}
	return filepath.Join(next.dir, name)
}

// buildNext builds the programs of the next build and returns their folder, which is in that of the programs.
func buildNext(root string) (string, error) {
	dir := filepath.Join(root, "bin", "next")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	changed, err := changedSources(root)
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for file, text := range changed {
		copied := filepath.Join(dir, strings.ReplaceAll(file, "/", "_")+".txt") // no source of this module
		if err := os.WriteFile(copied, []byte(text), 0o644); err != nil {
			return "", err
		}
		replace[filepath.Join(root, file)] = copied
	}
	encoded, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, encoded, 0o644); err != nil {
		return "", err
	}
	args := []string{"-C", root, "build", "-buildvcs=false", "-overlay", overlay, "-o", dir + "/"}
	out, err := Build("go", append(args, "./cmd/threshold", "./cmd/threshold-node", "./cmd/tsh")...)
	if err != nil {
		return "", fmt.Errorf("build the next programs: %w\n%s", err, out)
	}
	return dir, nil
}

// changedSources returns the sources of the next build by file.
func changedSources(root string) (map[string]string, error) {
	edits := []edit{knownToNext}
	for _, more := range nextFormats {
		edits = append(edits, more...)
	}
	changed := map[string]string{"internal/wire/next.go": nextSource}
	for _, e := range edits {
		text, seen := changed[e.file]
		if !seen {
			b, err := os.ReadFile(filepath.Join(root, e.file))
			if err != nil {
				return nil, err
			}
			text = string(b)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return nil, fmt.Errorf("%s has %q %d times, want once: adapt nextFormats", e.file, e.old, n)
		}
		changed[e.file] = importWire(strings.Replace(text, e.old, e.new, 1))
	}
	return changed, nil
}

// importWire makes a source file import package wire, unless it does or is of that package.
func importWire(text string) string {
	const path = `"github.com/threshold-access/threshold/internal/wire"`
	if strings.Contains(text, path) || strings.Contains(text, "\npackage wire\n") {
		return text
	}
	return strings.Replace(text, "import (\n", "import (\n\t"+path+"\n", 1)
}
