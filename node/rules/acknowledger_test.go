package rules_test

import (
	"bytes"
	"crypto"
	"encoding/json"
	"testing"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/identity"
	signed "github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/node/rules"
)

// The node signs once for all of its tunnels which documents are in force, and again when they change. A new
// head alone is no change.
func TestTheDocumentsInForceAreAcknowledged(t *testing.T) {
	t.Parallel()
	c := clustertest.NewInMemory(t)
	id := c.Machine(identity.Node, "web-1", nil)
	key := c.MachineCertificate(id, nil).PrivateKey.(crypto.Signer)
	k := openKeeper(t, c, t.TempDir(), c.SignRules())
	a := rules.NewAcknowledger(k, id.ID, key)
	newest := func() ([]byte, <-chan struct{}) {
		t.Helper()
		b, changed, err := a.Newest()
		if err != nil {
			t.Fatal(err)
		}
		return b, changed
	}
	read := func(b []byte) signed.Acknowledgement {
		t.Helper()
		var s signed.Signed
		if err := json.Unmarshal(b, &s); err != nil {
			t.Fatal(err)
		}
		got, err := signed.VerifyAcknowledgement(s, key.Public())
		if err != nil || got.Machine != id.ID {
			t.Fatalf("got %+v, %v, want what this node has signed", got, err)
		}
		return got
	}
	first, changed := newest()
	mustOffer(t, k, pieces(t, c.SignRules())...)
	if again, _ := newest(); !bytes.Equal(first, again) {
		t.Error("got another acknowledgement after a new head alone")
	}
	select {
	case <-changed:
		t.Error("a new head alone is called a change")
	default:
	}
	c.SetRoles(access.Role{Name: "ops"})
	mustOffer(t, k, pieces(t, c.SignRules())...)
	<-changed
	second, _ := newest()
	before, after := read(first), read(second)
	want := k.Current().Head
	if !after.Newer(before) || after.Sequence != want.Sequence ||
		!after.Has(signed.RolesKind, want.Docs[signed.RolesKind].Revision) ||
		before.Has(signed.RolesKind, want.Docs[signed.RolesKind].Revision) {
		t.Errorf("got %+v and then %+v, want the new roles in the second", before, after)
	}
	if other, _, err := rules.NewAcknowledger(k, id.ID, key).Newest(); err != nil ||
		!read(other).Has(signed.RolesKind, want.Docs[signed.RolesKind].Revision) {
		t.Errorf("got %v after a restart, want the roles in force", err)
	}
}
