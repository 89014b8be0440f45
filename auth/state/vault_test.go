package state

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

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
	f, err := v.Factors.Factors(t.Context(), alice)
	must(t, err)
	must(t, v.Factors.PutFactors(t.Context(), f, oneFactor("JBSWY3DP")))
	f, err = v.Factors.Factors(t.Context(), alice)
	must(t, err)
	next := f.UserFactors
	next.WrongAnswers = 7
	must(t, v.Factors.PutFactors(t.Context(), f, next))
	corp := Connector{Spec: []byte(`{}`), Secret: "JBSWY3DP"}
	must(t, v.Connectors.PutConnector(t.Context(), StoredConnector{Name: "corp"}, corp, nil, byNow()))
	got, err := v.Factors.Factors(t.Context(), alice)
	if err != nil || len(got.List) != 1 || got.List[0].Secret != "JBSWY3DP" || got.WrongAnswers != 7 {
		t.Errorf("got %+v and %v, want the secret and 7 wrong answers", got.UserFactors, err)
	}
	addAttempt(t, v, AttemptID{1}, "JBSWY3DP", time.Now())
	for _, key := range []string{
		"factors/" + UserID(alice), "connectors/corp", "attempts/" + AttemptID{1}.key(),
	} {
		it, err := s.writer.store.Get(t.Context(), key)
		if err != nil || bytes.Contains(it.Value, []byte("JBSWY3DP")) {
			t.Errorf("%s: got %s and %v, want no secret in clear", key, it.Value, err)
		}
	}
}

func TestPutFactorsComparesRevisions(t *testing.T) {
	t.Parallel()
	v := NewVault(open(t), fakeSeal{})
	f, err := v.Factors.Factors(t.Context(), alice)
	must(t, err)
	for i, want := range []fault.Kind{"", fault.Conflict} {
		next := oneFactor("JBSWY3DP")
		next.WrongAnswers = i
		if err := v.Factors.PutFactors(t.Context(), f, next); fault.KindOf(err) != want {
			t.Errorf("write %d: got %v, want kind %q", i+1, err, want)
		}
	}
}

// oneFactor is the factors of a user with one app.
func oneFactor(secret string) UserFactors {
	return UserFactors{List: []Factor{{ID: "app", Kind: "totp", Secret: secret}}}
}

// Two devices of a user have secrets of their own: none opens as that of another.
func TestFactorsAreSealedOneByOne(t *testing.T) {
	t.Parallel()
	v := NewVault(open(t), fakeSeal{})
	f, err := v.Factors.Factors(t.Context(), alice)
	must(t, err)
	two := oneFactor("FIRST")
	two.List = append(two.List, Factor{ID: "key", Kind: "future", Secret: "SECOND", Data: []byte(`{"n":1}`)})
	must(t, v.Factors.PutFactors(t.Context(), f, two))
	f, err = v.Factors.Factors(t.Context(), alice)
	if err != nil || len(f.List) != 2 || f.List[0].Secret != "FIRST" || f.List[1].Secret != "SECOND" ||
		string(f.List[1].Data) != `{"n":1}` {
		t.Fatalf("got %+v and %v, want both", f.List, err)
	}
	swapped := f.record.Value
	swapped.Sealed = slices.Clone(swapped.Sealed)
	swapped.Sealed[0].Sealed, swapped.Sealed[1].Sealed = swapped.Sealed[1].Sealed, swapped.Sealed[0].Sealed
	var c change
	factors.replace(&c, f.record, swapped)
	_, err = v.writer.commit(t.Context(), &c)
	must(t, err)
	if got, err := v.Factors.Factors(t.Context(), alice); err == nil {
		t.Errorf("got %+v, want secrets that were swapped refused", got.List)
	}
}
