package state

import (
	"bytes"
	"errors"
	"testing"

	"github.com/threshold-access/threshold/internal/fault"
)

// fakeSeal binds a secret to its name and hides the text, without real encryption.
type fakeSeal struct{}

func (fakeSeal) Seal(name string, plain []byte) ([]byte, error) {
	return invert([]byte(name + "\x00" + string(plain))), nil
}

func (fakeSeal) Open(name string, sealed []byte) ([]byte, error) {
	plain, ok := bytes.CutPrefix(invert(sealed), []byte(name+"\x00"))
	if !ok {
		return nil, errors.New("sealed under another name")
	}
	return plain, nil
}

func invert(b []byte) []byte {
	out := bytes.Clone(b)
	for i := range out {
		out[i] ^= 0xff
	}
	return out
}

// A secret is not in the stored bytes, and a write that changes other fields keeps it.
func TestSecretsAreSealedAtRestAndSurviveOtherWrites(t *testing.T) {
	t.Parallel()
	s := open(t)
	v := NewVault(s, fakeSeal{})
	f, err := v.Factors.Factor(t.Context(), alice)
	must(t, err)
	must(t, v.Factors.PutFactor(t.Context(), f, Factor{Secret: "JBSWY3DP"}))
	f, err = v.Factors.Factor(t.Context(), alice)
	must(t, err)
	next := f.Factor
	next.LastStep = 7
	must(t, v.Factors.PutFactor(t.Context(), f, next))
	corp := Connector{Spec: []byte(`{}`), Secret: "JBSWY3DP"}
	must(t, v.Connectors.PutConnector(t.Context(), StoredConnector{Name: "corp"}, corp))
	got, err := v.Factors.Factor(t.Context(), alice)
	if err != nil || got.Secret != "JBSWY3DP" || got.LastStep != 7 {
		t.Errorf("got %+v and %v, want the secret and step 7", got.Factor, err)
	}
	for _, key := range []string{"factors/" + UserID(alice), "connectors/corp"} {
		it, err := s.writer.store.Get(t.Context(), key)
		if err != nil || bytes.Contains(it.Value, []byte("JBSWY3DP")) {
			t.Errorf("%s: got %s and %v, want no secret in clear", key, it.Value, err)
		}
	}
}

func TestPutFactorComparesRevisions(t *testing.T) {
	t.Parallel()
	v := NewVault(open(t), fakeSeal{})
	f, err := v.Factors.Factor(t.Context(), alice)
	must(t, err)
	for i, want := range []fault.Kind{"", fault.Conflict} {
		next := Factor{Secret: "JBSWY3DP", LastStep: int64(i)}
		if err := v.Factors.PutFactor(t.Context(), f, next); fault.KindOf(err) != want {
			t.Errorf("write %d: got %v, want kind %q", i+1, err, want)
		}
	}
}
