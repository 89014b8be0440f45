package state

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// fakeSeal is a seal of its own kind: it binds the name and hides the text, which is all these tests ask of
// one.
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

var alice = identity.UserKey{Connector: "corp", Subject: "a/1"}

func TestNoTwoUsersShareAKey(t *testing.T) {
	long := strings.Repeat("/", 400)
	seen := map[string]identity.UserKey{}
	for _, k := range []identity.UserKey{
		{Connector: "corp", Subject: "a/1"}, {Connector: "corp", Subject: "a%2F1"}, {Connector: "corp", Subject: "A/1"},
		{Connector: "corp", Subject: "/a"}, {Connector: "corp", Subject: long}, {Connector: "corp", Subject: long + "/"}, {Connector: "other", Subject: "a/1"},
	} {
		id := UserID(k)
		if other, twice := seen[id]; twice {
			t.Errorf("%v and %v share %q", k, other, id)
		}
		seen[id] = k
		if len(id) > 900 {
			t.Errorf("got a key of %d bytes, want one the store takes", len(id))
		}
	}
}

func TestPutUserComparesRevisions(t *testing.T) {
	s := open(t)
	u := User{Connector: "corp", Subject: "a/1", Name: "alice@example.com", Roles: []string{"ops"}}
	if err := s.Users.PutUser(t.Context(), Stored[User]{}, u); err != nil {
		t.Fatal(err)
	}
	if err := s.Users.PutUser(t.Context(), Stored[User]{}, u); !fault.Is(err, fault.Conflict) {
		t.Errorf("got %v for a second creation, want a conflict", err)
	}
	got, err := s.User(t.Context(), alice)
	if err != nil || got.Value.Name != u.Name || got.Value.Roles[0] != "ops" {
		t.Fatalf("got %+v and %v, want what was written", got, err)
	}
	if byID, err := s.UserByID(t.Context(), got.Key); err != nil || byID.Value.Name != u.Name {
		t.Errorf("got %+v and %v by the listed key, want alice", byID, err)
	}
}

func TestRemovingAUserRemovesTheFactor(t *testing.T) {
	s := open(t)
	v := NewVault(s, fakeSeal{})
	if err := s.Users.PutUser(t.Context(), Stored[User]{}, User{Connector: "corp", Subject: "a/1"}); err != nil {
		t.Fatal(err)
	}
	f, err := v.Factor(t.Context(), alice)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.PutFactor(t.Context(), f, Factor{Secret: "JBSWY3DP"}); err != nil {
		t.Fatal(err)
	}
	u, _ := s.User(t.Context(), alice)
	if err := s.Users.RemoveUser(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	if has, err := s.HasFactor(t.Context(), alice); has || err != nil {
		t.Errorf("got factor %v and %v, want none", has, err)
	}
}

func TestSecretsAreSealedAtRestAndSurviveOtherWrites(t *testing.T) {
	s := open(t)
	v := NewVault(s, fakeSeal{})
	f, _ := v.Factor(t.Context(), alice)
	if err := v.PutFactor(t.Context(), f, Factor{Secret: "JBSWY3DP"}); err != nil {
		t.Fatal(err)
	}
	f, _ = v.Factor(t.Context(), alice)
	next := f.Factor
	next.LastStep = 7
	if err := v.PutFactor(t.Context(), f, next); err != nil {
		t.Fatal(err)
	}
	if err := v.PutConnector(t.Context(), StoredConnector{Name: "corp"}, Connector{Spec: []byte(`{}`), Secret: "JBSWY3DP"}); err != nil {
		t.Fatal(err)
	}
	got, err := v.Factor(t.Context(), alice)
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
	v := NewVault(open(t), fakeSeal{})
	f, _ := v.Factor(t.Context(), alice)
	for i, want := range []fault.Kind{"", fault.Conflict} {
		if err := v.PutFactor(t.Context(), f, Factor{Secret: "JBSWY3DP", LastStep: int64(i)}); fault.KindOf(
			err,
		) != want {
			t.Errorf("write %d: got %v, want kind %q", i+1, err, want)
		}
	}
}

func TestConnectorsAreReadWithTheirSecret(t *testing.T) {
	v := NewVault(open(t), fakeSeal{})
	if _, err := v.Connector(t.Context(), "corp"); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v, want not found", err)
	}
	if err := v.PutConnector(t.Context(), StoredConnector{Name: "corp"}, Connector{Spec: []byte(`{"type":"oidc"}`), Secret: "s3cret"}); err != nil {
		t.Fatal(err)
	}
	all, err := v.Connectors(t.Context())
	if err != nil || len(all) != 1 || all[0].Name != "corp" || all[0].Secret != "s3cret" ||
		string(all[0].Spec) != `{"type":"oidc"}` {
		t.Fatalf("got %+v and %v, want the one written", all, err)
	}
	if err := v.PutConnector(t.Context(), all[0], Connector{Spec: []byte(`{}`)}); err != nil {
		t.Fatal(err)
	}
	if err := v.RemoveConnector(t.Context(), all[0]); !fault.Is(err, fault.Conflict) {
		t.Errorf("got %v for a removal by an old reading, want a conflict", err)
	}
}

// A user is (connector, subject): behind another issuer the same subject is somebody else.
func TestConnectorNameIsBoundToItsIssuer(t *testing.T) {
	v := NewVault(open(t), fakeSeal{})
	put := func(of string) error {
		old, err := v.Connector(t.Context(), "corp")
		if err != nil && !fault.Is(err, fault.NotFound) {
			t.Fatal(err)
		}
		old.Name = "corp"
		return v.PutConnector(t.Context(), old, Connector{Spec: []byte(`{}`), Issuer: of})
	}
	refused := func(when string) {
		t.Helper()
		if err := put("https://other.example"); !fault.Is(err, fault.Conflict) ||
			!strings.Contains(fault.Remedy(err), "another name") {
			t.Errorf(
				"%s: got %v (%s), want a conflict whose remedy is another name",
				when,
				err,
				fault.Remedy(err),
			)
		}
	}
	for range 2 {
		if err := put("https://one.example"); err != nil {
			t.Fatal(err)
		}
	}
	refused("over the connector")
	kept, err := v.Connector(t.Context(), "corp")
	if err != nil || kept.Issuer != "https://one.example" {
		t.Fatalf("got %+v and %v, want the first issuer's", kept, err)
	}
	if err := v.RemoveConnector(t.Context(), kept); err != nil {
		t.Fatal(err)
	}
	refused("after its removal")
	if err := put("https://one.example"); err != nil {
		t.Errorf("got %v for the issuer that comes back, want none", err)
	}
}

// The name of a connector that the cluster was born with is taken as well.
func TestInitialConnectorNameIsBoundToItsIssuer(t *testing.T) {
	v := NewVault(open(t), fakeSeal{})
	if err := v.CreateCluster(t.Context(), InitialRecords{Keyring: []byte(`{}`), Connectors: []NamedConnector{{"corp", Connector{Spec: []byte(`{}`), Issuer: "https://one.example"}}}}); err != nil {
		t.Fatal(err)
	}
	old, err := v.Connector(t.Context(), "corp")
	if err != nil {
		t.Fatal(err)
	}
	if err := v.PutConnector(t.Context(), old, Connector{Spec: []byte(`{}`), Issuer: "https://other.example"}); !fault.Is(
		err,
		fault.Conflict,
	) {
		t.Errorf("got %v, want a conflict", err)
	}
}

func newPendingLogin(at time.Time) PendingLogin {
	return PendingLogin{
		Who:      identity.Identity{Kind: identity.User, Connector: "corp", Subject: "a/1", Name: "alice"},
		AuthTime: at,
		Expires:  at.Add(time.Minute),
	}
}

func TestPendingLoginIsRedeemedOnce(t *testing.T) {
	s := open(t)
	h := CodeHash{1}
	if err := s.Logins.AddLogin(t.Context(), h, newPendingLogin(time.Now())); err != nil {
		t.Fatal(err)
	}
	l, err := s.PendingLogin(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	var took atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			err := s.Logins.RedeemLogin(t.Context(), l)
			if err == nil {
				took.Add(1)
			} else if !fault.Is(err, fault.Expired) {
				t.Errorf("got %v, want expired", err)
			}
		})
	}
	all.Wait()
	if took.Load() != 1 {
		t.Errorf("got %d successes, want 1", took.Load())
	}
	if u, err := s.User(t.Context(), alice); err != nil || u.Value.Name != "alice" ||
		u.Value.LastLogin.IsZero() {
		t.Errorf("got %+v and %v, want the person noted", u, err)
	}
}

func TestExpiredLoginsAreSweptByTheNextOne(t *testing.T) {
	s := open(t)
	now := time.Now()
	for i := range 3 {
		if err := s.Logins.AddLogin(t.Context(), CodeHash{byte(i)}, newPendingLogin(now)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Logins.AddLogin(t.Context(), CodeHash{9}, newPendingLogin(now.Add(2*time.Minute))); err != nil {
		t.Fatal(err)
	}
	left, err := logins.all(t.Context(), s.Reader)
	if err != nil || len(left) != 1 || left[0].Key != (CodeHash{9}).key() {
		t.Errorf("got %d logins and %v, want the newest alone", len(left), err)
	}
}
