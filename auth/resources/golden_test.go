package resources_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// goldenDocuments returns the documents of testdata/documents.json, by kind.
func goldenDocuments(t *testing.T) map[access.Resource]authrpc.Resource {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "documents.json"))
	if err != nil {
		t.Fatal(err)
	}
	var list []authrpc.Resource
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	golden := map[access.Resource]authrpc.Resource{}
	for _, doc := range list {
		isKind := func(r access.Resource) bool { return r.Singular() == doc.Kind }
		golden[access.Resources[slices.IndexFunc(access.Resources, isKind)]] = doc
	}
	return golden
}

// blurred is a document as JSON, with "*" for values that differ from run to run.
func blurred(t *testing.T, doc authrpc.Resource) string {
	t.Helper()
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := json.Unmarshal(text, &tree); err != nil {
		t.Fatal(err)
	}
	blur(tree)
	if text, err = json.MarshalIndent(tree, "", "  "); err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func blur(tree any) {
	volatile := []string{"id", "created", "renewed", "expires", "time", "last_login", "revision"}
	switch tree := tree.(type) {
	case []any:
		for _, item := range tree {
			blur(item)
		}
	case map[string]any:
		for key, value := range tree {
			if slices.Contains(volatile, key) {
				tree[key] = "*"
			}
			blur(value)
		}
	}
}

// newGoldenFixture is a cluster that has what the golden documents describe.
func newGoldenFixture(t *testing.T) *fixture {
	f := newFixture(t)
	f.putUser(state.User{
		Connector: "corp", Subject: "alice", Name: "alice@example.com", Created: time.Now(),
		LastLogin: time.Now(),
	})
	for kind, name := range map[identity.Kind]string{identity.Node: "web-1", identity.Proxy: "edge"} {
		m := f.addMachine(kind, name, "dev")
		old, err := f.st.Machine(t.Context(), m.ID)
		f.must(err)
		m.Labels = identity.Labels{"env": "dev", "self.rack": "7"}
		if kind == identity.Proxy {
			m.Names = []string{"access.example.com"}
		}
		_, err = f.st.Machines.ChangeMachine(t.Context(), old, m)
		f.must(err)
	}
	_, err := f.st.Replicas.Replica(t.Context(), "auth-1", time.Now())
	f.must(err)
	_, err = f.apply(admin, doc("connector", "corp", connectorSpec))
	f.must(err)
	return f
}

// Documents of every kind are accepted as the first release shows them, and are shown with the same fields by
// every later one. Roles have a test of their own, events a schema, and authorities a test in package auth,
// because they need the keys of a cluster.
func TestGoldenDocumentsAreAcceptedAndShown(t *testing.T) {
	t.Parallel()
	f := newGoldenFixture(t)
	golden := goldenDocuments(t)
	for _, kind := range access.Resources {
		want, isGolden := golden[kind]
		if kind == access.Roles || kind == access.Events || kind == access.Authorities {
			continue
		}
		if !isGolden {
			t.Errorf("got no golden document of the kind %s, want one", kind)
			continue
		}
		asked := want
		asked.Metadata.Revision = 0
		_, err := f.apply(admin, asked)
		if kind == access.Replicas {
			f.wantFault("apply a replica", err, fault.Invalid)
		} else if err != nil {
			t.Errorf("apply %s: %v", kind, err)
		}
		if kind == access.Tokens {
			f.joinWith(want.Metadata.Name)
		}
		if got, want := blurred(t, f.getOne(kind, want.Metadata.Name)), blurred(t, want); got != want {
			t.Errorf("%s: got %s, want %s", kind, got, want)
		}
	}
}

// joinWith stores a machine that joined with the token.
func (f *fixture) joinWith(token string) {
	f.Helper()
	stored, err := f.st.Token(f.Context(), token)
	f.must(err)
	m := state.Machine{ID: identity.MachineID(state.NewID()), Kind: stored.Value.Kind, Name: "edge-2"}
	f.must(f.st.Machines.AddMachine(f.Context(), m, stored))
}

// People write documents, so what a later release adds is refused by name and not ignored, and so is a later
// version. A status is only shown, so there it is ignored.
func TestDocumentsOfALaterReleaseAreRefusedByName(t *testing.T) {
	t.Parallel()
	f := newGoldenFixture(t)
	for kind, golden := range goldenDocuments(t) {
		golden.Metadata.Revision = 0
		if kind == access.Replicas {
			continue // cannot be applied
		}
		later := golden
		later.Spec = bytes.Replace(golden.Spec, []byte("{"), []byte(`{"tomorrow":1,`), 1)
		later.Spec = bytes.Replace(later.Spec, []byte(`,}`), []byte(`}`), 1) // it was empty
		_, err := f.apply(admin, later)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), "tomorrow") {
			t.Errorf("%s with one more key: got %v, want it refused by name", kind, err)
		}
		next := golden
		next.Version = "v2"
		_, err = f.apply(admin, next)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), "v2") ||
			fault.Remedy(err) == "" {
			t.Errorf("%s of the next version: got %v, want it refused with a remedy", kind, err)
		}
		golden.Status = json.RawMessage(`{"tomorrow":1}`)
		if _, err := f.apply(admin, golden); err != nil {
			t.Errorf("%s with another status: got %v, want it ignored", kind, err)
		}
	}
}
