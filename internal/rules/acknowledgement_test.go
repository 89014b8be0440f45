package rules_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

const machineID identity.MachineID = "00112233445566778899aabbccddeeff"

// goldenAcknowledgement is the golden file: a signed acknowledgement, and the key that signed it as SPKI.
type goldenAcknowledgement struct {
	Key    []byte       `json:"key"`
	Signed rules.Signed `json:"signed"`
}

// wantAcknowledged is what the golden acknowledgement says.
var wantAcknowledged = rules.Acknowledgement{
	V:        1,
	Machine:  machineID,
	Epoch:    1,
	Sequence: rules.Sequence{Term: 1, Counter: 3},
	Docs: map[rules.Kind]rules.Acknowledged{
		rules.AuthoritiesKind:  {Revision: rev(1), Reader: 1},
		rules.RolesKind:        {Revision: rev(2), Reader: 1},
		rules.SettingsKind:     {Reader: 1}, // not in the head
		rules.MachineLocksKind: {Revision: rev(3), Reader: 1},
		rules.UserLocksKind:    {Revision: rev(12345), Reader: 1},
	},
	Time: noon.Add(time.Second),
}

// signAcknowledgement signs what wantAcknowledged says with a new key. The rules have a kind more that this
// program does not read.
func signAcknowledgement(t testing.TB) goldenAcknowledgement {
	t.Helper()
	c, key := newCluster(t, clusterName), p256(t)
	set := c.set(c.signers[0], noon, []rules.Signed{c.link(c.rootKey, rev(1), 0)}, rev(1),
		c.roles(c.signers[0], rev(2)), rev(2))
	for kind, index := range map[rules.Kind]uint64{
		rules.MachineLocksKind: 3, rules.UserLocksKind: 12345, "later": 4,
	} {
		doc := c.document(c.signers[0], kind, rev(index), rules.Locks{Locks: []access.Lock{}})
		c.heads = 2 // so that the order does not matter
		set = c.with(set, c.signers[0], kind, doc, nil)
	}
	signed, err := mustOpen(t, c, set).Acknowledge(key, machineID, noon.Add(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return goldenAcknowledgement{public, signed}
}

// A machine says which documents are in force and which formats it reads, also of a kind that is not there,
// and nothing of kinds that it does not read.
func TestGoldenAcknowledgementIsRead(t *testing.T) {
	t.Parallel()
	if *update {
		b, err := json.Marshal(signAcknowledgement(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden("acknowledgement.json"), append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var stored goldenAcknowledgement
	if err := json.Unmarshal(mustRead(t, "acknowledgement.json"), &stored); err != nil {
		t.Fatal(err)
	}
	for what, a := range map[string]goldenAcknowledgement{
		"the golden file": stored, "one of this release": signAcknowledgement(t),
	} {
		key, err := x509.ParsePKIXPublicKey(a.Key)
		if err != nil {
			t.Fatal(err)
		}
		got, err := rules.VerifyAcknowledgement(a.Signed, key)
		if err != nil || !reflect.DeepEqual(got, wantAcknowledged) {
			t.Errorf("%s: got %+v, %v, want %+v", what, got, err, wantAcknowledged)
		}
		// It has to fit into a frame of the control stream (tunnel.MaxHeaderBytes) with room to grow.
		b, err := json.Marshal(a.Signed)
		if err != nil || len(b) > 1024 {
			t.Errorf("%s: got %d bytes (%v), want less than 1 KiB", what, len(b), err)
		}
	}
}

// signPayload signs any payload as an acknowledgement.
func signPayload(t *testing.T, key *ecdsa.PrivateKey, label, payload string) rules.Signed {
	t.Helper()
	digest := sha256.Sum256([]byte(payload))
	sum := sha256.Sum256(append([]byte(label+"\x00"), digest[:]...))
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return rules.Signed{Payload: []byte(payload), Sig: sig}
}

// Each of these is refused, beside one that is not.
func TestAcknowledgementsThatAreRefused(t *testing.T) {
	t.Parallel()
	const label = "threshold rules v1 acknowledgement"
	key, other := p256(t), p256(t)
	b, err := json.Marshal(wantAcknowledged)
	if err != nil {
		t.Fatal(err)
	}
	good := string(b)
	begin := func(fields string) string { return strings.Replace(good, `"v":1`, fields, 1) }
	changed := signPayload(t, key, label, good)
	changed.Payload = []byte(strings.Replace(good, "12345", "12346", 1))
	for _, tt := range []struct {
		name   string
		signed rules.Signed
		want   string // in the message; empty: it is accepted
	}{
		{"a good one", signPayload(t, key, label, good), ""},
		{"one of a later release", signPayload(t, key, label, begin(`"v":1,"later":{"is":[]}`)), ""},
		{"one with a critical field of a later release",
			signPayload(t, key, label, begin(`"v":1,"critical":["later"],"later":true`)), `"later"`},
		{"a later version", signPayload(t, key, label, begin(`"v":2`)), "is of version 2"},
		{"another machine's key", signPayload(t, other, label, good), "not signed"},
		{"another revision under the same signature", changed, "not signed"},
		{"no signature", rules.Signed{Payload: []byte(good)}, "not signed"},
		{"a signature with the same key over something else",
			signPayload(t, key, "threshold attachment v1", good), "not signed"},
		{"one that is too large",
			signPayload(t, key, label, begin(`"v":1,"later":"`+strings.Repeat("x", 2<<10)+`"`)), "larger"},
		{"no JSON", signPayload(t, key, label, "{"), "decode"},
	} {
		_, err := rules.VerifyAcknowledgement(tt.signed, key.Public())
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: got %v, want it accepted", tt.name, err)
		case tt.want != "" && (err == nil ||
			!strings.Contains(err.Error(), tt.want) && !strings.Contains(fault.Message(err), tt.want)):
			t.Errorf("%s: got %v, want a refusal with %q", tt.name, err, tt.want)
		}
	}
}

// The number of the head orders what a machine says, and the time only what it says under one head.
func TestWhichAcknowledgementIsNewer(t *testing.T) {
	t.Parallel()
	number := func(epoch, term, counter uint64, after time.Duration) rules.Acknowledgement {
		return rules.Acknowledgement{
			Epoch: epoch, Sequence: rules.Sequence{Term: term, Counter: counter}, Time: noon.Add(after),
		}
	}
	inOrder := []rules.Acknowledgement{
		number(1, 5, 9, time.Hour),
		number(1, 6, 1, 0), // a clock that was set back
		number(1, 6, 2, -time.Hour),
		number(1, 6, 2, 0), // after an update of the program
		number(2, 1, 1, 0),
	}
	for i, a := range inOrder {
		for j, b := range inOrder {
			if got, want := a.Newer(b), i > j; got != want {
				t.Errorf("%d after %d: got %v, want %v", i, j, got, want)
			}
		}
	}
}

// A machine has a document if it decides by this revision or a later one, and reads the kind.
func TestWhatAMachineHas(t *testing.T) {
	t.Parallel()
	a := rules.Acknowledgement{Docs: map[rules.Kind]rules.Acknowledged{
		rules.UserLocksKind:    {Revision: rev(7), Reader: 1},
		rules.MachineLocksKind: {Revision: rev(7)}, // passes it on, and does not read it
		rules.SettingsKind:     {Reader: 1},
	}}
	for _, tt := range []struct {
		kind rules.Kind
		rev  rules.Revision
		want bool
	}{
		{rules.UserLocksKind, rev(6), true},
		{rules.UserLocksKind, rev(7), true},
		{rules.UserLocksKind, rev(8), false},
		{rules.UserLocksKind, rules.Revision{Epoch: 2, Index: 1}, false}, // before a restore
		{rules.MachineLocksKind, rev(7), false},
		{rules.SettingsKind, rev(1), false},
		{rules.RolesKind, rev(1), false},
	} {
		if got := a.Has(tt.kind, tt.rev); got != tt.want {
			t.Errorf("%s %s: got %v, want %v", tt.kind, tt.rev, got, tt.want)
		}
	}
}

func BenchmarkVerifyAcknowledgement(b *testing.B) {
	a := signAcknowledgement(b)
	key, err := x509.ParsePKIXPublicKey(a.Key)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := rules.VerifyAcknowledgement(a.Signed, key); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(a.Signed.Payload)), "payload-bytes")
}
