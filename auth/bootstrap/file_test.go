package bootstrap_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/auth/bootstrap"
	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const badFile = `kind: cluster
version: v1
metadata: {name: Example}
spec:
  seal: nowhere
  conector: {name: corp}
  admin: {claim: groups, value: "*"}
---
kind: role
version: v2
metadata: {name: admin}
spec: {}
---
kind: role
version: v1
metadata: {name: ops}
spec:
  allow:
    - nodes: {env: prod}
      actions: [fly]
---
kind: cluster
version: v1
metadata: {name: example.com}
spec: {}
---
kind: spell
version: v1
metadata: {name: x}
spec: {}
`

// One file with many faults: all of them are in one error, with their lines.
func TestABadBootstrapFileReportsEveryFault(t *testing.T) {
	t.Parallel()
	_, err := bootstrap.Parse("cluster.yaml", []byte(badFile))
	var all config.Faults
	if !errors.As(err, &all) || !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" {
		t.Fatalf("got %v, want faults with a remedy", err)
	}
	for _, want := range []string{
		"cluster.yaml:1: metadata.name",
		"cluster.yaml:5: spec.seal",
		"cluster.yaml:6: spec.conector",
		"cluster.yaml:7: spec.admin.value",
		"cluster.yaml:9: version",
		"built in",
		"cluster.yaml:20: spec.allow[0].actions",
		"a second cluster document",
		`kind "spell"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got\n%v\nwant it to say %q", err, want)
		}
	}
}

// The file with every key is accepted. People write the file, so a key of a later release is refused by name
// and not ignored, as is a later version.
func TestGoldenFileIsAccepted(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join("testdata", "cluster.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := bootstrap.Parse("cluster.yaml", b)
	if err != nil || f.Cluster() != "example.com" || !f.RootInStore() {
		t.Fatalf("got %+v, %v, want the cluster example.com with its root key in the store", f, err)
	}
	for _, tt := range []struct{ old, later, says string }{
		{"spec:\n", "spec:\n  tomorrow: 1\n", "spec.tomorrow"},
		{"version: v1", "version: v2", `version "v2"`},
	} {
		text := strings.Replace(string(b), tt.old, tt.later, 1)
		_, err := bootstrap.Parse("cluster.yaml", []byte(text))
		if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), tt.says) {
			t.Errorf("%s: got %v, want it refused by name", tt.later, err)
		}
	}
}

func TestAFileWithoutAClusterIsRefused(t *testing.T) {
	t.Parallel()
	const onlyARole = "kind: role\nversion: v1\nmetadata: {name: x}\nspec: {}\n"
	_, err := bootstrap.Parse("cluster.yaml", []byte(onlyARole))
	if err == nil || !strings.Contains(err.Error(), "no document of kind cluster") {
		t.Errorf("got %v, want it to say that the cluster document is missing", err)
	}
}
